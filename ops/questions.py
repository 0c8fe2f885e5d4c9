"""Questions made from boxes alone, for sources that bring detections and no questions.

Here: the templates and what they say of given boxes. Not here: which boxes belong together (`ops/readers/`)
and the questions of generated scenes (`ops/scene_questions.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ops.boxes import Box


@dataclass(frozen=True)
class Asked:
    """A question with its answer, what it asks about, and a short reasoning."""

    question: str
    answer: str
    accepted_answers: tuple[str, ...]
    answer_type: str
    question_kind: str
    reasoning: str


def ask(template: str, label: str, boxes: Sequence[Box], size_wh: tuple[int, int]) -> Asked:
    """Fill a template, "count" or "where", for the boxes of all things called `label` in a picture, or "phrase".

    "where" is for one box. "phrase" asks for the part that shows what a referring expression `label` names; the answer
    is the place of the box around all boxes. Raises ValueError for another template or for "where" with several boxes.
    """
    if template == "count":
        number = str(len(boxes))
        question = f"How many things of the kind '{label}' are in the picture?"
        return Asked(question, number, (), "number", "count", f"Things of the kind '{label}': {number}.")
    if template == "where" and len(boxes) == 1:
        place = place_of(boxes[0], size_wh)
        question = f"In which part of the picture is the {label}?"
        return Asked(question, place, _spellings(place), "word", "where", f"The {label} is at the {place}.")
    if template == "phrase" and boxes:
        x1, y1, x2, y2 = zip(*(box.xyxy for box in boxes), strict=True)
        place = place_of(Box(min(x1), min(y1), max(x2), max(y2)), size_wh)
        question = f"Which part of the picture shows this: {label}?"
        return Asked(
            question, place, _spellings(place), "word", "phrase", f"This is at the {place}: {label}."
        )
    raise ValueError(
        f"template {template!r} with {len(boxes)} boxes: wanted 'count', 'where' with one box, or 'phrase'"
    )


def place_of(box: Box, size_wh: tuple[int, int]) -> str:
    """The words for the third of the picture that holds the box's middle: 'top left', 'middle centre', ..."""
    column = min(int(3 * (box.x1 + box.x2) / 2 / size_wh[0]), 2)
    row = min(int(3 * (box.y1 + box.y2) / 2 / size_wh[1]), 2)
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"


def _spellings(place: str) -> tuple[str, ...]:
    return (place.replace("centre", "center"),) if "centre" in place else ()
