"""Tables to Parquet bytes and back, held to the schema; where the bytes are kept belongs to `lineage`.

The same rows give the same bytes, however the table was put together, so that equal content has one hash.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.schema import ALLOWED_VALUES, SCHEMA_VERSION, TABLES

_VERSION_KEY = b"saliency_r1.schema_version"
_TABLE_KEY = b"saliency_r1.table"
_ROWS_PER_GROUP = {"images": 1_000, "saliency_maps": 20_000}
_DEFAULT_ROWS_PER_GROUP = 100_000
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


def from_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table from dicts; nullable columns may be left out. Raises TableError with every mismatch."""
    schema = schema_of(name)
    known = set(schema.names)
    problems = []
    for index, row in enumerate(rows):
        unknown = sorted(set(row) - known)
        missing = [f.name for f in schema if not f.nullable and row.get(f.name) is None]
        if unknown:
            problems.append(f"row {index}: unknown columns {unknown}")
        if missing:
            problems.append(f"row {index}: no value for {missing}")
    columns = []
    for field in schema:
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], type=field.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            problems.append(f"column {field.name}: wanted {field.type} ({error})")
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
    _raise_if_any(name, mismatches(name, table))
    schema = schema_of(name)
    ordered = table.select(schema.names).cast(schema)
    binary = {field.name for field in schema if pa.types.is_binary(field.type)}
    n_per_group = _ROWS_PER_GROUP.get(name, _DEFAULT_ROWS_PER_GROUP)
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression="zstd",
        use_dictionary=[c for c in schema.names if c not in binary],
        write_batch_size=_VALUES_PER_PAGE.get(name, _DEFAULT_VALUES_PER_PAGE),
    ) as writer:
        # One chunk per row group: pages, and so the bytes, do not depend on how the table was put together.
        for start in range(0, max(ordered.num_rows, 1), n_per_group):
            group = ordered.slice(start, n_per_group).combine_chunks()
            writer.write_table(group, row_group_size=n_per_group)
    return buffer.getvalue()


def read_table(
    source: bytes | str | os.PathLike[str], columns: Sequence[str] | None = None, *, name: str | None = None
) -> pa.Table:
    """Read Parquet bytes or a local Parquet file that `encode_table` made.

    `columns` limits what is read, `name` demands one table. Raises TableError for what is not such a file,
    was written with another schema version or holds another table.
    """
    where = "bytes" if isinstance(source, bytes) else str(source)
    try:
        with pq.ParquetFile(io.BytesIO(source) if isinstance(source, bytes) else Path(source)) as file:
            metadata = file.schema_arrow.metadata or {}
            problems = _header_problems(metadata, name)
            if problems:
                raise TableError(f"{where}: " + "; ".join(problems))
            return file.read(columns=None if columns is None else list(columns))
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
