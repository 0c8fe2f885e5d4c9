"""What every reader yields (raw examples, refusals, annotations to be judged) and checks of their fields.

Here: the shape of a raw row between a reader and `ops/normalise.py`, and the few field checks that all
readers share. Not here: any one format, pictures, box arithmetic.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

ANSWER_TYPES = ("word", "yes_no", "number", "choice", "text")
MAX_TEXT = 100_000
"""Characters of a question, an answer, a reasoning, a label or a name."""
MAX_ANSWERS = 1_000
RAW_LIMIT = 2000
"""Characters of a raw row that the quarantine shows."""
CONDITIONS = ("conflict", "control")


@dataclass(frozen=True)
class Origin:
    """Where a raw row stands: its file, its 0-based place in that file's list, and the row itself."""

    source_file: str
    source_row: int | None
    raw: object


class AsShown(str):
    """What the quarantine shows of a raw row, in place of the row."""


@dataclass(frozen=True)
class Refusal:
    """One raw row that its reader refused; `stage` and `reason` are of the quarantine's closed lists."""

    origin: Origin
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True)
class PictureRef:
    """A picture as a row names it: a file below the source's location, or bytes inside the row (`data`)."""

    file_name: str
    data: bytes | None = None
    annotated_wh: tuple[int, int] | None = None
    """The size that the annotation claims; compared with the picture's own, never used instead of it."""


@dataclass(frozen=True)
class RawBox:
    """An evidence box as the source wrote it; `annotation` names its own row when it has one."""

    values: object
    label: str | None = None
    annotation: Origin | None = None


@dataclass(frozen=True)
class RawExample:
    """One question about one picture with its evidence, texts checked, boxes not yet converted.

    With `template` the question, answer and reasoning are empty and made from the boxes (`ops/questions.py`);
    `others` are boxes of the picture that are no evidence, but tell whether the question has one answer.
    """

    origin: Origin
    picture: PictureRef
    convention: str
    boxes: tuple[RawBox, ...]
    question: str = ""
    answer: str = ""
    accepted_answers: tuple[str, ...] = ()
    answer_type: str = "text"
    question_kind: str | None = None
    slice: str | None = None
    condition: str | None = None
    reasoning: str | None = None
    template: str | None = None
    others: tuple[RawBox, ...] = ()


@dataclass(frozen=True)
class RawAnnotation:
    """A box annotation with a row of its own: nothing if its box is good, one quarantine row if it is not."""

    origin: Origin
    picture: PictureRef
    convention: str
    values: object


RawRow = RawExample | Refusal | RawAnnotation


class Repeated(dict[str, object]):
    """A JSON object in which a key comes more than once: the first value of each key counts; `pairs` are all of them.

    JSON does not forbid it, and readers differ in which value they keep. A row that is one is refused; where keys are
    themselves rows, those that come again are.
    """

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(reversed(pairs))
        self.pairs = pairs

    @property
    def keys_again(self) -> list[str]:
        """The keys that come more than once, in order."""
        counts = Counter(key for key, _ in self.pairs)
        return [key for key, count in counts.items() if count > 1]


class FieldError(Exception):
    """A field of one row that cannot be used; a reader turns it into a Refusal."""

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.reason, self.detail = stage, reason, detail

    def __reduce__(self) -> tuple[type["FieldError"], tuple[str, str, str]]:
        """For pickling: an exception is otherwise made again from its message alone."""
        return type(self), (self.stage, self.reason, self.detail)

    def refusal(self, origin: Origin) -> Refusal:
        """The refusal of the row at `origin` for this field."""
        return Refusal(origin, self.stage, self.reason, self.detail)


def as_object(row: object, read: Collection[str] | None = None) -> Mapping[str, object]:
    """The row as a JSON object. `read`: the keys that matter, by default all. Raises FieldError (broken_json)."""
    if not isinstance(row, dict):
        raise FieldError("read", "broken_json", f"wanted an object, saw {shown(row)}")
    if isinstance(row, Repeated):
        again = [key for key in row.keys_again if read is None or key in read]
        if again:
            detail = f"{', '.join(map(shown, again[:5]))} more than once in one object"
            raise FieldError("read", "broken_json", detail)
    return row


def entries_of(content: Mapping[str, object]) -> Iterator[tuple[str, object, bool]]:
    """Keys and values of an object whose entries are rows, in file order, and whether the key came before."""
    if not isinstance(content, Repeated):
        yield from ((key, value, False) for key, value in content.items())
        return
    seen: set[str] = set()
    for key, value in content.pairs:
        yield key, value, key in seen
        seen.add(key)


def taken(key: str, what: str) -> FieldError:
    """The refusal of an entry whose key an earlier one has."""
    return FieldError("read", "duplicate_example", f"{what} {shown(key)} is taken by an earlier entry")


def required_text(row: Mapping[str, object], key: str, stage: str, reason: str) -> str:
    """A text that must be there, stripped; numbers are written out. Raises FieldError with `reason`."""
    value = row.get(key)
    text = str(value) if _is_number(value) else value
    if not isinstance(text, str) or not text.strip():
        seen = f"no field {key!r}" if key not in row else f"{key}={shown(value)}"
        raise FieldError(stage, reason, f"wanted text in {key!r}, saw {seen}")
    return encodable(text.strip(), key)


def file_name(row: Mapping[str, object], key: str) -> str:
    """A file's name as it stands, not yet known to be safe. Raises FieldError (missing_field)."""
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise FieldError("read", "missing_field", f"wanted a file name in {key!r}, saw {shown(value)}")
    return encodable(value, key)


def optional_text(row: Mapping[str, object], key: str) -> str | None:
    """A text that may be absent, null or blank (then None). Raises FieldError (unsupported)."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldError("question", "unsupported", f"wanted text or null in {key!r}, saw {shown(value)}")
    return encodable(value.strip(), key) or None


def one_of(row: Mapping[str, object], key: str, allowed: tuple[str, ...]) -> str | None:
    """An optional text of a closed list. Raises FieldError (unsupported)."""
    value = optional_text(row, key)
    if value is not None and value not in allowed:
        wanted = ", ".join(allowed)
        raise FieldError("question", "unsupported", f"{key}={shown(value)}; wanted one of {wanted}")
    return value


def other_answers(row: Mapping[str, object], answer: str) -> tuple[str, ...]:
    """The accepted answers beside `answer`, each once. Raises FieldError (unsupported)."""
    values = row.get("accepted_answers") or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        detail = f"wanted a list of texts in 'accepted_answers', saw {shown(values)}"
        raise FieldError("question", "unsupported", detail)
    if len(values) > MAX_ANSWERS:
        raise FieldError("question", "unsupported", f"{len(values)} answers; {MAX_ANSWERS} are allowed")
    texts = [encodable(value.strip(), "accepted_answers") for value in values]
    return tuple(dict.fromkeys(text for text in texts if text and text != answer))


def guessed_answer_type(answer: str) -> str:
    """Which scorer suits an answer whose source does not say: yes_no, number, word (to 3 words), text."""
    if answer.lower().rstrip(".") in ("yes", "no"):
        return "yes_no"
    try:
        if math.isfinite(float(answer.replace(",", ""))):
            return "number"
    except ValueError:
        pass
    return "word" if len(answer.split()) <= 3 else "text"


def shown(value: object, limit: int = 120) -> str:
    """A value as JSON for a message or the quarantine, plain ASCII, cut at `limit` characters."""
    try:
        text = value if isinstance(value, AsShown) else json.dumps(value, default=_not_json)
    except (ValueError, RecursionError, TypeError):  # nested too deep, integers of thousands of digits
        text = json.dumps(f"a {type(value).__name__} that cannot be written out")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def as_shown(origin: Origin) -> Origin:
    """The same place without what the row holds beyond what is shown of it, for rows that are kept for long."""
    return Origin(origin.source_file, origin.source_row, AsShown(shown(origin.raw, RAW_LIMIT)))


def _not_json(value: object) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else f"<{type(value).__name__}>"


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e15  # also false for NaN and infinity


def encodable(text: str, key: str) -> str:
    """The text of a field. Raises FieldError for one that cannot be stored: unsupported (too long), broken_json."""
    if len(text) > MAX_TEXT:
        detail = f"{key!r} is a text of {len(text)} characters; {MAX_TEXT} are allowed"
        raise FieldError("read", "unsupported", detail)
    try:
        text.encode()
    except UnicodeEncodeError:
        detail = f"{key!r} holds half of a surrogate pair: {shown(text)}"
        raise FieldError("read", "broken_json", detail) from None
    return text
