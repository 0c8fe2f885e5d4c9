"""The figures of a source against a small one worked out by hand, and against a slow loop.

Three pictures: a 40 x 30, b 30 x 40 with the pixels of c (30 x 40), so one is landscape and two are portrait.
"""

import time

import numpy as np
import pyarrow as pa
import pytest

from ops.source_profile import SCRIPTS, profile, scripts
from storage.tables import encode_table

PICTURES = {"a": (40, 30, "pa"), "b": (30, 40, "pb"), "c": (30, 40, "pb")}
# picture, question, answer, type, kind, boxes: x1, y1, x2, y2, label
ROWS = (
    ("a", "What?", "cup", "word", "what", [(0, 0, 40, 30, "cup"), (10, 10, 12, 20, "cup")]),
    ("a", "Is it?", "yes", "yes_no", None, [(5, 5, 15, 15, "plate")]),
    ("b", "Is it?", "yes", "yes_no", None, [(20, 30, 30, 40, None)]),
    ("c", "Is there?", "no", "yes_no", None, [(0, 0, 10, 8, "cup")]),
)
REFUSED = ("swapped_corners", "no_answer", "swapped_corners")


def small():
    images = [
        {"image_sha256": k, "pixels_sha256": p, "width_px": w, "height_px": h, "file_name": k, "uri": k}
        for k, (w, h, p) in PICTURES.items()
    ]
    examples, boxes = [], []
    for number, (picture, question, answer, kind, about, around) in enumerate(ROWS):
        examples.append(
            {"example_id": str(number), "image_sha256": picture, "question": question, "answer": answer,
             "answer_type": kind, "question_kind": about, "n_boxes": len(around)}
        )  # fmt: skip
        boxes += [{"example_id": str(number), **edges_of(box)} for box in around]
    refused = [
        {"source_file": "f", "source_row": n, "reason": reason, "detail": "", "raw": "{}"}
        for n, reason in enumerate(REFUSED)
    ]
    return {
        "images": pa.Table.from_pylist(images),
        "examples": pa.Table.from_pylist(examples),
        "boxes": pa.Table.from_pylist(boxes),
        "quarantine": pa.Table.from_pylist(refused),
    }


def edges_of(box):
    return dict(zip(("x1_px", "y1_px", "x2_px", "y2_px"), map(float, box[:4]), strict=True)) | {
        "label": box[4]
    }


@pytest.fixture(scope="module")
def figures():
    table = profile("shelf", small())
    encode_table("source_profiles", table)
    return {(r["measure"], r["subset"], r["bucket"]): (r["value"], r["n"]) for r in table.to_pylist()}


def test_rows_in_are_rows_out_and_refused_by_reason(figures):
    assert figures["rows_in", "all", None] == (7, 7)
    assert figures["rows_out", "all", None] == (4, 7)
    assert figures["rows_refused", "all", None] == (3, 7)
    assert figures["rows_refused", "all", "swapped_corners"] == (2, 7)
    assert figures["rows_refused", "all", "no_answer"] == (1, 7)


def test_pictures(figures):
    assert figures["pictures", "all", None] == (3, 3)
    assert figures["pictures_with_the_same_pixels", "all", None] == (1, 3)
    shapes = {bucket: value for (measure, _, bucket), value in figures.items() if measure == "picture_shape"}
    assert shapes == {"landscape": (1, 3), "portrait": (2, 3), "square": (0, 3)}
    assert [figures["picture_width_px", "all", q] for q in ("min", "p50", "max")] == [
        (30, 3),
        (30, 3),
        (40, 3),
    ]
    assert [figures["picture_height_px", "all", q][0] for q in ("min", "p50", "max")] == [30, 40, 40]
    assert figures["picture_aspect", "all", "max"][0] == pytest.approx(4 / 3)


def test_boxes(figures):
    """Shares of the picture: 1, 20/1200, 100/1200, 100/1200, 80/1200. One is 2 px thin, one is the whole picture."""
    assert figures["boxes", "all", None] == (5, 5)
    assert [figures["boxes_per_example", "all", q][0] for q in ("min", "p50", "max")] == [1, 1, 2]
    assert figures["box_area_frac", "all", "min"] == (pytest.approx(20 / 1200), 5)
    assert figures["box_area_frac", "all", "p50"][0] == pytest.approx(100 / 1200)
    assert figures["boxes_near_empty", "all", None] == (1, 5)
    assert figures["boxes_whole_picture", "all", None] == (1, 5)
    edges = {bucket: value[0] for (m, _, bucket), value in figures.items() if m == "boxes_touching_edge"}
    assert edges == {"left": 2, "top": 2, "right": 2, "lower": 2}
    assert figures["labels_distinct", "all", None] == (2, 5)
    assert (figures["label", "all", "cup"], figures["label", "all", "plate"]) == ((3, 5), (1, 5))


def test_answers_and_questions(figures):
    assert figures["answers_distinct", "all", None] == (3, 4)
    assert figures["answer", "all", "yes"] == (2, 4)
    assert figures["answers_distinct", "answer_type=yes_no", None] == (2, 3)
    assert figures["answer", "answer_type=yes_no", "yes"] == (2, 3)
    assert figures["answer", "answer_type=word", "cup"] == (1, 1)
    assert figures["answer_type", "all", "yes_no"] == (3, 4)
    assert figures["questions_distinct", "all", None] == (3, 4)
    assert [figures["question_characters", "all", q][0] for q in ("min", "max")] == [5, 9]
    assert figures["question_kind", "all", "what"] == (1, 4)


def test_scripts_are_told_and_a_text_of_two_counts_for_both():
    """Latin in rows 1, 2 and 4; Thai, Han and Hiragana; digits alone are none; Runic is no script of the list."""
    questions = pa.chunked_array([["What?", "Où est 北京?", "これは何ですか", "5", "ᚠᚢ", "-?-"]])
    answers = pa.chunked_array([["cup", "là", "ข้าว", "six", "5", "7"]])
    found = scripts(questions, answers)
    assert found == {"Latin": 3, "Han": 2, "Hiragana": 1, "Other": 1, "Thai": 1, "none": 1}
    assert next(iter(found)) == "Latin"
    assert "Runic" not in SCRIPTS


def test_a_source_without_boxes_or_labels_has_no_quantiles_of_them():
    tables = small()
    tables["boxes"] = tables["boxes"].slice(0, 0)
    measures = {row["measure"] for row in profile("shelf", tables).to_pylist()}
    assert "boxes" in measures and "box_area_frac" not in measures and "label" not in measures


def test_long_and_many_answers_are_bounded():
    tables = small()
    long = [f"{n:03}" + "x" * 1000 for n in range(4)]
    index = tables["examples"].column_names.index("answer")
    tables["examples"] = tables["examples"].set_column(index, "answer", pa.array(long))
    rows = [
        r for r in profile("shelf", tables).to_pylist() if r["measure"] == "answer" and r["subset"] == "all"
    ]
    assert [len(row["bucket"]) for row in rows] == [200] * 4


def test_a_slow_loop_finds_the_same():
    """Random boxes in random pictures, in an order of their own, against a loop over dictionaries."""
    rng = np.random.default_rng(0)
    tables, sizes = random_source(rng, 40, 200, 300)
    rows = profile("r", tables).to_pylist()
    found = {(row["measure"], row["bucket"]): row["value"] for row in rows if row["subset"] == "all"}
    picture_of = dict(
        zip(*(tables["examples"][c].to_pylist() for c in ("example_id", "image_sha256")), strict=True)
    )
    areas, near, edges = [], 0, dict.fromkeys(("left", "top", "right", "lower"), 0)
    for box in tables["boxes"].to_pylist():
        w, h = sizes[picture_of[box["example_id"]]]
        side_x, side_y = box["x2_px"] - box["x1_px"], box["y2_px"] - box["y1_px"]
        areas.append(side_x * side_y / (w * h))
        near += areas[-1] < 0.0005 or side_x < 3 or side_y < 3
        edges["left"] += box["x1_px"] <= 0.5
        edges["top"] += box["y1_px"] <= 0.5
        edges["right"] += box["x2_px"] >= w - 0.5
        edges["lower"] += box["y2_px"] >= h - 0.5
    assert near > 0
    assert found["boxes_near_empty", None] == near
    assert {edge: found["boxes_touching_edge", edge] for edge in edges} == edges
    assert found["box_area_frac", "p50"] == pytest.approx(np.median(areas))


def random_source(rng, n_pictures, n_examples, n_boxes):
    sizes = {f"i{n}": (int(rng.integers(30, 60)), int(rng.integers(61, 90))) for n in range(n_pictures)}
    names = list(sizes)
    owner = rng.integers(0, n_examples, n_boxes)
    picture = rng.integers(0, n_pictures, n_examples)
    wh = np.array([sizes[names[p]] for p in picture[owner]], dtype=float)
    first, second = rng.uniform(0, 1, (2, n_boxes, 2))
    low, high = np.minimum(first, second) * wh, np.maximum(first, second) * wh
    high = np.where(rng.random((n_boxes, 2)) < 0.1, wh, high)
    boxes = pa.table(
        {"example_id": [f"e{n}" for n in owner], "x1_px": low[:, 0], "y1_px": low[:, 1], "x2_px": high[:, 0],
         "y2_px": high[:, 1], "label": pa.nulls(n_boxes, pa.string())}
    )  # fmt: skip
    images = pa.table(
        {"image_sha256": names, "pixels_sha256": names, "width_px": [w for w, _ in sizes.values()],
         "height_px": [h for _, h in sizes.values()], "file_name": names, "uri": names}
    )  # fmt: skip
    examples = pa.table(
        {"example_id": [f"e{n}" for n in range(n_examples)], "image_sha256": [names[p] for p in picture],
         "question": [f"q{n % 9}" for n in range(n_examples)], "answer": ["a"] * n_examples,
         "answer_type": ["word"] * n_examples, "question_kind": pa.nulls(n_examples, pa.string()),
         "n_boxes": np.bincount(owner, minlength=n_examples)}
    )  # fmt: skip
    return {
        "images": images,
        "examples": examples,
        "boxes": boxes,
        "quarantine": small()["quarantine"],
    }, sizes


def test_two_hundred_thousand_boxes_take_no_loop():
    """Half a second here; 20 s would be a loop over rows. A million take 2.5 s."""
    tables, _ = random_source(np.random.default_rng(1), 5_000, 100_000, 200_000)
    started = time.perf_counter()
    profile("large", tables)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("made", [small, lambda: random_source(np.random.default_rng(3), 20, 60, 150)[0]])
def test_a_source_in_pieces_has_the_same_figures(made):
    """Row by row, or seven at a time, with an empty piece between."""
    whole = made()
    for n in (1, 7):
        pieces = {
            name: pa.concat_tables(
                [table.slice(0, 0), *(table.slice(k, n) for k in range(0, table.num_rows, n))]
            )
            for name, table in whole.items()
        }
        assert profile("shelf", pieces).equals(profile("shelf", whole))
