"""The one canonical box, and the conversion of every source's convention into it.

A box is x1, y1, x2, y2 in pixels of the EXIF-upright picture: continuous edges, x2 and y2 exclusive, area
(x2 - x1)(y2 - y1). Here: conversion, refusal of boxes that are none, the area of a union. Not here: what a
box shows, drawing, and coverage of a token grid (`training/overlap.py`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ROUNDING_PX = 0.02
"""Pixel boxes may stick out by this much: sources round x, y, width and height to two decimals each."""

NORMALISED_OVERSHOOT = 1.005
"""Normalised coordinates up to here count as 1: saliency-r1-8k has 31 rows of 8,080 between 1 and 1.005."""


@dataclass(frozen=True)
class Box:
    """A box in pixels of the upright picture; x2 and y2 are exclusive."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def area_px(self) -> float:
        """Area in square pixels, always above 0."""
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2


@dataclass(frozen=True)
class BoxProblem:
    """Why values are no usable box: a reason of the quarantine's closed list, and what was seen."""

    reason: str
    detail: str


def from_xywh(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
    """Convert [x, y, width, height] in pixels, x and y the top left corner (COCO).

    `size_wh` is the upright picture's size; None checks everything but the fit into the picture. Edges that
    stick out by up to ROUNDING_PX are set on the picture's edge; further out is refused, or cut with `clip`.
    """
    values = _four_numbers(row)
    if isinstance(values, BoxProblem):
        return values
    x, y, width, height = values
    return validated((x, y, x + width, y + height), size_wh, slack_px=(ROUNDING_PX,) * 4, clip=clip, seen=row)


def from_xyxy(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
    """Convert [x1, y1, x2, y2] in pixels with exclusive x2 and y2; otherwise as `from_xywh`."""
    values = _four_numbers(row)
    if isinstance(values, BoxProblem):
        return values
    return validated(values, size_wh, slack_px=(ROUNDING_PX,) * 4, clip=clip, seen=row)


def from_normalised(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
    """Convert [x1, y1, x2, y2] as shares of the picture's width and height, 0 to 1 (saliency-r1-8k).

    The four numbers may come as one string, "[0.1, 0.2, 0.5, 0.9]". Values above 1 and up to
    NORMALISED_OVERSHOOT count as 1; beyond that, and below 0, the box is refused, or cut with `clip`.
    """
    numbers = _parsed(row) if isinstance(row, str) else row
    values = numbers if isinstance(numbers, BoxProblem) else _four_numbers(numbers)
    if isinstance(values, BoxProblem):
        return values
    width_px, height_px = size_wh or (1, 1)
    scaled = (values[0] * width_px, values[1] * height_px, values[2] * width_px, values[3] * height_px)
    over = NORMALISED_OVERSHOOT - 1.0
    slack_px = (0.0, 0.0, over * width_px, over * height_px)
    return validated(scaled, size_wh, slack_px=slack_px, clip=clip, seen=row)


Conversion = Callable[..., Box | BoxProblem]
"""(row, size_wh, *, clip=False) -> Box | BoxProblem, as `from_xywh`."""

_CORNERS: Mapping[str, Callable[[float, float, float, float], tuple[float, float, float, float]]] = {
    "xyxy": lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    "xywh": lambda x, y, width, height: (x, y, x + width, y + height),
    "cxcywh": lambda x, y, width, height: (
        x - width / 2,
        y - height / 2,
        x + width / 2,
        y + height / 2,
    ),
}
_WHOLE = {"normalised": 1.0, "percent": 100.0, "permille": 1000.0}


def _shares(layout: str, whole: float) -> Conversion:
    """Conversion of shares of the picture's width and height, where `whole` is all of it.

    Up to NORMALISED_OVERSHOOT counts as the right or lower edge, and ROUNDING_PX as the left or upper one.
    """

    def convert(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
        values = _four_numbers(row)
        if isinstance(values, BoxProblem):
            return values
        width_px, height_px = size_wh or (1, 1)
        x1, y1, x2, y2 = (value / whole for value in _CORNERS[layout](*values))
        scaled = (x1 * width_px, y1 * height_px, x2 * width_px, y2 * height_px)
        over = NORMALISED_OVERSHOOT - 1.0
        slack_px = (ROUNDING_PX, ROUNDING_PX, over * width_px, over * height_px)
        return validated(scaled, size_wh, slack_px=slack_px, clip=clip, seen=row)

    return convert


def from_centre(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
    """Convert [centre x, centre y, width, height] in pixels; otherwise as `from_xywh`."""
    values = _four_numbers(row)
    if isinstance(values, BoxProblem):
        return values
    corners = _CORNERS["cxcywh"](*values)
    return validated(corners, size_wh, slack_px=(ROUNDING_PX,) * 4, clip=clip, seen=row)


def from_voc(row: object, size_wh: tuple[int, int] | None, *, clip: bool = False) -> Box | BoxProblem:
    """Convert [xmin, ymin, xmax, ymax], numbers of pixels counted from 1, the last one included (Pascal VOC).

    A box of the one pixel in the corner is [1, 1, 1, 1] and becomes 0, 0, 1, 1.
    """
    values = _four_numbers(row)
    if isinstance(values, BoxProblem):
        return values
    corners = (values[0] - 1, values[1] - 1, values[2], values[3])
    return validated(corners, size_wh, slack_px=(ROUNDING_PX,) * 4, clip=clip, seen=row)


CONVENTIONS: Mapping[str, Conversion] = {
    "xywh_px": from_xywh,
    "xyxy_px": from_xyxy,
    "cxcywh_px": from_centre,
    "xyxy_px_from_1": from_voc,
    **{f"{layout}_{unit}": _shares(layout, whole) for unit, whole in _WHOLE.items() for layout in _CORNERS},
    "xyxy_normalised": from_normalised,
}
"""Conversions by the names that readers use: {xyxy, xywh, cxcywh} in pixels or in shares of the picture's sides, 0 to 1
(normalised), 0 to 100 (percent) and 0 to 1000 (permille); and Pascal VOC's pixel numbers."""


def validated(
    xyxy: tuple[float, float, float, float],
    size_wh: tuple[int, int] | None,
    *,
    slack_px: Sequence[float],
    clip: bool,
    seen: object,
) -> Box | BoxProblem:
    """Turn four edges in pixels into a Box, or say what is wrong with them.

    `slack_px` is how far the box may stick out on the left, top, right and bottom before it is refused; what
    sticks out less is set on the edge. `seen` is what the source wrote, for the message.
    """
    x1, y1, x2, y2 = (value + 0.0 for value in xyxy)  # a zero without a sign
    if not all(math.isfinite(value) for value in xyxy):
        return BoxProblem("nan_box", f"{_short(seen)} holds a value that is not finite")
    if x2 < x1 or y2 < y1:
        what = "right or bottom edge lies before left or top"
        return BoxProblem("swapped_corners", f"{_short(seen)}: {what}{_in_picture(size_wh)}")
    flat = BoxProblem("zero_area_box", f"{_short(seen)} has no area{_in_picture(size_wh)}")
    if size_wh is None:
        return flat if x2 == x1 or y2 == y1 else Box(x1, y1, x2, y2)
    out_px = (-x1, -y1, x2 - size_wh[0], y2 - size_wh[1])
    sides = zip(("left", "top", "right", "bottom"), out_px, slack_px, strict=True)
    beyond = [f"{side} by {out:g} px" for side, out, slack in sides if out > slack + 1e-9]
    inside = Box(max(x1, 0.0), max(y1, 0.0), min(x2, float(size_wh[0])), min(y2, float(size_wh[1])))
    empty = inside.x2 <= inside.x1 or inside.y2 <= inside.y1
    if beyond and (empty or not clip):
        advice = "nothing of it is inside" if empty else "fix the row or accept it with clip_boxes: true"
        where = f"sticks out of the {size_wh[0]} x {size_wh[1]} px picture: {', '.join(beyond)}"
        return BoxProblem("box_outside_picture", f"{_short(seen)} {where}; {advice}")
    return flat if empty else inside


def xywh_columns(
    xywh: np.ndarray, size_wh: np.ndarray, *, clip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """What `from_xywh` does, for all boxes at once: their edges, float64 [n, 4], and which of them are boxes, bool [n].

    `xywh`: float64 [n, 4]; `size_wh`: [n, 2], the size of each box's upright picture. Edges of what is none are not
    to be used; `from_xywh` says what is wrong with it.
    """
    size = size_wh.astype(np.float64)
    upper = xywh[:, :2] + 0.0  # a zero without a sign
    lower = upper + xywh[:, 2:]
    inside_upper, inside_lower = np.where(upper < 0.0, 0.0, upper), np.where(size < lower, size, lower)
    limit = ROUNDING_PX + 1e-9
    out = (-upper > limit) | (lower - size > limit)
    good = np.isfinite(upper) & np.isfinite(lower) & (lower >= upper) & (inside_lower > inside_upper)
    good &= clip | ~out
    return np.hstack([inside_upper, inside_lower]), good.all(axis=1)


def union_area(boxes: Sequence[Box]) -> float:
    """Area in square pixels covered by at least one of the boxes; exact, overlaps count once; 0 for none."""
    if not boxes:
        return 0.0
    return float(union_areas(np.array([[box.xyxy for box in boxes]]))[0])


_CELLS_AT_ONCE = 2**21
_MANY = 50


def union_areas(xyxy: np.ndarray) -> np.ndarray:
    """Area of the union of each row's boxes: float64 [m, n, 4] in pixels to float64 [m].

    The edges of a row's boxes part its picture into (2n - 1)^2 cells, each of which is covered or not.
    """
    n_rows, n_boxes = xyxy.shape[:2]
    if n_rows == 0 or n_boxes == 0:
        return np.zeros(n_rows)
    if n_boxes <= 2:
        one, other = xyxy[:, 0], xyxy[:, -1]
        shared = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
        areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (one, other)]
        return areas[0] if n_boxes == 1 else areas[0] + areas[1] - shared.clip(min=0).prod(axis=1)
    if n_boxes > _MANY:
        return np.array([_union_of_many(row) for row in xyxy])
    at_once = max(1, _CELLS_AT_ONCE // (2 * n_boxes - 1) ** 2)
    if n_rows > at_once:
        parts = [union_areas(xyxy[start : start + at_once]) for start in range(0, n_rows, at_once)]
        return np.concatenate(parts)
    xs, ys = (np.sort(xyxy[:, :, sides].reshape(n_rows, -1)) for sides in ([0, 2], [1, 3]))
    covered = np.zeros((n_rows, 2 * n_boxes - 1, 2 * n_boxes - 1), dtype=bool)
    for each in range(n_boxes):
        x1, y1, x2, y2 = (xyxy[:, each, side, None] for side in range(4))
        across = (xs[:, :-1] >= x1) & (xs[:, :-1] < x2)
        down = (ys[:, :-1] >= y1) & (ys[:, :-1] < y2)
        covered |= down[:, :, None] & across[:, None, :]
    of_rows = (covered * np.diff(xs)[:, None, :]).sum(axis=-1)
    return (of_rows * np.diff(ys)).sum(axis=-1)


def _union_of_many(edges: np.ndarray) -> float:
    """The same for one row, float64 [n, 4], each box marking its own cells only."""
    xs, ys = np.unique(edges[:, [0, 2]]), np.unique(edges[:, [1, 3]])
    covered = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    columns, rows = np.searchsorted(xs, edges[:, [0, 2]]), np.searchsorted(ys, edges[:, [1, 3]])
    for (left, right), (top, bottom) in zip(columns, rows, strict=True):
        covered[top:bottom, left:right] = True
    return float(np.diff(ys) @ covered @ np.diff(xs))


def _four_numbers(row: object) -> tuple[float, float, float, float] | BoxProblem:
    if not isinstance(row, list | tuple) or len(row) != 4:
        return BoxProblem("bad_box_format", f"wanted four numbers, saw {_short(row)}")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in row):
        return BoxProblem("bad_box_format", f"wanted four numbers, saw {_short(row)}")
    try:
        x1, y1, x2, y2 = (float(value) for value in row)
    except OverflowError:
        return BoxProblem("bad_box_format", f"numbers too large for a box: {_short(row)}")
    return x1, y1, x2, y2


def _parsed(text: str) -> list[float] | BoxProblem:
    inner = text.strip()
    if len(inner) > 200 or not (inner.startswith("[") and inner.endswith("]")):
        return BoxProblem("bad_box_format", f'wanted a string like "[x1, y1, x2, y2]", saw {_short(text)}')
    try:
        return [float(part) for part in inner[1:-1].split(",")]
    except ValueError:
        return BoxProblem("bad_box_format", f'wanted a string like "[x1, y1, x2, y2]", saw {_short(text)}')


def _in_picture(size_wh: tuple[int, int] | None) -> str:
    return "" if size_wh is None else f" in the {size_wh[0]} x {size_wh[1]} px picture"


def _short(seen: object) -> str:
    try:
        text = repr(seen)
    except (ValueError, RecursionError):  # Python refuses to write out integers of thousands of digits
        text = f"a {type(seen).__name__} that cannot be written out"
    return text if len(text) <= 120 else text[:117] + "..."
