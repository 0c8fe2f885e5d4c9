"""LabelMe by a sample written by hand on one 60 x 40 px picture, and its bad rows."""

import json

import pytest

from tests.ops.delivery import refused, write
from tests.ops.detection_samples import (
    CANONICAL,
    CUPS,
    PICTURE,
    PLATE,
    boxes_of,
    is_canonical,
    tables_of,
)


def _shape(label, kind, *points, **more) -> dict:
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points]} | more


# The first cup by its upper right and lower left corner; the second by a polygon; the plate by four corners.
SHAPES = [
    _shape("cup", "rectangle", (30, 0), (0, 20), group_id=None),
    _shape("cup", "polygon", (15, 20), (30, 10), (45, 20), (30, 30)),
    _shape("plate", "rectangle", (42, 32), (60, 32), (60, 40), (42, 40)),
]


def _labelme(shapes, **fields) -> dict:
    head = {"imagePath": "../photos/cup.png", "imageWidth": 60, "imageHeight": 40, "imageData": None}
    return head | {"shapes": shapes} | fields


def test_labelme(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.json", _labelme(SHAPES, imagePath="..\\photos\\cup.png"))
    tables = tables_of(tmp_path, "labelme", "marked")
    is_canonical(tables)
    assert tables.images["file_name"].to_pylist() == ["photos/cup.png"]
    write(tmp_path, "shelf/marked/cup.json", _labelme(SHAPES, imagePath="C:\\mine\\cup.png"))
    is_canonical(tables_of(tmp_path, "labelme", "marked/cup.json", images="photos"))


def test_a_labelme_circle_is_the_box_around_it(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    # The middle at 20, 15; the point 3 to the right and 4 below lies 5 away: 15..25, 10..20.
    write(tmp_path, "shelf/marked/cup.json", _labelme([_shape("cup", "circle", (20, 15), (23, 19))]))
    assert boxes_of(tables_of(tmp_path, "labelme", "marked")) == [("cup", 15.0, 10.0, 25.0, 20.0)]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (_shape("plate", "line", (1, 1), (9, 9)), [(2, "unsupported"), (3, "unsupported")]),
        (_shape("plate", ["box"], (1, 1), (9, 9)), [(2, "unsupported"), (3, "unsupported")]),
        (_shape("plate", "polygon", (1, 1), (9, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "circle", (20, 15)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "circle", (20, 15), (float("nan"), 9)), [(2, "nan_box"), (3, "nan_box")]),
        (_shape("plate", "rectangle", (1, 1), (1, 9)), [(2, "zero_area_box"), (3, "zero_area_box")]),
        (_shape("plate", "rectangle", (1, 1), ("9", 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1), (True, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1), (10**400, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1, 2), (9, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (
            _shape("plate", "rectangle", (1, 1), (70, 9)),
            [(2, "box_outside_picture"), (3, "box_outside_picture")],
        ),
        ({"label": "plate", "points": None}, [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("  ", "rectangle", (1, 1), (9, 9)), [(3, "missing_field")]),
        (_shape({"a": 1}, "rectangle", (1, 1), (9, 9), group_id=1), [(3, "missing_field")]),
        ("plate", [(3, "broken_json")]),
    ],
)
def test_a_bad_labelme_shape_costs_its_row_and_the_question(shape, found, tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.json", _labelme([*SHAPES, shape]))
    tables = tables_of(tmp_path, "labelme", "marked")
    assert sorted(refused(tables)) == [("marked/cup.json", row, reason) for row, reason in found]
    assert boxes_of(tables)[:2] == CUPS


def test_labelme_parts_of_one_thing_are_not_counted(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    parts = [SHAPES[0] | {"group_id": 4}, SHAPES[1] | {"group_id": 4}, SHAPES[2] | {"group_id": 4}]
    write(tmp_path, "shelf/marked/cup.json", _labelme(parts))
    tables = tables_of(tmp_path, "labelme", "marked")
    assert refused(tables) == [("marked/cup.json", 0, "unsupported")]
    assert boxes_of(tables) == [PLATE]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"shapes": [', "broken_json"),
        ("", "broken_json"),
        ([1], "broken_json"),
        ("[" * 100_000, "broken_json"),
        (json.dumps(_labelme(SHAPES)).encode("utf-16"), "broken_json"),
        (_labelme(SHAPES, imagePath=None), "missing_field"),
        (_labelme(None), "missing_field"),
        (_labelme([]), "no_boxes"),
        (_labelme(SHAPES[2:], imagePath="no.png"), "missing_file"),
        (_labelme(SHAPES[2:], imagePath="../../secret.png"), "unsafe_path"),
        (_labelme(SHAPES[2:], imagePath="/etc/secret.png"), "unsafe_path"),
        (_labelme(SHAPES[2:], imageWidth=40, imageHeight=60), "unsupported"),
    ],
)
def test_a_bad_labelme_file_costs_its_row(content, reason, tmp_path):
    write(tmp_path, "secret.png", PICTURE)
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/a.json", b"\xef\xbb\xbf" + json.dumps(_labelme(SHAPES)).encode())
    write(tmp_path, "shelf/marked/b.json", content)
    tables = tables_of(tmp_path, "labelme", "marked")
    assert {(file, reason) for file, _, reason in refused(tables)} == {("marked/b.json", reason)}
    assert boxes_of(tables) == CANONICAL
