"""Generated scenes: exact boxes, honest questions, the conflict slice on the test side."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ops.pictures import pixels_sha256
from ops.scene_objects import COLOURS, OBJECT_BY_NAME, OBJECTS, drawing_svg, sprite
from ops.scene_pictures import Placed, Scene, cells_of, compose, draw_plan, place_name
from ops.scene_questions import caption, questions
from ops.scenes import generate
from ops.split import side_of


def hand_made_scene() -> Scene:
    """Two rows, three columns: a red car top left, two frogs (one top right, one bottom right)."""
    placed = (
        Placed("car", "red", "top left", (0, 0), (3, 5, 20, 17)),
        Placed("frog", "green", "top right", (0, 2), (60, 4, 80, 22)),
        Placed("frog", "blue", "bottom right", (1, 2), (61, 40, 79, 58)),
    )
    return Scene(np.zeros((64, 90, 3), dtype=np.uint8), placed, (2, 3))


def test_every_object_is_drawn_in_every_colour_and_the_colour_shows() -> None:
    """The light fill of a colour covers part of the drawing: repainting reached the colour-carrying fills."""
    for thing in OBJECTS:
        for colour, (light, dark) in COLOURS.items():
            svg = drawing_svg(thing, colour).lower()
            assert light in svg or dark in svg, (thing.name, colour)


def test_repainting_leaves_other_fills_alone() -> None:
    assert "#5c9e31" in drawing_svg(OBJECT_BY_NAME["strawberry"], "blue").lower()  # its leaves stay green
    assert "#ea5a47" not in drawing_svg(OBJECT_BY_NAME["strawberry"], "blue").lower()


def test_boxes_are_the_exact_visible_extent() -> None:
    """Oracle: redraw the plan without one thing; the pixels that change lie in its box and touch its sides."""
    rng = np.random.default_rng(5)
    for _ in range(12):
        plan = draw_plan(rng)
        scene = compose(plan, grain_seed=1)
        for index, thing in enumerate(scene.placed):
            rest = plan.things[:index] + plan.things[index + 1 :]
            without = compose(type(plan)(plan.size_wh, rest, plan.background_seed), grain_seed=1)
            changed = np.abs(scene.picture.astype(int) - without.picture).max(axis=2) > 0
            ys, xs = np.nonzero(changed)
            x1, y1, x2, y2 = thing.box
            seen = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
            # faint edges (alpha below one half) may reach one or two pixels beyond the visible extent, never inside it
            assert seen[0] <= x1 and seen[1] <= y1 and seen[2] >= x2 and seen[3] >= y2, (thing, seen)
            assert max(x1 - seen[0], y1 - seen[1], seen[2] - x2, seen[3] - y2) <= 2, (thing, seen)


def test_sizes_differ_and_most_pictures_are_not_square() -> None:
    rng = np.random.default_rng(0)
    sizes = {draw_plan(rng).size_wh for _ in range(200)}
    assert len(sizes) == 7
    assert sum(width != height for width, height in sizes) == 6


@pytest.mark.parametrize(
    ("size", "cells", "cell", "words"),
    [
        ((252, 168), (2, 3), (0, 1), "top centre"),
        ((168, 252), (3, 2), (1, 0), "middle left"),
        ((196, 196), (2, 2), (1, 1), "bottom right"),
    ],
)
def test_places_are_named_by_row_then_column(
    size: tuple[int, int], cells: tuple[int, int], cell: tuple[int, int], words: str
) -> None:
    assert cells_of(size) == cells
    assert place_name(cell, cells) == words


def test_questions_of_a_hand_made_scene() -> None:
    asked = {(q.question, q.answer, q.evidence) for q in questions(hand_made_scene())}
    assert asked == {
        ("What is at the top left?", "car", (0,)),
        ("What is at the top right?", "frog", (1,)),
        ("What is at the bottom right?", "frog", (2,)),
        ("Where is the car?", "top left", (0,)),
        ("What colour is the car?", "red", (0,)),
        ("How many cars are there?", "1", (0,)),
        ("How many frogs are there?", "2", (1, 2)),
        # no relation: nothing lies in a cell beside the car, and "the frog" would be ambiguous
    }


def test_caption_names_all_things_in_reading_order() -> None:
    assert caption(hand_made_scene()) == (
        "a red car at the top left, a green frog at the top right, a blue frog at the bottom right"
    )


def test_relation_looks_at_the_neighbouring_cell() -> None:
    """A car at the top left with a heart below it: each is the other's only neighbour."""
    placed = (
        Placed("car", "red", "top left", (0, 0), (3, 5, 20, 17)),
        Placed("heart", "pink", "bottom left", (1, 0), (3, 40, 22, 58)),
    )
    scene = Scene(np.zeros((64, 90, 3), dtype=np.uint8), placed, (2, 3))
    relations = {(q.question, q.answer, q.evidence) for q in questions(scene) if q.kind == "relation"}
    assert relations == {
        ("What is below the car?", "heart", (0, 1)),
        ("What is above the heart?", "car", (1, 0)),
    }


def test_generated_files_hold_together_and_the_slice_is_on_the_test_side(tmp_path: Path) -> None:
    settings = {"n_pictures": 6, "questions_per_picture": 3, "n_conflict_pairs": 2, "seed": 4}
    generate(settings, tmp_path)
    coco = json.loads((tmp_path / "annotations.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(coco["images"]) == 6 + 2 * 2
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    for image in coco["images"]:
        with Image.open(tmp_path / image["file_name"]) as picture:
            assert picture.size == sizes[image["id"]]
    of_image = {a["id"]: a["image_id"] for a in coco["annotations"]}
    assert all(of_image[a] == row["image_id"] for row in rows for a in row["annotation_ids"])
    marked = [row for row in rows if row.get("slice") == "prior_conflict"]
    assert [row["condition"] for row in marked] == ["control", "conflict"] * 2
    for control, conflict in zip(marked[::2], marked[1::2], strict=True):
        assert control["question"] == conflict["question"]
        assert control["answer"] != conflict["answer"]
    file_of = {image["id"]: image["file_name"] for image in coco["images"]}
    for row in marked:
        pixels = np.array(Image.open(tmp_path / file_of[row["image_id"]]).convert("RGB"))
        assert side_of(pixels_sha256(pixels)) == "test"


def test_the_same_settings_give_the_same_files(tmp_path: Path) -> None:
    settings = {"n_pictures": 3, "n_conflict_pairs": 1, "seed": 2}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        generate(settings, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 2 + 3 + 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


@pytest.mark.parametrize(
    "settings", [{"n_pictures": -1}, {"n_pictures": "10"}, {"pictures": 3}, {"seed": True}]
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        generate(settings, tmp_path)


def test_sprites_are_cut_to_what_can_be_seen() -> None:
    drawn = sprite("kite", "blue", 60, False)
    visible = drawn[..., 3] > 127
    assert visible[0].any() and visible[-1].any() and visible[:, 0].any() and visible[:, -1].any()
    assert np.array_equal(sprite("kite", "blue", 60, True), drawn[:, ::-1])
