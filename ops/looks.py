"""Which pictures look alike: copies that were encoded, resized, lit or cropped a little differently.

Two pictures are near duplicates if at most RADIUS bits of their perceptual hashes differ *and* their thumbnails
agree place by place. The hash finds them among many, the thumbnails tell what a hash of luminance cannot: the same
scene with one thing in another colour. Here: that rule, of two pictures. Not here: finding the pairs that it joins
among many (`ops/near.py`), hash and thumbnail of one picture (`ops/pictures.py`).

Thumbnails agree if, once both are smoothed, no value of one leaves the range of the other around the same cell (one
cell each way) by more than TOLERANCE, after the darker one was lit by at most MOST_LIT. If one of the two has no
colour, luminance is compared. A picture without hash (flat, or never read) is like no other.

Both limits are chosen by `python -m tests.benchmarks.near_duplicates`, as the largest that move no picture of the
embedded sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.pictures import LUMA, THUMB_BYTES, THUMB_SIDE_PX
from storage.asking import Rows, parts

RADIUS = 10
"""Most bits of 64 in which the perceptual hashes of near duplicates differ."""

TOLERANCE = 10
"""How far, of 255, a value of one thumbnail may lie outside the range of the other around the same cell."""

MOST_LIT = 1.15
"""A near duplicate may be brighter by at most this factor."""

_GREY = 6  # red, green and blue of a picture without colour are apart by no more
_DARK, _BRIGHT = 8, 245  # values beyond are too dark, or too likely clipped, to tell how a picture was lit
_LEAST_TELLING = 0.05
_ROUGH = slice(2, None, 4)  # 4 x 4 of the cells
_TELLING = slice(1, None, 2)  # 8 x 8 of the cells
_ROUNDING = 0.01  # more than single precision strays
_AT_ONCE = 4096
_FEW = 64  # pictures of one hash, which are compared with each other soon enough


@dataclass(frozen=True)
class Looks:
    """What is compared of n pictures. Read-only.

    `phash` uint64 [n]; `smooth` uint8 [n, 16, 16, 3]: the smoothed thumbnail; `grey` bool [n]: no colour; `rough`
    int16 [n, 3, 16]: luminance of 16 cells, and its lowest and highest around each; `telling` uint8 [3, 256, n]: red,
    green, blue and luminance of 64 cells, and the lowest and highest that one near it has there, however lit. `light`
    float32 [n]: sum of the smoothed values, NaN where one of them is too dark or too bright to tell how the picture was
    lit. `loudest` int16 [n]: where, of 768, a picture differs most from the others of its very hash; -1 where these are
    few.
    """

    phash: np.ndarray
    smooth: np.ndarray
    grey: np.ndarray
    rough: np.ndarray
    telling: np.ndarray
    light: np.ndarray
    loudest: np.ndarray

    def __len__(self) -> int:
        return len(self.phash)


class Gathering:
    """The looks of at most n pictures, put in place a few at a time; memory: 1.7 KB a picture that is there."""

    def __init__(self, n: int) -> None:
        side = THUMB_SIDE_PX
        self._phash = np.empty(n, np.uint64)
        self._smooth = np.empty((n, side, side, 3), np.uint8)
        self._grey = np.empty(n, bool)
        self._rough = np.empty((n, 3, len(range(side)[_ROUGH]) ** 2), np.int16)
        self._telling = np.empty((3, 4 * len(range(side)[_TELLING]) ** 2, n), np.uint8)
        self._light = np.empty(n, np.float32)

    def put(self, places: np.ndarray, phashes: Sequence[int], thumbs: Sequence[bytes]) -> None:
        """Pictures in their places, int [k]. ValueError for a thumbnail of another size."""
        wrong = next((len(thumb) for thumb in thumbs if len(thumb) != THUMB_BYTES), None)
        if wrong is not None:
            raise ValueError(f"a thumbnail of {wrong} bytes, wanted {THUMB_BYTES}")
        self._phash[places] = np.array(phashes, np.uint64)
        for start in range(0, len(thumbs), _AT_ONCE):
            part, smooth = places[start : start + _AT_ONCE], _smoothed(thumbs[start : start + _AT_ONCE])
            self._smooth[part] = smooth
            self._grey[part] = np.ptp(smooth, axis=3).max(axis=(1, 2), initial=0) <= _GREY
            self._telling[:, :, part] = _telling(smooth)
            tells = ((smooth >= _DARK) & (smooth <= _BRIGHT)).all(axis=(1, 2, 3))
            self._light[part] = np.where(tells, smooth.sum(axis=(1, 2, 3)), np.nan)
            for kind, each in enumerate((smooth, *_range(smooth))):
                self._rough[part, kind] = np.rint(each[:, _ROUGH, _ROUGH] @ LUMA).reshape(len(part), -1)

    def looks(self, n: int) -> Looks:
        """What was put in the first n places."""
        smooth, phash = self._smooth[:n], self._phash[:n]
        rest = (self._grey[:n], self._rough[:n], self._telling[:, :, :n], self._light[:n])
        return Looks(phash, smooth, *rest, _loudest(phash, smooth))


def looks_of(phashes: Sequence[int], thumbs: Sequence[bytes]) -> Looks:
    """The looks of pictures from their hashes and thumbnails. ValueError for a thumbnail of another size."""
    gathering = Gathering(len(thumbs))
    gathering.put(np.arange(len(thumbs)), phashes, thumbs)
    return gathering.looks(len(thumbs))


def looks_by_name(images: Rows, names: pa.ChunkedArray) -> tuple[Looks, np.ndarray]:
    """The looks of those of the named pictures (image_sha256) that have one, in the order of the names; and which
    have, bool [n]. A name may come again; of several rows of one picture the first with a look counts.
    """
    columns = ["image_sha256", "phash", "thumb"]
    delivered = [_with_look(part)["image_sha256"] for part in parts(images, columns)]
    known = pa.chunked_array([chunk for each in delivered for chunk in each.chunks], pa.string())
    places = pc.index_in(names, value_set=known)
    row_of = places.drop_null().to_numpy()
    order = np.argsort(row_of, kind="stable")
    gathering, start = Gathering(len(order)), 0
    for part in map(_with_look, parts(images, columns)):
        stop = start + part.num_rows
        own = order[slice(*np.searchsorted(row_of[order], [start, stop]))]
        rows = part.take(pa.array(row_of[own] - start))
        gathering.put(own, rows["phash"].to_pylist(), rows["thumb"].to_pylist())
        start = stop
    return gathering.looks(len(order)), pc.is_valid(places).to_numpy()


def _with_look(images: pa.Table) -> pa.Table:
    return images.filter(pc.and_(pc.is_valid(images["phash"]), pc.is_valid(images["thumb"])))


def alike(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether picture ones[k] and picture others[k] are near duplicates: bool [k], the same either way round."""
    near = np.bitwise_count(looks.phash[ones] ^ looks.phash[others]) <= RADIUS
    pairs = np.flatnonzero(near)
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        near[part] = _thumbnails_agree(looks, ones[part], others[part])
    return near


def _smoothed(thumbs: Sequence[bytes]) -> np.ndarray:
    """The thumbnails smoothed by 1 2 1 both ways, edges repeated: uint8 [k, 16, 16, 3]."""
    n = THUMB_SIDE_PX
    cells = np.frombuffer(b"".join(thumbs), np.uint8).reshape(-1, n, n, 3).astype(np.uint16)
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    down = padded[:, :n] + 2 * padded[:, 1 : n + 1] + padded[:, 2:]
    across_ = down[:, :, :n] + 2 * down[:, :, 1 : n + 1] + down[:, :, 2:]
    return ((across_ + 8) >> 4).astype(np.uint8)


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value within one cell each way: two arrays of the shape of `values` [k, 16, 16, c]."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    low, high = (
        extreme(extreme(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])
        for extreme in (np.minimum, np.maximum)
        for rows in [extreme(extreme(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])]
    )
    return low, high


def _telling(smooth: np.ndarray) -> np.ndarray:
    """Values of some cells, and the least and most that `_agree` lets another have there: uint8 [3, 256, k]."""
    colours = np.concatenate([smooth, _luminance(smooth)], axis=3)
    room = TOLERANCE + np.array([*[_ROUNDING] * 3, 3])  # luminance may come out one higher or lower
    values, low, high = (
        each[:, _TELLING, _TELLING].astype(np.float64) for each in (colours, *_range(colours))
    )
    least = np.ceil(np.maximum(low - room, 0) / MOST_LIT)
    most = np.floor(np.minimum(high * MOST_LIT + room, 255))
    stacked = np.stack([values, least, most]).astype(np.uint8)
    return np.asarray(stacked.transpose(0, 4, 2, 3, 1).reshape(3, -1, len(smooth)))


def _luminance(smooth: np.ndarray) -> np.ndarray:
    return np.asarray(np.floor(smooth @ LUMA + 0.5).astype(np.uint8)[..., None])


def _thumbnails_agree(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    agree = np.ones(len(ones), bool)
    for cells in (slice(5, 7), slice(None)):  # two cells tell most pictures apart
        left = np.flatnonzero(agree)
        agree[left] = _roughly(looks.rough[ones[left], :, cells], looks.rough[others[left], :, cells])
    differ = looks.grey[ones] != looks.grey[others]
    for one, other in ((ones, others), (others, ones)):
        left = np.flatnonzero(agree & ~differ & (looks.loudest[one] >= 0))
        agree[left] = _loudest_agree(looks, one[left], other[left])
    for which, in_grey in ((agree & ~differ, False), (agree & differ, True)):
        chosen = np.flatnonzero(which)
        if len(chosen):
            a, b = (_values(looks.smooth[each[chosen]], in_grey) for each in (ones, others))
            agree[chosen] = _agree(a, b)
    return agree


def _roughly(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What all thumbnails that agree fulfil, however lit; 2 is for rounding."""
    lit, room = round(20 * MOST_LIT), 20 * (TOLERANCE + 2)
    fits = np.ones(len(a), bool)
    for one, other in ((a, b), (b, a)):
        fits &= (20 * one[:, 0] <= lit * other[:, 2] + room).all(axis=1)
        fits &= (lit * one[:, 0] >= 20 * other[:, 1] - room).all(axis=1)
    return fits


def _loudest(phash: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Of each picture the place where it differs most from the mean of those with its hash; -1 where these are few."""
    found = np.full(len(phash), -1, np.int16)
    order = np.argsort(phash, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(phash[order])) + 1):
        if len(members) > _FEW:
            parts = [members[start : start + _AT_ONCE] for start in range(0, len(members), _AT_ONCE)]
            mean = sum(smooth[part].sum(axis=0, dtype=np.int64) for part in parts) / len(members)
            for part in parts:
                apart = np.abs(smooth[part] - mean.astype(np.float32)).reshape(len(part), -1)
                found[part] = apart.argmax(axis=1)
    return found


def _loudest_agree(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether the loudest value of one fits the other: what all fulfil that `_agree`, at one place of the thumbnail."""
    row, column, colour = np.unravel_index(looks.loudest[ones], looks.smooth.shape[1:])
    beside = [np.clip(np.stack([at - 1, at, at + 1]), 0, THUMB_SIDE_PX - 1) for at in (row, column)]
    around = looks.smooth[others, beside[0][:, None], beside[1][None], colour].astype(np.float32)
    low, high = around.min(axis=(0, 1)), around.max(axis=(0, 1))
    value = looks.smooth[ones, row, column, colour].astype(np.float32)
    ratio = looks.light[others] / looks.light[ones]
    unknown = np.isnan(ratio)
    lit = [np.where(unknown, 1, np.clip(each, 1, MOST_LIT)) for each in (ratio, 1 / ratio)]
    most = [np.where(unknown, MOST_LIT, each) for each in lit]
    room = TOLERANCE + _ROUNDING
    fits = np.minimum(value * lit[0], 255) <= np.minimum(high * most[1], 255) + room
    return np.asarray(fits & (np.minimum(value * most[0], 255) >= np.minimum(low * lit[1], 255) - room))


def _values(smooth: np.ndarray, in_grey: bool) -> list[np.ndarray]:
    """Values, lowest and highest around as float32 [k, 16, 16, 3], or [k, 16, 16, 1] of luminance."""
    if in_grey:
        smooth = _luminance(smooth)
    return [each.astype(np.float32) for each in (smooth, *_range(smooth))]


def _agree(ones: list[np.ndarray], others: list[np.ndarray]) -> np.ndarray:
    axes = (1, 2, 3)
    telling = np.ones(ones[0].shape, bool)
    for middle in (ones[0], others[0]):
        telling &= (middle >= _DARK) & (middle <= _BRIGHT)
    enough = telling.mean(axis=axes) >= _LEAST_TELLING
    light_a, light_b = (np.where(enough, (m[0] * telling).sum(axis=axes), 1) for m in (ones, others))
    a, b = (
        [np.minimum(each * np.clip(light, 1, MOST_LIT).reshape(-1, 1, 1, 1), 255) for each in values]
        for values, light in ((ones, light_b / light_a), (others, light_a / light_b))
    )
    return _inside(a[0], b[1], b[2]) & _inside(b[0], a[1], a[2])


def _inside(middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    inside = (middle >= low - TOLERANCE) & (middle <= high + TOLERANCE)
    return np.asarray(inside.all(axis=(1, 2, 3)))
