"""Rosetta: one set of boxes on two pictures, in every format that is read, gives one and the same table."""

import pytest

from ops.boxes import CONVENTIONS, Box
from ops.normalise import normalise
from ops.questions import ask, place_of
from ops.readers.formats import FORMATS
from ops.readers.visual_genome import PARTS
from storage.objects import Store
from tests.ops.delivery import (
    coco,
    encoded,
    json_lines,
    new_store,
    pixels,
    question,
    source,
    write,
)
from tests.ops.rosetta_answers import (
    SETS,
    WHOLE,
    are_the_examples,
    are_the_pictures,
    are_the_same,
    boxes_of,
)
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import (
    DETECTIONS,
    QUESTIONS,
    UNNAMED,
    WHOLE_DETECTIONS,
    WHOLE_QUESTIONS,
)


def _cases(of_both, of_whole):
    return [(name, edges) for name in of_both for edges in SETS] + [(name, "whole") for name in of_whole]


def _tables(folder, write_set, pictures):
    put_pictures(folder / "shelf", pictures)
    tables = normalise(write_set(folder / "shelf", pictures), new_store(folder))
    are_the_pictures(tables, pictures)
    return tables


@pytest.mark.parametrize(("name", "edges"), _cases(DETECTIONS, WHOLE_DETECTIONS))
def test_every_format_of_boxes_gives_the_same_tables(name, edges, tmp_path):
    pictures, areas = SETS[edges]
    are_the_examples(_tables(tmp_path, (DETECTIONS | WHOLE_DETECTIONS)[name], pictures), pictures, areas)


@pytest.mark.parametrize(("name", "edges"), _cases(QUESTIONS, WHOLE_QUESTIONS))
def test_every_format_of_questions_gives_the_same_boxes(name, edges, tmp_path):
    pictures, _ = SETS[edges]
    tables = _tables(tmp_path, (QUESTIONS | WHOLE_QUESTIONS)[name], pictures)
    shas = {row["file_name"]: row["image_sha256"] for row in tables.images.to_pylist()}
    for picture in pictures:
        rows = tables.examples.to_pylist()
        of_picture = [row for row in rows if row["image_sha256"] == shas[f"images/{picture.file}"]]
        seen = [box for row in of_picture for box in boxes_of(tables, row["example_id"])]
        unnamed = name.startswith(UNNAMED)
        are_the_same(seen, [(None if unnamed else label, *sides) for label, *sides in picture.things])


def test_no_format_is_left_out(tmp_path):
    sources = []
    for name, written in (DETECTIONS | WHOLE_DETECTIONS | QUESTIONS | WHOLE_QUESTIONS).items():
        folder = tmp_path / name
        folder.mkdir()
        sources.append(written(folder, WHOLE))
    assert {each.format for each in sources} == set(FORMATS)
    assert {each.options["box_convention"] for each in sources if each.format == "table"} == set(CONVENTIONS)
    parts = {each.options["part"] for each in sources if each.format == "visual_genome"}
    assert parts == set(PARTS)
    asked = {each.format for each in sources if each.questions is not None}
    # flickr30k: its questions lie beside its annotations, and its option questions names another folder of them.
    assert asked | {"flickr30k"} == {name for name, known in FORMATS.items() if known.takes_questions}


def test_detections_are_asked_how_many_and_where(tmp_path):
    write(tmp_path, "cup.png", encoded(pixels((7, 5))))
    images = [{"id": 1, "file_name": "cup.png"}]
    # Two cups; one plate with its middle at x 5.5 of 7 (right third), y 0.5 of 5 (top third).
    boxes = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [4, 0, 3, 1]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]},
    ]
    write(tmp_path, "annotations.json", coco(images, boxes))
    rows = normalise(source(tmp_path), Store(str(tmp_path / "root"))).examples.to_pylist()
    seen = [(row["question_kind"], row["answer"], row["n_boxes"], row["source_row"]) for row in rows]
    assert seen == [("count", "2", 2, 0), ("count", "1", 1, 1), ("where", "top right", 1, 1)]
    # The union of the cups' boxes is 4 + 4 - 1 = 7 of 35 square pixels.
    assert rows[0]["evidence_area_frac"] == pytest.approx(7 / 35)
    assert rows[0]["answer_type"] == "number"
    assert "cup" in rows[0]["question"]


def test_a_place_is_the_third_that_holds_the_middle():
    # Middle at x 2.5 of 7 (3 * 2.5 / 7 = 1.07: centre) and y 3.5 of 5 (3 * 3.5 / 5 = 2.1: bottom).
    assert place_of(Box(1, 3, 4, 4), (7, 5)) == "bottom centre"
    assert place_of(Box(0, 0, 7, 5), (7, 5)) == "middle centre"
    with pytest.raises(ValueError, match="'where' with one box"):
        ask("where", "cup", [Box(0, 0, 1, 1)] * 2, (7, 5))


def test_the_fields_of_a_question_arrive(tmp_path):
    write(tmp_path, "cup.png", encoded(pixels((7, 5))))
    images = [{"id": 1, "file_name": "cup.png"}]
    boxes = [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}]
    write(tmp_path, "annotations.json", coco(images, boxes))
    row = question(
        1,
        [5],
        answer=" mug ",
        accepted_answers=["cup", "mug", "cup"],
        answer_type="word",
        question_kind="what",
    ) | {"reasoning": "I see a mug.", "slice": "prior_conflict", "condition": "control"}
    write(tmp_path, "questions.jsonl", json_lines([row]))
    tables = normalise(source(tmp_path, questions="questions.jsonl"), Store(str(tmp_path / "root")))
    (example,) = tables.examples.to_pylist()
    assert {key: example[key] for key in ("answer", "accepted_answers", "answer_type", "question_kind")} == {
        "answer": "mug",
        "accepted_answers": ["cup"],
        "answer_type": "word",
        "question_kind": "what",
    }
    assert (example["reasoning"], example["slice"], example["condition"]) == (
        "I see a mug.",
        "prior_conflict",
        "control",
    )
    assert (example["source"], example["source_file"], example["source_row"]) == (
        "shelf",
        "questions.jsonl",
        0,
    )
    assert tables.boxes.to_pylist()[0]["label"] == "cup"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Yes", "yes_no"),
        ("no.", "yes_no"),
        ("1,200", "number"),
        (3, "number"),
        ("red cup", "word"),
        ("a man on a red horse", "text"),
        ("nan", "word"),
    ],
)
def test_the_kind_of_an_answer_is_guessed_where_it_is_not_said(answer, kind, tmp_path):
    write(tmp_path, "cup.png", encoded(pixels((7, 5))))
    row = {"image": "cup.png", "problem": "What is it?", "solution": answer, "bbox": "[0.25, 0.2, 0.75, 0.6]"}
    write(tmp_path, "rows.json", [row])
    shelf = source(tmp_path, "visual_cot", annotations="rows.json")
    (example,) = normalise(shelf, Store(str(tmp_path / "root"))).examples.to_pylist()
    assert (example["answer_type"], example["answer"]) == (kind, str(answer))
