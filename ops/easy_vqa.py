"""The `easy_vqa` source: a seeded part of the easy-vqa package's pictures and questions, with evidence boxes.

The package (Victor Zhou, MIT) ships 64 x 64 px pictures of one shape on a plain background, with questions
and answers but no boxes. Here: the boxes, found from the background, and the files that a user's own data
would have (COCO and a questions file). Not here: reading them back (`ops/readers/`).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import easy_vqa
import numpy as np

from ops.pictures import PictureProblem, open_upright

DEFAULT_N_PICTURES = 400
SHAPES = ("circle", "rectangle", "triangle")
_COLOUR_WORDS = ("what color", "what is the color")


@dataclass(frozen=True)
class Drawn:
    """What the package's questions say of one picture: shape, colour, and every (question, answer)."""

    shape: str
    colour: str
    asked: tuple[tuple[str, str], ...]


def generate(settings: Mapping[str, Any], folder: Path) -> None:
    """Write annotations.json, questions.jsonl and images/ below `folder`.

    Settings: n_pictures (default 400) and seed (default 0). The same settings give the same bytes. Raises
    ValueError if there are not that many pictures whose shape and colour the package tells, or if a picture's
    background is not plain.
    """
    n_pictures, seed = int(settings.get("n_pictures", DEFAULT_N_PICTURES)), int(settings.get("seed", 0))
    known = drawings()
    if not 1 <= n_pictures <= len(known):
        raise ValueError(f"easy_vqa: n_pictures={n_pictures}: wanted 1 to {len(known)}")
    order = np.random.default_rng(seed).permutation(len(known))[:n_pictures]
    numbers = [sorted(known)[place] for place in sorted(order.tolist())]
    paths = easy_vqa.get_train_image_paths()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    questions: list[dict[str, Any]] = []
    for number in numbers:
        name, drawn = f"images/{number:05d}.png", known[number]
        shutil.copyfile(paths[number], folder / name)
        size_wh, box = shape_box(Path(paths[number]).read_bytes(), name)
        images.append({"id": number, "file_name": name, "width": size_wh[0], "height": size_wh[1]})
        category = SHAPES.index(drawn.shape) + 1
        annotations.append(
            {"id": number, "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
        )
        questions.extend(_question(number, drawn, question, answer) for question, answer in drawn.asked)
    categories = [{"id": place, "name": shape} for place, shape in enumerate(SHAPES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(coco))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))


def drawings() -> dict[int, Drawn]:
    """The package's training pictures by number, of which its questions tell both shape and colour."""
    asked: dict[int, dict[str, str]] = {}
    for question, answer, number in zip(*easy_vqa.get_train_questions(), strict=True):
        asked.setdefault(number, {})[question] = answer
    told = {}
    for number, answers in asked.items():
        shapes = {answer for question, answer in answers.items() if question_kind(question) == "shape"}
        colours = {answer for question, answer in answers.items() if question_kind(question) == "colour"}
        if len(shapes) == 1 and len(colours) == 1:
            told[number] = Drawn(shapes.pop(), colours.pop(), tuple(answers.items()))
    return told


def question_kind(question: str) -> str:
    """What a question asks about, by its form: "colour", "shape" or "presence" (yes or no)."""
    if question.startswith(_COLOUR_WORDS):
        return "colour"
    return "shape" if question.startswith("what") else "presence"


def shape_box(data: bytes, name: str) -> tuple[tuple[int, int], list[int]]:
    """Size (width, height) of a picture and the exact extent [x, y, width, height] of what is not background.

    The background is the colour of all four corners and of most pixels. Raises ValueError, naming the
    picture, if it is not plain or if there is nothing on it.
    """
    picture = open_upright(data)
    if isinstance(picture, PictureProblem):
        raise ValueError(f"easy_vqa: {name}: {picture.detail}")
    corners = picture.rgb[[0, 0, -1, -1], [0, -1, 0, -1]]
    drawn = (picture.rgb != corners[0]).any(axis=2)
    if (corners != corners[0]).any() or not 0 < drawn.sum() < drawn.size / 2:
        share = drawn.mean()
        raise ValueError(
            f"easy_vqa: {name}: background not plain: corners {corners.tolist()}, {share:.0%} differ"
        )
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return picture.size_wh, [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def _question(number: int, drawn: Drawn, question: str, answer: str) -> dict[str, Any]:
    kind = question_kind(question)
    return {
        "image_id": number,
        "question": question,
        "answer": answer,
        "answer_type": "yes_no" if kind == "presence" else "word",
        "question_kind": kind,
        "annotation_ids": [number],
        "reasoning": f"The shape is a {drawn.colour} {drawn.shape}.",
    }
