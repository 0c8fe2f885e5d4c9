"""How a column of a table is declared: name, type and what it holds; the columns themselves are `schema`."""

import pyarrow as pa


def column(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    """A column that carries its description; no nulls unless said."""
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def maybe(name: str, kind: pa.DataType, description: str) -> pa.Field:
    """A column that may be null."""
    return column(name, kind, description, nullable=True)
