"""The extent of a COCO segmentation: polygons, run-length codes as a list, and the same packed into a text.

Format: COCO's data format page and its mask API. Runs go down the columns, first of 0, then of 1, and so on.
Packed, each count stands in characters from 48 on, five bits each, low bits first, 32 for "more follows" and 16
in the last for "negative"; from the fourth count on, it is the difference to the count two before.
Here: extents only; no mask is ever built, so a size costs nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from ops.readers.rows import FieldError, as_object, shown

_MAX_SIDE = 2**20


def extent_xywh(segmentation: object) -> list[float]:
    """[x, y, width, height] in pixels of what is marked, the right and lower edge exclusive.

    Of polygons it is the extent of their corners, of runs that of the pixels that are 1. Raises FieldError.
    """
    if isinstance(segmentation, dict):
        return _xywh(*_extent_of_runs(as_object(segmentation)))
    return _xywh(*_extent_of_polygons(segmentation))


def _xywh(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2 - x1, y2 - y1]


def _extent_of_polygons(polygons: object) -> tuple[float, float, float, float]:
    if not isinstance(polygons, list) or not polygons:
        raise _bad(f"wanted a list of polygons or an object with size and counts, saw {shown(polygons)}")
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise _bad(f"wanted a polygon [x, y, x, y, x, y, ...], saw {shown(polygon)}")
        if not all(type(value) is int or type(value) is float for value in polygon):
            raise _bad(f"wanted numbers in a polygon, saw {shown(polygon)}")
        xs += polygon[0::2]
        ys += polygon[1::2]
    if not all(_finite(value) for value in (*xs, *ys)):
        raise FieldError("box", "nan_box", f"a polygon holds a value that is not finite: {shown(polygons)}")
    return min(xs), min(ys), max(xs), max(ys)


def _finite(value: float) -> bool:
    return abs(value) < 1e15 and math.isfinite(value)


def _extent_of_runs(code: Mapping[str, object]) -> tuple[float, float, float, float]:
    height, width = _size(code.get("size"))
    counts = code.get("counts")
    runs = _unpacked(counts) if isinstance(counts, str) else _listed(counts)
    x1, y1, x2, y2 = width, height, 0, 0
    place = 0
    for number, run in enumerate(runs):
        if run < 0 or place + run > height * width:
            raise _bad(f"run {number} is {run} at pixel {place} of a mask of {width} x {height}")
        if number % 2 and run:
            first, last = divmod(place, height), divmod(place + run - 1, height)
            whole = (
                first[0] != last[0]
            )  # a run over a column's end holds its lowest and the next one's top pixel
            x1, x2 = min(x1, first[0]), max(x2, last[0] + 1)
            y1, y2 = min(y1, 0 if whole else first[1]), max(y2, height if whole else last[1] + 1)
        place += run
    if place != height * width:
        raise _bad(f"the runs hold {place} pixels, the mask of {width} x {height} has {height * width}")
    if x2 == 0:
        raise FieldError("box", "zero_area_box", "no pixel of the mask is marked")
    return x1, y1, x2, y2


def _size(size: object) -> tuple[int, int]:
    if not isinstance(size, list) or len(size) != 2:
        raise _bad(f"wanted size [height, width], saw {shown(size)}")
    if not all(type(side) is int and 0 < side <= _MAX_SIDE for side in size):
        raise _bad(f"wanted size [height, width] of whole numbers from 1 to {_MAX_SIDE}, saw {shown(size)}")
    return size[0], size[1]


def _listed(counts: object) -> Sequence[int]:
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        raise _bad(f"wanted counts as a text or a list of whole numbers, saw {shown(counts)}")
    return counts


def _unpacked(text: str) -> Iterator[int]:
    number = value = shift = 0
    last: list[int] = []  # the counts two before and one before
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise _bad(f"counts are no packed runs: {shown(character)} in {shown(text)}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if number > 2:
            value += last[-2]
        last = [*last[-1:], value]
        yield value
        number, value, shift = number + 1, 0, 0
    if shift:
        raise _bad(f"the packed runs end in the middle of a count: {shown(text)}")


def _bad(detail: str) -> FieldError:
    return FieldError("box", "bad_box_format", f"segmentation: {detail}")
