"""Boxes around shapes that are not boxes: polygons, circles, turned rectangles.

Here: corners and points, in whatever unit they come, to the upright box around them as [x1, y1, x2, y2].
What is no number is passed on, for the conversion (`ops/boxes.py`) to refuse. Not here: any one format.
"""

import math
from collections.abc import Sequence


def number(text: object) -> object:
    """A number that stands as text; anything else as it is. "nan" and "inf" are numbers too."""
    if not isinstance(text, str) or "_" in text or len(text) > 100:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def around(points: object, fewest: int) -> object:
    """The box around points [[x, y], ...], or the points themselves if they are not `fewest` pairs of numbers.

    One coordinate that is NaN or infinite makes all four edges NaN.
    """
    if not isinstance(points, list | tuple) or len(points) < fewest:
        return points
    for point in points:
        if not isinstance(point, list | tuple) or len(point) != 2 or not all(map(_is_number, point)):
            return points
    if not all(math.isfinite(value) for point in points for value in point):
        return [math.nan] * 4
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def around_circle(points: object) -> object:
    """The box around a circle given by its middle and a point on it, or the points if they are not two."""
    if around(points, 2) is points or not isinstance(points, list | tuple) or len(points) != 2:
        return points
    (x, y), (on_x, on_y) = points
    radius = math.hypot(on_x - x, on_y - y)
    return [x - radius, y - radius, x + radius, y + radius]


def around_turned(corner_wh: Sequence[float], degrees: float, pivot_xy: tuple[float, float]) -> list[float]:
    """The box around a rectangle (x, y, width, height) in pixels that is turned clockwise about a point."""
    x, y, width, height = corner_wh
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = []
    for corner in ((x, y), (x + width, y), (x + width, y + height), (x, y + height)):
        dx, dy = corner[0] - pivot_xy[0], corner[1] - pivot_xy[1]
        turned.append((pivot_xy[0] + dx * cos - dy * sin, pivot_xy[1] + dx * sin + dy * cos))
    box = around(turned, 4)
    return list(box) if isinstance(box, list) else []


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 1e300
