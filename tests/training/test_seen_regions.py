"""Maps whose grid spans a part of the picture or padding around it, and input that is no map, box or region."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.schema import UNSCORABLE
from training.map_loss import contrast
from training.overlap import WHOLE, coverage_in_region, mass_in_boxes, score

# 60 x 40 px with 10 px of padding above and below: y -10 to 50, in 3 x 2 cells of 30 x 20 px. The first and the last
# row are half padding.
WH = (60, 40)
PADDED = (0.0, -0.25, 1.0, 1.25)
# x 10 to 50 of it alone, in 2 x 2 cells of 20 x 20 px
CROPPED = (10 / 60, 0.0, 50 / 60, 1.0)


def _reasons(heat, boxes, image_wh, region):
    """What the reward, the metrics and the loss say of the same map and boxes: one reason or number each."""
    found = contrast(torch.as_tensor(heat), boxes, image_wh, region)
    return [
        score(heat, boxes, image_wh, region).reason,
        mass_in_boxes(heat, boxes, image_wh, region).reason,
        found if isinstance(found, str) else None,
    ]


@pytest.mark.parametrize(
    ("boxes", "grid_hw", "region", "reason"),
    [
        # all of the picture, and none of the padding: 1/2, 1 and 1/2 of the rows
        ([(0, 0, 60, 40)], (3, 2), PADDED, "box_covers_everything"),
        ([(-5, -30, 31, 90), (31, 0, 60, 40)], (3, 2), PADDED, "box_covers_everything"),
        ([(0, 0, 60, 39)], (3, 2), PADDED, None),
        ([(1, 0, 60, 40)], (3, 2), PADDED, None),
        ([(10, 0, 50, 40)], (2, 2), CROPPED, "box_covers_everything"),
        ([(11, 0, 50, 40)], (2, 2), CROPPED, None),
        # up to the edge of what was seen, on either side
        ([(0, 0, 10, 40), (50, 0, 60, 40)], (2, 2), CROPPED, "evidence_not_seen"),
        ([(0, 0, 10, 40), (49, 0, 60, 40)], (2, 2), CROPPED, None),
        # in the padding, where no picture is
        ([(0, -10, 60, 0)], (3, 2), PADDED, "no_boxes"),
        ([(60, 0, 70, 40)], (2, 2), CROPPED, "no_boxes"),
        ([(5, 5, 5, 9)], (3, 2), PADDED, "no_boxes"),
        ([], (3, 2), PADDED, "no_boxes"),
    ],
)
def test_metrics_reward_and_loss_give_the_same_reason(boxes, grid_hw, region, reason):
    assert _reasons(np.ones(grid_hw), boxes, WH, region) == [reason] * 3
    assert reason is None or reason in UNSCORABLE


@settings(max_examples=300, deadline=None)
@given(st.integers(3, 700), st.data())
def test_a_box_that_ends_where_the_crop_begins_is_never_seen(width, data):
    """Whatever the shares are rounded to: 1 px more is seen, and nothing is not."""
    first = data.draw(st.integers(1, width - 2))
    last = data.draw(st.integers(first + 1, width - 1))
    region, heat = (first / width, 0.0, last / width, 1.0), np.ones((2, 5))
    beside = [(0, 0, first, 9), (last, 0, width, 9)]
    assert set(_reasons(heat, beside, (width, 9), region)) == {"evidence_not_seen"}
    assert set(_reasons(heat, [(first, 0, last, 9)], (width, 9), region)) == {"box_covers_everything"}
    assert set(_reasons(heat, [(0, 0, first + 1, 4)], (width, 9), region)) == {None}


def _sampled(boxes, image_wh, grid_hw, region, n):
    """Share of n x n sample points of each cell that lie in the picture and in any box."""
    (width, height), (grid_h, grid_w), (x1, y1, x2, y2) = image_wh, grid_hw, region
    x = (x1 + (np.arange(grid_w * n) + 0.5) / (grid_w * n) * (x2 - x1)) * width
    y = (y1 + (np.arange(grid_h * n) + 0.5) / (grid_h * n) * (y2 - y1)) * height
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for left, top, right, bottom in boxes:
        inside |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]
    inside &= ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
    return inside.reshape(grid_h, n, grid_w, n).mean(axis=(1, 3))


BEYOND = [(-7.0, -9.0, 23.0, 17.0), (11.3, 8.0, 41.0, 33.7)]
SEEN = [((3, 2), PADDED), ((2, 5), CROPPED), ((4, 3), (0.11, -0.4, 0.93, 1.2))]


@pytest.mark.parametrize(("grid_hw", "region"), SEEN)
def test_mass_and_chance_equal_supersampling_of_the_region(grid_hw, region):
    """1000 points along a cell's side, those on padding counted as no evidence and in the whole."""
    heat = np.random.default_rng(4).uniform(size=grid_hw) ** 3
    sampled = _sampled(BEYOND, WH, grid_hw, region, 1000)
    # at most one point in a thousand misplaced at each edge of two boxes and the picture
    np.testing.assert_allclose(coverage_in_region(BEYOND, WH, grid_hw, region), sampled, atol=6e-3)
    found = score(heat, BEYOND, WH, region)
    assert found.chance == pytest.approx(sampled.mean(), abs=2e-3)
    assert found.mass == pytest.approx((heat * sampled).sum() / heat.sum(), abs=2e-3)


@pytest.mark.parametrize(("grid_hw", "region"), SEEN)
def test_chance_is_the_mean_of_maps_shuffled_over_all_cells_of_the_region(grid_hw, region):
    """Padding too: its cells are image tokens, and a map may lie on them."""
    rng = np.random.default_rng(6)
    heat = rng.permutation(np.arange(1.0, 1 + grid_hw[0] * grid_hw[1]) ** 2).reshape(grid_hw)
    expected = score(heat, BEYOND, WH, region)
    shuffled = [score(rng.permuted(heat.ravel()).reshape(grid_hw), BEYOND, WH, region) for _ in range(1000)]
    for name, chance in (
        ("mass", expected.chance),
        ("lift", 0.0),
        ("pointing_hit", expected.pointing_chance),
        ("iou_otsu", expected.iou_otsu_chance),
        ("iou_area", expected.iou_area_chance),
        ("auroc", 0.5),
        ("ap", expected.ap_chance),
    ):
        scores = np.array([float(getattr(each, name)) for each in shuffled])
        # four standard errors; none where the score is the same for every shuffle
        wanted = pytest.approx(chance, abs=4 * scores.std() / np.sqrt(len(scores)) + 1e-9)
        assert scores.mean() == wanted, name


def test_keeping_off_the_padding_is_above_chance():
    """A grid of 4 x 1 cells of 20 px over 60 x 40 and 20 px of padding above and below: rows 1 and 2 are the picture.
    The box is row 1: a quarter of the region. A map that is even on the picture has half of itself there."""
    found = score(np.array([[0], [1.0], [1.0], [0]]), [(0, 0, 60, 20)], WH, (0.0, -0.5, 1.0, 1.5))
    assert (found.mass, found.chance) == (pytest.approx(1 / 2), pytest.approx(1 / 4))
    assert found.lift == pytest.approx((1 / 2 - 1 / 4) / (3 / 4))
    assert (found.pointing_hit, found.pointing_chance) == (True, pytest.approx(1 / 4))


# ---- What is no map, no box or no region.

BOX = [(5.0, 0.0, 20.0, 10.0)]
TAKERS = [
    score,
    mass_in_boxes,
    lambda heat, *rest: contrast(torch.as_tensor(heat), *rest),
]


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_an_error(take, bad):
    heat = np.ones((2, 5))
    heat[1, 3] = bad
    with pytest.raises((ValueError, FloatingPointError), match="finite"):
        take(heat, BOX, WH, WHOLE)


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("region", [PADDED, WHOLE])
@pytest.mark.parametrize(
    "bad",
    [[(9, 0, 3, 5)], [(0, 5, 3, 4)], [(0, 0, np.nan, 5)], [(0, 0, np.inf, 5)], [(0, 0, 3)], [0, 0, 3, 5]],
)
def test_a_box_that_is_none_is_an_error(take, region, bad):
    with pytest.raises(ValueError, match="boxes"):
        take(np.ones((2, 5)), bad, WH, region)


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize(
    "bad",
    [(0.5, 0, 0.5, 1), (0, 1, 1, 0), (0, 0, np.nan, 1), (-np.inf, 0, 1, 1), (0, 0, np.inf, 1), (0, 0, 1)],
)
def test_a_region_without_area_or_end_is_an_error(take, bad):
    with pytest.raises(ValueError, match="region"):
        take(np.ones((2, 5)), BOX, WH, bad)


@pytest.mark.parametrize("take", TAKERS)
@pytest.mark.parametrize("bad", [(0, 40), (60, -1), (np.nan, 40), (60, np.inf)])
def test_a_picture_without_area_or_end_is_an_error(take, bad):
    with pytest.raises(ValueError, match="picture"):
        take(np.ones((2, 5)), BOX, bad, WHOLE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("region", [WHOLE, PADDED, CROPPED])
@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 7), (7, 1)])
def test_grids_of_one_cell_or_row_give_numbers_or_a_reason(grid_hw, region):
    for heat in (np.zeros(grid_hw), np.ones(grid_hw), np.ones(grid_hw, dtype=np.float16)):
        found = score(heat, [(12, 3, 31, 29)], WH, region)
        numbers = [value for name, value in dataclasses.asdict(found).items() if name != "reason"]
        if heat.any():
            assert found.reason is None and np.isfinite(np.array(numbers, dtype=float)).all()
        else:
            assert found.reason == "zero_map" and set(numbers) == {None}


def test_float16_maps_score_as_their_values():
    heat = np.random.default_rng(1).uniform(size=(3, 2)).astype(np.float16)
    assert score(heat, BOX, WH, PADDED) == score(heat.astype(np.float64), BOX, WH, PADDED)
    # 65504 is the largest: a sum in float16 would be infinite
    assert score(np.full((3, 2), 65504, dtype=np.float16), BOX, WH, PADDED).lift == pytest.approx(0)
    large = contrast(torch.full((3, 2), 65504.0).half(), BOX, WH, PADDED)
    assert large.item() == pytest.approx(0, abs=1e-6)


def test_two_thousand_boxes_are_one_union():
    """All the squares of one px of a chessboard's one colour, half of x 0 to 60: the box itself without the other."""
    chessboard = [(x, y, x + 1, y + 1) for x in range(60) for y in range(40) if (x + y) % 2]
    assert len(chessboard) == 1200
    take = partial(coverage_in_region, image_wh=WH, grid_hw=(3, 2), region=PADDED)
    # cells of 30 x 20 px; half of their part on the picture
    np.testing.assert_allclose(take(chessboard), [[0.25] * 2, [0.5] * 2, [0.25] * 2], atol=1e-12)
    rng = np.random.default_rng(2)
    corners = np.sort(rng.uniform(-10, 70, size=(2000, 2, 2)), axis=1).reshape(2000, 4)
    corners[:, 2:] = np.minimum(corners[:, 2:], corners[:, :2] + 0.4)
    assert 0 < score(np.ones((3, 2)), corners.tolist(), WH, PADDED).chance < 0.2


shares = st.floats(-2, 2, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(shares, shares, shares, shares),
    st.lists(st.tuples(*[st.floats(-20, 80, width=16)] * 4), max_size=4),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(0, 3),
)
def test_whatever_comes_in_numbers_in_range_a_reason_or_a_value_error_come_out(region, boxes, grid_hw, seed):
    heat = np.random.default_rng(seed).integers(0, 3, size=grid_hw).astype(np.float32)
    no_box = any(x2 < x1 or y2 < y1 for x1, y1, x2, y2 in boxes)
    no_region = not (region[0] < region[2] and region[1] < region[3])
    if no_box or no_region:
        for take in TAKERS:
            with pytest.raises(ValueError, match=r"boxes|region"):
                take(heat, boxes, WH, region)
        return
    found = score(heat, boxes, WH, region)
    numbers = {
        name: value for name, value in dataclasses.asdict(found).items() if name not in ("reason", "lift")
    }
    if found.reason is not None:
        assert found.reason in UNSCORABLE and set(numbers.values()) == {None}
        assert contrast(torch.as_tensor(heat), boxes, WH, region) == found.reason
    else:
        assert all(-1e-9 <= value <= 1 + 1e-9 for value in numbers.values())
        assert -1 - 1e-6 <= contrast(torch.as_tensor(heat), boxes, WH, region).item() <= 1 + 1e-6
