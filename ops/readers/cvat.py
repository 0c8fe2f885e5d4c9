"""CVAT for images 1.1: one XML file, with an <image> for each picture and its shapes inside.

Convention: xtl, ytl, xbr, ybr in pixels from 0, continuous; of a polygon, and of a box that is turned
(`rotation`, degrees clockwise about its middle), the upright box around it is taken. Other shapes, tags and the
tracks of a video are refused. Pictures lie in the folder `images`, by default "images", as CVAT exports them;
"." is the source's own folder. Raw rows: `ops/readers/detections.py`; the row is the place of the shape, or of a
picture without shapes that of the picture, among the elements of the file that are one of both.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, annotation_files, picture_name, rows
from ops.readers.rows import FieldError, Origin, PictureRef, RawBox, RawRow, Refusal, file_name, shown
from ops.readers.shapes import around, around_turned, number
from ops.readers.xml_files import as_raw, size_wh, whole_tree
from ops.source_files import SourceFiles

OPTIONS: dict[str, tuple[type, Any]] = {"images": (str, None)}
_EDGES = ("xtl", "ytl", "xbr", "ybr")
_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


def read(
    files: SourceFiles, annotations: str, *, images: str = "images", templates: Sequence[str] = USUAL
) -> Iterator[RawRow]:
    """Yield the raw rows of one XML file, or of all below a folder."""
    for name in annotation_files(files, annotations, ".xml"):
        tree = whole_tree(files, name, "annotations")
        yield from rows(
            [tree] if isinstance(tree, Refusal) else _pictures(name, tree, images), "xyxy_px", templates
        )


def _pictures(name: str, tree: Element, images: str) -> Iterator[Pictured | Refusal]:
    place = 0
    for element in tree:
        origin = Origin(name, place, as_raw(element))
        place += 1
        if element.tag == "image":
            yield _pictured(origin, element, images)
            place += len(element)
        elif element.tag == "track":
            yield Refusal(
                origin, "read", "unsupported", "a track of a video; export 'CVAT for images' instead"
            )
        elif element.tag in ("version", "meta"):
            place -= 1
        else:
            yield Refusal(origin, "read", "unsupported", f"wanted <image>, saw <{element.tag[:100]}>")


def _pictured(origin: Origin, image: Element, images: str) -> Pictured | Refusal:
    try:
        picture = picture_name(images, file_name(image.attrib, "name"))
    except FieldError as error:
        return error.refusal(origin)
    annotated = size_wh(image.get("width"), image.get("height"))
    pictured = Pictured(origin, PictureRef(picture, annotated_wh=annotated))
    first = (origin.source_row or 0) + 1
    for place, shape in enumerate(image, start=first):
        here = Origin(origin.source_file, place, as_raw(shape))
        if shape.tag in _SHAPES:
            pictured.detections.append(_detection(here, shape))
        else:
            detail = f"<{shape.tag[:100]}> is no shape; read are box and polygon"
            pictured.refusals.append(Refusal(here, "read", "unsupported", detail))
    return pictured


def _detection(origin: Origin, shape: Element) -> Detection:
    label = shape.get("label", "").strip() or None
    values, refused = None, None
    if shape.tag == "box":
        values = _turned([number(shape.get(edge)) for edge in _EDGES], number(shape.get("rotation", "0")))
    elif shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        values = around([[number(value) for value in pair] for pair in pairs], 3)
    else:
        refused = FieldError("box", "unsupported", f"a <{shape.tag}>; read are box and polygon")
    return Detection(origin, RawBox(values, label, origin), label, refused)


def _turned(edges: list[object], degrees: object) -> object:
    """The upright box around a box that is turned about its middle, or the edges if something is no number."""
    numbers = [value for value in (*edges, degrees) if isinstance(value, float)]
    if len(numbers) < 5:
        return edges if isinstance(degrees, float) else f"rotation {shown(degrees)}"
    if not all(map(math.isfinite, numbers)):
        return [math.nan] * 4
    x1, y1, x2, y2, angle = numbers
    if angle == 0 or x2 < x1 or y2 < y1:
        return edges
    return around_turned((x1, y1, x2 - x1, y2 - y1), angle, ((x1 + x2) / 2, (y1 + y2) / 2))
