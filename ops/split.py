"""Splits: which side (train, val, test) a picture is on, from its pixels alone.

Here: the side of one picture and the table of sides for all examples. Not here: who reads a side, and
balancing; a side is a matter of pixels so that adding data moves nothing.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from ops.pictures import THUMB_BYTES, THUMB_SIDE_PX
from storage.tables import from_rows

DEFAULT_FRACTIONS: Mapping[str, float] = {"val": 0.08, "test": 0.2}
DEFAULT_SALT = "saliency-r1/splits/1"

NEAR = 12
"""Two pictures are near duplicates if no value of their thumbnails (0 to 255) differs by more than this."""

_SAMPLE = 31  # every how many-th value is looked at first; prime to rows and colours, so that all take part
_PIECE = 256  # pictures compared at once
_SIDES = ("train", "val", "test")


def side_of(
    pixels_sha256: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, salt: str = DEFAULT_SALT
) -> str:
    """Return "train", "val" or "test" for a picture by its pixels' hash; nothing else is looked at.

    `fractions` gives the expected shares of "val" and "test", the rest is "train". ValueError if they are not
    shares. The draw is sha256(salt, hash) as a number in [0, 1): below test = test, below test + val = val.
    """
    check_fractions(fractions)
    digest = hashlib.sha256(f"{salt}:{pixels_sha256}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2.0**64
    test, val = fractions.get("test", 0.0), fractions.get("val", 0.0)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError, naming the value, unless `fractions` are shares of "val" and "test" below 1."""
    strange = sorted(set(fractions) - {"val", "test"})
    values = list(fractions.values())
    if strange or any(not 0.0 <= value < 1.0 for value in values) or not sum(values) < 1.0:
        raise ValueError(
            f"split fractions {dict(fractions)}: wanted shares for 'val' and 'test', "
            "each at least 0, together below 1"
        )


def assign(
    images: Sequence[pa.Table],
    examples: Sequence[pa.Table],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    salt: str = DEFAULT_SALT,
) -> pa.Table:
    """The splits table: every example's side, which is its picture's side.

    `images` and `examples` are the tables of all sources, in the order of delivery; new data goes to the end
    of that order and then moves nothing. Pictures are placed one after the other: one that is near a picture
    placed before it goes to that picture's side (rule near_duplicate), one that is near pictures of two sides
    is excluded (near_two_sides), any other follows its own pixels (content_hash). So no two near pictures, a
    re-encoding least of all, are ever on two sides. ValueError for an example whose picture is missing.
    """
    check_fractions(fractions)
    placed = place(
        [value for table in images for value in table["image_sha256"].to_pylist()],
        [value for table in images for value in table["pixels_sha256"].to_pylist()],
        [value for table in images for value in table["thumb"].to_pylist()],
        fractions,
        salt,
    )
    pairs = [
        pair
        for table in examples
        for pair in zip(table["example_id"].to_pylist(), table["image_sha256"].to_pylist(), strict=True)
    ]
    homeless = [example for example, image in pairs if image not in placed]
    if homeless:
        raise ValueError(f"{len(homeless)} examples name a picture that is in no table, first {homeless[0]}")
    rows = [
        {
            "example_id": example,
            "image_sha256": image,
            "split": placed[image][0],
            "split_rule": placed[image][1],
        }
        for example, image in pairs
    ]
    return from_rows("splits", rows)


def place(
    image_sha256: Sequence[str],
    pixels_sha256: Sequence[str],
    thumbs: Sequence[bytes],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    salt: str = DEFAULT_SALT,
) -> dict[str, tuple[str, str]]:
    """Side and rule of every picture by its image_sha256; pictures in the order of delivery, see `assign`."""
    neighbours = _Neighbours(len(thumbs))
    placed: dict[str, tuple[str, str]] = {}
    for image, pixels, thumb in zip(image_sha256, pixels_sha256, thumbs, strict=True):
        if image in placed:
            continue
        near = neighbours.sides_near(thumb)
        if len(near) > 1:
            placed[image] = "excluded", "near_two_sides"
            continue
        side, rule = (
            (near[0], "near_duplicate") if near else (side_of(pixels, fractions, salt), "content_hash")
        )
        placed[image] = side, rule
        neighbours.add(thumb, side)
    return placed


class _Neighbours:
    """The placed pictures' thumbnails, searched from cheap to dear; every step is exact.

    Where no single value differs by more than NEAR, no sum of n values differs by more than n * NEAR; so the
    sums over the thumbnail and over its quadrants' colours rule out nearly all pictures. The rest is compared
    side by side and piece by piece, a few values first, until a near one is found.
    """

    def __init__(self, capacity: int) -> None:
        self._count = 0
        self._total = np.zeros(capacity, dtype=np.int32)
        self._quadrants = np.zeros((capacity, 12), dtype=np.int32)
        self._values = np.zeros((capacity, THUMB_BYTES), dtype=np.int16)
        self._side = np.zeros(capacity, dtype=np.int8)

    def add(self, thumb: bytes, side: str) -> None:
        """Remember a placed picture."""
        index = self._count
        self._total[index], self._quadrants[index], self._values[index] = _sums(thumb)
        self._side[index] = _SIDES.index(side)
        self._count += 1

    def sides_near(self, thumb: bytes) -> list[str]:
        """The sides of the remembered pictures that are near this one."""
        total, quadrants, values = _sums(thumb)
        found = np.flatnonzero(np.abs(self._total[: self._count] - total) <= NEAR * THUMB_BYTES)
        found = found[(np.abs(self._quadrants[found] - quadrants) <= NEAR * (THUMB_BYTES // 12)).all(axis=1)]
        of_side = self._side[found]
        return [side for code, side in enumerate(_SIDES) if self._any_near(found[of_side == code], values)]

    def _any_near(self, members: np.ndarray, values: np.ndarray) -> bool:
        for start in range(0, len(members), _PIECE):
            piece = members[start : start + _PIECE]
            few = np.abs(self._values[piece, ::_SAMPLE] - values[::_SAMPLE]) <= NEAR
            piece = piece[few.all(axis=1)]
            if len(piece) and (np.abs(self._values[piece] - values) <= NEAR).all(axis=1).any():
                return True
        return False


def _sums(thumb: bytes) -> tuple[np.int32, np.ndarray, np.ndarray]:
    if len(thumb) != THUMB_BYTES:
        raise ValueError(f"a thumbnail of {len(thumb)} bytes, wanted {THUMB_BYTES}")
    values = np.frombuffer(thumb, dtype=np.uint8).astype(np.int16)
    half = THUMB_SIDE_PX // 2
    quadrants = values.reshape(2, half, 2, half, 3).sum(axis=(1, 3), dtype=np.int32).reshape(12)
    return quadrants.sum(dtype=np.int32), quadrants, values
