"""A piece of a source on its way into the tables: what came of some of its rows, before pieces are put together.

Here: the shape of a piece, two pieces as one. Not here: how rows become a piece (`ops/row_lane.py`,
`ops/column_lane.py`), and what only the whole source shows, say that a row was there before (`ops/normalise.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from ops.readers.rows import Origin, RawAnnotation, Refusal
from storage.tables import empty

_TABLES = ("images", "examples", "boxes")


class Origins(Protocol):
    """Where the example of a row stands, by the row."""

    def __getitem__(self, row: int) -> Origin:
        """The origin of one row."""
        ...


@dataclass(frozen=True)
class Piece:
    """Tables of the design and the refused rows.

    `boxes` stand in the order of their `examples`; `images` are rows of the pictures that `examples` ask about, unless
    an earlier piece gave them. `n_raw`: raw rows that came in, `to_judge` not counted. `n_before`: how many of the
    refusals stand before each example, int64. `order`: by table, the place of each row's picture, for putting together
    two pieces about the same stretch of pictures. `to_judge`: annotations whose box is still to be judged, each after
    so many refusals, by the sizes of the pictures that were opened so far; `sizes`: upright width and height in pixels
    of those that were opened here, by file name.
    """

    images: pa.Table
    examples: pa.Table
    boxes: pa.Table
    refusals: Sequence[Refusal]
    n_raw: int
    origins: Origins
    n_before: np.ndarray
    order: Mapping[str, np.ndarray] = field(default_factory=dict)
    to_judge: Sequence[tuple[int, RawAnnotation]] = ()
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def nothing() -> Piece:
    """A piece of no rows."""
    none = np.zeros(0, np.int64)
    tables = {name: empty(name) for name in _TABLES}
    return Piece(
        **tables, refusals=(), n_raw=0, origins=[], n_before=none, order=dict.fromkeys(_TABLES, none)
    )


def together(one: Piece, other: Piece) -> Piece:
    """Two pieces as one, rows in the order of their pictures; the first piece's rows first where they share one."""
    tables, order, taken = {}, {}, {}
    for name in _TABLES:
        places = np.concatenate([one.order[name], other.order[name]])
        taken[name] = np.argsort(places, kind="stable")
        both = pa.concat_tables([getattr(one, name), getattr(other, name)])
        tables[name], order[name] = both.take(pa.array(taken[name])), places[taken[name]]
    return Piece(
        **tables,
        refusals=[*one.refusals, *other.refusals],
        n_raw=one.n_raw + other.n_raw,
        origins=_Joined(one.origins, other.origins, one.examples.num_rows, taken["examples"]),
        n_before=np.concatenate([one.n_before, other.n_before + len(one.refusals)])[taken["examples"]],
        order=order,
        to_judge=[*one.to_judge, *((n + len(one.refusals), row) for n, row in other.to_judge)],
        sizes={**one.sizes, **other.sizes},
    )


@dataclass(frozen=True)
class _Joined:
    one: Origins
    other: Origins
    n_one: int
    taken: np.ndarray

    def __getitem__(self, row: int) -> Origin:
        source = int(self.taken[row])
        return self.one[source] if source < self.n_one else self.other[source - self.n_one]
