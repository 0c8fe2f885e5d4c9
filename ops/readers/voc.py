"""Pascal VOC: one XML file per picture, with <filename>, <size> and an <object> for each thing.

Convention: <bndbox> holds xmin, ymin, xmax, ymax as numbers of pixels counted from 1, the last one included.
Tools that write edges from 0 instead, with xmax and ymax exclusive, are read with `from_zero: true`. A picture
lies in the folder `images`; without that option in JPEGImages beside an Annotations folder, else beside its
XML file. <difficult> things count like others unless `difficult` is "refuse". Parts of things are not read.
Raw rows: `ops/readers/detections.py`; of a file's objects the row is their place among them.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, annotation_files, picture_name, rows
from ops.readers.rows import FieldError, Origin, PictureRef, RawBox, RawRow, Refusal, file_name, shown
from ops.readers.shapes import number
from ops.readers.xml_files import as_raw, size_wh, texts_of, whole_tree
from ops.source_files import SourceFiles

OPTIONS: dict[str, tuple[type, Any]] = {
    "images": (str, None),
    "from_zero": (bool, None),
    "difficult": (str, ("take", "refuse")),
}
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_DIFFICULT = FieldError("question", "unsupported", "a difficult thing, and difficult: refuse is set")


def read(
    files: SourceFiles,
    annotations: str,
    *,
    images: str | None = None,
    from_zero: bool = False,
    difficult: str = "take",
    templates: Sequence[str] = USUAL,
) -> Iterator[RawRow]:
    """Yield the raw rows of one XML file, or of all below a folder."""
    names = annotation_files(files, annotations, ".xml")
    pictures = (_pictured(files, name, images, difficult == "refuse") for name in names)
    yield from rows(pictures, "xyxy_px" if from_zero else "xyxy_px_from_1", templates)


def _pictured(
    files: SourceFiles, name: str, images: str | None, refuse_difficult: bool
) -> Pictured | Refusal:
    tree = whole_tree(files, name, "annotation")
    if isinstance(tree, Refusal):
        return tree
    origin = Origin(name, None, as_raw(tree))
    try:
        picture = picture_name(
            _folder(name) if images is None else images, file_name(texts_of(tree), "filename")
        )
    except FieldError as error:
        return error.refusal(origin)
    size = tree.find("size")
    sides = {} if size is None else texts_of(size)
    annotated = size_wh(sides.get("width"), sides.get("height"))
    things = [
        _detection(Origin(name, place, as_raw(thing)), thing, refuse_difficult)
        for place, thing in enumerate(tree.findall("object"))
    ]
    return Pictured(origin, PictureRef(picture, annotated_wh=annotated), things)


def _folder(annotation: str) -> str:
    folder, _, last = f"/{annotation}".rpartition("/")[0].rpartition("/")
    beside = f"{folder}/JPEGImages" if last == "Annotations" else f"{folder}/{last}"
    return beside.strip("/")


def _detection(origin: Origin, thing: Element, refuse_difficult: bool) -> Detection:
    texts, bndbox = texts_of(thing), thing.find("bndbox")
    label = texts.get("name") or None
    unaskable = _DIFFICULT if refuse_difficult and texts.get("difficult") == "1" else None
    edges = {} if bndbox is None else texts_of(bndbox)
    box = RawBox([number(edges.get(edge)) for edge in _EDGES], label, origin)
    refused = None
    if bndbox is None:
        children = shown([child.tag for child in thing])
        refused = FieldError("box", "missing_field", f"no <bndbox>; the object holds {children}")
    return Detection(origin, box, label, refused, unaskable)
