"""What all detection formats share: boxes without questions, gathered by picture, to raw rows.

A reader gives every picture with its detections; here each picture and category becomes questions by
templates, a picture without any box becomes a refusal, and every entry gets its own judgement. An entry that
is refused costs its own row, and every question about its category in that picture, since how many there are
is not known then. Not here: any one format, what a template says (`ops/questions.py`), box arithmetic.
"""

import posixpath
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ops.questions import USUAL
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawAnnotation,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
)
from ops.readers.templated import Member, kind_questions, pair_questions
from ops.source_files import SourceFiles


@dataclass(frozen=True)
class Detection:
    """One thing in a picture; its box is not yet judged.

    `category` tells the kinds of things of a picture apart, also those without a name. `refused`: why the
    entry itself cannot be used. `unaskable`: why nothing can be asked about its category, good as the box is.
    """

    origin: Origin
    box: RawBox
    category: Hashable
    refused: FieldError | None = None
    unaskable: FieldError | None = None


@dataclass(frozen=True)
class Pictured:
    """A picture with its detections, and refusals of entries whose category cannot be told."""

    origin: Origin
    picture: PictureRef
    detections: list[Detection] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


NAMELESS = FieldError("question", "missing_field", "the category has no name, nothing can be asked about it")


def rows(
    pictures: Iterable[Pictured | Refusal], convention: str, templates: Sequence[str] = USUAL
) -> Iterator[RawRow]:
    """The raw rows of a source, picture by picture: its questions, its refusals, its boxes to be judged.

    A Refusal among the pictures, say of a whole file, is passed on where it stands.
    """
    for pictured in pictures:
        if isinstance(pictured, Refusal):
            yield pictured
            continue
        yield from questions(pictured, convention, templates)
        yield from pictured.refusals
        for each in pictured.detections:
            if each.refused is not None:
                yield each.refused.refusal(each.origin)
            else:
                yield RawAnnotation(each.origin, pictured.picture, convention, each.box.values)


def questions(
    pictured: Pictured, convention: str, templates: Sequence[str] = USUAL
) -> Iterator[RawExample | Refusal]:
    """The questions of one picture: of each category, at the row of its first detection, then about pairs."""
    if not pictured.detections and not pictured.refusals:
        detail = "no annotation stands on this picture"
        yield Refusal(pictured.origin, "question", "no_boxes", detail)
    by_category: dict[Hashable, list[Detection]] = {}
    for each in pictured.detections:
        by_category.setdefault(each.category, []).append(each)
    everything = [each.box for each in pictured.detections]
    alone: list[Member] = []
    for members in by_category.values():
        problem = _unaskable(members)
        if problem is not None:
            yield problem.refusal(members[0].origin)
            continue
        boxes = [(member.origin, member.box) for member in members]
        alone += boxes if len(boxes) == 1 else []
        yield from kind_questions(boxes, everything, pictured.picture, convention, templates)
    yield from pair_questions(alone, pictured.picture, convention, templates)


def _unaskable(members: list[Detection]) -> FieldError | None:
    for each in members:
        if each.refused is not None:
            needs = f"needs annotation {each.origin.source_row}, which is refused: {each.refused.detail}"
            return FieldError("question", each.refused.reason, needs)
        if each.unaskable is not None:
            return each.unaskable
    return NAMELESS if members[0].box.label is None else None


def annotation_files(files: SourceFiles, annotations: str, suffix: str) -> list[str]:
    """The annotation files: the one that is named, or all with the suffix below the folder that is, sorted.

    The name itself where nothing of the kind is there, so that reading it says what is wrong.
    """
    if annotations.lower().endswith(suffix):
        return [annotations]
    return files.names(annotations, (suffix,)) or [annotations]


def picture_name(folder: str, name: str) -> str:
    """A picture's name relative to the source, from its name relative to a folder ("" for the source's own).

    Inner '.' and '..' are resolved and backslashes are slashes. What leads out of the source or is absolute
    stays so, and is refused when it is read.
    """
    name = name.replace("\\", "/")
    return name if name.startswith("/") else posixpath.normpath(f"{folder}/{name}" if folder else name)
