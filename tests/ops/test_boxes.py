import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.boxes import Box, BoxProblem, from_normalised, from_xywh, from_xyxy, union_area, union_areas

SIZE_WH = (7, 5)


def test_three_conventions_of_one_box_agree():
    # x 1.75 to 5.25 of 7 px, y 1 to 3 of 5 px: width 3.5, height 2; shares 0.25, 0.2, 0.75, 0.6.
    wanted = Box(1.75, 1.0, 5.25, 3.0)
    assert from_xywh([1.75, 1, 3.5, 2], SIZE_WH) == wanted
    assert from_xyxy([1.75, 1, 5.25, 3], SIZE_WH) == wanted
    assert from_normalised([0.25, 0.2, 0.75, 0.6], SIZE_WH) == wanted
    assert from_normalised(" [0.25, 0.2,0.75, 6e-1] ", SIZE_WH) == wanted


def test_a_box_may_be_the_whole_picture():
    assert from_xywh([0, 0, 7, 5], SIZE_WH) == Box(0, 0, 7, 5)
    assert from_normalised("[0,0,1,1]", SIZE_WH) == Box(0, 0, 7, 5)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1, 1, 2], "bad_box_format"),
        ([1, 1, 2, 2, 2], "bad_box_format"),
        (["1", "1", "2", "2"], "bad_box_format"),
        ([True, 1, 2, 2], "bad_box_format"),
        ([None, 1, 2, 2], "bad_box_format"),
        ([10**400, 1, 2, 2], "bad_box_format"),
        ([10**5000, 1, 2, 2], "bad_box_format"),
        ("1 1 2 2", "bad_box_format"),
        ({"x": 1}, "bad_box_format"),
        (None, "bad_box_format"),
        ([1, math.nan, 2, 2], "nan_box"),
        ([1, 1, math.inf, 2], "nan_box"),
        ([1e308, 1, 1e308, 2], "nan_box"),
        ([1, 1, -1, 2], "swapped_corners"),
        ([1, 1, 2, -0.5], "swapped_corners"),
        ([1, 1, 0, 2], "zero_area_box"),
        ([1, 1, 2, 0], "zero_area_box"),
        ([5, 1, 3, 2], "box_outside_picture"),
        ([1, 4, 2, 1.5], "box_outside_picture"),
        ([-0.5, 1, 2, 2], "box_outside_picture"),
        ([1, -0.5, 2, 2], "box_outside_picture"),
        ([1e300, 1, 2, 2], "box_outside_picture"),
        ([9, 1, 2, 2], "box_outside_picture"),
    ],
)
def test_each_bad_pixel_box_has_its_reason(row, reason):
    problem = from_xywh(row, SIZE_WH)
    assert isinstance(problem, BoxProblem)
    assert problem.reason == reason
    assert len(problem.detail) < 400


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("", "bad_box_format"),
        ("[0.1, 0.2, 0.3]", "bad_box_format"),
        ("[0.1, 0.2, 0.3, x]", "bad_box_format"),
        ("[[0.1, 0.2, 0.3, 0.4]]", "bad_box_format"),
        ("0.1, 0.2, 0.3, 0.4", "bad_box_format"),
        ("[" + "1" * 10_000 + ",0,1,1]", "bad_box_format"),
        ("[nan, 0.2, 0.3, 0.4]", "nan_box"),
        ("[0.1, 0.2, inf, 0.4]", "nan_box"),
        ("[0.5, 0.2, 0.3, 0.4]", "swapped_corners"),
        ("[0.1, 0.4, 0.3, 0.4]", "zero_area_box"),
        ("[0.1, 0.2, 0.3, 1.006]", "box_outside_picture"),
        ("[-0.001, 0.2, 0.3, 0.4]", "box_outside_picture"),
        ("[1.064, 0.48, 1.334, 0.749]", "box_outside_picture"),  # the row of saliency-r1-8k that is invalid
        ("[1.001, 0.2, 1.004, 0.4]", "zero_area_box"),
    ],
)
def test_each_bad_normalised_box_has_its_reason(row, reason):
    problem = from_normalised(row, SIZE_WH)
    assert isinstance(problem, BoxProblem)
    assert problem.reason == reason


def test_tiny_overshoot_is_set_on_the_edge():
    assert from_normalised("[0.5, 0.2, 1.005, 1.002]", SIZE_WH) == Box(3.5, 1.0, 7.0, 5.0)
    assert from_xywh([3.5, 1, 3.52, 4.02], SIZE_WH) == Box(3.5, 1.0, 7.0, 5.0)
    assert from_xywh([3.5, 1, 3.53, 4], SIZE_WH).reason == "box_outside_picture"


def test_clipping_cuts_what_sticks_out_and_refuses_what_is_wholly_outside():
    assert from_xywh([-2, 3, 20, 9], SIZE_WH, clip=True) == Box(0, 3, 7, 5)
    assert from_xywh([8, 1, 2, 2], SIZE_WH, clip=True).reason == "box_outside_picture"


def test_without_a_size_only_the_fit_is_left_open():
    assert from_xywh([600, 1, 30, 2], None) == Box(600, 1, 630, 3)
    assert from_xywh([600, 1, 0, 2], None).reason == "zero_area_box"


def test_union_counts_overlap_once():
    # 4 x 2 and 3 x 3, overlapping in 2 x 1: 8 + 9 - 2 = 15; a box inside another adds nothing.
    boxes = [Box(0, 0, 4, 2), Box(2, 1, 5, 4), Box(3, 2, 4, 3)]
    assert union_area(boxes) == 15.0
    assert union_area([]) == 0.0


@st.composite
def _boxes(draw):
    x1, y1 = draw(st.integers(0, 11)), draw(st.integers(0, 7))
    return Box(x1, y1, draw(st.integers(x1 + 1, 12)), draw(st.integers(y1 + 1, 8)))


@settings(deadline=None, max_examples=60)
@given(st.lists(_boxes(), max_size=6))
def test_union_equals_counting_cells(boxes):
    cells = np.zeros((8, 12), dtype=bool)
    for box in boxes:
        cells[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = True
    assert union_area(boxes) == cells.sum()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4), st.integers(1, 500), st.integers(1, 700))
def test_normalised_boxes_lie_inside_and_convert_back(shares, width, height):
    box = from_normalised(shares, (width, height))
    if isinstance(box, BoxProblem):
        assert shares[2] <= shares[0] or shares[3] <= shares[1]
        return
    assert 0 <= box.x1 < box.x2 <= width
    assert 0 <= box.y1 < box.y2 <= height
    assert np.allclose(np.array(box.xyxy) / [width, height, width, height], shares, atol=1e-12)


def test_the_union_of_very_many_boxes_is_that_of_a_mask():
    draw = np.random.default_rng(6)
    corners = draw.integers(0, 60, (400, 2))
    edges = np.hstack([corners, corners + draw.integers(1, 9, (400, 2))]).astype(float)
    mask = np.zeros((80, 80), bool)
    for x1, y1, x2, y2 in edges.astype(int):
        mask[y1:y2, x1:x2] = True
    assert union_area([Box(*each) for each in edges]) == mask.sum()
    assert union_areas(np.stack([edges, edges + 3])).tolist() == [mask.sum()] * 2
