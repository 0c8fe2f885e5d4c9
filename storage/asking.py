"""Tables that may be larger than memory: read by batch or by column, or asked a question; never whole.

What only fits into memory by luck (groups of texts, joins, different values) is asked of DuckDB, which goes to disk
beyond MOST_MEMORY; longer questions stand in `sql/asked/`. Not here: the catalogue and its questions (`catalog`), what
an answer means.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.scratch import temporary_folder
from storage.tables import batches, n_rows_of

MOST_MEMORY_MIB = 192
"""Of DuckDB, for one question; the rest goes to a folder of its own that is gone afterwards. One that cannot be
answered so, for not all can go to disk, is asked again with twice as much, up to `most_possible_mib`; 2 million
examples needed no more.
"""

_LEAST_STRETCH = 65_536
_SHARE_OF_MEMORY = 0.75

Rows: TypeAlias = pa.Table | Sequence[str | Path]
"""Rows of one table in order: Parquet files on this machine, one after the other, or a table in memory."""


def n_rows(rows: Rows) -> int:
    """How many there are. Raises TableError."""
    return rows.num_rows if isinstance(rows, pa.Table) else sum(map(n_rows_of, rows))


def parts(rows: Rows, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns, piece by piece, in order: a row group, or a chunk of a table in memory. Raises TableError."""
    if isinstance(rows, pa.Table):
        for batch in rows.select(list(columns)).to_batches():
            yield pa.Table.from_batches([batch])
    else:
        for path in rows:
            yield from batches(path, columns)


def column(rows: Rows, name: str) -> pa.ChunkedArray:
    """One column whole: for numbers, and for ids. Raises TableError."""
    if isinstance(rows, pa.Table):
        return rows[name]
    return pa.concat_tables([part for path in rows for part in batches(path, [name])])[name]


def taken(rows: Rows, places: np.ndarray, columns: Sequence[str]) -> pa.Table:
    """Some columns of a few rows, given by their numbers from 0, int64, sorted."""
    found, start = [], 0
    for part in parts(rows, columns):
        here = places[slice(*np.searchsorted(places, [start, start + part.num_rows]))] - start
        found.append(part.take(pa.array(here)))
        start += part.num_rows
    return pa.concat_tables(found) if found else pa.table({name: [] for name in columns})


def having(rows: Rows, name: str, values: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Some columns of the few rows that have one of some values in a column, in order."""
    wanted = pa.array(values, pa.string())
    found = [part.filter(pc.is_in(part[name], wanted)) for part in parts(rows, columns)]
    return pa.concat_tables(found) if found else pa.table({column: [] for column in columns})


def n_outside(rows: Rows, name: str, allowed: Rows) -> int:
    """Rows of which the value of a column is not in the column of that name of other rows."""
    told = f'SELECT count(*) FROM own ANTI JOIN allowed USING ("{name}")'  # noqa: S608  # names from our code
    return int(_answer(told, own=rows, allowed=allowed)[0][0].as_py())


def n_different(rows: Rows, name: str) -> int:
    """Different values of a column, nulls apart."""
    told = f'SELECT count(*) FROM (SELECT DISTINCT "{name}" FROM own WHERE "{name}" IS NOT NULL)'  # noqa: S608
    return int(_answer(told, own=rows)[0][0].as_py())


def most_frequent(
    rows: Rows, name: str, most: int, only: tuple[str, str] | None = None
) -> tuple[int, list[tuple[str, int]]]:
    """How many different values a column has, and the most frequent with their numbers, ties by the alphabet.

    Nulls do not count; `only`: a column and its value, rows without which do not count either.
    """
    chosen = f'AND "{only[0]}" = ?' if only else ""
    told = (
        f'SELECT "{name}", count(*), count(*) OVER () FROM own WHERE "{name}" IS NOT NULL {chosen} '  # noqa: S608
        f'GROUP BY "{name}" ORDER BY count(*) DESC, "{name}" LIMIT {most:d}'
    )
    values, counts, n = (each.to_pylist() for each in _answer(told, only and only[1:], own=rows))
    return (n[0] if n else 0), list(zip(values, counts, strict=True))


def rows_of(values: pa.ChunkedArray, among: pa.ChunkedArray | pa.Array, start: int = 0) -> np.ndarray:
    """The row of each value among others, int64 [n]; -1 where it is not there.

    Looked for from row `start` on and then before it, a stretch at a time: an index of all is never made, and where
    both are in about the same order the first stretch has them.
    """
    found = np.full(len(values), -1, np.int64)
    left = np.arange(len(values))
    stretch = max(len(values), _LEAST_STRETCH)
    for first, end in [
        *((first, len(among)) for first in range(start, len(among), stretch)),
        *((first, start) for first in range(0, start, stretch)),
    ]:
        if not len(left):
            break
        wanted = values if len(left) == len(values) else values.take(pa.array(left))
        at = pc.index_in(wanted, value_set=among.slice(first, min(stretch, end - first)))
        places = pc.fill_null(at, -1).to_numpy()
        found[left] = np.where(places < 0, -1, places + first)
        left = left[places < 0]
    return found


def first_rows(rows: Rows, name: str) -> pa.ChunkedArray:
    """The row, from 0, in which each value of a column comes first, in order."""
    told = (
        f'SELECT min(row) - 1 FROM (SELECT "{name}", row_number() OVER () AS row FROM own) '  # noqa: S608
        f'GROUP BY "{name}" ORDER BY 1'
    )
    return _answer(told, own=rows)[0]


def placed_pictures(splits: Rows, sides: Collection[str]) -> pa.Table:
    """The columns image_sha256 and split of the pictures on some sides, each side of a picture once, in order."""
    told = _question("placed_pictures")
    return _table(told, [list(sides)], splits=splits)


def pixels_on_sides(splits: Rows, images: Rows, sides: Collection[str]) -> tuple[int, int, str | None]:
    """How many different pixels lie on some sides, how many of them on two, and which of those is first.

    A picture that was never read counts by its image_sha256; those that no table of images holds do not count.
    """
    told = _question("pixels_on_sides")
    n_pixels, n_torn, first = (
        each[0].as_py() for each in _answer(told, [list(sides)], splits=splits, images=images)
    )
    return n_pixels, n_torn, first


def n_pictures_by_side(splits: Rows, without: Collection[str]) -> dict[str, int]:
    """Pictures by the first of their sides, but for some pictures (image_sha256)."""
    told = _question("n_pictures_by_side")
    sides, counts = _answer(told, splits=splits, without=_pictures(without))
    return dict(zip(sides.to_pylist(), counts.to_pylist(), strict=True))


def n_examples_by_side(splits: Rows, only: Collection[str] | None = None) -> dict[str, int]:
    """Examples by side, of all pictures or of some (image_sha256)."""
    chosen = "" if only is None else "SEMI JOIN chosen USING (image_sha256)"
    told = f"SELECT split, count(*) FROM splits {chosen} GROUP BY split ORDER BY split"  # noqa: S608
    sides, counts = _answer(told, splits=splits, chosen=_pictures(only or ()))
    return dict(zip(sides.to_pylist(), counts.to_pylist(), strict=True))


def n_draws(
    splits: Rows, examples: Rows, sides: Collection[str], without: Collection[str]
) -> dict[tuple[str, str], dict[str, int]]:
    """Draws by side, of each (source, answer_type), in order: groups of pictures, each counted once in a stratum.

    without: pictures (image_sha256) that do not count.
    """
    told = _question("n_draws")
    found: dict[tuple[str, str], dict[str, int]] = {}
    columns = _answer(told, [list(sides)], splits=splits, examples=examples, without=_pictures(without))
    for source, kind, side, count in zip(*(each.to_pylist() for each in columns), strict=True):
        found.setdefault((source, kind), {})[side] = count
    return found


def most_possible_mib() -> int:
    """MiB that one question may have at the most: three quarters of this machine's memory."""
    physical_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(physical_bytes * _SHARE_OF_MEMORY) >> 20


def _question(name: str) -> str:
    return resources.files("storage").joinpath("sql/asked", f"{name}.sql").read_text(encoding="utf-8")


def _pictures(image_sha256: Collection[str]) -> pa.Table:
    return pa.table({"image_sha256": pa.array(sorted(image_sha256), pa.string())})


def _answer(told: str, values: Sequence[object] | None = None, **rows: Rows) -> list[pa.ChunkedArray]:
    """The columns of an answer."""
    return _table(told, values, **rows).columns


def _table(told: str, values: Sequence[object] | None = None, **rows: Rows) -> pa.Table:
    most_mib, end_mib = MOST_MEMORY_MIB, most_possible_mib()
    while True:
        try:
            return _asked(told, values, rows, most_mib)
        except duckdb.OutOfMemoryException:
            if most_mib >= end_mib:
                raise
            most_mib = min(2 * most_mib, end_mib)


def _asked(told: str, values: Sequence[object] | None, rows: Mapping[str, Rows], most_mib: int) -> pa.Table:
    """In one thread: several hold as many groups at once, and are hardly faster."""
    with temporary_folder("asked") as folder:
        settings: dict[str, Any] = {
            "memory_limit": f"{most_mib}MiB",
            "temp_directory": str(folder),
            "threads": 1,
        }
        with duckdb.connect(config=settings | {"autoinstall_known_extensions": False}) as connection:
            for name, each in rows.items():
                if isinstance(each, pa.Table):
                    connection.register(name, each)
                else:
                    n_rows(each)  # refuses files of another schema version
                    paths = [str(path) for path in each]
                    connection.read_parquet(paths, hive_partitioning=False).create_view(name)
            return connection.execute(told, values or None).to_arrow_table()
