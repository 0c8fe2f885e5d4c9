"""Our overlap metrics against Quantus (`pip install -e '.[quantus]'`), on masks whose boxes end on cell borders.

Where the two differ, and what is compared instead:
- Quantus knows whole cells only. Boxes here are unions of whole cells, where our exact coverage is its mask.
- Its top-k intersection is the share of the k strongest cells that lie on the mask. With k = the mask's size n that
  is t = m / n of m common cells, and our IoU of equal area is m / (2n - m) = t / (2 - t). With `concept_influence` it
  is divided by the mask's share of the grid, which is our `chance`.
- Its pointing game counts a hit when any of several equally strong cells lies on the mask, ours only the first. Its
  top-k takes equal cells in the order of the sort, ours shares the last places out evenly. Maps for these two have no
  equal cells; mass and AUC are compared with equal cells too.
- Its scores of empty masks are not used: the pointing game calls them a hit (nan in an array of booleans is true), the
  others give nan. Ours have the reason `no_boxes`.
- It would infer where the channels are from the shape and fail on small grids: it is told.
"""

import numpy as np
import pytest

from training.overlap import coverage, score

quantus = pytest.importorskip(
    "quantus", reason="Quantus is not installed: pip install -e '.[quantus]' to compare with it"
)

GRIDS = ((4, 7), (9, 5), (12, 24), (2, 3), (17, 16))


def _case(rng, grid_hw, n_levels=None):
    """A map, one to three boxes of whole cells of 30 x 20 px (overlapping or not), and their mask."""
    grid_h, grid_w = grid_hw
    mask, boxes = np.zeros(grid_hw, dtype=bool), []
    while not 0 < mask.sum() < mask.size:
        mask[:], boxes = False, []
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(0, grid_h), rng.integers(0, grid_w)
            bottom, right = rng.integers(top, grid_h) + 1, rng.integers(left, grid_w) + 1
            mask[top:bottom, left:right] = True
            boxes.append((left * 30, top * 20, right * 30, bottom * 20))
    if n_levels:
        heat = rng.integers(0, n_levels, grid_hw).astype(float)
        heat.flat[rng.integers(heat.size)] = n_levels
    else:
        heat = rng.permutation(mask.size).reshape(grid_hw) ** 1.5
    return heat, boxes, mask


def _cases(n_levels=None):
    rng = np.random.default_rng(7)
    for grid_hw in GRIDS:
        for _ in range(20):
            heat, boxes, mask = _case(rng, grid_hw, n_levels)
            image_wh = (grid_hw[1] * 30, grid_hw[0] * 20)
            np.testing.assert_allclose(coverage(boxes, image_wh, grid_hw), mask, atol=1e-12)
            yield heat, mask, score(heat, boxes, image_wh)


def _theirs(metric, heat, mask):
    """One number of Quantus; it wants a model and a picture, and looks at neither."""
    shape = (1, 1, *mask.shape)
    (found,) = metric(
        model=None,
        x_batch=np.zeros(shape),
        y_batch=np.zeros(1, dtype=int),
        a_batch=heat.reshape(shape),
        s_batch=mask.reshape(shape).astype(int),
        channel_first=True,
    )
    return float(found)


def _metric(name, **settings):
    return getattr(quantus, name)(disable_warnings=True, **settings)


@pytest.mark.parametrize("n_levels", [None, 4])
def test_mass_is_relevance_mass_accuracy(n_levels):
    metric = _metric("RelevanceMassAccuracy")
    for heat, mask, ours in _cases(n_levels):
        assert ours.mass == pytest.approx(_theirs(metric, heat, mask), abs=1e-12)


@pytest.mark.parametrize("n_levels", [None, 4])
def test_auroc_is_their_auc(n_levels):
    metric = _metric("AUC")
    for heat, mask, ours in _cases(n_levels):
        assert ours.auroc == pytest.approx(_theirs(metric, heat, mask), abs=1e-12)


def test_pointing_game():
    metric = _metric("PointingGame")
    hits = []
    for heat, mask, ours in _cases():
        hits.append(ours.pointing_hit)
        assert float(ours.pointing_hit) == _theirs(metric, heat, mask)
        assert ours.pointing_chance == pytest.approx(mask.mean())
    assert 10 < sum(hits) < 90  # of 100: both answers were compared often


def test_iou_of_equal_area_is_their_top_k_intersection():
    for heat, mask, ours in _cases():
        n = int(mask.sum())
        share = _theirs(_metric("TopKIntersection", k=n), heat, mask)
        assert ours.iou_area == pytest.approx(share / (2 - share), abs=1e-12)
        over_chance = _theirs(_metric("TopKIntersection", k=n, concept_influence=True), heat, mask)
        assert over_chance == pytest.approx(share / ours.chance)
        assert share == pytest.approx(_theirs(_metric("RelevanceRankAccuracy"), heat, mask))


def test_of_equally_strong_cells_ours_is_the_first_and_theirs_is_any():
    heat, mask = np.array([[5.0, 1.0, 5.0], [0.0, 2.0, 0.0]]), np.array([[0, 0, 1], [0, 0, 0]], dtype=bool)
    assert score(heat, [(60, 0, 90, 20)], (90, 40)).pointing_hit is False
    assert _theirs(_metric("PointingGame"), heat, mask) == 1.0


def test_of_an_empty_mask_they_make_a_hit_and_we_a_reason():
    heat = np.array([[5.0, 1.0, 5.0], [0.0, 2.0, 0.0]])
    assert score(heat, [], (90, 40)).reason == "no_boxes"
    assert _theirs(_metric("PointingGame"), heat, np.zeros((2, 3), dtype=bool)) == 1.0
