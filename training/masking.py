"""Parts of a picture filled in: which cells, in which order, and the picture that is left.

Belongs here: orders of grid cells, masks on the grid and on the pixels, masks moved beside the evidence. What
a policy says of a masked picture is `training/faithfulness.py`.

The neutral fill is the picture's mean colour, so brightness and tint stay. A pixel belongs to the cell that
holds its centre. Draws are seeded by a name (an example_id), so they are the same for every policy.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ops.grid import WHOLE, Region, cell_of_pixel, checked, on_pixels
from training.overlap import ROUNDING, BoxXyxy, coverage_in_region, unseen_reason

Mask = NDArray[np.bool_]
Order = NDArray[np.int64]


def generator_of(name: str) -> np.random.Generator:
    """A random generator that the name alone decides."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def random_order(n_cells: int, name: str) -> Order:
    """Cell numbers (row-major) in an order that only the name decides."""
    return generator_of(f"order:{name}").permutation(n_cells).astype(np.int64)


def order_of(values: NDArray[np.floating], name: str) -> Order:
    """Cell numbers (row-major) of a map [grid_h, grid_w], strongest first.

    Equal values, such as the zeros of a map, stand in the order of `random_order`: neither the top of the picture
    nor any other place is preferred. Raises ValueError for a map that is not finite.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(flat).all():
        raise ValueError(
            f"{int((~np.isfinite(flat)).sum())} of {flat.size} cells are not finite; wanted none"
        )
    rank = np.empty(flat.size, dtype=np.int64)
    rank[random_order(flat.size, name)] = np.arange(flat.size)
    return np.lexsort((rank, -flat)).astype(np.int64)


def top_cells(order: Order, grid_hw: tuple[int, int], fraction: float) -> Mask:
    """The first cells of an order: `fraction` of all, rounded half up, and one at least above 0."""
    n = int(np.floor(fraction * order.size + 0.5))
    mask = np.zeros(order.size, dtype=bool)
    mask[order[: max(n, 1) if fraction > 0 else 0]] = True
    return mask.reshape(grid_hw)


def pixel_mask(cells: Mask, image_wh: tuple[int, int], region: Region = WHOLE) -> Mask:
    """Pixels [height, width] whose centre lies in a chosen cell of the grid that spans `region` (x1, y1, x2, y2 as
    shares of the picture) evenly; pixels outside the region lie in no cell."""
    return np.asarray(on_pixels(cells, image_wh, region), dtype=bool)


def cells_with_pixels(image_wh: tuple[int, int], grid_hw: tuple[int, int], region: Region = WHOLE) -> Mask:
    """Cells of the grid over `region` that hold the centre of a pixel; a cell of padding alone holds none."""
    x1, y1, x2, y2 = checked(region)
    rows = np.isin(np.arange(grid_hw[0]), cell_of_pixel(image_wh[1], grid_hw[0], y1, y2))
    columns = np.isin(np.arange(grid_hw[1]), cell_of_pixel(image_wh[0], grid_hw[1], x1, x2))
    return np.asarray(rows[:, None] & columns[None, :], dtype=bool)


def filled(picture: Image.Image, cells: Mask, region: Region = WHOLE) -> Image.Image:
    """An RGB picture with the chosen cells of the grid over `region` in its mean colour."""
    pixels = np.array(picture.convert("RGB"))
    mean = np.floor(pixels.reshape(-1, 3).mean(axis=0) + 0.5).astype(np.uint8)
    pixels[pixel_mask(cells, picture.size, region)] = mean
    return Image.fromarray(pixels)


def evidence_cells(
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[int, int],
    grid_hw: tuple[int, int],
    region: Region = WHOLE,
) -> Mask:
    """Cells of the grid over `region` that the evidence boxes touch, if only by a corner, and that hold a pixel."""
    touched = coverage_in_region(boxes_xyxy_px, image_wh, grid_hw, region) > ROUNDING
    return np.asarray(touched & cells_with_pixels(image_wh, grid_hw, region), dtype=bool)


def evidence_and_elsewhere(
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[int, int],
    grid_hw: tuple[int, int],
    region: Region,
    name: str,
) -> tuple[Mask, Mask] | str:
    """`evidence_cells`, and as many cells `elsewhere` that hold pixels too; or the reason why they are not to be had.

    Reasons, of storage.schema.UNMASKED: `no_boxes`, `evidence_not_seen` (no cell sees any of them), `no_room`.
    """
    evidence = evidence_cells(boxes_xyxy_px, image_wh, grid_hw, region)
    if not evidence.any():
        return unseen_reason(boxes_xyxy_px, image_wh)
    beside = elsewhere(evidence, name, cells_with_pixels(image_wh, grid_hw, region))
    return beside if isinstance(beside, str) else (evidence, beside)


def elsewhere(evidence: Mask, name: str, among: Mask) -> Mask | str:
    """As many cells as the evidence has, all of `among` and none of them evidence; or the reason why there are none.

    among: the cells to choose from (`cells_with_pixels`: to fill padding would change nothing). The evidence's own
    shape is moved to a place drawn among all where it lies inside these cells and off the evidence; where there is no
    such place, other cells are drawn one by one. Reasons: `no_boxes`, and `no_room` where fewer cells are left than
    the evidence has.
    """
    n_cells, free = int(evidence.sum()), among & ~evidence
    if not n_cells:
        return "no_boxes"
    if free.sum() < n_cells:
        return "no_room"
    generator = generator_of(f"elsewhere:{name}")
    moved = [place for place in _moved(evidence) if not (place & ~free).any()]
    if moved:
        return moved[int(generator.integers(len(moved)))]
    chosen = np.zeros(evidence.size, dtype=bool)
    chosen[generator.choice(np.flatnonzero(free.ravel()), n_cells, replace=False)] = True
    return chosen.reshape(evidence.shape)


def _moved(cells: Mask) -> list[Mask]:
    """The shape of the chosen cells at every place where it fits into the grid."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    shape = cells[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    places = []
    for top in range(cells.shape[0] - shape.shape[0] + 1):
        for left in range(cells.shape[1] - shape.shape[1] + 1):
            place = np.zeros_like(cells)
            place[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
            places.append(place)
    return places
