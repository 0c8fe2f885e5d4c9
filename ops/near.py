"""Which pictures look alike: copies that were encoded, resized, lit or cropped a little differently.

Two pictures are near duplicates if at most RADIUS bits of their perceptual hashes differ *and* their thumbnails
agree place by place. The hash finds them among many, the thumbnails tell what a hash of luminance cannot: the same
scene with one thing in another colour. Here: that rule, and two ways to find the pairs that it joins. Not here: hash
and thumbnail of one picture (`ops/pictures.py`), what becomes of near duplicates (`ops/split.py`).

Thumbnails agree if, once both are smoothed, no value of one leaves the range of the other around the same cell (one
cell each way) by more than TOLERANCE, after the darker one was lit by at most MOST_LIT. If one of the two has no
colour, luminance is compared. A picture without hash (flat, or never read) is like no other.

Both limits are chosen by `python -m tests.benchmarks.near_duplicates`, as the largest that move no picture of the
embedded sources.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ops.pictures import LUMA, THUMB_BYTES, THUMB_SIDE_PX

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
_AT_ONCE = 4096
_BITS = 64


@dataclass(frozen=True)
class Looks:
    """What is compared of n pictures. Read-only.

    `phash` uint64 [n]; `smooth` uint8 [n, 16, 16, 3]: the smoothed thumbnail; `grey` bool [n]: no colour; `rough`
    int16 [n, 3, 16]: luminance of 16 cells, and its lowest and highest around each.
    """

    phash: np.ndarray
    smooth: np.ndarray
    grey: np.ndarray
    rough: np.ndarray

    def __len__(self) -> int:
        return len(self.phash)


def looks_of(phashes: Sequence[int], thumbs: Sequence[bytes]) -> Looks:
    """The looks of pictures from their hashes and thumbnails. ValueError for a thumbnail of another size."""
    wrong = next((len(thumb) for thumb in thumbs if len(thumb) != THUMB_BYTES), None)
    if wrong is not None:
        raise ValueError(f"a thumbnail of {wrong} bytes, wanted {THUMB_BYTES}")
    n, side = len(thumbs), THUMB_SIDE_PX
    smooth = np.empty((n, side, side, 3), np.uint8)
    rough = np.empty((n, 3, len(range(side)[_ROUGH]) ** 2), np.int16)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        smooth[part] = _smoothed(thumbs[part])
        for place, each in enumerate((smooth[part], *_range(smooth[part]))):
            rough[part, place] = np.rint(each[:, _ROUGH, _ROUGH] @ LUMA).reshape(-1, rough.shape[2])
    spread = np.ptp(smooth, axis=3).max(axis=(1, 2), initial=0)
    return Looks(np.array(phashes, np.uint64), smooth, spread <= _GREY, rough)


def alike(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether picture ones[k] and picture others[k] are near duplicates: bool [k], the same either way round."""
    near = np.bitwise_count(looks.phash[ones] ^ looks.phash[others]) <= RADIUS
    pairs = np.flatnonzero(near)
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        near[part] = _thumbnails_agree(looks, ones[part], others[part])
    return near


class Earlier:
    """Pictures in an order: for each, the earliest ones before it that it is a near duplicate of.

    Cut into RADIUS + 1 bands of bits, two hashes within the radius have at least one band in common. So only
    pictures of the same band are compared, of these mostly the hashes alone, and thumbnails only until a
    near one is found on each side.
    """

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._bands = [_Band.of(looks.phash, first, last) for first, last in _cuts()]
        self._marked = np.zeros(len(looks), bool)

    def within_radius(self, picture: int) -> np.ndarray:
        """The pictures before this one whose hashes differ by at most RADIUS bits, in order."""
        own = self._looks.phash[picture]
        found = []
        for band in self._bands:
            start, end = band.start[picture], band.place[picture]
            if start < end:
                close = np.flatnonzero(np.bitwise_count(band.phash[start:end] ^ own) <= RADIUS)
                if len(close):
                    found.append(band.order[start:end][close])
        if len(found) < 2:
            return found[0] if found else np.empty(0, np.int64)
        for each in found:
            self._marked[each] = True
        merged = np.flatnonzero(self._marked[:picture])
        self._marked[merged] = False
        return merged

    def first_near(self, picture: int, group: np.ndarray) -> Mapping[int, int]:
        """The first picture before this one, of each group, that it is a near duplicate of: group to picture.

        `group`: int [n]; below 0 = not to be found.
        """
        candidates = self.within_radius(picture)
        candidates = candidates[group[candidates] >= 0]
        first: dict[int, int] = {}
        at_once = 8
        while len(candidates):
            part, candidates = candidates[:at_once], candidates[at_once:]
            near = part[alike(self._looks, np.full(len(part), picture), part)]
            for hit in near.tolist():
                first.setdefault(int(group[hit]), hit)
            if len(near):
                candidates = candidates[~np.isin(group[candidates], list(first))]
            at_once = min(4 * at_once, _AT_ONCE)
        return first


def across(looks: Looks, group: np.ndarray) -> Iterator[tuple[int, int]]:
    """All pairs of near duplicates that lie in two groups, each pair once.

    `group`: int [n]. Made to check what `Earlier` led to and so of another build: bands are every eleventh bit
    rather than neighbouring bits, and whole bands are compared, group against group, in no order of pictures.
    """
    every = [sum(1 << bit for bit in range(band, _BITS, RADIUS + 1)) for band in range(RADIUS + 1)]
    masks = [np.uint64(mask) for mask in every]
    for band, mask in enumerate(masks):
        keys = looks.phash & mask
        order = np.lexsort((group, keys))
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(order, edges):
            borders = np.flatnonzero(np.diff(group[members])) + 1
            of_group = np.split(members, borders)
            for number, ones in enumerate(of_group[:-1]):
                others = np.concatenate(of_group[number + 1 :])
                yield from _pairs(looks, ones, others, masks[:band])


def _pairs(
    looks: Looks, ones: np.ndarray, others: np.ndarray, seen: Sequence[np.uint64]
) -> Iterator[tuple[int, int]]:
    """Near duplicates among ones x others, without those that have one of the `seen` bands in common."""
    for start in range(0, len(ones), 256):
        part = ones[start : start + 256]
        for first in range(0, len(others), _AT_ONCE):
            beside = others[first : first + _AT_ONCE]
            differ = looks.phash[part][:, None] ^ looks.phash[beside][None]
            rows, columns = np.nonzero(np.bitwise_count(differ) <= RADIUS)
            for mask in seen:
                new = (differ[rows, columns] & mask) != 0
                rows, columns = rows[new], columns[new]
            near = alike(looks, part[rows], beside[columns])
            yield from zip(part[rows[near]].tolist(), beside[columns[near]].tolist(), strict=True)


@dataclass(frozen=True)
class _Band:
    """Pictures sorted by some bits of their hashes, in their order within each value of these bits.

    `order` [n]: pictures as sorted; `phash` [n]: their hashes, as sorted; `start` and `place`: of each picture,
    where its value begins in the sorted list and where it stands itself.
    """

    order: np.ndarray
    phash: np.ndarray
    start: list[int]
    place: list[int]

    @classmethod
    def of(cls, phash: np.ndarray, first: int, last: int) -> "_Band":
        keys = (phash >> np.uint64(first)) & np.uint64((1 << (last - first)) - 1)
        order = np.argsort(keys, kind="stable")
        place = np.empty(len(keys), np.int64)
        place[order] = np.arange(len(keys))
        start = np.searchsorted(keys[order], keys)
        return cls(order, phash[order], start.tolist(), place.tolist())


def _cuts() -> list[tuple[int, int]]:
    edges = [band * _BITS // (RADIUS + 1) for band in range(RADIUS + 2)]
    return list(pairwise(edges))


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


def _thumbnails_agree(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    agree = np.ones(len(ones), bool)
    for cells in (slice(5, 7), slice(None)):  # two cells tell most pictures apart
        left = np.flatnonzero(agree)
        agree[left] = _roughly(looks.rough[ones[left], :, cells], looks.rough[others[left], :, cells])
    in_grey = looks.grey[ones] != looks.grey[others]
    for which, weights in ((agree & ~in_grey, None), (agree & in_grey, LUMA)):
        chosen = np.flatnonzero(which)
        if len(chosen):
            a, b = (_values(looks.smooth[each[chosen]], weights) for each in (ones, others))
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


def _values(smooth: np.ndarray, weights: np.ndarray | None) -> list[np.ndarray]:
    """Values, lowest and highest around as float32 [k, 16, 16, 3], or [k, 16, 16, 1] weighted over the colours."""
    if weights is not None:
        smooth = np.floor(smooth @ weights + 0.5).astype(np.uint8)[..., None]
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
