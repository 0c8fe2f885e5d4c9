"""Rosetta: the same boxes on one 7 x 5 px picture in every format that is read give the same table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.boxes import Box
from ops.normalise import normalise
from ops.questions import ask, place_of
from storage.objects import Store
from tests.ops.delivery import coco, encoded, json_lines, pixels, question, source, write

# Canonical: two boxes on a 7 x 5 px picture, one with a broken edge in both directions.
CANONICAL = [(1.75, 1.0, 5.25, 3.0), (0.0, 2.5, 7.0, 5.0)]
COLUMNS = ("x1_px", "y1_px", "x2_px", "y2_px")
# By hand: 1.75/7 = 0.25, 1/5 = 0.2, 5.25/7 = 0.75, 3/5 = 0.6; 0, 2.5/5 = 0.5, 1, 1.
NORMALISED = ["[0.25, 0.2, 0.75, 0.6]", "[0.0, 0.5, 1.0, 1.0]"]
# By hand: widths 3.5 and 7, heights 2 and 2.5.
XYWH = [[1.75, 1, 3.5, 2], [0, 2.5, 7, 2.5]]
# 3.5 * 2 of 35 square pixels, 7 * 2.5 of 35.
AREA_FRAC = [0.2, 0.5]


def _coco(folder):
    images = [{"id": 1, "file_name": "cup.png", "width": 7, "height": 5}]
    # Of two categories, so that each detection is asked about on its own.
    boxes = [{"id": n, "image_id": 1, "category_id": n, "bbox": box} for n, box in enumerate(XYWH, start=1)]
    write(folder, "annotations.json", coco(images, boxes))
    return source(folder)


def _coco_questions(folder):
    _coco(folder)
    write(folder, "questions.jsonl", json_lines([question(1, [1]), question(1, [2])]))
    return source(folder, questions="questions.jsonl")


def _rows():
    return [
        {"image": "cup.png", "problem": "What is it?", "solution": "cup", "bbox": bbox, "dataset": "gqa"}
        for bbox in NORMALISED
    ]


def _visual_cot_lines(folder):
    write(folder, "rows.jsonl", json_lines(_rows()))
    return source(folder, "visual_cot", annotations="rows.jsonl")


def _visual_cot_list(folder):
    write(folder, "rows.json", _rows())
    return source(folder, "visual_cot", annotations="rows.json")


def _visual_cot_parquet(folder):
    picture = {"bytes": (folder / "cup.png").read_bytes(), "path": "cup.png"}
    pq.write_table(
        pa.Table.from_pylist([row | {"image": picture} for row in _rows()]), folder / "rows.parquet"
    )
    return source(folder, "visual_cot", annotations="rows.parquet")


FORMATS = [_coco, _coco_questions, _visual_cot_lines, _visual_cot_list, _visual_cot_parquet]


@pytest.mark.parametrize("deliver", FORMATS)
def test_every_format_gives_the_same_boxes(deliver, tmp_path):
    write(tmp_path, "cup.png", encoded(pixels((7, 5))))
    tables = normalise(deliver(tmp_path), Store(str(tmp_path / "root")))
    seen = [tuple(row[name] for name in COLUMNS) for row in tables.boxes.to_pylist()]
    # Detections are asked how many and where: each box twice.
    assert list(dict.fromkeys(seen)) == CANONICAL
    assert list(dict.fromkeys(tables.examples["evidence_area_frac"].to_pylist())) == AREA_FRAC
    (picture,) = tables.images.to_pylist()
    assert (picture["width_px"], picture["height_px"]) == (7, 5)
    assert picture["bytes"] == (tmp_path / "cup.png").read_bytes()
    assert picture["file_name"] == "cup.png"
    assert tables.quarantine.num_rows == 0


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
    write(tmp_path, "rows.json", [_rows()[0] | {"solution": answer}])
    shelf = source(tmp_path, "visual_cot", annotations="rows.json")
    (example,) = normalise(shelf, Store(str(tmp_path / "root"))).examples.to_pylist()
    assert (example["answer_type"], example["answer"]) == (kind, str(answer))
