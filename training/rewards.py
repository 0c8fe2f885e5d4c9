"""Rewards: what a completion is worth, as plain functions over lists, and the scorers that judge an answer.

Belongs here: everything that turns a completion, its reference answer or its saliency map into a number. Not
here: how a map is made (`training/saliency.py`) or measured against boxes (`training/overlap.py`), and how
rewards become advantages (TRL). No torch.

Each reward takes TRL's keyword arguments and returns one entry per completion; None: it could not be scored.
TRL leaves a None out of the reported mean and deviation, and its sum of rewards counts it as no contribution:
a completion without a scorable map earns no saliency reward, yet does not lower the mean that is reported.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from training.conversation import parse
from training.overlap import mass_in_boxes

_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_NUMBERS = {word: float(value) for value, word in enumerate(_NUMBER_WORDS)} | {"none": 0.0}
_NUMERAL = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w]|\.\d)")
_OPTION = re.compile(r"\A\(?\s*([A-Za-z])\s*(?:[).:]|\Z)\s*(.*)\Z", re.DOTALL)
_BLANKED = str.maketrans({sign: " " for sign in string.punctuation if sign not in "'%"})
_DELETED = str.maketrans("", "", "'")


class ScorableMap(Protocol):
    """What a reward reads of a saliency map: the values on the token grid, or None and the reason."""

    @property
    def values(self) -> np.ndarray | None:
        """float32 [grid_h, grid_w], not negative, or None."""

    @property
    def region(self) -> tuple[float, float, float, float]:
        """The part of the picture that the grid spans: x1, y1, x2, y2 as shares of its width and height."""

    @property
    def reason(self) -> str | None:
        """Why there are no values, from storage.schema.UNSCORABLE."""


def normalise(text: str) -> str:
    """Lower case, NFKC, no articles, punctuation or double spaces: how answers are compared."""
    plain = unicodedata.normalize("NFKC", text).lower().translate(_DELETED).translate(_BLANKED)
    words = plain.split()
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)


def numbers(text: str) -> list[float]:
    """Every number in `text`, in digits or as a word up to twenty, in order of appearance."""
    lowered = unicodedata.normalize("NFKC", text).lower()
    found = [(m.start(), float(m[0].replace(",", ""))) for m in _NUMERAL.finditer(lowered)]
    found += [(m.start(), _NUMBERS[m[0]]) for m in re.finditer(r"[a-z]+", lowered) if m[0] in _NUMBERS]
    return [value for _, value in sorted(found)]


def _score_word(answer: str, accepted: Sequence[str]) -> float:
    return float(normalise(answer) in {normalise(each) for each in accepted})


def _yes_or_no(text: str) -> str | None:
    said = {word for word in normalise(text).split() if word in ("yes", "no")}
    return said.pop() if len(said) == 1 else None


def _score_yes_no(answer: str, accepted: Sequence[str]) -> float:
    said = _yes_or_no(answer)
    return float(said is not None and said in {_yes_or_no(each) for each in accepted})


def _score_number(answer: str, accepted: Sequence[str]) -> float:
    """One number and no more: "2 or 3" is not an answer."""
    said = numbers(answer)
    wanted = {value for each in accepted for value in numbers(each)}
    return float(len(said) == 1 and said[0] in wanted)


def _option(text: str) -> tuple[str | None, str]:
    match = _OPTION.match(text.strip())
    return (match[1].lower(), normalise(match[2])) if match else (None, normalise(text))


def _score_choice(answer: str, accepted: Sequence[str]) -> float:
    """The letter of an option or its words. Where both sides give both, both must agree."""
    letter, words = _option(answer)
    for each in accepted:
        wanted_letter, wanted_words = _option(each)
        agreed = [a == b for a, b in ((letter, wanted_letter), (words, wanted_words)) if a and b]
        if agreed and all(agreed):
            return 1.0
    return 0.0


def _score_text(answer: str, accepted: Sequence[str]) -> float:
    """Token F1 of the best accepted answer, 0 to 1 (the SQuAD measure)."""
    said = Counter(normalise(answer).split())
    best = 0.0
    for each in accepted:
        wanted = Counter(normalise(each).split())
        shared = (said & wanted).total()
        if shared:
            best = max(best, 2 * shared / (said.total() + wanted.total()))
    return best


SCORERS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "word": _score_word,
    "yes_no": _score_yes_no,
    "number": _score_number,
    "choice": _score_choice,
    "text": _score_text,
}


def score_answer(answer: str | None, accepted: Sequence[str], answer_type: str) -> float:
    """How right `answer` is, 0 to 1; no answer is 0. `accepted` holds every answer that counts as right.

    Raises ValueError for an unknown `answer_type` and for a question without an accepted answer.
    """
    if answer_type not in SCORERS:
        raise ValueError(f"answer_type {answer_type!r}: want one of {', '.join(SCORERS)}")
    if not any(each.strip() for each in accepted):
        raise ValueError("a question without an accepted answer cannot be scored; leave the row out")
    if answer is None or not answer.strip():
        return 0.0
    return SCORERS[answer_type](answer, [each for each in accepted if each.strip()])


def _text(completion: str | list[dict[str, Any]]) -> str:
    """A completion's text; TRL passes a conversation of one message."""
    return completion if isinstance(completion, str) else str(completion[0]["content"])


def format_reward(completions: Sequence[Any], **_: Any) -> list[float | None]:
    """1 for exactly one thought followed by exactly one answer, else 0."""
    return [float(parse(_text(completion)).format_valid) for completion in completions]


def accuracy_reward(
    completions: Sequence[Any],
    answer: Sequence[str],
    accepted_answers: Sequence[Sequence[str]],
    answer_type: Sequence[str],
    **_: Any,
) -> list[float | None]:
    """How right each answer is, 0 to 1, by the scorer of its answer_type."""
    rows = zip(completions, answer, accepted_answers, answer_type, strict=True)
    return [score_answer(parse(_text(said)).answer, [right, *more], kind) for said, right, more, kind in rows]


def map_mass(
    saliency: ScorableMap, boxes: Sequence[Sequence[float]], image_wh: Sequence[int], completion: str
) -> tuple[float | None, str | None]:
    """Share of the map inside the union of the boxes, or None and the reason from storage.schema.UNSCORABLE.

    boxes: [n, 4] x1, y1, x2, y2 in pixels of the picture as stored; image_wh: that picture's (width, height).
    The map lies on the token grid of the picture as the processor resized it: boxes scale with the picture, so no
    resampling is needed; where a processor crops, boxes are held against what is left. As in the paper, a
    completion of invalid format has no saliency reward.
    """
    if saliency.values is None:
        return None, saliency.reason
    if not parse(completion).format_valid:
        return None, "format_invalid"
    overlap = mass_in_boxes(saliency.values, boxes, (image_wh[0], image_wh[1]), saliency.region)
    return (None, overlap.reason) if overlap.reason else (overlap.mass, None)


def saliency_reward(
    completions: Sequence[Any],
    saliency: Sequence[ScorableMap],
    boxes: Sequence[Sequence[Sequence[float]]],
    image_wh: Sequence[Sequence[int]],
    log_extra: Callable[[str, list], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """Mass of each completion's map inside its evidence boxes; None where there is no scorable map.

    The reasons go to `log_extra("unscorable_reason", ...)`, one entry per completion, None where scored.
    """
    rows = zip(saliency, boxes, image_wh, completions, strict=True)
    scored = [map_mass(each, box, wh, _text(said)) for each, box, wh, said in rows]
    if log_extra is not None:
        log_extra("unscorable_reason", [reason for _, reason in scored])
    return [mass for mass, _ in scored]


REWARD_FUNCTIONS: dict[str, Callable[..., list[float | None]]] = {
    "format": format_reward,
    "accuracy": accuracy_reward,
    "saliency": saliency_reward,
}
