"""Splits: which side (train, val, test) a picture is on, from its pixels alone.

Here: the side of one picture and the table of sides for all examples. Not here: who reads a side, which pictures
look alike (`ops/near.py`), and balancing; a side is a matter of pixels so that adding data moves nothing.

Every stratum (source x answer type) is split by the same draw, so each expects the shares that were asked for, and
strays from them as independent draws do. Less straying is not to be had from a picture alone: any rule that puts it
in test with chance p, without a look at the others, gives a binomial count. It takes its rank among the others (say,
5 of each 25 in order of delivery), and then a row taken out or delivered elsewhere moves all that come after it.
`storage/sql/split_strata.sql` and the check `strata` of data/splits show how far each stratum strayed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ops.near import Earlier, Looks, looks_of
from storage.tables import from_rows

DEFAULT_FRACTIONS: Mapping[str, float] = {"val": 0.08, "test": 0.2}
DEFAULT_SALT = "saliency-r1/splits/1"
SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Placed:
    """A picture's side (or "excluded"), the rule that gave it, and the first picture of those it looks like."""

    side: str
    rule: str
    group: str


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

    `images` and `examples` are the tables of all sources, in the order of delivery: the order of the list of
    sources, and within one that of its rows. Pictures are placed one after the other:

    content_hash    it is like none before it: its own pixels draw its side
    same_pixels     it has the pixels of one before it: on that one's side
    near_duplicate  it is a near duplicate of pictures before it, all on one side: on that side
    near_two_sides  it is a near duplicate of pictures on two sides: excluded, and nothing follows it

    So no two near duplicates, across sources or within one, are ever on two sides, and where sources share
    pictures the first one decides. What comes at the end of the order, a new source or new rows of the last
    one, moves nothing, not even by joining two groups: such a picture is itself excluded. What comes earlier (new
    rows of an earlier source, another order of sources) can move only pictures that are near duplicates of it,
    directly or through others: those now have it before them. A picture that was not read (no pixels_sha256) is
    placed by its image_sha256 and is like no other. ValueError for an example whose picture is missing.
    """
    check_fractions(fractions)
    placed = place(
        [value for table in images for value in table["image_sha256"].to_pylist()],
        [value for table in images for value in table["pixels_sha256"].to_pylist()],
        [value for table in images for value in table["thumb"].to_pylist()],
        [value for table in images for value in table["phash"].to_pylist()],
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
            "split": placed[image].side,
            "split_rule": placed[image].rule,
            "group_sha256": placed[image].group,
        }
        for example, image in pairs
    ]
    return from_rows("splits", rows)


def place(
    image_sha256: Sequence[str],
    pixels_sha256: Sequence[str | None],
    thumbs: Sequence[bytes | None],
    phashes: Sequence[int | None],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    salt: str = DEFAULT_SALT,
) -> dict[str, Placed]:
    """Side, rule and group of every picture by image_sha256; pictures in the order of delivery, see `assign`.

    Of equal looks only the first is kept and searched. Processor time of 120,000 pictures on one core: 12 s; with
    20,000 near duplicates among them 19 s; with 20,000 of one hash and thumbnails unlike each other 30 s
    (`python -m tests.benchmarks.near_duplicates`).
    """
    first: dict[str, int] = {}
    first_of_pixels: dict[str, int] = {}
    for index, (image, own) in enumerate(zip(image_sha256, pixels_sha256, strict=True)):
        if first.setdefault(image, index) == index:
            first_of_pixels.setdefault(own or image, index)
    looks, look_of = _distinct_looks(first_of_pixels.values(), thumbs, phashes)
    earlier = Earlier(looks)
    side_of_look = np.full(len(looks), -1, np.int8)
    by_look: list[Placed] = []
    by_pixels: dict[str, Placed] = {}
    placed: dict[str, Placed] = {}
    for image, index in first.items():
        own, look = pixels_sha256[index] or image, look_of.get(index)
        if own in by_pixels:
            found = _following(by_pixels[own], "same_pixels")
        elif look is None:
            found = Placed(side_of(own, fractions, salt), "content_hash", image)
        elif look < len(by_look):
            found = _following(by_look[look], "near_duplicate")
        else:
            near = [by_look[other] for other in sorted(earlier.first_near(look, side_of_look).values())]
            if not near:
                found = Placed(side_of(own, fractions, salt), "content_hash", image)
            elif len(near) == 1:
                found = _following(near[0], "near_duplicate")
            else:
                found = Placed("excluded", "near_two_sides", near[0].group)
            by_look.append(found)
            side_of_look[look] = SIDES.index(found.side) if found.side in SIDES else -1
        by_pixels.setdefault(own, found)
        placed[image] = found
    return placed


def _following(one: Placed, rule: str) -> Placed:
    return Placed(one.side, one.rule if one.side == "excluded" else rule, one.group)


def _distinct_looks(
    pictures: Iterable[int], thumbs: Sequence[bytes | None], phashes: Sequence[int | None]
) -> tuple[Looks, dict[int, int]]:
    """The looks of the pictures that have one, each once and in order; and the number of each picture's look."""
    number: dict[tuple[int, bytes], int] = {}
    look_of: dict[int, int] = {}
    for picture in pictures:
        thumb, phash = thumbs[picture], phashes[picture]
        if thumb is not None and phash is not None:
            look_of[picture] = number.setdefault((phash, thumb), len(number))
    return looks_of([phash for phash, _ in number], [thumb for _, thumb in number]), look_of
