import dataclasses
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from training.overlap import Overlap, chance_iou, coverage, mass_in_boxes, score

# A picture 50 px wide and 20 px high on 2 x 5 cells of 10 x 10 px. The box covers half of cell (0, 0) and
# all of cell (0, 1): 1.5 cells of 10.
WIDE = (50, 20)
ONE_AND_A_HALF = (5.0, 0.0, 20.0, 10.0)
HEAT = np.array([[1.0, 3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 2.0, 0.0]])


def test_coverage_of_one_and_a_half_cells():
    assert coverage([ONE_AND_A_HALF], WIDE, (2, 5)).tolist() == [[0.5, 1, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_overlapping_boxes_count_once():
    # The second box repeats the right half of the first and adds a quarter of cell (0, 2); the third adds a
    # 4 x 5 px corner of the last cell.
    boxes = [ONE_AND_A_HALF, (12.0, 0.0, 22.5, 10.0), (46.0, 15.0, 50.0, 20.0)]
    expected = [[0.5, 1, 0.25, 0, 0], [0, 0, 0, 0, 0.2]]
    np.testing.assert_allclose(coverage(boxes, WIDE, (2, 5)), expected, atol=1e-15)


def test_boxes_are_cut_at_the_border_of_the_picture():
    assert coverage([(-30, 10, 10, 99)], WIDE, (2, 5)).tolist() == [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert coverage([(60, 5, 70, 9)], WIDE, (2, 5)).sum() == 0


def test_every_number_of_the_worked_example():
    found = score(HEAT, [ONE_AND_A_HALF], WIDE)
    assert found.reason is None
    assert found.mass == pytest.approx((0.5 * 1 + 1 * 3) / 10)
    assert found.chance == pytest.approx(1.5 / 10)
    assert found.lift == pytest.approx((0.35 - 0.15) / 0.85)
    # The strongest cell is (1, 2), outside; two cells of ten are covered by half at least.
    assert found.pointing_hit is False
    assert found.pointing_chance == pytest.approx(2 / 10)
    # Otsu over 0 (six cells), 1, 2, 3, 4: scatter 150 above 0, 171.4 above 1, 156.3 above 2, 100 above 3.
    # Chosen: the cells with 2, 3, 4. Shared with the box: one cell; together: three cells and half of (0, 0).
    assert found.iou_otsu == pytest.approx(1 / 3.5)
    # Three random cells of ten. Both box cells among them: 3/10 * 2/9, IoU 1.5 / 3. The whole one alone: 3/10 - 1/15,
    # IoU 1 / 3.5. The half one alone as often, IoU 0.5 / 4.
    assert found.iou_otsu_chance == pytest.approx(1 / 15 * 1 / 2 + 7 / 30 * 1 / 3.5 + 7 / 30 * 0.5 / 4)
    # Strongest 1.5 cells: all of the 4 and half of the 3. Minima 0.5; maxima 0.5 + 1 + 1.
    assert found.iou_area == pytest.approx(0.5 / 2.5)
    # A random cell and half of another, 90 pairs. (1, half): 1.5 / 1.5 once; (1, none): 1 / 2 eight times; (half, 1):
    # minima 0.5 + 0.5, 1 / 2 once; (half, none), (none, 1) and (none, half): 0.5 / 2.5, eight times each.
    assert found.iou_area_chance == pytest.approx((1 + 8 / 2 + 1 / 2 + 24 * 0.2) / 90)
    # Evidence 1 at value 3 beats 6 + 0.5 + 1 of the rest; evidence 0.5 at value 1 beats 6 and ties with 0.5.
    assert found.auroc == pytest.approx((1 * 7.5 + 0.5 * 6.25) / (1.5 * 8.5))
    # From the top: at 3 recall grows by 1 / 1.5 at precision 1 / 2, at 1 by 0.5 / 1.5 at precision 1.5 / 4.
    assert found.ap == pytest.approx(1 / 1.5 * 1 / 2 + 0.5 / 1.5 * 1.5 / 4)
    # Shuffled: a mean square of 1.25 / 10, a mean product of two cells of (1.5^2 - 1.25) / 90 = 1 / 90; steps down to
    # ranks 1, 2, 3, 4 and, six cells in one, 10.
    ranks, counts = np.array([1, 2, 3, 4, 10]), np.array([1, 1, 1, 1, 6])
    assert found.ap_chance == pytest.approx((counts / ranks * (0.125 + (ranks - 1) / 90)).sum() / 1.5)
    # Shares 0.1, 0.3, 0.4, 0.2: 1.2798542 nats of ln 10.
    assert found.entropy == pytest.approx(1.2798542258 / np.log(10))


def test_a_map_equal_to_the_coverage_is_perfect_and_a_uniform_one_is_chance():
    covered = coverage([ONE_AND_A_HALF], WIDE, (2, 5))
    best = score(covered, [ONE_AND_A_HALF], WIDE)
    assert (best.iou_area, best.pointing_hit) == (1.0, True)
    flat = score(np.full((2, 5), 0.3), [ONE_AND_A_HALF], WIDE)
    assert flat.mass == pytest.approx(flat.chance)
    assert flat.lift == pytest.approx(0)
    assert flat.auroc == pytest.approx(0.5)
    assert flat.ap == pytest.approx(flat.chance)
    assert flat.ap_chance == pytest.approx(flat.chance)
    assert flat.entropy == pytest.approx(1)
    assert flat.iou_otsu == pytest.approx(flat.chance)  # no threshold splits it: all cells are chosen
    assert flat.iou_otsu_chance == pytest.approx(flat.chance)
    assert flat.pointing_hit is True  # all equal: the first in row-major order, which is half covered


def test_of_equally_strong_cells_the_first_in_row_major_order_points():
    tied = np.array([[0, 0, 7.0, 0, 0], [7.0, 0, 0, 0, 0]])
    assert score(tied, [(20, 0, 30, 10)], WIDE).pointing_hit is True
    assert score(tied, [(0, 10, 10, 20)], WIDE).pointing_hit is False


def test_a_box_smaller_than_half_a_cell_can_still_be_pointed_at():
    # 3 x 4 px in cell (1, 2), 1 x 1 px in cell (0, 0): neither half covered, the former is the most covered.
    small = score(HEAT, [(22, 12, 25, 16), (0, 0, 1, 1)], WIDE)
    assert (small.pointing_hit, small.pointing_chance) == (True, pytest.approx(1 / 10))


@pytest.mark.filterwarnings("error")
def test_a_grid_of_one_cell():
    # A quarter of the only cell is evidence: nothing can be better than chance, and there is no spread.
    found = score(np.array([[2.0]]), [(0, 0, 25, 10)], WIDE)
    assert (found.mass, found.chance, found.lift, found.entropy) == (0.25, 0.25, 0.0, 0.0)
    assert found.iou_area_chance == pytest.approx(found.iou_area) == 1
    assert found.ap_chance == pytest.approx(found.ap) == 0.25


@pytest.mark.parametrize(
    ("heat", "boxes", "reason"),
    [
        (np.zeros((2, 5)), [ONE_AND_A_HALF], "zero_map"),
        (HEAT, [], "no_boxes"),
        (HEAT, [(7, 3, 7, 9)], "no_boxes"),
        (HEAT, [(50, 0, 80, 20)], "no_boxes"),
        (HEAT, [(0, 0, 30, 20), (30, 0, 50, 20)], "box_covers_everything"),
    ],
)
def test_what_cannot_be_scored_gives_a_reason_and_no_number(heat, boxes, reason):
    found = score(heat, boxes, WIDE)
    assert found.reason == reason
    assert all(v is None for name, v in dataclasses.asdict(found).items() if name != "reason")


@pytest.mark.parametrize("bad", [HEAT - 2, HEAT * np.nan, HEAT.ravel(), np.zeros((0, 5))])
def test_a_map_that_is_no_map_is_refused(bad):
    with pytest.raises(ValueError, match="map of shape"):
        score(bad, [ONE_AND_A_HALF], WIDE)


@pytest.mark.parametrize("bad", [[(9, 0, 3, 5)], [(0, 0, np.nan, 5)], [(0, 0, 3)], [0, 0, 3, 5]])
def test_a_box_that_is_no_box_is_refused(bad):
    with pytest.raises(ValueError, match="boxes"):
        score(HEAT, bad, WIDE)


def test_huge_and_tiny_maps_score_like_any_other():
    plain = dataclasses.asdict(score(HEAT, [ONE_AND_A_HALF], WIDE))
    for scale in (1e307, 1e-300, np.float64(2.0) ** 40):
        assert dataclasses.asdict(score(HEAT * scale, [ONE_AND_A_HALF], WIDE)) == pytest.approx(plain)


def _supersampled(boxes, image_wh, grid_hw, n):
    """Share of n x n sample points of each cell that lie in any box."""
    (width, height), (grid_h, grid_w) = image_wh, grid_hw
    x = (np.arange(grid_w * n) + 0.5) * width / (grid_w * n)
    y = (np.arange(grid_h * n) + 0.5) * height / (grid_h * n)
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for x1, y1, x2, y2 in boxes:
        inside |= ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))[None, :]
    return inside.reshape(grid_h, n, grid_w, n).mean(axis=(1, 3))


@pytest.fixture(scope="module")
def supersampled_cases():
    """Four boxes each, overlapping and reaching beyond the border; non-square pictures, grids and cells."""
    rng = np.random.default_rng(3)
    cases = []
    for image_wh, grid_hw in (((640, 427), (7, 11)), ((123.5, 301), (5, 3)), ((28, 99), (9, 2))):
        corners = rng.uniform(-0.1, 1.1, size=(4, 2, 2)) * image_wh
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        cases.append((boxes, image_wh, grid_hw, _supersampled(boxes, image_wh, grid_hw, 1000)))
    return cases


def test_the_supersampled_boxes_overlap_and_reach_beyond_the_border(supersampled_cases):
    """Otherwise they would not tell a union from a sum, nor a box from its part in the picture."""
    for boxes, image_wh, grid_hw, _ in supersampled_cases:
        each = [coverage([box], image_wh, grid_hw).mean() for box in boxes]
        assert sum(each) > coverage(boxes, image_wh, grid_hw).mean() + 0.01
        x1, y1, x2, y2 = boxes.T
        assert ((x1 < 0) | (y1 < 0) | (x2 > image_wh[0]) | (y2 > image_wh[1])).any()


def test_coverage_equals_supersampling(supersampled_cases):
    for boxes, image_wh, grid_hw, sampled in supersampled_cases:
        exact = coverage(boxes, image_wh, grid_hw)
        # 1000 points along a cell's side misplace each of at most 8 box edges by at most one thousandth.
        np.testing.assert_allclose(exact, sampled, atol=8e-3)
        assert np.abs(exact - sampled).mean() < 5e-4


def test_scores_equal_supersampling(supersampled_cases):
    """As if the map were painted on a picture of 1000 points along a cell's side, and the points counted."""
    rng = np.random.default_rng(4)
    for boxes, image_wh, grid_hw, sampled in supersampled_cases:
        heat = rng.uniform(size=grid_hw) ** 3
        found = score(heat, boxes, image_wh)
        mass, chance = (heat * sampled).sum() / heat.sum(), sampled.mean()
        # Weighted means of the cells, each right to 8e-3 and nearly all of them exactly.
        assert found.mass == pytest.approx(mass, abs=1e-3)
        assert found.chance == pytest.approx(chance, abs=1e-3)
        assert found.lift == pytest.approx((mass - chance) / (1 - chance), abs=3e-3)
        chosen = heat > np.sort(heat.ravel())[::-1][_n_above_otsu(heat.ravel())]
        common, either = sampled[chosen].sum(), chosen.sum() + sampled[~chosen].sum()
        assert found.iou_otsu == pytest.approx(common / either, abs=1e-3)


def _n_above_otsu(values):
    """How many values lie above the split with the least scatter within its two parts."""
    ordered = np.sort(values)[::-1]
    within = [n * ordered[:n].var() + (len(ordered) - n) * ordered[n:].var() for n in range(1, len(ordered))]
    return int(np.argmin(within)) + 1


def _iou_over_all_sets(covered, area):
    """Mean IoU over every choice of the whole cells and of the cell of which a part is chosen."""
    n_whole, found = int(area), []
    for cells in combinations(range(len(covered)), n_whole):
        others = [i for i in range(len(covered)) if i not in cells]
        for partly in others if area > n_whole else [None]:
            chosen = np.zeros(len(covered))
            chosen[list(cells)] = 1
            if partly is not None:
                chosen[partly] = area - n_whole
            found.append(np.minimum(chosen, covered).sum() / np.maximum(chosen, covered).sum())
    return np.mean(found)


@pytest.mark.parametrize("area", [0.03, 1.0, 2.7, 4.0, 6.5, 8.0])
@pytest.mark.parametrize(
    "covered",
    [
        [0.5, 1, 0, 0, 0, 0.2, 0, 1],
        [0.03, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 0.5, 0.5, 0.9, 0.99, 0.3, 0.7, 1],
    ],
)
def test_chance_iou_is_the_mean_over_all_sets(covered, area):
    covered = np.array(covered, dtype=float)
    # The quadrature's error is below 1e-12.
    assert chance_iou(covered.reshape(2, 4), area) == pytest.approx(
        _iou_over_all_sets(covered, area), abs=1e-12
    )


def test_chance_iou_on_few_cells_and_on_many():
    one_of_ten = np.eye(1, 10)
    assert chance_iou(one_of_ten, 1.0) == pytest.approx(1 / 10)  # the cell or nothing; not 0.1 / (2 - 0.1)
    # Two of ten: 45 pairs, the right one once, one right cell in 16 of them (IoU 1 / 3).
    assert chance_iou(np.repeat([1.0, 0.0], [2, 8]), 2.0) == pytest.approx(1 / 45 + 16 / 45 / 3)
    # 1200 cells, a quarter evidence: a / (2 - a), and not below it.
    assert 1 / 7 < chance_iou(np.repeat([1.0, 0.0], [300, 900]), 300.0) < 1 / 7 + 2e-4


def test_chance_is_the_mean_score_of_shuffled_maps():
    rng = np.random.default_rng(6)
    heat = rng.integers(0, 40, size=(3, 5)).astype(float) ** 2
    heat.flat[:4] = 7.0  # equal cells too, below the strongest ones of the boxes' area
    image_wh, boxes = (50, 33), [(4, 3, 21, 14), (15, 9, 33, 17)]
    expected = score(heat, boxes, image_wh)
    shuffled = [score(rng.permuted(heat.ravel()).reshape(3, 5), boxes, image_wh) for _ in range(1000)]
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
        # Four standard errors: one seed in some two thousand would fail on one of seven metrics.
        assert scores.mean() == pytest.approx(chance, abs=4 * scores.std() / np.sqrt(len(scores))), name


def test_the_mass_alone_is_the_same_mass():
    full, alone = score(HEAT, [ONE_AND_A_HALF], WIDE), mass_in_boxes(HEAT, [ONE_AND_A_HALF], WIDE)
    assert alone == Overlap(mass=full.mass, chance=full.chance, lift=full.lift)
    assert mass_in_boxes(HEAT, [], WIDE) == score(HEAT, [], WIDE)


def test_rankings_equal_the_slow_count_over_pairs():
    rng = np.random.default_rng(5)
    heat = rng.integers(0, 6, size=(4, 7)).astype(float)
    boxes = [(3, 2, 31, 17), (20, 11, 55, 30)]
    covered = coverage(boxes, (70, 40), (4, 7))
    won = pairs = 0.0
    for v, c in zip(heat.ravel(), covered.ravel(), strict=True):
        for w, d in zip(heat.ravel(), covered.ravel(), strict=True):
            won += c * (1 - d) * (1.0 if v > w else 0.5 if v == w else 0.0)
            pairs += c * (1 - d)
    ap, before = 0.0, 0.0
    for threshold in sorted(set(heat.ravel()), reverse=True):
        chosen = heat >= threshold
        recall = covered[chosen].sum() / covered.sum()
        ap += (recall - before) * covered[chosen].sum() / chosen.sum()
        before = recall
    found = score(heat, boxes, (70, 40))
    assert found.auroc == pytest.approx(won / pairs)
    assert found.ap == pytest.approx(ap)


@st.composite
def _cases(draw):
    grid_h, grid_w = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    width, height = draw(st.integers(9, 90)), draw(st.integers(9, 90))
    heat = np.array(
        draw(st.lists(st.integers(0, 99), min_size=grid_h * grid_w, max_size=grid_h * grid_w)), float
    )
    boxes = []
    for _ in range(draw(st.integers(1, 3))):
        x = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
        y = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
        boxes.append((x[0], y[0], x[1], y[1]))
    return heat.reshape(grid_h, grid_w), boxes, (width, height)


def _close(one: Overlap, other: Overlap) -> bool:
    return dataclasses.asdict(one) == pytest.approx(dataclasses.asdict(other), nan_ok=False, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(_cases())
def test_flipping_picture_and_boxes_together_changes_nothing(case):
    heat, boxes, (width, height) = case
    assume(
        (heat == heat.max()).sum() == 1
    )  # among equals the first points, and a flip changes which is first
    mirrored = [(width - x2, y1, width - x1, y2) for x1, y1, x2, y2 in boxes]
    upside_down = [(x1, height - y2, x2, height - y1) for x1, y1, x2, y2 in boxes]
    plain = score(heat, boxes, (width, height))
    assert _close(score(heat[:, ::-1], mirrored, (width, height)), plain)
    assert _close(score(heat[::-1], upside_down, (width, height)), plain)


@settings(max_examples=150, deadline=None)
@given(_cases(), st.sampled_from([0.3, 1.7, 12.0]), st.sampled_from([0.7, 2.9]))
def test_stretching_picture_and_boxes_together_changes_nothing(case, along_x, along_y):
    heat, boxes, (width, height) = case
    stretched = [(x1 * along_x, y1 * along_y, x2 * along_x, y2 * along_y) for x1, y1, x2, y2 in boxes]
    plain = score(heat, boxes, (width, height))
    assert _close(score(heat, stretched, (width * along_x, height * along_y)), plain)


@settings(max_examples=150, deadline=None)
@given(_cases())
def test_mass_inside_and_outside_make_one(case):
    heat, boxes, image_wh = case
    found = score(heat, boxes, image_wh)
    assume(found.reason is None)
    outside = (heat * (1 - coverage(boxes, image_wh, heat.shape))).sum() / heat.sum()
    assert found.mass + outside == pytest.approx(1)
    names = ("mass", "chance", "pointing_chance", "iou_otsu", "iou_area", "auroc", "ap", "entropy")
    for name in (*names, "iou_otsu_chance", "iou_area_chance", "ap_chance"):
        assert -1e-12 <= getattr(found, name) <= 1 + 1e-12
