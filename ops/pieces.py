"""A piece of a source on its way into the tables: what came of some of its rows, before pieces are put together.

Here: the shape of a piece, two pieces as one. Not here: how rows become a piece (`ops/row_lane.py`,
`ops/column_lane.py`), and what only the whole source shows, say that a row was there before (`ops/normalise.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from ops.readers.rows import Origin, Refusal
from storage.tables import empty


@dataclass(frozen=True)
class Piece:
    """Tables of the design and the refused rows.

    `boxes` stand in the order of their `examples`; `images` are rows of the pictures that `examples` ask about, unless
    an earlier piece gave them. `n_raw`: raw rows that came in. `origin` tells where the example of a row stands.
    """

    images: pa.Table
    examples: pa.Table
    boxes: pa.Table
    refusals: Sequence[Refusal]
    n_raw: int
    origin: Callable[[int], Origin]
    order: dict[str, np.ndarray] = field(default_factory=dict)
    """By table the place of each row's picture, for putting two pieces of the same pictures together."""


def nothing() -> Piece:
    """A piece of no rows."""
    none = np.zeros(0, np.int64)
    tables = {name: empty(name) for name in ("images", "examples", "boxes")}
    return Piece(**tables, refusals=(), n_raw=0, origin=_no_origin, order=dict.fromkeys(tables, none))


def together(one: Piece, other: Piece) -> Piece:
    """Two pieces as one, rows in the order of their pictures; the first piece's rows first where they share one."""
    if not other.n_raw:
        return one
    tables, order = {}, {}
    for name in ("images", "examples", "boxes"):
        places = np.concatenate([one.order[name], other.order[name]])
        taken = np.argsort(places, kind="stable")
        tables[name] = pa.concat_tables([getattr(one, name), getattr(other, name)]).take(pa.array(taken))
        order[name] = places[taken]
        if name == "examples":
            came_from = taken
    n_first = one.examples.num_rows

    def origin(row: int) -> Origin:
        source = int(came_from[row])
        return one.origin(source) if source < n_first else other.origin(source - n_first)

    return Piece(
        **tables,
        refusals=[*one.refusals, *other.refusals],
        n_raw=one.n_raw + other.n_raw,
        origin=origin,
        order=order,
    )


def _no_origin(row: int) -> Origin:
    raise IndexError(f"no row {row} in a piece of none")
