"""Open Images boxes: a CSV file with a row for each box, as in oidv6-train-annotations-bbox.csv.

Convention: the columns XMin, XMax, YMin, YMax, in this order in the file, are shares of the picture's width and
height, 0 to 1. A picture is ImageID with the option suffix (.jpg), in the folder images. Names of labels come from the
option label_names, a file of LabelName, name (class-descriptions-boxable.csv); without it the codes are the labels.
IsGroupOf 1, more than five things in one box, and -1, not known: nothing is asked about that label in that picture.
Raw rows: `ops/readers/detections.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, picture_name, rows
from ops.readers.gathering import GatheredPictures
from ops.readers.row_files import names_by_code, rows_of
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawBox,
    RawRow,
    Refusal,
    as_object,
    as_shown,
    file_name,
    required_text,
    shown,
)
from ops.readers.table_boxes import boxes_in
from ops.source_files import SourceFiles

CONVENTION = "xyxy_normalised"
_EDGES = {"x1": "XMin", "y1": "YMin", "x2": "XMax", "y2": "YMax"}
OPTIONS: Mapping[str, tuple[type, Any]] = {
    "images": (str, None),
    "suffix": (str, None),
    "label_names": (str, None),
}


def read(
    files: SourceFiles,
    annotations: str,
    *,
    images: str = "",
    suffix: str = ".jpg",
    label_names: str | None = None,
    templates: Sequence[str] = USUAL,
) -> Iterator[RawRow]:
    """Yield the raw rows of a CSV file, or of all CSV files below a folder, picture by picture."""
    names = names_by_code(files, label_names) if label_names else None
    if isinstance(names, Refusal):
        yield names
        names = {}
    with GatheredPictures() as gathering:
        for row in rows_of(files, annotations, (".csv",)):
            if isinstance(row, Refusal):
                yield row
                continue
            origin, value = as_shown(row[0]), row[1]
            try:
                fields = as_object(value)
                name = picture_name(images, file_name(fields, "ImageID") + suffix)
                thing = _detection(origin, fields, names)
            except FieldError as error:
                yield error.refusal(origin)
                continue
            gathering.add(Pictured(origin, PictureRef(name), [thing]))
        yield from rows(gathering.pictures(), CONVENTION, templates)


def _detection(origin: Origin, row: Mapping[str, object], names: Mapping[str, str] | None) -> Detection:
    code = required_text(row, "LabelName", "read", "missing_field")
    label = code if names is None else names.get(code)
    try:
        (values,) = boxes_in({side: _told(row, column) for side, column in _EDGES.items()}, CONVENTION)
    except FieldError as error:
        return Detection(origin, RawBox(None, label, origin), code, refused=error)
    return Detection(origin, RawBox(values, label, origin), code, unaskable=_group(row))


def _told(row: Mapping[str, object], column: str) -> object:
    if column not in row:
        seen = ", ".join(row)[:300]
        raise FieldError("box", "missing_field", f"wanted the column {column}; saw {seen}")
    return row[column]


def _group(row: Mapping[str, object]) -> FieldError | None:
    value = row.get("IsGroupOf", "0")
    if value == "0":
        return None
    detail = "a group in one box: how many there are is not annotated"
    if value != "1":
        detail = f"IsGroupOf={shown(value)}: whether this is one thing is not known"
    return FieldError("question", "unsupported", detail)
