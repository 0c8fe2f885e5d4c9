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

from training.overlap import WHOLE, BoxXyxy, Region, coverage_in_region

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
    nor any other place is preferred.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
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
    framed = np.pad(cells, 1)  # a cell of nothing all round
    row = _cell_of_pixel(image_wh[1], cells.shape[0], region[1], region[3])
    column = _cell_of_pixel(image_wh[0], cells.shape[1], region[0], region[2])
    return np.asarray(framed[row[:, None] + 1, column[None, :] + 1], dtype=bool)


def _cell_of_pixel(n_pixels: int, n_cells: int, start: float, stop: float) -> NDArray[np.int64]:
    """The cell that holds each pixel's centre along one axis, -1 before the first and n_cells after the last."""
    if (start, stop) == (0.0, 1.0):
        # In whole numbers, so that nothing is rounded at the edges.
        return ((2 * np.arange(n_pixels) + 1) * n_cells) // (2 * n_pixels)
    centre = (np.arange(n_pixels) + 0.5) / n_pixels
    cell = np.floor((centre - start) / (stop - start) * n_cells)
    return np.clip(cell, -1, n_cells).astype(np.int64)


def filled(picture: Image.Image, cells: Mask, region: Region = WHOLE) -> Image.Image:
    """An RGB picture with the chosen cells of the grid over `region` in its mean colour."""
    pixels = np.array(picture.convert("RGB"))
    mean = np.floor(pixels.reshape(-1, 3).mean(axis=0) + 0.5).astype(np.uint8)
    pixels[pixel_mask(cells, picture.size, region)] = mean
    return Image.fromarray(pixels)


def evidence_cells(
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    grid_hw: tuple[int, int],
    region: Region = WHOLE,
) -> Mask:
    """Cells of the grid over `region` that the evidence boxes touch, if only by a corner."""
    return np.asarray(coverage_in_region(boxes_xyxy_px, image_wh, grid_hw, region) > 1e-9, dtype=bool)


def elsewhere(evidence: Mask, name: str) -> Mask | str:
    """As many cells as the evidence has, none of them evidence; or the reason why there are none.

    The evidence's own shape is moved to a place drawn among all where it lies inside the grid and off the evidence;
    where there is no such place, other cells are drawn one by one. Reasons: `no_boxes`, and `no_room` where fewer
    cells are left than the evidence has.
    """
    n_cells = int(evidence.sum())
    if not n_cells:
        return "no_boxes"
    if evidence.size - n_cells < n_cells:
        return "no_room"
    generator = generator_of(f"elsewhere:{name}")
    moved = [place for place in _moved(evidence) if not (place & evidence).any()]
    if moved:
        return moved[int(generator.integers(len(moved)))]
    chosen = np.zeros(evidence.size, dtype=bool)
    chosen[generator.choice(np.flatnonzero(~evidence.ravel()), n_cells, replace=False)] = True
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
