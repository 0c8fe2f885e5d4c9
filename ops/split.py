"""Splits: which side (train, val, test) a picture is on, from its pixels alone.

Here: the side of one picture and the table of sides for all examples. Not here: who reads a side, which pictures
look alike (`ops/looks.py`), and balancing; a side is a matter of pixels so that adding data moves nothing.

Every stratum (source x answer type) is split by the same draw, so each expects the shares that were asked for, and
strays from them as independent draws do. Less straying is not to be had from a picture alone: any rule that puts it
in test with chance p, without a look at the others, gives a binomial count. It takes its rank among the others (say,
5 of each 25 in order of delivery), and then a row taken out or delivered elsewhere moves all that come after it.
`storage/sql/split_strata.sql` and the check `strata` of data/splits show how far each stratum strayed.
"""

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.looks import Gathering, Looks
from ops.near import Earlier
from storage.asking import Rows, column, parts, rows_of
from storage.tables import schema_of

DEFAULT_FRACTIONS: Mapping[str, float] = {"val": 0.08, "test": 0.2}
DEFAULT_SALT = "saliency-r1/splits/1"
SIDES = ("train", "val", "test")
PLACES = (*SIDES, "excluded")
RULES = ("content_hash", "same_pixels", "near_duplicate", "near_two_sides")
IMAGE_COLUMNS = ("image_sha256", "pixels_sha256", "thumb", "phash")
EXAMPLE_COLUMNS = ("example_id", "image_sha256")
_EXCLUDED = PLACES.index("excluded")
_CONTENT, _SAME, _NEAR, _TWO_SIDES = range(len(RULES))


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


@dataclass(frozen=True)
class Sides:
    """Where every picture is. `images`: image_sha256 [n], each once, in the order of delivery; of each int8 [n] its
    side, a number in PLACES, and its rule, a number in RULES; int32 [n] the number of the first picture of its group.
    """

    images: pa.StringArray
    side: np.ndarray
    rule: np.ndarray
    group: np.ndarray

    def by_picture(self) -> dict[str, Placed]:
        """The same by image_sha256, for few pictures."""
        names = self.images.to_pylist()
        numbers = zip(names, self.side.tolist(), self.rule.tolist(), self.group.tolist(), strict=True)
        return {name: Placed(PLACES[side], RULES[rule], names[group]) for name, side, rule, group in numbers}


def assign(
    images: Rows,
    examples: Rows,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    salt: str = DEFAULT_SALT,
) -> Iterator[pa.Table]:
    """The splits table, piece by piece: every example's side, which is its picture's side.

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
    placed by its image_sha256 and is like no other. ValueError, at the end, for examples whose picture is missing.
    """
    sides = place(images, fractions, salt)
    names, homeless, first, start = pa.array(PLACES), 0, None, 0
    rules = pa.array(RULES)
    for part in parts(examples, EXAMPLE_COLUMNS):
        at = rows_of(part["image_sha256"], sides.images, start)
        if at.min(initial=0) < 0:
            lost = part["example_id"].filter(pa.array(at < 0))
            homeless, first = homeless + len(lost), first or lost[0]
            continue
        start = int(at.max(initial=start))
        columns = {
            "example_id": part["example_id"],
            "image_sha256": part["image_sha256"],
            "split": names.take(pa.array(sides.side[at])),
            "split_rule": rules.take(pa.array(sides.rule[at])),
            "group_sha256": sides.images.take(pa.array(sides.group[at])),
        }
        yield pa.table(columns, schema=schema_of("splits"))
    if homeless:
        raise ValueError(f"{homeless} examples name a picture that is in no table, first {first}")


def place(
    images: Rows, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, salt: str = DEFAULT_SALT
) -> Sides:
    """Side, rule and group of every picture (IMAGE_COLUMNS), in the order of delivery; see `assign`.

    Of equal looks only the first is kept and searched. Processor time of 120,000 pictures on one core: 12 s; with
    20,000 near duplicates among them 19 s; with 20,000 of one hash and thumbnails unlike each other 30 s
    (`python -m tests.benchmarks.near_duplicates`).
    """
    check_fractions(fractions)
    names, rows, _ = _firsts(column(images, "image_sha256"))
    pixels = column(images, "pixels_sha256").take(pa.array(rows))
    owns, first_of_own, own_of = _firsts(pc.coalesce(pixels, pa.chunked_array([names])))
    looks, look_of = _distinct_looks(images, rows[first_of_own])
    earlier, side_of_look = Earlier(looks), np.full(len(looks), -1, np.int8)
    by_look = array("i")  # the picture that a look was first seen at, as all numbers below
    by_own = array("i", [-1]) * len(owns)
    side, rule, group = array("b"), array("b"), array("i")
    for picture, own in enumerate(own_of.tolist()):
        look = look_of[own]
        followed, how, new_look = -1, _CONTENT, False
        if by_own[own] >= 0:
            followed, how = by_own[own], _SAME
        elif 0 <= look < len(by_look):
            followed, how = by_look[look], _NEAR
        elif look >= 0:
            near = sorted(earlier.first_near(look, side_of_look).values())
            new_look = True
            if near:
                followed, how = by_look[near[0]], _NEAR if len(near) == 1 else _TWO_SIDES
        if followed < 0:
            side.append(PLACES.index(side_of(owns[own].as_py(), fractions, salt)))
        else:
            side.append(_EXCLUDED if how == _TWO_SIDES else side[followed])
        lost_too = followed >= 0 and side[followed] == _EXCLUDED
        rule.append(rule[followed] if lost_too else how)
        group.append(picture if followed < 0 else group[followed])
        if new_look:
            by_look.append(picture)
            side_of_look[look] = side[picture] if side[picture] != _EXCLUDED else -1
        if by_own[own] < 0:
            by_own[own] = picture
    return Sides(names, *(np.array(each) for each in (side, rule, group)))


def _firsts(values: pa.ChunkedArray) -> tuple[pa.StringArray, np.ndarray, np.ndarray]:
    """The different values in the order in which they come first, its row, and of each row the place of its value."""
    coded = values.dictionary_encode()
    places = np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in coded.chunks)])
    different = coded.chunk(0).dictionary if coded.num_chunks else pa.array([], pa.string())
    highest = np.maximum.accumulate(np.concatenate([[-1], places]))
    return different, np.flatnonzero(highest[1:] > highest[:-1]), places


def _distinct_looks(images: Rows, rows: np.ndarray) -> tuple[Looks, array]:
    """The looks of the pictures in some rows, sorted, each look once and in order; and the number of each row's, or -1.

    Thumbnails are told apart by 128 bits of a hash of theirs, so that they need not be kept.
    """
    number: dict[bytes, int] = {}
    look_of, gathering, start = array("i"), Gathering(len(rows)), 0
    for part in parts(images, ["phash", "thumb"]):
        own = rows[slice(*np.searchsorted(rows, [start, start + part.num_rows]))] - start
        start += part.num_rows
        new: list[tuple[int, bytes]] = []
        for row in part.take(pa.array(own)).to_pylist():
            phash, thumb = row["phash"], row["thumb"]
            if thumb is None or phash is None:
                look_of.append(-1)
                continue
            key = hashlib.blake2b(
                thumb, digest_size=16, key=phash.to_bytes(8, "little", signed=True)
            ).digest()
            if key not in number:
                number[key] = len(number)
                new.append((phash, thumb))
            look_of.append(number[key])
        places = np.arange(len(number) - len(new), len(number))
        gathering.put(places, [phash for phash, _ in new], [thumb for _, thumb in new])
    return gathering.looks(len(number)), look_of
