"""COCO boxes with a file of questions: JSON Lines whose rows name their picture and their evidence boxes.

Convention of the boxes as in `ops/readers/coco.py`. A row of the questions file:
{"image_id": 5, "question": "...", "answer": "...", "annotation_ids": [17, 18], and optionally
"accepted_answers": [...], "answer_type", "question_kind", "reasoning", "slice", "condition"}.
Raw rows are (1) the lines of the questions file, blank ones apart, (2) every entry of the COCO file that is
itself refused. An annotation on a picture that no question asks about is judged too, but not for lying
outside that picture, which is not opened.
"""

from collections.abc import Iterator, Mapping

from ops.readers.coco import CONVENTION, CocoIndex, Identifier, identifier, read_index
from ops.readers.json_files import lines
from ops.readers.rows import (
    ANSWER_TYPES,
    CONDITIONS,
    FieldError,
    Origin,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    guessed_answer_type,
    one_of,
    optional_text,
    other_answers,
    required_text,
    shown,
)
from ops.source_files import SourceFiles


def read(
    files: SourceFiles, annotations: str, questions: str, boxes_from: str = "bbox", images: str = ""
) -> Iterator[RawRow]:
    """Yield the raw rows: questions in file order, then what is refused of the COCO file."""
    index = read_index(files, annotations, boxes_from, images)
    for line in lines(files, questions):
        if isinstance(line, Refusal):
            yield line
            continue
        origin, value = line
        try:
            yield _example(index, origin, as_object(value))
        except FieldError as error:
            yield error.refusal(origin)
    yield from index.refusals
    yield from index.judged()


def _example(index: CocoIndex, origin: Origin, row: Mapping[str, object]) -> RawExample:
    image = identifier(row, "image_id")
    if image not in index.images:
        raise FieldError("question", "unknown_image", f"no usable image has the id {image[1]!r}")
    answer = required_text(row, "answer", "question", "no_answer")
    return RawExample(
        origin=origin,
        picture=index.images[image],
        convention=CONVENTION,
        boxes=_evidence(index, row, image),
        question=required_text(row, "question", "question", "no_question"),
        answer=answer,
        accepted_answers=other_answers(row, answer),
        answer_type=one_of(row, "answer_type", ANSWER_TYPES) or guessed_answer_type(answer),
        question_kind=optional_text(row, "question_kind"),
        slice=optional_text(row, "slice"),
        condition=one_of(row, "condition", CONDITIONS),
        reasoning=optional_text(row, "reasoning"),
    )


def _evidence(index: CocoIndex, row: Mapping[str, object], image: Identifier) -> tuple[RawBox, ...]:
    ids = row.get("annotation_ids")
    if not isinstance(ids, list):
        seen = shown(ids) if "annotation_ids" in row else "no such field"
        raise FieldError("question", "missing_field", f"wanted a list in 'annotation_ids', saw {seen}")
    if not ids:
        raise FieldError("question", "no_boxes", "'annotation_ids' is empty: the question has no evidence")
    keys = dict.fromkeys(identifier({"annotation_ids": each}, "annotation_ids") for each in ids)
    return tuple(box_of(index, key, image) for key in keys)


def box_of(index: CocoIndex, key: Identifier, image: Identifier) -> RawBox:
    """The box of the one annotation with an id, which must stand on the picture. Raises FieldError."""
    found = index.by_id.get(key, [])
    if len(found) != 1:
        detail = f"{len(found)} usable annotations have the id {key[1]!r}, wanted one"
        raise FieldError("question", "no_boxes", detail)
    if found[0].image != image:
        detail = f"annotation {key[1]!r} stands on image {found[0].image[1]!r}, the question on {image[1]!r}"
        raise FieldError("question", "no_boxes", detail)
    if found[0].problem is not None:
        raise FieldError("box", found[0].problem.reason, f"annotation {key[1]!r}: {found[0].problem.detail}")
    return found[0].box
