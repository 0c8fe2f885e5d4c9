"""Questions made from boxes alone, for sources that bring detections and no questions.

Here: what a template says of given boxes; the templates themselves are data (`question_templates.yaml`). Not
here: which boxes belong together (`ops/readers/`) and the questions of generated scenes
(`ops/scene_questions.py`). Labels come from data sets: they are put in as they stand, and never read again.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ops.boxes import Box

_FILE = Path(__file__).with_name("question_templates.yaml")
_DATA: Mapping[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))

TEMPLATES: Mapping[str, Mapping[str, str]] = _DATA["templates"]
"""By name: about, question, answer, answer_type, reasoning."""
USUAL = ("count", "where")
"""The templates of a source of detections that does not say which."""
OF_DETECTIONS = tuple(name for name, template in TEMPLATES.items() if template["about"] != "phrase")
"""The templates that a source of detections may name."""


Edges = float | np.ndarray


class UnaskableError(ValueError):
    """A question whose answer the boxes leave open, say what is in a place that holds two things."""


@dataclass(frozen=True)
class Asked:
    """A question with its answer, what it asks about, and a short reasoning."""

    question: str
    answer: str
    accepted_answers: tuple[str, ...]
    answer_type: str
    question_kind: str
    reasoning: str


def ask(
    name: str,
    labels: Sequence[str],
    boxes: Sequence[Box],
    size_wh: tuple[int, int],
    others: Sequence[Box] = (),
) -> Asked:
    """Fill the template for its evidence: boxes and their labels, two of each for a pair.

    `others` are the other boxes of the picture, which a question about a place needs. Raises UnaskableError if
    the boxes leave the answer open, and ValueError for an unknown template or another number of boxes.
    """
    about = TEMPLATES[name]["about"] if name in TEMPLATES else ""
    if not boxes or not about or _N_BOXES.get(about, len(boxes)) != len(boxes):
        numbers = {1: "one box", 2: "two boxes", None: "boxes"}
        wanted = (
            f"{known!r} with {numbers[_N_BOXES.get(each['about'])]}" for known, each in TEMPLATES.items()
        )
        raise ValueError(f"template {name!r} with {len(boxes)} boxes: wanted {', '.join(wanted)}")
    words = _words(labels[0], len(boxes), ninth_of(*_around(boxes).xyxy, *size_wh))
    if about == "place":
        _check_alone(boxes[0], others, size_wh)
    if about == "pair":
        words |= {"other": [labels[1]], "relation": _relation(*boxes)}
    return _filled(name, words)


@functools.lru_cache(maxsize=100_000)
def ask_of_kind(name: str, label: str, count: int, ninth: int) -> Asked:
    """Fill a template about all things of one kind, or the one thing of its kind, as `ask` does from their boxes.

    `ninth`: where the middle of the box around them lies, as `ninth_of` counts.
    """
    return _filled(name, _words(label, count, ninth))


def words_of(name: str) -> set[str]:
    """The words that a template is filled with."""
    return {word for text in TEMPLATES[name].values() for word in re.findall(r"\{(\w+)\}", text)}


def ninth_of(x1: Edges, y1: Edges, x2: Edges, y2: Edges, width_px: Edges, height_px: Edges) -> Any:
    """The ninth of the picture that holds a box's middle, 0 to 8, row by row from the top left; numbers or arrays."""
    columns, rows = (
        np.minimum(np.floor(3 * (low + high) / 2 / side).astype(np.int64), 2)
        for low, high, side in ((x1, x2, width_px), (y1, y2, height_px))
    )
    return 3 * rows + columns


def place_of(box: Box, size_wh: tuple[int, int]) -> str:
    """The words for the ninth of the picture that holds the box's middle: 'top left', 'middle centre', ..."""
    return _wordings(int(ninth_of(*box.xyxy, *size_wh)))[0]


def _around(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*(box.xyxy for box in boxes), strict=True)
    return Box(min(x1), min(y1), max(x2), max(y2))


_N_BOXES = {"alone": 1, "place": 1, "pair": 2}


def _filled(name: str, words: Mapping[str, list[str]]) -> Asked:
    template = TEMPLATES[name]
    first = {key: wordings[0] for key, wordings in words.items()}
    answers = [_fill(template["answer"], first)]
    for key, wordings in words.items():
        answers += [_fill(template["answer"], first | {key: wording}) for wording in wordings[1:]]
    answer, *accepted = dict.fromkeys(answers)
    question, reasoning = (_fill(template[key], first) for key in ("question", "reasoning"))
    return Asked(question, answer, tuple(accepted), template["answer_type"], name, reasoning)


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Put words in, in one pass: braces inside them stay braces, and nothing but a name stands for a word."""
    return re.sub(r"\{(\w+)\}", lambda found: words[found[1]], text)


def _words(label: str, count: int, ninth: int) -> dict[str, list[str]]:
    return {"label": [label], "count": [str(count)], "place": _wordings(int(ninth))}


def _wordings(ninth: int) -> list[str]:
    return list(_DATA["places"][ninth // 3][ninth % 3])


def _check_alone(box: Box, others: Sequence[Box], size_wh: tuple[int, int]) -> None:
    place = place_of(box, size_wh)
    n_there = sum(place_of(other, size_wh) == place for other in others)
    if n_there:
        raise UnaskableError(f"{n_there + 1} things have their middle at the {place}: what is there is open")


def _relation(one: Box, other: Box) -> list[str]:
    """Wordings for where `one` lies of `other`; boxes that overlap, or lie across a corner, have no one relation."""
    gaps_px = {
        "left": other.x1 - one.x2,
        "right": one.x1 - other.x2,
        "above": other.y1 - one.y2,
        "below": one.y1 - other.y2,
    }
    apart = [side for side, gap_px in gaps_px.items() if gap_px >= 0]
    if len(apart) != 1:
        seen = f"both {' and '.join(apart)}" if apart else "none of left, right, above and below"
        raise UnaskableError(f"where the one thing lies of the other is {seen}")
    return list(_DATA["relations"][apart[0]])
