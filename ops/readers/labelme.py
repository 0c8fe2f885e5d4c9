"""LabelMe: one JSON file per picture, with "imagePath" and "shapes".

Convention: points in pixels from 0, continuous. A rectangle is two opposite corners in any order or all four
corners, a polygon three points or more, a circle its middle and a point on it; of polygons and circles the box
around them is taken. Other shapes are refused, and so is what is asked about shapes of one label that a
"group_id" makes parts of one thing. "imagePath" is relative to the JSON file; with `images` its last part lies
in that folder. Pictures inside the JSON ("imageData") are not read. Raw rows: `ops/readers/detections.py`; the
row is the shape's place in its file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, annotation_files, picture_name, rows
from ops.readers.json_files import whole_file
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawBox,
    RawRow,
    Refusal,
    as_object,
    file_name,
    required_text,
    shown,
)
from ops.readers.shapes import around, around_circle
from ops.source_files import SourceFiles

OPTIONS: dict[str, tuple[type, Any]] = {"images": (str, None)}


def read(
    files: SourceFiles, annotations: str, *, images: str | None = None, templates: Sequence[str] = USUAL
) -> Iterator[RawRow]:
    """Yield the raw rows of one JSON file, or of all below a folder."""
    names = annotation_files(files, annotations, ".json")
    yield from rows((_pictured(files, name, images) for name in names), "xyxy_px", templates)


def _pictured(files: SourceFiles, name: str, images: str | None) -> Pictured | Refusal:
    content = whole_file(files, name)
    if isinstance(content, Refusal):
        return content
    origin = Origin(name, None, _without_picture(content))
    try:
        row = as_object(content)
        picture = _picture(row, name, images)
        shapes = row.get("shapes")
        if not isinstance(shapes, list):
            raise FieldError("read", "missing_field", f"wanted a list 'shapes', saw {shown(shapes)}")
    except FieldError as error:
        return error.refusal(origin)
    pictured = Pictured(origin, picture)
    parts = Counter(_thing(shape) for shape in shapes)
    for place, shape in enumerate(shapes):
        here = Origin(name, place, shape)
        try:
            pictured.detections.append(_detection(here, as_object(shape), parts[_thing(shape)] > 1))
        except FieldError as error:
            pictured.refusals.append(error.refusal(here))
    return pictured


def _without_picture(content: object) -> object:
    """What the quarantine shows of a file: everything but the picture's bytes."""
    return (
        {key: content[key] for key in content if key != "imageData"} if isinstance(content, dict) else content
    )


def _picture(row: Mapping[str, object], name: str, images: str | None) -> PictureRef:
    written = file_name(row, "imagePath")
    if images is None:
        picture = picture_name(name.rpartition("/")[0], written)
    else:
        picture = picture_name(images, picture_name("", written).rpartition("/")[2])
    width, height = row.get("imageWidth"), row.get("imageHeight")
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return PictureRef(picture, annotated_wh=(width, height))
    return PictureRef(picture)


def _thing(shape: object) -> object:
    """What shapes of one thing have in common; of those without a group, nothing."""
    if not isinstance(shape, dict) or not isinstance(shape.get("group_id"), int):
        return id(shape)
    return str(shape.get("label")), shape["group_id"]


def _detection(origin: Origin, shape: Mapping[str, object], is_part: bool) -> Detection:
    label = required_text(shape, "label", "read", "missing_field")
    unaskable = None
    if is_part:
        detail = f"parts of one thing (group_id {shape['group_id']}): how many there are is not sure"
        unaskable = FieldError("question", "unsupported", detail)
    kind, points, refused = shape.get("shape_type", "polygon"), shape.get("points"), None
    if kind == "rectangle":
        values = around(points, 2)
    elif kind == "polygon":
        values = around(points, 3)
    elif kind == "circle":
        values = around_circle(points)
    else:
        values = None
        detail = f"shape_type {shown(kind)}; read are rectangle, polygon and circle"
        refused = FieldError("box", "unsupported", detail)
    return Detection(origin, RawBox(values, label, origin), label, refused, unaskable)
