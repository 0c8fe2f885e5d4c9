"""Boxes from COCO segmentations on a 60 x 40 px picture: polygons, runs as a list, runs packed into a text."""

import numpy as np
import pytest

from ops.normalise import normalise
from ops.readers.coco_masks import extent_xywh
from ops.readers.rows import FieldError
from tests.ops.delivery import (
    coco,
    encoded,
    json_lines,
    new_store,
    packed_runs,
    pixels,
    question,
    refused,
    runs_of,
    source,
    write,
)

SIZE = [40, 60]  # height, width
# Columns 10, 11, 12 and rows 5 to 8: the first 1 is pixel 10 * 40 + 5 = 405, then 4 of 1 and 36 of 0 in turn;
# 405 + 4 + 36 + 4 + 36 + 4 = 489 of 2400 pixels, 1911 remain.
RUNS = [405, 4, 36, 4, 36, 4, 1911]
# Packed, from the fourth on less the one two before: 405, 4, 36, 0, 0, 0, 1875.
# 405 = 12 * 32 + 21: 48 + 32 + 21 is "e", 48 + 12 is "<". 36 = 1 * 32 + 4: "T1".
# 1875 = (1 * 32 + 26) * 32 + 19: 48 + 32 + 19 is "c", 48 + 32 + 26 is "j", "1".
PACKED = "e<4T1000cj1"
# Column 10 rows 5 to 10, column 11 rows 5 to 8: runs 405, 6, 34, 4, 1951; packed 405, 6, 34, -2, 1917.
# 34 is "R1"; -2 in five bits is 30, whose bit 16 says negative: 48 + 30 is "N"; 1917 is "mk1" as above.
PACKED_NEGATIVE = "e<6R1Nmk1"


@pytest.mark.parametrize(
    ("segmentation", "wanted"),
    [
        ({"size": SIZE, "counts": RUNS}, [10, 5, 3, 4]),
        ({"size": SIZE, "counts": PACKED}, [10, 5, 3, 4]),
        ({"size": SIZE, "counts": PACKED_NEGATIVE}, [10, 5, 2, 6]),
        # From pixel 435, row 35 of column 10, ten on: over the lower edge of column 10 to row 4 of column 11.
        ({"size": SIZE, "counts": [435, 10, 1955]}, [10, 0, 2, 40]),
        ({"size": SIZE, "counts": [0, 2400]}, [0, 0, 60, 40]),
        ({"size": SIZE, "counts": [2399, 1]}, [59, 39, 1, 1]),
        # A run of no pixel marks none: columns 0 and 20 stay out.
        ({"size": SIZE, "counts": [0, 0, 405, 4, 391, 0, 1600]}, [10, 5, 1, 4]),
        # Two polygons: x from 3 to 21.5, y from 1.25 to 30.
        ([[3, 4, 8, 4, 8, 9.5], [20, 1.25, 21.5, 30, 19, 30, 20, 5]], [3, 1.25, 18.5, 28.75]),
    ],
)
def test_the_extent_of_a_segmentation(segmentation, wanted):
    assert extent_xywh(segmentation) == wanted


def _random_mask(rng):
    height, width = int(rng.integers(2, 41)), int(rng.integers(2, 61))
    mask = np.zeros((height, width), bool)
    x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
    mask[y : y + int(rng.integers(1, height + 1)), x : x + int(rng.integers(1, width))] = True
    return mask & (rng.random((height, width)) < rng.choice([0.2, 0.9, 1.0]))


def _extent(mask):
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y]


def test_random_masks_have_the_extent_of_their_pixels():
    rng = np.random.default_rng(3)
    masks = [mask for mask in (_random_mask(rng) for _ in range(200)) if mask.any()]
    assert len(masks) > 100
    for mask in masks:
        counts = runs_of(mask)
        for written in (counts, packed_runs(counts)):
            assert extent_xywh({"size": list(mask.shape), "counts": written}) == _extent(mask)


def test_pycocotools_agrees():
    masks = pytest.importorskip(
        "pycocotools.mask", reason="pycocotools, the peer of this test, is not installed"
    )
    rng = np.random.default_rng(4)
    for mask in (_random_mask(rng) for _ in range(200)):
        if mask.any():
            code = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
            text = code["counts"].decode()
            assert text == packed_runs(runs_of(mask))
            seen = extent_xywh({"size": list(mask.shape), "counts": text})
            assert seen == masks.toBbox(code).tolist() == _extent(mask)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "bad_box_format"),
        ([], "bad_box_format"),
        ("e<4", "bad_box_format"),
        ([[1, 2, 3, 4]], "bad_box_format"),
        ([[1, 2, 3, 4, 5, 6, 7]], "bad_box_format"),
        ([[1, 2, 3, 4, True, 6]], "bad_box_format"),
        ([[1, 2, 3, 4, float("nan"), 6]], "nan_box"),
        ([[1, 2, 3, 4, 10**400, 6]], "nan_box"),
        ({"size": SIZE}, "bad_box_format"),
        ({"size": SIZE, "counts": [2400, 1]}, "bad_box_format"),
        ({"size": SIZE, "counts": [405, -4, 1999]}, "bad_box_format"),
        ({"size": SIZE, "counts": [405, 4]}, "bad_box_format"),
        ({"size": SIZE, "counts": [405, 4.0, 1991]}, "bad_box_format"),
        ({"size": SIZE, "counts": PACKED[:-1]}, "bad_box_format"),
        ({"size": SIZE, "counts": PACKED + "1"}, "bad_box_format"),
        ({"size": SIZE, "counts": "o" * 100_000}, "bad_box_format"),
        ({"size": SIZE, "counts": "e<\u00e94"}, "bad_box_format"),
        ({"size": SIZE, "counts": [2400]}, "zero_area_box"),
        ({"size": [40], "counts": RUNS}, "bad_box_format"),
        ({"size": [40, 60.0], "counts": RUNS}, "bad_box_format"),
        ({"size": [0, 60], "counts": []}, "bad_box_format"),
        ({"size": [2**40, 2**40], "counts": [0, 2**80]}, "bad_box_format"),
    ],
)
def test_a_segmentation_that_is_none_is_told(segmentation, reason):
    with pytest.raises(FieldError) as caught:
        extent_xywh(segmentation)
    assert caught.value.reason == reason


def test_a_packed_count_has_an_end():
    with pytest.raises(FieldError, match="no packed runs"):
        extent_xywh({"size": SIZE, "counts": "o" * 100_000})


def _delivered(folder, *entries, **fields):
    write(folder, "shelf.png", encoded(pixels((60, 40))))
    images = [{"id": 1, "file_name": "shelf.png", "width": 60, "height": 40}]
    boxes = [{"id": n, "image_id": 1, "category_id": 1 + n % 2} | entry for n, entry in enumerate(entries)]
    write(folder, "annotations.json", coco(images, boxes))
    return normalise(source(folder, **fields), new_store(folder))


def _boxes(tables):
    rows = tables.boxes.to_pylist()
    return list(
        dict.fromkeys(tuple(row[key] for key in ("x1_px", "y1_px", "x2_px", "y2_px")) for row in rows)
    )


def test_a_segmentation_gives_the_box_where_there_is_none(tmp_path):
    runs = {"size": SIZE, "counts": PACKED}
    entries = [{"segmentation": runs}, {"bbox": [1, 2, 3, 4], "segmentation": runs}]
    assert _boxes(_delivered(tmp_path / "a", *entries)) == [(10, 5, 13, 9), (1, 2, 4, 6)]
    told = _delivered(tmp_path / "b", *entries, options={"boxes_from": "segmentation"})
    assert _boxes(told) == [(10, 5, 13, 9)]
    assert refused(told) == []


def test_a_bad_segmentation_costs_its_row_and_the_questions_that_need_it(tmp_path):
    # Category 1 has the entries 0 and 2, category 2 the entry 1; the mask of entry 2 is of another size.
    entries = [
        {"bbox": [1, 2, 3, 4]},
        {"bbox": [5, 5, 5, 5]},
        {"segmentation": {"size": [60, 40], "counts": [1, 2399]}},
    ]
    tables = _delivered(tmp_path, *entries)
    assert [row["question_kind"] for row in tables.examples.to_pylist()] == ["count", "where"]
    assert refused(tables) == [
        ("annotations.json", 0, "bad_box_format"),
        ("annotations.json", 2, "bad_box_format"),
    ]
    details = tables.quarantine["detail"].to_pylist()
    assert "needs annotation 2, which is refused: segmentation: the mask is" in details[0]
    assert "the mask is 40 x 60 px, the picture is said to be 60 x 40" in details[1]


def test_questions_ask_about_segmentations_too(tmp_path):
    write(tmp_path, "questions.jsonl", json_lines([question(1, [0]), question(1, [1])]))
    entries = [{"segmentation": [[3, 4, 8, 4, 8, 9]]}, {"segmentation": {"size": SIZE, "counts": [2400]}}]
    tables = _delivered(tmp_path, *entries, questions="questions.jsonl")
    assert _boxes(tables) == [(3, 4, 8, 9)]
    assert refused(tables) == [
        ("questions.jsonl", 1, "zero_area_box"),
        ("annotations.json", 1, "zero_area_box"),
    ]


@pytest.mark.parametrize("with_questions", [False, True])
def test_pictures_lie_in_the_folder_that_is_named(with_questions, tmp_path):
    write(tmp_path, "train/shelf.png", encoded(pixels((60, 40))))
    boxes = [{"id": 0, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4]} for n in (1, 2)]
    images = [{"id": 1, "file_name": "shelf.png"}, {"id": 2, "file_name": "../../out.png"}]
    write(tmp_path, "annotations.json", coco(images, boxes[:1] if with_questions else boxes))
    write(tmp_path, "questions.jsonl", json_lines([question(1, [0])]))
    fields = {"questions": "questions.jsonl"} if with_questions else {}
    tables = normalise(source(tmp_path, options={"images": "train"}, **fields), new_store(tmp_path))
    assert tables.images["file_name"].to_pylist() == ["train/shelf.png"]
    unsafe = ("annotations.json", 1, "unsafe_path")
    assert refused(tables) == ([] if with_questions else [unsafe, unsafe])
