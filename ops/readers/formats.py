"""The formats that a source can be in: for each its reader, its box convention and its own options.

Here: the list, and nothing that a single format does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ops.questions import USUAL
from ops.readers import coco, coco_questions, templated, visual_cot
from ops.readers.rows import RawRow
from ops.source_files import SourceFiles


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

    boxes: the convention, in a line, as users read it. options: by name (type, smallest or allowed values or None).
    """

    read: Callable[[SourceFiles, Told], Iterator[RawRow]]
    boxes: str
    options: Mapping[str, tuple[type, Any]] = field(default_factory=dict)
    takes_questions: bool = False


def _coco(files: SourceFiles, told: Told) -> Iterator[RawRow]:
    boxes_from = told.options.get("boxes_from", "bbox")
    if told.questions is None:
        templates = told.options.get("templates", USUAL)
        return coco.read(files, told.annotations, templates, boxes_from)
    return coco_questions.read(files, told.annotations, told.questions, boxes_from)


FORMATS: Mapping[str, Format] = {
    "coco": Format(
        _coco,
        "x, y, width, height in pixels; or the extent of the segmentation",
        {**templated.OPTIONS, "boxes_from": (str, ("bbox", "segmentation"))},
        takes_questions=True,
    ),
    "visual_cot": Format(
        lambda files, told: visual_cot.read(files, told.annotations),
        "x1, y1, x2, y2 as shares of width and height, 0 to 1",
    ),
}
"""By the name that a source gives as its format."""
