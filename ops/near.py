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
_TELLING = slice(1, None, 2)  # 8 x 8 of the cells
_FEW = 64  # so many pairs are compared at once rather than narrowed
_SAMPLE = 32
_LEAST_RULED_OUT = 2  # of the sample, for a value to be worth a look
_CROWDED = 1 / 3
_ROUNDING = 0.01  # more than single precision strays
_AT_ONCE = 4096
_BITS = 64


@dataclass(frozen=True)
class Looks:
    """What is compared of n pictures. Read-only.

    `phash` uint64 [n]; `smooth` uint8 [n, 16, 16, 3]: the smoothed thumbnail; `grey` bool [n]: no colour; `rough`
    int16 [n, 3, 16]: luminance of 16 cells, and its lowest and highest around each; `telling` uint8 [3, 256, n]: red,
    green, blue and luminance of 64 cells, and the lowest and highest that one near it has there, however lit.
    """

    phash: np.ndarray
    smooth: np.ndarray
    grey: np.ndarray
    rough: np.ndarray
    telling: np.ndarray

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
    telling = np.empty((3, 4 * len(range(side)[_TELLING]) ** 2, n), np.uint8)
    for start in range(0, n, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        smooth[part] = _smoothed(thumbs[part])
        telling[:, :, part] = _telling(smooth[part])
        for place, each in enumerate((smooth[part], *_range(smooth[part]))):
            rough[part, place] = np.rint(each[:, _ROUGH, _ROUGH] @ LUMA).reshape(-1, rough.shape[2])
    spread = np.ptp(smooth, axis=3).max(axis=(1, 2), initial=0)
    return Looks(np.array(phashes, np.uint64), smooth, spread <= _GREY, rough, telling)


def alike(looks: Looks, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether picture ones[k] and picture others[k] are near duplicates: bool [k], the same either way round."""
    near = np.bitwise_count(looks.phash[ones] ^ looks.phash[others]) <= RADIUS
    pairs = np.flatnonzero(near)
    for start in range(0, len(pairs), _AT_ONCE):
        part = pairs[start : start + _AT_ONCE]
        near[part] = _thumbnails_agree(looks, ones[part], others[part])
    return near


def narrowed(looks: Looks, picture: int, candidates: np.ndarray) -> np.ndarray:
    """The candidates without most of those whose thumbnail is unlike the picture's, in order; no near one is lost.

    Values of the thumbnail are looked at one by one, those first that rule out most of a sample of the candidates.
    So it hardly matters how many candidates there are, nor in what they differ.
    """
    if len(candidates) <= _FEW:
        return candidates
    as_grey = looks.grey[candidates] != looks.grey[picture]
    luminance = 3 * looks.telling.shape[1] // 4
    if not as_grey.any():
        return _narrowed(looks, picture, candidates, slice(luminance))
    parts = (candidates[~as_grey], slice(luminance)), (candidates[as_grey], slice(luminance, None))
    return np.sort(np.concatenate([_narrowed(looks, picture, part, values) for part, values in parts]))


def _narrowed(looks: Looks, picture: int, candidates: np.ndarray, values: slice) -> np.ndarray:
    telling = looks.telling[:, values]
    own = telling[:, :, picture, None]
    while len(candidates) > _FEW:
        sample = candidates[:: len(candidates) // _SAMPLE]
        ruled_out = _unlike(own, telling[:, :, sample])
        useful = []
        while len(counts := ruled_out.sum(axis=1)) and counts.max() >= _LEAST_RULED_OUT:
            useful.append(int(counts.argmax()))
            ruled_out = ruled_out[:, ~ruled_out[useful[-1]]]
        for value in useful:
            candidates = candidates[~_unlike(own[:, value], telling[:, value].take(candidates, axis=1))]
        if not useful:
            break
    return candidates


def _unlike(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Where a value of one lies beyond what a near one of the other has: bool, of the shape of ones[0] x others[0]."""
    (a, a_low, a_high), (b, b_low, b_high) = ones, others
    return np.asarray((a > b_high) | (a < b_low) | (b > a_high) | (b < a_low))


class Earlier:
    """Pictures in an order: for each, the earliest ones before it that it is a near duplicate of.

    Cut into RADIUS + 1 bands of bits, two hashes within the radius have at least one band in common. So only
    pictures of the same band are compared, or, where the bands of a picture are crowded, all before it. Of these
    mostly the hashes alone are compared, then a few values of the thumbnails (`narrowed`), and whole thumbnails
    only until a near one is found on each side.
    """

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._bands = [_Band.of(looks.phash, first, last) for first, last in _cuts()]
        shared = sum(np.array(band.place) - np.array(band.start) for band in self._bands)
        self._crowded = shared > _CROWDED * np.arange(len(looks))
        self._marked = np.zeros(len(looks), bool)

    def first_near(self, picture: int, group: np.ndarray) -> Mapping[int, int]:
        """The first picture before this one, of each group, that it is a near duplicate of: group to picture.

        `group`: int [n]; below 0 = not to be found.
        """
        first: dict[int, int] = {}
        parts = self._all_before(picture) if self._crowded[picture] else [slice(0, picture)]
        for part in parts:
            wanted = group[part] >= 0
            for found in first:
                wanted &= group[part] != found
            if self._crowded[picture]:
                wanted &= _within(self._looks.phash[part], self._looks.phash[picture])
                candidates = part.start + np.flatnonzero(wanted)
            else:
                candidates = self._within_radius(picture)
                candidates = candidates[wanted[candidates]]
            self._add_first_near(first, picture, candidates, group)
        return first

    def _all_before(self, picture: int) -> Iterator[slice]:
        start, n = 0, 512
        while start < picture:
            yield slice(start, min(start + n, picture))
            start, n = start + n, 16 * n

    def _within_radius(self, picture: int) -> np.ndarray:
        """The pictures before this one whose hashes differ by at most RADIUS bits, in order, by the bands."""
        own = self._looks.phash[picture]
        found = []
        for band in self._bands:
            start, end = band.start[picture], band.place[picture]
            if start < end:
                close = np.flatnonzero(_within(band.phash[start:end], own))
                if len(close):
                    found.append(band.order[start:end][close])
        if len(found) < 2:
            return found[0] if found else np.empty(0, np.int64)
        for each in found:
            self._marked[each] = True
        merged = np.flatnonzero(self._marked[:picture])
        self._marked[merged] = False
        return merged

    def _add_first_near(
        self, first: dict[int, int], picture: int, candidates: np.ndarray, group: np.ndarray
    ) -> None:
        candidates = narrowed(self._looks, picture, candidates)
        at_once = 8
        while len(candidates):
            part, candidates = candidates[:at_once], candidates[at_once:]
            near = part[alike(self._looks, np.full(len(part), picture), part)]
            for hit in near.tolist():
                first.setdefault(int(group[hit]), hit)
            if len(near):
                candidates = candidates[~np.isin(group[candidates], list(first))]
            at_once = min(16 * at_once, _AT_ONCE)


def _within(phashes: np.ndarray, own: np.uint64) -> np.ndarray:
    return np.asarray(np.bitwise_count(phashes ^ own) <= RADIUS)


def across(looks: Looks, group: np.ndarray) -> Iterator[tuple[int, int]]:
    """All pairs of near duplicates that lie in two groups, each pair once.

    `group`: int [n]. Made to check what `Earlier` led to and so of another build: bands are every eleventh bit
    rather than neighbouring bits, and whole bands are compared, group against group, in no order of pictures. What
    is crowded is compared with everything first.
    """
    every = [sum(1 << bit for bit in range(band, _BITS, RADIUS + 1)) for band in range(RADIUS + 1)]
    masks = [np.uint64(mask) for mask in every]
    shared = np.zeros(len(looks), np.int64)
    for mask in masks:
        _, value, count = np.unique(looks.phash & mask, return_inverse=True, return_counts=True)
        shared += count[value]
    crowded = shared > _CROWDED * len(looks)
    rest = np.flatnonzero(~crowded)
    yield from _crowded_pairs(looks, group, np.flatnonzero(crowded), rest)
    for band, mask in enumerate(masks):
        keys = looks.phash[rest] & mask
        order = np.lexsort((group[rest], keys))
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for members in np.split(rest[order], edges):
            borders = np.flatnonzero(np.diff(group[members])) + 1
            of_group = np.split(members, borders)
            for number, ones in enumerate(of_group[:-1]):
                others = np.concatenate(of_group[number + 1 :])
                yield from _pairs(looks, ones, others, masks[:band])


def _crowded_pairs(
    looks: Looks, group: np.ndarray, crowded: np.ndarray, rest: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Near duplicates of two groups of which one, or both, are of the crowded."""
    order = np.concatenate([crowded, rest])
    phashes, groups = looks.phash[order], group[order]
    for place, one in enumerate(crowded.tolist(), start=1):
        close = _within(phashes[place:], looks.phash[one]) & (groups[place:] != group[one])
        others = narrowed(looks, one, order[place:][close])
        for other in others[alike(looks, np.full(len(others), one), others)].tolist():
            yield one, other


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
