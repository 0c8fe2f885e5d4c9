"""The `scenes` source: generated pictures of named things, written to disk as any user's files would be.

Here: which scenes are drawn and the files they become (COCO annotations, a questions file, PNG pictures). Not here:
how a scene is composed (`ops/scene_pictures.py`), what is asked (`ops/scene_questions.py`), reading the files back.

The `prior_conflict` slice asks for the colour of things that have a typical one: each plan is drawn twice, once in the
typical colour (condition `control`) and once in another (`conflict`). Both pictures are drawn so that the rule of
`ops/split.py` puts them on the test side: the film grain is drawn again until it does.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from PIL import Image

from ops.pictures import pixels_sha256
from ops.scene_objects import OBJECT_BY_NAME, OBJECTS
from ops.scene_pictures import Scene, ScenePlan, compose, draw_plan, other_colour
from ops.scene_questions import KINDS, SceneQuestion, colour_question, questions
from ops.split import side_of

SLICE = "prior_conflict"
_SETTINGS = {"n_pictures": 1200, "questions_per_picture": 4, "n_conflict_pairs": 100, "seed": 0}
_GRAINS = 400


@dataclass(frozen=True)
class _Asked:
    """A question with its place in the conflict slice, if it has one."""

    question: SceneQuestion
    condition: str | None = None


def generate(settings: Mapping[str, Any], folder: Path) -> None:
    """Write annotations.json, questions.jsonl and images/ below `folder`.

    Settings: n_pictures, questions_per_picture, n_conflict_pairs, seed (see `_SETTINGS` for the defaults). The same
    settings give the same files. Raises ValueError for a setting that is unknown or no count.
    """
    chosen = _checked(settings)
    rng = np.random.default_rng(chosen["seed"])
    drawn = [*_ordinary(rng, chosen), *_conflict_pairs(rng, chosen["n_conflict_pairs"])]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    category_of = {thing.name: number for number, thing in enumerate(OBJECTS, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for image_id, (scene, asked) in enumerate(drawn, start=1):
        name, (height, width) = f"images/{image_id:05d}.png", scene.picture.shape[:2]
        Image.fromarray(scene.picture).save(folder / name, compress_level=3)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        first_id = len(annotations) + 1
        for thing in scene.placed:
            x1, y1, x2, y2 = thing.box
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_of[thing.name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "attributes": {"colour": thing.colour},
                }
            )
        rows += [_row(image_id, first_id, one) for one in asked]
    categories = [{"id": number, "name": name} for name, number in category_of.items()]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(coco), encoding="utf-8")
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _checked(settings: Mapping[str, Any]) -> dict[str, int]:
    unknown = sorted(set(settings) - set(_SETTINGS))
    chosen = _SETTINGS | {name: settings[name] for name in settings if name in _SETTINGS}
    wrong = [
        f"{k}={v!r}" for k, v in chosen.items() if isinstance(v, bool) or not isinstance(v, int) or v < 0
    ]
    if unknown or wrong or chosen["n_pictures"] + chosen["n_conflict_pairs"] == 0:
        raise ValueError(
            f"scenes: unknown settings {unknown}, wrong values {wrong}; wanted whole numbers from 0 for "
            f"{', '.join(_SETTINGS)}, and at least one picture"
        )
    return chosen


def _row(image_id: int, first_id: int, asked: _Asked) -> dict[str, Any]:
    one = asked.question
    row: dict[str, Any] = {
        "image_id": image_id,
        "question": one.question,
        "answer": one.answer,
        "answer_type": one.answer_type,
        "question_kind": one.kind,
        "annotation_ids": [first_id + index for index in one.evidence],
        "reasoning": one.reasoning,
    }
    return row | ({"slice": SLICE, "condition": asked.condition} if asked.condition else {})


def _ordinary(rng: Generator, chosen: Mapping[str, int]) -> Iterator[tuple[Scene, list[_Asked]]]:
    """Scenes with questions of different kinds, as evenly as the scenes allow."""
    for _ in range(chosen["n_pictures"]):
        scene = compose(draw_plan(rng), grain_seed=int(rng.integers(2**31)))
        kinds = rng.permutation(len(KINDS))
        by_kind = [[q for q in questions(scene) if q.kind == KINDS[k]] for k in kinds]
        picked = [of_kind[rng.integers(len(of_kind))] for of_kind in by_kind if of_kind]
        yield scene, [_Asked(q) for q in picked[: chosen["questions_per_picture"]]]


def _conflict_pairs(rng: Generator, n_pairs: int) -> Iterator[tuple[Scene, list[_Asked]]]:
    made = 0
    while made < n_pairs:
        plan = draw_plan(rng, odd_colour_rate=0.0)
        names = [thing.name for thing in plan.things]
        typical = [
            i
            for i, name in enumerate(names)
            if names.count(name) == 1 and OBJECT_BY_NAME[name].typical_colour
        ]
        if not typical:
            continue
        index = typical[rng.integers(len(typical))]
        odd = plan.recoloured(index, other_colour(rng, plan.things[index].colour))
        for condition, one in (("control", plan), ("conflict", odd)):
            scene = _on_test_side(one, rng)
            yield scene, [_Asked(colour_question(scene, index), condition)]
        made += 1


def _on_test_side(plan: ScenePlan, rng: Generator) -> Scene:
    for _ in range(_GRAINS):
        scene = compose(plan, grain_seed=int(rng.integers(2**31)))
        if side_of(pixels_sha256(scene.picture)) == "test":
            return scene
    raise ValueError(
        f"scenes: none of {_GRAINS} film grains put a picture on the test side; is that share near 0?"
    )
