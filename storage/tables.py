"""Tables to Parquet bytes and back, held to the schema; where the bytes are kept belongs to `lineage`.

The same rows give the same bytes, however the table was put together, so that equal content has one hash.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.schema import ALLOWED_VALUES, SCHEMA_VERSION, TABLES

_VERSION_KEY = b"saliency_r1.schema_version"
_TABLE_KEY = b"saliency_r1.table"
_ROWS_PER_GROUP = {"images": 1_000, "quarantine": 20_000, "saliency_maps": 20_000}
_DEFAULT_ROWS_PER_GROUP = 100_000
_BYTES_PER_GROUP = 64 * 2**20
_SELDOM_ALIKE = {
    "images": {"image_sha256", "pixels_sha256", "file_name", "uri"},
    "examples": {"example_id", "source_row", "evidence_area_frac"},
    "boxes": {"example_id", "x1_px", "y1_px", "x2_px", "y2_px"},
}
"""Columns of large tables whose values are too seldom alike for a dictionary to be worth its making."""
# A page ends after so many values at the earliest: few pictures, so that a reader need not hold a whole group.
_VALUES_PER_PAGE = {"images": 8}
_DEFAULT_VALUES_PER_PAGE = 1_024
# What a diverging run measured is reported as it was; everywhere else "could not be measured" is null.
_MAY_BE_NOT_FINITE = {"training_steps"}


class TableError(ValueError):
    """Rows that do not fit their table; the message lists every mismatch."""


def schema_of(name: str) -> pa.Schema:
    """The schema of a table, with the version and the table's name in its metadata. Raises TableError."""
    if name not in TABLES:
        raise TableError(f"table {name!r}: not known; there are {', '.join(TABLES)}")
    return TABLES[name].with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode(), _TABLE_KEY: name.encode()})


def empty(name: str) -> pa.Table:
    """A table without rows, with the right columns."""
    return schema_of(name).empty_table()


def digests(data: bytes, n_digits: int) -> pa.Array:
    """Hashes, one after the other in `data`, as texts of `n_digits` hex digits each."""
    n = 2 * len(data) // n_digits
    offsets = np.arange(0, n_digits * n + 1, n_digits, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(data.hex().encode()))


def digest_bytes(texts: pa.ChunkedArray) -> bytes:
    """The other way round; `texts` are hex digits without nulls."""
    return bytes.fromhex("".join(_text_of(chunk) for chunk in texts.chunks))


def _text_of(chunk: pa.StringArray) -> str:
    if not len(chunk):
        return ""
    offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return chunk.buffers()[2][offsets[0] : offsets[-1]].to_pybytes().decode()


def from_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table from dicts; nullable columns may be left out. Raises TableError with every mismatch."""
    schema = schema_of(name)
    known = set(schema.names)
    problems = [
        f"row {index}: unknown columns {sorted(set(row) - known)}"
        for index, row in enumerate(rows)
        if not known.issuperset(row)
    ]
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], type=field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            problems.append(f"column {field.name}: wanted {field.type} ({error})")
            continue
        if columns[-1].null_count and not field.nullable:
            empty = np.flatnonzero(columns[-1].is_null()).tolist()
            problems += [f"row {index}: no value for [{field.name!r}]" for index in empty]
    _raise_if_any(name, problems)
    table = pa.Table.from_arrays(columns, schema=schema)
    _raise_if_any(name, mismatches(name, table))
    return table


def mismatches(name: str, table: pa.Table) -> list[str]:
    """What keeps a table from its schema: columns, types, nulls, closed lists, non-finite numbers."""
    schema = schema_of(name)
    problems = [
        f"column {column}: not in the schema" for column in table.column_names if column not in schema.names
    ]
    if len(set(table.column_names)) < len(table.column_names):
        problems.append(f"a column comes twice: {table.column_names}")
        return problems
    for field in schema:
        if field.name not in table.column_names:
            problems.append(f"column {field.name}: missing, wanted {field.type}")
            continue
        column = table.column(field.name)
        if column.type != field.type:
            problems.append(f"column {field.name}: is {column.type}, wanted {field.type}")
            continue
        if column.null_count and not field.nullable:
            problems.append(f"column {field.name}: {column.null_count} nulls, wanted none")
        problems += _value_problems(name, field, column)
    return problems


def _value_problems(name: str, field: pa.Field, column: pa.ChunkedArray) -> list[str]:
    allowed = ALLOWED_VALUES.get((name, field.name))
    if allowed:
        strange = sorted(set(pc.unique(column).to_pylist()) - {None, *allowed})
        if strange:
            return [f"column {field.name}: {strange[:5]}, allowed are {', '.join(allowed)}"]
    numbers = pc.list_flatten(column) if pa.types.is_list(field.type) else column
    if pa.types.is_floating(numbers.type) and name not in _MAY_BE_NOT_FINITE:
        bad = pc.sum(pc.invert(pc.is_finite(numbers))).as_py() or 0
        if bad:
            return [f"column {field.name}: {bad} values are NaN or infinite; what cannot be measured is null"]
    return []


def _raise_if_any(name: str, problems: list[str]) -> None:
    if problems:
        shown = problems[:20] + ([f"... and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise TableError(f"table {name}: " + "; ".join(shown))


def encode_table(name: str, table: pa.Table) -> bytes:
    """Parquet bytes (zstd) of a table that fits its schema; columns may come in any order.

    Raises TableError with every mismatch.
    """
    buffer = io.BytesIO()
    with TableWriter(name, buffer) as writer:
        writer.write(table)
    return buffer.getvalue()


class TableWriter:
    """A table written piece by piece; the same rows give the same bytes, whatever the pieces were.

    What waits for its row group is held in memory: at most 100,000 rows, of refused ones 20,000, and of pictures 1,000
    or 64 MiB. `target` is a path or a binary stream. Use it in a `with`; the file is whole only after that ended
    without an exception.
    """

    def __init__(self, name: str, target: str | os.PathLike[str] | io.BytesIO) -> None:
        self._name, self._schema = name, schema_of(name)
        self._n_per_group = _ROWS_PER_GROUP.get(name, _DEFAULT_ROWS_PER_GROUP)
        self._sizes = self._schema.get_field_index("bytes")
        unlike = _SELDOM_ALIKE.get(name, set()) | {f.name for f in self._schema if pa.types.is_binary(f.type)}
        alike = [column for column in self._schema.names if column not in unlike]
        self._file = pq.ParquetWriter(
            target,
            self._schema,
            compression="zstd",
            use_dictionary=alike,
            write_batch_size=_VALUES_PER_PAGE.get(name, _DEFAULT_VALUES_PER_PAGE),
        )
        self._waiting: list[pa.Table] = []
        self.n_rows = self._n_waiting = self._n_groups = 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write_groups(self._gathered(), rest=True)
        finally:
            self._file.close()

    def write(self, table: pa.Table) -> None:
        """Add rows, columns in any order. Raises TableError with every mismatch; then none of them is added."""
        _raise_if_any(self._name, mismatches(self._name, table))
        ordered = table.select(self._schema.names).cast(self._schema)
        self.n_rows += ordered.num_rows
        self._n_waiting += ordered.num_rows
        self._waiting.append(ordered)
        if self._n_waiting >= self._n_per_group or self._sizes >= 0:
            self._write_groups(self._gathered(), rest=False)

    def _gathered(self) -> pa.Table:
        return pa.concat_tables(self._waiting) if self._waiting else self._schema.empty_table()

    def _write_groups(self, table: pa.Table, *, rest: bool) -> None:
        start = 0
        for stop in self._ends(table):
            self._write_group(table.slice(start, stop - start))
            start = stop
        table = table.slice(start)
        if rest and (table.num_rows or not self._n_groups):
            self._write_group(table)
            table = table.slice(table.num_rows)
        self._waiting, self._n_waiting = [table] if table.num_rows else [], table.num_rows

    def _ends(self, table: pa.Table) -> list[int]:
        """Where the full row groups of the rows end; after which row is a matter of the rows alone."""
        if self._sizes < 0:
            return list(range(self._n_per_group, table.num_rows + 1, self._n_per_group))
        n_bytes = pc.fill_null(pc.binary_length(table.column(self._sizes)), 0).to_pylist()
        ends, size, last = [], 0, 0
        for row, more in enumerate(n_bytes, start=1):
            size += more
            if size >= _BYTES_PER_GROUP or row - last == self._n_per_group:
                ends.append(row)
                size, last = 0, row
        return ends

    def _write_group(self, table: pa.Table) -> None:
        """One chunk per row group: pages, and so the bytes, do not depend on how the table was put together."""
        self._file.write_table(table.combine_chunks(), row_group_size=max(table.num_rows, 1))
        self._n_groups += 1


def read_table(
    source: bytes | str | os.PathLike[str], columns: Sequence[str] | None = None, *, name: str | None = None
) -> pa.Table:
    """Read Parquet bytes or a local Parquet file that `encode_table` made.

    `columns` limits what is read, `name` demands one table. Raises TableError for what is not such a file,
    was written with another schema version or holds another table.
    """
    with _opened(source, name) as file:
        return file.read(columns=None if columns is None else list(columns))


def batches(
    source: str | os.PathLike[str], columns: Sequence[str] | None = None, *, name: str | None = None
) -> Iterator[pa.Table]:
    """The rows of a local Parquet file row group by row group; otherwise as `read_table`."""
    with _opened(source, name) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=None if columns is None else list(columns))


def n_rows_of(source: str | os.PathLike[str], name: str | None = None) -> int:
    """How many rows a local Parquet file holds, which must be of this table if one is named; the rows are not read."""
    with _opened(source, name) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _opened(source: bytes | str | os.PathLike[str], name: str | None) -> Iterator[pq.ParquetFile]:
    where = "bytes" if isinstance(source, bytes) else str(source)
    try:
        with pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else Path(source)) as file:
            problems = _header_problems(file.schema_arrow.metadata or {}, name)
            if problems:
                raise TableError(f"{where}: " + "; ".join(problems))
            yield file
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{where}: not a readable Parquet file ({error})") from error


def _header_problems(metadata: Mapping[bytes, bytes], name: str | None) -> list[str]:
    version = metadata.get(_VERSION_KEY, b"none").decode()
    found = metadata.get(_TABLE_KEY, b"none").decode()
    problems = []
    if version != str(SCHEMA_VERSION):
        problems.append(
            f"schema version {version}, wanted {SCHEMA_VERSION}: run the pipeline again to rewrite it"
        )
    if name is not None and found != name:
        problems.append(f"holds table {found!r}, wanted {name!r}")
    return problems
