"""How well a saliency map lies on the evidence boxes.

Geometry and statistics on the token grid, numpy only: no model, no resampling, no picture. Where maps come
from is `training/saliency.py`; confidence intervals over many examples are `ops/statistics.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import comb

import numpy as np
from numpy.typing import NDArray

from ops.grid import WHOLE as WHOLE
from ops.grid import Region as Region
from ops.grid import rectangle

Floats = NDArray[np.float64]
BoxXyxy = Sequence[float]

ROUNDING = 1e-9
"""Boxes that cover no cell by more than this share touch none: what is left where edges meet and are rounded."""


@dataclass(frozen=True)
class Overlap:
    """A map against the union of its boxes: all numbers, or `reason` and no number.

    Chance is what the map scores on average when its own values are shuffled over the grid: it then has the
    same values and knows nothing of the picture. Cells of padding are image tokens like any other, on which a map
    may lie, so they are shuffled too and count in every chance value: a map that only keeps off the padding is
    already above chance. Areas are shares of the region that the grid spans, padding included.

    mass: share of the map inside the boxes, in [0, 1]. `chance`: the boxes' share of the region (where nothing is
    cropped or padded: of the picture), which a uniform map scores too. `lift` = (mass - chance) / (1 - chance): 0 is
    chance, 1 is all inside.
    pointing_hit: the strongest cell is an evidence cell; `pointing_chance`.
    iou_otsu, iou_area: overlap of the boxes with the cells above Otsu's threshold, and with the strongest
    cells of the same total area as the boxes; `iou_otsu_chance`, `iou_area_chance` (the latter as if no two
    cells were equal). For boxes of area a, a share of the region, both go towards a / (2 - a) on a fine
    grid when the area is the same; on few cells chance is higher.
    auroc: chance is 0.5. ap: average precision; `ap_chance`, above the boxes' share for the same reason (it
    is that share for a uniform map). entropy: of the map, 1 for a uniform one; shuffling does not change it,
    so it has no chance value.
    """

    mass: float | None = None
    chance: float | None = None
    lift: float | None = None
    pointing_hit: bool | None = None
    pointing_chance: float | None = None
    iou_otsu: float | None = None
    iou_otsu_chance: float | None = None
    iou_area: float | None = None
    iou_area_chance: float | None = None
    auroc: float | None = None
    ap: float | None = None
    ap_chance: float | None = None
    entropy: float | None = None
    reason: str | None = field(default=None, kw_only=True)


def coverage(
    boxes_xyxy_px: Sequence[BoxXyxy], image_wh: tuple[float, float], grid_hw: tuple[int, int]
) -> Floats:
    """Share of each grid cell that the union of the boxes covers: float64 [grid_h, grid_w] in [0, 1], exact.

    The grid's cells divide the picture evenly, so they need not be square, nor whole pixels. Boxes are
    pixels with continuous edges, cut at the picture's border; overlapping boxes count once. The edges of
    boxes and cells together cut the picture into rectangles that lie wholly inside or outside every box and
    every cell; their areas are added. Raises ValueError for a box that is not four finite numbers with x1
    <= x2 and y1 <= y2, and for an empty picture or grid.
    """
    (width, height), (grid_h, grid_w) = image_wh, grid_hw
    if not (0 < width < np.inf and 0 < height < np.inf and grid_h > 0 and grid_w > 0):
        raise ValueError(
            f"picture {image_wh} and grid {grid_hw}: wanted positive (width, height) and (rows, columns)"
        )
    boxes = _checked(boxes_xyxy_px)
    x_cells, y_cells = np.linspace(0, width, grid_w + 1), np.linspace(0, height, grid_h + 1)
    x_boxes, y_boxes = np.clip(boxes[:, [0, 2]], 0, width), np.clip(boxes[:, [1, 3]], 0, height)
    x_cuts, y_cuts = np.unique(np.append(x_cells, x_boxes)), np.unique(np.append(y_cells, y_boxes))
    inside = np.zeros((len(y_cuts) - 1, len(x_cuts) - 1), dtype=bool)
    for (x1, x2), (y1, y2) in zip(x_boxes, y_boxes, strict=True):
        rows = slice(*np.searchsorted(y_cuts, (y1, y2)))
        inside[rows, slice(*np.searchsorted(x_cuts, (x1, x2)))] = True
    areas = np.diff(y_cuts)[:, None] * np.diff(x_cuts)[None, :] * inside
    first_row, first_column = np.searchsorted(y_cuts, y_cells[:-1]), np.searchsorted(x_cuts, x_cells[:-1])
    per_cell = np.add.reduceat(np.add.reduceat(areas, first_row, axis=0), first_column, axis=1)
    return np.clip(per_cell / (width / grid_w * (height / grid_h)), 0.0, 1.0)


def score(
    values: NDArray[np.floating],
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    region: Region = WHOLE,
) -> Overlap:
    """Score a map (non-negative, [grid_h, grid_w]) against boxes in pixels of the upright picture.

    region: the part of the picture that the map's grid spans, x1, y1, x2, y2 as shares of its width and height
    (`SaliencyMap.region`). Reasons instead of numbers: `zero_map` and those of `evidence_on_grid`. Raises ValueError
    for a map that is not two-dimensional, finite and non-negative, and as `coverage_in_region`.
    """
    prepared = _prepared(values, boxes_xyxy_px, image_wh, region)
    if isinstance(prepared, str):
        return Overlap(reason=prepared)
    heat, covered = prepared
    auroc, ap, ap_chance = _ranking(heat, covered)
    hit, hit_chance = _pointing(heat, covered)
    above, area = _above_otsu(heat), float(covered.sum())
    return replace(
        _mass(heat, covered),
        pointing_hit=hit,
        pointing_chance=hit_chance,
        iou_otsu=_iou(above, covered),
        iou_otsu_chance=chance_iou(covered, float(above.sum())),
        iou_area=_iou(_strongest_of_area(heat, area), covered),
        iou_area_chance=chance_iou(covered, area),
        auroc=auroc,
        ap=ap,
        ap_chance=ap_chance,
        entropy=_entropy(heat),
    )


def mass_in_boxes(
    values: NDArray[np.floating],
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    region: Region = WHOLE,
) -> Overlap:
    """As `score`, with mass, chance and lift alone: what a reward needs, at a small part of the time."""
    prepared = _prepared(values, boxes_xyxy_px, image_wh, region)
    return Overlap(reason=prepared) if isinstance(prepared, str) else _mass(*prepared)


def _prepared(
    values: NDArray[np.floating],
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    region: Region,
) -> tuple[Floats, Floats] | str:
    """The map with a maximum of 1 and the boxes' coverage, or why there is nothing to score."""
    weights = np.asarray(values, dtype=np.float64)
    if weights.ndim != 2 or not weights.size or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            f"map of shape {weights.shape}, {int((~np.isfinite(weights)).sum())} values not finite, "
            f"{int((weights < 0).sum())} negative; wanted [grid_h, grid_w], finite, non-negative (relu first)"
        )
    grid_h, grid_w = weights.shape
    covered = evidence_on_grid(boxes_xyxy_px, image_wh, (grid_h, grid_w), region)
    if isinstance(covered, str):
        return covered
    if weights.max() <= 0:
        return "zero_map"
    return weights / weights.max(), covered  # no sum of it can overflow or vanish


def _mass(heat: Floats, covered: Floats) -> Overlap:
    mass, chance = float((heat * covered).sum() / heat.sum()), float(covered.mean())
    return Overlap(mass=mass, chance=chance, lift=(mass - chance) / (1 - chance))


def coverage_in_region(
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    grid_hw: tuple[int, int],
    region: Region = WHOLE,
) -> Floats:
    """`coverage` on a grid that spans a region of the picture; boxes end at the picture's border as well.

    A cell that lies partly on padding is covered by its part on the picture at most. Raises ValueError as `coverage`
    and for a region that is not finite or has no area.
    """
    x, y, width, height = rectangle(region, image_wh)
    if region == WHOLE:
        return coverage(boxes_xyxy_px, image_wh, grid_hw)
    boxes = np.clip(_checked(boxes_xyxy_px), 0, [*image_wh, *image_wh]) - [x, y, x, y]
    return coverage([*boxes], (width, height), grid_hw)


def evidence_on_grid(
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    grid_hw: tuple[int, int],
    region: Region = WHOLE,
) -> Floats | str:
    """`coverage_in_region` of boxes that a map can be held against; otherwise the reason why it cannot.

    Reasons: those of `unseen_reason`, where no cell is covered, and `box_covers_everything`: all that the grid spans
    of the picture. Padding does not count there, as it is never evidence.
    """
    covered = coverage_in_region(boxes_xyxy_px, image_wh, grid_hw, region)
    if covered.max() <= ROUNDING:
        return unseen_reason(boxes_xyxy_px, image_wh)
    everything = coverage_in_region([(0, 0, *image_wh)], image_wh, grid_hw, region)
    return "box_covers_everything" if covered.sum() >= everything.sum() * (1 - ROUNDING) else covered


def unseen_reason(boxes_xyxy_px: Sequence[BoxXyxy], image_wh: tuple[float, float]) -> str:
    """Why no cell sees any evidence: `no_boxes` (none, or none with area inside the picture), else
    `evidence_not_seen` (all of it outside the grid's region)."""
    return "evidence_not_seen" if coverage(boxes_xyxy_px, image_wh, (1, 1)).any() else "no_boxes"


def _checked(boxes_xyxy_px: Sequence[BoxXyxy]) -> Floats:
    if not len(boxes_xyxy_px):
        return np.empty((0, 4))
    boxes = np.asarray(boxes_xyxy_px, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes of shape {boxes.shape}; wanted [n, 4]: x1, y1, x2, y2 in pixels")
    bad = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    if bad.any():
        raise ValueError(f"boxes {boxes[bad].tolist()}: wanted finite x1 <= x2, y1 <= y2 in pixels")
    return boxes


def _pointing(heat: Floats, covered: Floats) -> tuple[bool, float]:
    """Whether the strongest cell is an evidence cell, and a random cell's chance of being one.

    Among equally strong cells the first in row-major order counts. Evidence cells are covered by half at
    least; where boxes are so small that none is, the most covered one (or ones). A centre-in-box rule would
    depend on which edge of a box is closed, and small boxes could not be hit at all.
    """
    evidence = covered >= min(0.5, float(covered.max())) - ROUNDING
    return bool(evidence.flat[int(heat.argmax())]), float(evidence.mean())


def _iou(chosen: Floats, covered: Floats) -> float:
    """Intersection over union of two fuzzy sets of cells: sum of minima over sum of maxima.

    For whole chosen cells that is the geometric IoU with the boxes, exactly.
    """
    return float(np.minimum(chosen, covered).sum() / np.maximum(chosen, covered).sum())


_NODES, _NODE_WEIGHTS = np.polynomial.laguerre.laggauss(16)


def chance_iou(covered: Floats, area: float) -> float:
    """Expected IoU of the coverage with a random set of cells: `area` whole ones, its fraction one cell more.

    With m the sum of minima, k the area chosen and n the area covered, IoU = m / (k + n - m) = (k + n) /
    (k + n - m) - 1, and 1 / r is the integral of exp(-r s) over s > 0. The expectation of exp(m s) over sets of
    equal size is found exactly, one cell after the other, and the integral by Gauss and Laguerre: r lies
    between max(k, n) and k + n, where 16 nodes leave an error below 1e-12.
    """
    larger, smaller, rates = max(area, covered.sum()), min(area, covered.sum()), _NODES
    expected = np.exp(-rates * smaller / larger) * _mean_exp(covered.ravel(), area, rates / larger)
    return float((_NODE_WEIGHTS * expected).sum() * (area + covered.sum()) / larger - 1)


def _mean_exp(covered: Floats, area: float, rates: Floats) -> Floats:
    """Mean of exp(rate * sum of minima) over all random sets as in `chance_iou`, for each rate."""
    n_whole = int(area + ROUNDING)
    part = area - n_whole if area - n_whole > ROUNDING else 0.0
    touched = covered[covered > 0]
    n_all, n, most = covered.size, touched.size, min(n_whole, touched.size)
    whole_factor = np.exp(rates[:, None] * touched)
    part_factor = np.exp(rates[:, None] * np.minimum(part, touched))
    j = np.arange(most + 1)
    # [rates, j]: mean over the sets of j whole cells among those gone through; with_part: and of a part of another.
    whole = np.zeros((len(rates), most + 1))
    whole[:, 0] = 1
    with_part = np.zeros_like(whole)
    for i in range(n):
        last_whole, last_part = whole_factor[:, i, None] * j[1:] / (i + 1), part_factor[:, i, None] / (i + 1)
        if part:
            before = with_part
            with_part = before * (i - j) / (i + 1) + last_part * whole
            with_part[:, 1:] += last_whole * before[:, :-1]
        before = whole
        whole = before * (i + 1 - j) / (i + 1)
        whole[:, 1:] += last_whole * before[:, :-1]
    # Cells outside every box give a factor of 1: how many of the set lie there is hypergeometric.
    n_sets = comb(n_all, n_whole)
    odds = np.array([comb(n, x) * comb(n_all - n, n_whole - x) / n_sets for x in range(most + 1)])
    if part:
        on_touched = (n - j) / (n_all - n_whole)
        whole = on_touched * with_part + (1 - on_touched) * whole
    return whole @ odds


def _above_otsu(heat: Floats) -> Floats:
    """1 for cells above Otsu's threshold, found among all splits of the values themselves (no histogram).

    A constant map has no split: every cell is chosen.
    """
    values, counts = np.unique(heat, return_counts=True)
    if len(values) == 1:
        return np.ones_like(heat)
    n_below = np.cumsum(counts)[:-1]
    sum_below = np.cumsum(values * counts)[:-1]
    n_all, sum_all = heat.size, float((values * counts).sum())
    between = (sum_below * n_all - sum_all * n_below) ** 2 / (n_below * (n_all - n_below))
    return (heat > values[int(between.argmax())]).astype(np.float64)


def _strongest_of_area(heat: Floats, n_cells: float) -> Floats:
    """Membership of the strongest `n_cells` cells; equals at the edge share what is left evenly."""
    _, groups, counts = np.unique(-heat, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    shares = np.clip((n_cells - before) / counts, 0.0, 1.0)
    return shares[groups].reshape(heat.shape)


def _ranking(heat: Floats, covered: Floats) -> tuple[float, float, float]:
    """AUROC, average precision and its chance; a cell is evidence by its covered share, background by the rest.

    Cells of equal value form one threshold: half a win each in the AUROC, one step in the precision. Chance:
    a step of g cells down to rank r adds (g covered cells of r) / r; of shuffled cells the mean of a product
    of two is that of a square or that of a pair.
    """
    _, groups, counts = np.unique(-heat, return_inverse=True, return_counts=True)
    inside = np.bincount(groups.ravel(), weights=covered.ravel())
    outside = np.bincount(groups.ravel(), weights=1 - covered.ravel())
    inside_total, outside_total, n_cells = inside.sum(), outside.sum(), heat.size
    hits, ranks = np.cumsum(inside), np.cumsum(counts)
    misses = ranks - hits
    auroc = (inside * (outside_total - misses + outside / 2)).sum() / (inside_total * outside_total)
    ap = (inside / inside_total * hits / ranks).sum()
    squares = (covered**2).sum()
    square, pair = squares / n_cells, (inside_total**2 - squares) / (n_cells * max(n_cells - 1, 1))
    ap_chance = (counts / ranks * (square + (ranks - 1) * pair)).sum() / inside_total
    return float(auroc), float(ap), float(ap_chance)


def _entropy(heat: Floats) -> float:
    """Shannon entropy of the map over that of a uniform one, in [0, 1]; 0 on a grid of one cell."""
    if heat.size == 1:
        return 0.0
    share = heat[heat > 0] / heat.sum()
    return float(max(0.0, -(share * np.log(share)).sum() / np.log(heat.size)))
