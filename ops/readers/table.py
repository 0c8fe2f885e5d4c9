"""Tables with named columns: CSV, JSON Lines, a JSON list, Parquet (Hugging Face data sets too), folders of these.

Convention: the source's option box_convention, one of ops/boxes.py CONVENTIONS; it is never guessed. Boxes are one or
several in a column, in any of the forms of `ops/readers/table_boxes.py`, or four columns. The option columns names
the columns; a dot goes into a struct (`objects.bbox`). What it leaves out goes by the names of DEFAULTS. A picture is
a file name relative to the location or to the option images, bytes, or a struct of `bytes` and `path`.
Labels that are integers have the names of the option label_names, else those that Hugging Face's `datasets` wrote into
the file. A row with a question is a raw row. Rows without a column for questions and with one for labels are detections
(`ops/readers/detections.py`): one thing or several of one picture, each box with its label.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.questions import USUAL
from ops.readers.class_labels import ClassCode, named
from ops.readers.detections import Detection, Pictured, picture_name
from ops.readers.detections import rows as rows_of_pictures
from ops.readers.gathering import GatheredPictures
from ops.readers.row_files import names_by_code, picture_of, rows_of
from ops.readers.rows import (
    ANSWER_TYPES,
    CONDITIONS,
    FieldError,
    Origin,
    PictureRef,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    as_shown,
    guessed_answer_type,
    one_of,
    optional_text,
    other_answers,
    required_text,
    shown,
)
from ops.readers.table_boxes import KEYS, boxes_in, sides_of
from ops.source_files import SourceFiles

KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "file_name", "filename", "image_path", "image_name"),
    "image_width": ("image_width",),
    "image_height": ("image_height",),
    "boxes": ("bbox", "box", "boxes", "bboxes", "objects.bbox"),
    "label": ("label", "class", "category", "objects.category"),
    "question": ("question", "problem"),
    "answer": ("answer", "solution"),
    "accepted_answers": ("accepted_answers",),
    "answer_type": ("answer_type",),
    "question_kind": ("question_kind",),
    "reasoning": ("reasoning",),
    "slice": ("slice",),
    "condition": ("condition",),
}
"""What a row can hold, and the columns that are looked for where the source names none; the first that is there."""

SIDES = tuple(dict.fromkeys(side for sides in KEYS for side in sides))
COLUMNS = (*DEFAULTS, *SIDES)
"""What the option columns can name: DEFAULTS, and the sides of a box where they are columns of their own."""


@dataclass(frozen=True)
class _Reading:
    """How one source's rows are read; `names` of labels by their codes."""

    columns: Mapping[str, str]
    convention: str | None
    images: str
    names: Mapping[str, str] | None
    templates: Sequence[str]


def read(files: SourceFiles, annotations: str, options: Mapping[str, Any]) -> Iterator[RawRow]:
    """Yield the raw rows of the file, or of all files below a folder: questions in their order, then detections.

    Detections of pictures inside the rows come with their row, the others when all rows are read.
    """
    names = names_by_code(files, options["label_names"]) if "label_names" in options else None
    if isinstance(names, Refusal):
        yield names
        names = {}
    columns, convention = options.get("columns") or {}, options.get("box_convention")
    reading = _Reading(columns, convention, options.get("images", ""), names, options.get("templates", USUAL))
    with GatheredPictures() as gathering:
        for row in rows_of(files, annotations, KINDS, options.get("delimiter")):
            if isinstance(row, Refusal):
                yield row
                continue
            origin, value = row
            try:
                fields = _Fields(as_object(value), reading)
                new = _pictured(as_shown(origin), fields) if fields.is_detection else _example(origin, fields)
            except FieldError as error:
                yield error.refusal(origin)
                continue
            if isinstance(new, RawExample):
                yield new
            elif new.picture.data is not None:
                yield from rows_of_pictures([new], convention or "", reading.templates)
            else:
                gathering.add(new)
        yield from rows_of_pictures(gathering.pictures(), convention or "", reading.templates)


def _pictured(origin: Origin, fields: "_Fields") -> Pictured:
    """A picture with the things of one row. Raises FieldError for no picture, or for no boxes of no one label."""
    picture = fields.picture(origin)
    try:
        boxes = fields.boxes()
    except FieldError as error:
        label = fields.label()
        if label is None:
            raise
        return Pictured(
            origin, picture, [Detection(origin, RawBox(None, label, origin), label, refused=error)]
        )
    things = [RawBox(box.values, box.label, origin) for box in boxes]
    return Pictured(origin, picture, [Detection(origin, thing, thing.label) for thing in things])


class _Fields:
    """The fields of one row by what they hold."""

    def __init__(self, row: Mapping[str, object], reading: _Reading) -> None:
        self._row, self._columns, self._images, self._names = (
            row,
            reading.columns,
            reading.images,
            reading.names,
        )
        self.convention = reading.convention or ""
        self.said: dict[str, object] = {}
        for role in DEFAULTS:
            found, value = self._looked_up(role)
            if found:
                self.said[role] = value if role == "label" else named(value)

    @property
    def is_detection(self) -> bool:
        """Whether the row asks nothing and says what its boxes show."""
        return "question" not in self.said and "label" in self.said

    def label(self) -> str | None:
        """The one label of the row, None where it has several or none. Raises FieldError."""
        value = self.said.get("label")
        return None if isinstance(value, list) else self._label(value)

    def boxes(self) -> tuple[RawBox, ...]:
        """The boxes of the row, with their labels where there are some. Raises FieldError."""
        boxes = boxes_in(self._box_field(), self.convention or None)
        return tuple(RawBox(box, label) for box, label in zip(boxes, self.labels(len(boxes)), strict=True))

    def labels(self, count: int) -> list[str | None]:
        """A label for each box: one text for all, or a list with one for each. Raises FieldError."""
        value = self.said.get("label")
        if not isinstance(value, list):
            return [self._label(value)] * count
        if len(value) != count:
            detail = f"{len(value)} labels for {count} boxes: {shown(value)}"
            raise FieldError("box", "bad_box_format", detail)
        return [self._label(label) for label in value]

    def picture(self, origin: Origin) -> PictureRef:
        """The picture, with the size that the row claims for it. Raises FieldError."""
        if "image" not in self.said:
            raise FieldError("read", "missing_field", self.missing("image"))
        ref = picture_of(origin, {"image": self.said["image"]}, "image")
        name = ref.file_name if ref.data is not None else picture_name(self._images, ref.file_name)
        width_px, height_px = self._whole("image_width"), self._whole("image_height")
        return PictureRef(name, ref.data, (width_px, height_px) if width_px and height_px else None)

    def _looked_up(self, role: str) -> tuple[bool, object]:
        told = self._columns.get(role)
        for column in (told,) if told is not None else DEFAULTS.get(role, ()):
            found, value = _at(self._row, column)
            if found:
                return True, value
        if told is not None:
            detail = f"columns.{role}: there is no {told!r} in {', '.join(map(str, self._row))}"
            raise FieldError("read", "missing_field", detail[:500])
        return False, None

    def _box_field(self) -> object:
        told = [side for side in SIDES if side in self._columns]
        if told:
            sides, _ = sides_of(dict.fromkeys(told))
            return self._blank_is_none({side: self._looked_up(side)[1] for side in sides})
        if "boxes" in self.said:
            return self.said["boxes"]
        if any(set(sides) <= set(self._row) for sides in KEYS):
            sides, _ = sides_of(self._row)
            return self._blank_is_none({side: self._row[side] for side in sides})
        raise FieldError("box", "missing_field", self.missing("boxes"))

    def _blank_is_none(self, sides: Mapping[str, object]) -> Mapping[str, object] | None:
        return None if all(value in (None, "") for value in sides.values()) else sides

    def _label(self, value: object) -> str | None:
        if value is None or value == "":
            return None
        if self._names is None and isinstance(value, ClassCode):
            if value.name is None:
                detail = f"label {int(value)} is none of the {value.n_names} classes that the file names"
                raise FieldError(
                    "question", "missing_field", f"{detail}; the option label_names can name more"
                )
            return value.name
        label = required_text({"label": value}, "label", "question", "missing_field")
        if self._names is not None and label in self._names:
            return self._names[label]
        if self._names is not None or not isinstance(value, str):
            wanted = "the option label_names tells of a CSV file with the code and the name of each label"
            raise FieldError("question", "missing_field", f"label {shown(value)} has no name; {wanted}")
        return label

    def _whole(self, role: str) -> int | None:
        try:
            size = int(str(self.said.get(role)))
        except ValueError:
            return None
        return size if 0 < size < 2**31 else None

    def missing(self, role: str) -> str:
        """What was looked for in vain, in words."""
        seen = ", ".join(map(str, self._row))[:300]
        looked = ", ".join(DEFAULTS[role])
        return f"no column for {role}: looked for {looked} in {seen}; the option columns.{role} can name it"


def _at(row: Mapping[str, object], column: str) -> tuple[bool, object]:
    """A value by its column's name, or by a path of names into structs; of a list of structs the list of values."""
    if column in row:
        return True, row[column]
    first, dot, rest = column.partition(".")
    inside = row.get(first)
    if dot and isinstance(inside, dict):
        return _at(inside, rest)
    if dot and isinstance(inside, list) and all(isinstance(item, dict) for item in inside):
        found = [_at(item, rest) for item in inside]
        return all(each for each, _ in found), [value for _, value in found]
    return False, None


def _example(origin: Origin, fields: _Fields) -> RawExample:
    if "question" not in fields.said:
        raise FieldError("question", "no_question", fields.missing("question"))
    said = {**fields.said, **_answers(fields.said)}
    answer = required_text(said, "answer", "question", "no_answer")
    return RawExample(
        origin=origin,
        picture=fields.picture(origin),
        convention=fields.convention,
        boxes=fields.boxes(),
        question=required_text(said, "question", "question", "no_question"),
        answer=answer,
        accepted_answers=other_answers(said, answer),
        answer_type=one_of(said, "answer_type", ANSWER_TYPES) or guessed_answer_type(answer),
        question_kind=optional_text(said, "question_kind"),
        slice=optional_text(said, "slice"),
        condition=one_of(said, "condition", CONDITIONS),
        reasoning=optional_text(said, "reasoning"),
    )


def _answers(said: Mapping[str, object]) -> dict[str, object]:
    """Answer and accepted answers, where a list of answers or a text of a list stands in their place."""
    answers = {key: said[key] for key in ("answer", "accepted_answers") if key in said}
    first, others = answers.get("answer"), answers.get("accepted_answers")
    if isinstance(others, str):
        answers["accepted_answers"] = _listed(others)
    if isinstance(first, list) and first:  # the first is the answer, the others are accepted
        answers["answer"] = first[0]
        answers["accepted_answers"] = [*first[1:], *_listed(others)]
    return answers


def _listed(value: object) -> list[object]:
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            detail = f"wanted a JSON list of texts in 'accepted_answers', saw {shown(value)}"
            raise FieldError("question", "unsupported", detail) from None
    return value if isinstance(value, list) else [value] if value else []
