"""COCO detections: boxes without questions, in one JSON file with images, annotations and categories.

Convention: `bbox` is [x, y, width, height] in pixels, x and y the top left corner. Where there is none, or with
`boxes_from: segmentation`, the box is the extent of the segmentation (`ops/readers/coco_masks.py`). Questions
are made by templates: for every picture and category how many there are, and where it is if there is one,
unless told otherwise. Raw rows of a detection source are (1) these questions, at the row of their first
annotation, (2) every entry of images, annotations and categories that is itself refused, (3) every picture
without any annotation. Also here: the index of a COCO file that `ops/readers/coco_questions.py` looks things up in.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ops.questions import USUAL
from ops.readers.coco_masks import extent_xywh
from ops.readers.detections import Detection, Pictured, picture_name, questions
from ops.readers.json_files import whole_file
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawAnnotation,
    RawBox,
    RawRow,
    Refusal,
    Repeated,
    as_object,
    file_name,
    required_text,
    shown,
)
from ops.source_files import SourceFiles

CONVENTION = "xywh_px"
_CROWD = FieldError("question", "unsupported", "a crowd region: how many there are is not annotated")
KEYS = ("categories", "images", "annotations")
READ: Mapping[str, frozenset[str]] = {
    "categories": frozenset({"id", "name"}),
    "images": frozenset({"id", "file_name", "width", "height"}),
    "annotations": frozenset({"id", "image_id", "category_id", "bbox", "iscrowd"}),
}
"""What is read of an entry, `segmentation` only where the box is made of it; what else stands there is not judged."""
Identifier = tuple[str, object]


@dataclass(frozen=True)
class Annotation:
    """One entry of `annotations` that stands on a known picture; its box is not yet judged.

    `problem`: why it has no box at all, its segmentation being none.
    """

    origin: Origin
    image: Identifier
    category: Identifier | None
    box: RawBox
    is_crowd: bool
    problem: FieldError | None = None


@dataclass
class CocoIndex:
    """A COCO file by identifiers; what could not be used stands in `refusals`, in file order."""

    images: dict[Identifier, PictureRef] = field(default_factory=dict)
    image_origins: dict[Identifier, Origin] = field(default_factory=dict)
    labels: dict[Identifier, str] = field(default_factory=dict)
    annotations: list[Annotation] = field(default_factory=list)
    by_id: dict[Identifier, list[Annotation]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    boxes_from: str = "bbox"
    images_folder: str = ""

    def judged(self) -> Iterator[RawAnnotation | Refusal]:
        """Every indexed annotation as a row whose box is still to be judged, or is refused as none."""
        for entry in self.annotations:
            if entry.problem is not None:
                yield entry.problem.refusal(entry.origin)
                continue
            yield RawAnnotation(entry.origin, self.images[entry.image], CONVENTION, entry.box.values)


def read(
    files: SourceFiles,
    annotations: str,
    templates: Sequence[str] = USUAL,
    boxes_from: str = "bbox",
    images: str = "",
) -> Iterator[RawRow]:
    """Yield the raw rows of a detection source: questions picture by picture, then what is refused."""
    yield from rows(read_index(files, annotations, boxes_from, images), templates)


def rows(index: CocoIndex, templates: Sequence[str] = USUAL) -> Iterator[RawRow]:
    """The raw rows of an index: questions picture by picture, then what is refused, then boxes to be judged."""
    by_image: dict[Identifier, list[Annotation]] = {image: [] for image in index.images}
    for entry in index.annotations:
        by_image[entry.image].append(entry)
    for image, entries in by_image.items():
        detections = [_detection(entry) for entry in entries]
        pictured = Pictured(index.image_origins[image], index.images[image], detections)
        yield from questions(pictured, CONVENTION, templates)
    yield from index.refusals
    yield from index.judged()


def read_index(files: SourceFiles, annotations: str, boxes_from: str = "bbox", images: str = "") -> CocoIndex:
    """Index a COCO file. A file that is no COCO file gives an empty index with its refusal.

    boxes_from: "bbox" (segmentation only where there is no bbox) or "segmentation". images: the folder that
    names of pictures are relative to, "" for the source's own.
    """
    index = CocoIndex(boxes_from=boxes_from, images_folder=images)
    content = whole_file(files, annotations)
    if isinstance(content, Refusal):
        index.refusals.append(content)
        return index
    if not isinstance(content, dict):
        detail = f"wanted an object with images and annotations, saw {shown(content)}"
        index.refusals.append(Refusal(Origin(annotations, None, content), "read", "broken_json", detail))
        return index
    again = [key for key in KEYS if isinstance(content, Repeated) and key in content.keys_again]
    if again:
        detail = f"{' and '.join(again)} more than once in the file: merge the lists"
        index.refusals.append(Refusal(Origin(annotations, None, None), "read", "broken_json", detail))
        return index
    for key in KEYS:
        entries = content.get(key, [] if key == "categories" else None)
        if not isinstance(entries, list):
            detail = f"wanted a list {key!r}, saw {shown(entries)}"
            index.refusals.append(Refusal(Origin(annotations, None, None), "read", "missing_field", detail))
            continue
        add_entries(index, key, (Origin(annotations, place, entry) for place, entry in enumerate(entries)))
    return index


def add_entries(index: CocoIndex, key: str, origins: Iterable[Origin]) -> None:
    """Add entries of "categories", "images" or "annotations", in this order of keys; what is none is a refusal."""
    add = {"categories": _add_category, "images": _add_image, "annotations": _add_annotation}[key]
    for origin in origins:
        try:
            add(index, origin, as_object(origin.raw, READ[key]))
        except FieldError as error:
            detail = f"{key}[{origin.source_row}]: {error.detail}"
            index.refusals.append(Refusal(origin, error.stage, error.reason, detail))


def identifier(row: Mapping[str, object], key: str) -> Identifier:
    """An id, an integer or a text, as a key: 1, "1" and true are three things. Raises FieldError."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str):
        seen = shown(value) if key in row else "no such field"
        raise FieldError("read", "missing_field", f"wanted a whole number in {key!r}, saw {seen}")
    return type(value).__name__, value


def _add_category(index: CocoIndex, origin: Origin, entry: Mapping[str, object]) -> None:
    category = identifier(entry, "id")
    if category in index.labels:
        raise FieldError("read", "duplicate_example", f"category id {category[1]!r} is taken")
    index.labels[category] = required_text(entry, "name", "read", "missing_field")


def _add_image(index: CocoIndex, origin: Origin, entry: Mapping[str, object]) -> None:
    image = identifier(entry, "id")
    if image in index.images:
        raise FieldError("read", "duplicate_example", f"image id {image[1]!r} is taken by an earlier entry")
    name = file_name(entry, "file_name")
    if index.images_folder:
        name = picture_name(index.images_folder, name)
    index.images[image] = PictureRef(name, annotated_wh=annotated_wh(entry))
    index.image_origins[image] = origin


def annotated_wh(entry: Mapping[str, object]) -> tuple[int, int] | None:
    """The size that an entry claims for its picture, if it claims one that can be."""
    width, height = entry.get("width"), entry.get("height")
    if type(width) is int and type(height) is int and width > 0 and height > 0:
        return width, height
    return None


def _add_annotation(index: CocoIndex, origin: Origin, entry: Mapping[str, object]) -> None:
    image = identifier(entry, "image_id")
    if image not in index.images:
        raise FieldError("read", "unknown_image", f"no usable image has the id {image[1]!r}")
    category = identifier(entry, "category_id") if entry.get("category_id") is not None else None
    values, problem = entry.get("bbox"), None
    if index.boxes_from == "segmentation" or (values is None and entry.get("segmentation") is not None):
        try:
            values = extent_xywh(as_object(entry, {"segmentation"}).get("segmentation"))
            _check_mask_size(entry["segmentation"], index.images[image])
        except FieldError as error:
            values, problem = None, error
    box = RawBox(values, index.labels.get(category) if category else None, origin)
    annotation = Annotation(origin, image, category, box, bool(entry.get("iscrowd")), problem)
    if entry.get("id") is not None:
        index.by_id.setdefault(identifier(entry, "id"), []).append(annotation)
    index.annotations.append(annotation)


def _check_mask_size(segmentation: object, picture: PictureRef) -> None:
    if not isinstance(segmentation, dict) or picture.annotated_wh is None:
        return
    height, width = segmentation["size"]
    if (width, height) != picture.annotated_wh:
        named = "{} x {}".format(*picture.annotated_wh)
        detail = f"segmentation: the mask is {width} x {height} px, the picture is said to be {named}"
        raise FieldError("box", "bad_box_format", detail)


def _detection(entry: Annotation) -> Detection:
    crowd = _CROWD if entry.is_crowd and entry.box.label is not None else None
    return Detection(entry.origin, entry.box, entry.category, entry.problem, crowd)
