"""The formats that a source can be in: for each its reader, its box convention and its own options.

Here: the list, and nothing that a single format does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from ops.boxes import CONVENTIONS
from ops.questions import USUAL
from ops.readers import (
    coco,
    coco_questions,
    coco_scan,
    cvat,
    flickr30k,
    gqa,
    label_studio,
    labelme,
    open_images,
    refcoco,
    table,
    templated,
    visual_cot,
    visual_genome,
    voc,
    yolo,
)
from ops.readers.coco_scan import DetectionPiece
from ops.readers.json_arrays import BrokenJsonError, NotStreamable
from ops.readers.json_lists import broken, is_large
from ops.readers.row_files import DELIMITERS
from ops.readers.rows import RawRow
from ops.source_files import FileProblem, HeldFile, SourceFiles


class Told(Protocol):
    """What a source says of itself that a reader needs; paths are relative to its location, and checked."""

    @property
    def annotations(self) -> str:
        """The annotation file, or the folder of them."""

    @property
    def questions(self) -> str | None:
        """The file of questions, where the format has one."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of any source and of the format."""


@dataclass(frozen=True)
class Format:
    """One way in which boxes are written down.

    boxes: the convention, in a line, as users read it. options: by name (type, smallest or allowed values or None); of
    a dict the allowed keys, and its values are texts; of a list the allowed texts. file_options: those that name
    further annotation files, which count as delivered, with what is read without the option, or None. in_columns: the
    same rows in pieces that fit into memory, which are laid aside in a folder; raises NotStreamable where it cannot.
    """

    read: Callable[[SourceFiles, Told], Iterator[RawRow]]
    boxes: str
    options: Mapping[str, tuple[type, Any]] = field(default_factory=dict)
    takes_questions: bool = False
    file_options: Mapping[str, str | None] = field(default_factory=dict)
    in_columns: Callable[[SourceFiles, Told, Path], Iterator[DetectionPiece | Iterator[RawRow]]] | None = None

    def pieces(
        self, files: SourceFiles, told: Told, folder: Path
    ) -> Iterator[DetectionPiece | Iterator[RawRow]]:
        """The rows of `read` in pieces: as columns if the reader can and the file allows it, else all rows as one.

        A large file that is found to be broken is refused for what was found, and not read again.
        """
        if self.in_columns is not None:
            try:
                yield from self.in_columns(files, told, folder)
                return
            except BrokenJsonError as error:
                if is_large(files, told.annotations):
                    yield iter([broken(told.annotations, "the annotations", error)])
                    return
            except NotStreamable:
                pass
        yield self.read(files, told)


def _coco(files: SourceFiles, told: Told) -> Iterator[RawRow]:
    own = _own(told, _OF_COCO)
    if told.questions is None:
        templates = told.options.get("templates", USUAL)
        return coco.read(files, told.annotations, templates, **own)
    return coco_questions.read(files, told.annotations, told.questions, **own)


def _coco_in_columns(
    files: SourceFiles, told: Told, folder: Path
) -> Iterator[DetectionPiece | Iterator[RawRow]]:
    """Raises NotStreamable, before anything is yielded."""
    if told.questions is not None:
        raise NotStreamable("questions are looked up in the whole file")
    path = files.local_copy(told.annotations, folder)
    if isinstance(path, FileProblem):
        raise NotStreamable(path.detail)
    own = _own(told, _OF_COCO)
    held = HeldFile(files, told.annotations, path, path.stat().st_size)
    scan = coco_scan.scan(held, folder, told.options.get("templates", USUAL), **own)
    yield from scan.pieces()
    yield chain(scan.refusals, scan.strays())


def _own(told: Told, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.options.items() if name in options}


_OF_COCO: Mapping[str, tuple[type, Any]] = {
    "boxes_from": (str, ("bbox", "segmentation")),
    "images": (str, None),
}
_OF_GQA: Mapping[str, tuple[type, Any]] = {"scene_graphs": (str, None), "images": (str, None)}
_OF_VISUAL_GENOME: Mapping[str, tuple[type, Any]] = {
    "part": (str, visual_genome.PARTS),
    "images": (str, None),
    **dict.fromkeys(visual_genome.FILE_OPTIONS, (str, None)),
    **templated.OPTIONS,
}


def _detections(
    read: Callable[..., Iterator[RawRow]],
    boxes: str,
    options: Mapping[str, tuple[type, Any]],
    file_options: Mapping[str, str | None] | None = None,
) -> Format:
    """A format without questions whose reader takes its options by name."""

    options = {**options, **templated.OPTIONS}
    return Format(
        lambda files, told: read(files, told.annotations, **_own(told, options)),
        boxes,
        options,
        file_options=file_options or {},
    )


FORMATS: Mapping[str, Format] = {
    "coco": Format(
        _coco,
        "x, y, width, height in pixels; or the extent of the segmentation",
        {**templated.OPTIONS, **_OF_COCO},
        takes_questions=True,
        in_columns=_coco_in_columns,
    ),
    "visual_cot": Format(
        lambda files, told: visual_cot.read(files, told.annotations),
        "x1, y1, x2, y2 as shares of width and height, 0 to 1",
    ),
    "voc": _detections(
        voc.read, "xmin, ymin, xmax, ymax, numbers of pixels from 1, the last one included", voc.OPTIONS
    ),
    "yolo": _detections(
        yolo.read, "middle x, y, width, height, or corners of a polygon, as shares, 0 to 1", yolo.OPTIONS
    ),
    "labelme": _detections(labelme.read, "points in pixels from 0", labelme.OPTIONS),
    "cvat": _detections(cvat.read, "xtl, ytl, xbr, ybr, or points, in pixels from 0", cvat.OPTIONS),
    "label_studio": _detections(
        label_studio.read, "x, y, width, height, or points, in percent, 0 to 100", label_studio.OPTIONS
    ),
    "table": Format(
        lambda files, told: table.read(files, told.annotations, told.options),
        "as the option box_convention says",
        {
            "columns": (dict, table.COLUMNS),
            "box_convention": (str, tuple(CONVENTIONS)),
            "delimiter": (str, tuple(DELIMITERS)),
            "images": (str, None),
            "label_names": (str, None),
            **templated.OPTIONS,
        },
        file_options={"label_names": None},
    ),
    "open_images": _detections(
        open_images.read,
        "XMin, XMax, YMin, YMax as shares of width and height, 0 to 1",
        open_images.OPTIONS,
        {"label_names": None},
    ),
    "flickr30k": Format(
        lambda files, told: flickr30k.read(
            files, told.annotations, questions=told.questions, images=told.options.get("images", "")
        ),
        "xmin, ymin, xmax, ymax, numbers of pixels from 1, the last one included",
        flickr30k.OPTIONS,
        takes_questions=True,
    ),
    "gqa": Format(
        lambda files, told: gqa.read(files, told.annotations, **_own(told, _OF_GQA)),
        "x, y, width, height in pixels",
        _OF_GQA,
        file_options={"scene_graphs": None},
    ),
    "refcoco": Format(
        lambda files, told: refcoco.read(files, told.annotations, told.questions, **_own(told, _OF_COCO)),
        "x, y, width, height in pixels; or the extent of the segmentation",
        _OF_COCO,
        takes_questions=True,
    ),
    "visual_genome": Format(
        lambda files, told: visual_genome.read(files, told.annotations, **_own(told, _OF_VISUAL_GENOME)),
        "x, y, width, height in pixels",
        _OF_VISUAL_GENOME,
        file_options=visual_genome.FILE_OPTIONS,
    ),
}
"""By the name that a source gives as its format."""
