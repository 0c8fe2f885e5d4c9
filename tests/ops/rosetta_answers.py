"""What the tables hold of the Rosetta set, worked out by hand, and the comparison of a source's tables with it."""

import pytest

from ops.questions import TEMPLATES
from storage.objects import sha256_bytes
from tests.ops.delivery import conserved
from tests.ops.rosetta_set import Picture

# Two cups that overlap, a plate in the lower right corner; a fork at the left edge, a plate in the lower right corner.
WHOLE = [
    Picture(24, (60, 40), [("cup", 3, 2, 18, 12), ("cup", 15, 8, 40, 26), ("plate", 44, 32, 60, 40)]),
    Picture(25, (45, 70), [("fork", 0, 5, 10, 64), ("plate", 14, 40, 45, 70), ("cup", 20, 3, 33, 21)]),
]
BROKEN = [
    Picture(
        24,
        (60, 40),
        [("cup", 3.25, 2.5, 18.75, 12.125), ("cup", 15.5, 8.25, 40.4, 26.6), ("plate", 44.7, 32.3, 60, 40)],
    ),
    Picture(
        25,
        (45, 70),
        [("fork", 0, 5.2, 10.8, 64.6), ("plate", 14.1, 40.3, 45, 70), ("cup", 20.35, 3.15, 33.9, 21.45)],
    ),
]
# Picture, template, label, answer, what is accepted too. The middles, in thirds of the sides (BROKEN: the same thirds):
# plate 52, 36 of 60, 40: 2.6, 2.7; fork 5, 34.5 of 45, 70: 0.3, 1.5; plate 29.5, 55: 1.97, 2.4; cup 26.5, 12: 1.8, 0.5.
ASKED = [
    ("images/24.jpg", "count", "cup", "2", []),
    ("images/24.jpg", "count", "plate", "1", []),
    ("images/24.jpg", "where", "plate", "bottom right", []),
    ("images/25.jpg", "count", "fork", "1", []),
    ("images/25.jpg", "where", "fork", "middle left", []),
    ("images/25.jpg", "count", "plate", "1", []),
    ("images/25.jpg", "where", "plate", "bottom centre", ["bottom center"]),
    ("images/25.jpg", "count", "cup", "1", []),
    ("images/25.jpg", "where", "cup", "top centre", ["top center"]),
]
# Square pixels of the evidence. The cups: 15 * 10 + 25 * 18 less the 3 * 4 that they share is 588; 15.5 * 9.625 +
# 24.9 * 18.35 - 3.25 * 3.875 = 149.1875 + 456.915 - 12.59375 = 593.50875. The others are width times height.
WHOLE_AREAS = [588, 128, 128, 590, 590, 930, 930, 234, 234]
BROKEN_AREAS = [593.50875, 117.81, 117.81, 641.52, 641.52, 917.73, 917.73, 247.965, 247.965]
SETS = {"whole": (WHOLE, WHOLE_AREAS), "broken": (BROKEN, BROKEN_AREAS)}
SIDES = ("x1_px", "y1_px", "x2_px", "y2_px")


def are_the_pictures(tables, pictures):
    """The pictures of the set and no other, in order, by name, size and bytes; nothing is refused."""
    conserved(tables)
    assert tables.quarantine.num_rows == 0
    rows = tables.images.to_pylist()
    assert [row["file_name"] for row in rows] == [f"images/{picture.file}" for picture in pictures]
    assert [(row["width_px"], row["height_px"]) for row in rows] == [picture.size_wh for picture in pictures]
    for row, picture in zip(rows, pictures, strict=True):
        assert (row["bytes"], row["n_bytes"]) == (picture.data, len(picture.data))
        assert (row["image_sha256"], row["format"]) == (sha256_bytes(picture.data), "JPEG")


def boxes_of(tables, example_id):
    """Label and edges of the evidence of one example, in its order."""
    rows = [row for row in tables.boxes.to_pylist() if row["example_id"] == example_id]
    assert [row["box_index"] for row in rows] == list(range(len(rows)))
    return [(row["label"], *(row[side] for side in SIDES)) for row in rows]


def are_the_same(boxes, things):
    """The same labels, and the same edges to a millionth of a pixel."""
    assert [box[0] for box in boxes] == [thing[0] for thing in things]
    for box, thing in zip(boxes, things, strict=True):
        assert box[1:] == pytest.approx(thing[1:], abs=1e-6, rel=0)


def are_the_examples(tables, pictures, areas):
    """Every example, in order, with its evidence: nothing but the places in the files may differ between formats."""
    names = {row["image_sha256"]: row["file_name"] for row in tables.images.to_pylist()}
    by_name = {f"images/{picture.file}": picture for picture in pictures}
    for row, asked, area in zip(tables.examples.to_pylist(), ASKED, areas, strict=True):
        name, kind, label, answer, accepted = asked
        things = [thing for thing in by_name[name].things if thing[0] == label]
        words = TEMPLATES[kind]["question"].replace("{label}", label)
        assert (names[row["image_sha256"]], row["question"], row["answer"]) == (name, words, answer)
        assert (row["accepted_answers"], row["question_kind"]) == (accepted, kind)
        reasoning = TEMPLATES[kind]["reasoning"].replace("{label}", label)
        assert row["reasoning"] == reasoning.replace("{count}", answer).replace("{place}", answer)
        assert row["answer_type"] == ("number" if kind == "count" else "word")
        assert (row["slice"], row["condition"], row["n_boxes"]) == (None, None, len(things))
        width, height = by_name[name].size_wh
        assert row["evidence_area_frac"] == pytest.approx(area / (width * height), abs=1e-9)
        are_the_same(boxes_of(tables, row["example_id"]), things)
