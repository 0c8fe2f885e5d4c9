"""Where the token grid of a map lies on its picture: the region that it spans, and the pixels of each cell.

Geometry of cells and pixels only. Colours are `ops/overlays.py`, boxes on the grid `training/overlap.py`, and which
region a processor leaves `training/image_tokens.py`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Region = tuple[float, float, float, float]
"""x1, y1, x2, y2 as shares of a picture's width and height: within 0 to 1 where it was cropped, beyond where padded."""

WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
"""The region of a grid that spans the whole picture."""

_ROUNDING = 1e-9


def checked(region: Region) -> Region:
    """The region itself. Raises ValueError unless it is four finite numbers with x1 < x2 and y1 < y2."""
    if len(region) != 4 or not all(map(math.isfinite, region)):
        raise ValueError(f"region {region}: wanted four finite numbers, x1, y1, x2, y2")
    x1, y1, x2, y2 = region
    if not (x1 < x2 and y1 < y2):
        raise ValueError(f"region {region}: wanted x1 < x2 and y1 < y2 as shares of the picture")
    return region


def rectangle(region: Region, size_wh: tuple[float, float]) -> tuple[float, float, float, float]:
    """x, y, width and height of the region on a picture of that size, not rounded. Raises as `checked`."""
    (x1, y1, x2, y2), (width, height) = checked(region), size_wh
    return x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height


def cell_of_pixel(n_pixels: int, n_cells: int, start: float, stop: float) -> NDArray[np.int64]:
    """The cell that holds each pixel's centre along one axis: int64 [n_pixels], -1 before the first, n_cells after.

    The cells divide `start` to `stop` (shares of the picture) evenly. A centre on an edge belongs to the later cell.
    """
    if (start, stop) == (0.0, 1.0):
        # In whole numbers, so that nothing is rounded at the edges.
        return ((2 * np.arange(n_pixels) + 1) * n_cells) // (2 * n_pixels)
    centre = (np.arange(n_pixels) + 0.5) / n_pixels
    # A centre on an edge comes out a hair to either side of it.
    cell = np.floor((centre - start) / (stop - start) * n_cells + _ROUNDING)
    return np.clip(cell, -1, n_cells).astype(np.int64)


def on_pixels(cells: NDArray[Any], image_wh: tuple[int, int], region: Region = WHOLE) -> NDArray[Any]:
    """Each pixel takes the value of the cell that holds its centre: [height, width, ...] of [grid_h, grid_w, ...].

    Pixels outside the region lie in no cell: 0 (False). Raises ValueError for an empty grid and as `checked`.
    """
    if cells.ndim < 2 or not cells.size:
        raise ValueError(f"grid of shape {cells.shape}: wanted [grid_h, grid_w, ...] with at least one cell")
    x1, y1, x2, y2 = checked(region)
    framed = np.pad(cells, [(1, 1), (1, 1)] + [(0, 0)] * (cells.ndim - 2))  # a cell of nothing all round
    row = cell_of_pixel(image_wh[1], cells.shape[0], y1, y2)
    column = cell_of_pixel(image_wh[0], cells.shape[1], x1, x2)
    return np.ascontiguousarray(framed[row[:, None] + 1, column[None, :] + 1])
