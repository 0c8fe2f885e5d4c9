"""Finding near duplicates among many pictures, in two ways: as pictures are placed, and to check what came of it.

Not here: when two pictures are near duplicates (`ops/looks.py`), what becomes of them (`ops/split.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ops.looks import RADIUS, Looks, alike

_FEW = 64  # so many pairs are compared at once rather than narrowed
_SAMPLE = 32
_LEAST_RULED_OUT = 2  # of the sample, for a value to be worth a look
_CROWDED = 1 / 3
_AT_ONCE = 4096
_BITS = 64


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
