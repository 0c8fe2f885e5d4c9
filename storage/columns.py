"""How a column of a table is declared: name, type and what it holds; the columns themselves are `schema`."""

from collections.abc import Callable

import pyarrow as pa


def column(name: str, kind: pa.DataType, description: str, *, nullable: bool = False) -> pa.Field:
    """A column that carries its description; no nulls unless said."""
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


def maybe(name: str, kind: pa.DataType, description: str) -> pa.Field:
    """A column that may be null."""
    return column(name, kind, description, nullable=True)


def region(declare: Callable[[str, pa.DataType, str], pa.Field]) -> tuple[pa.Field, ...]:
    """The part of the picture that a grid spans, four columns, each by `column` or `maybe`."""
    told = {
        "region_x1": "left edge of what the grid spans, as a share of the picture's width",
        "region_y1": "its top edge, as a share of the height; below 0 where it was padded",
        "region_x2": "its right edge, as a share of the width; below 1 where it was cropped",
        "region_y2": "its bottom edge, as a share of the height",
    }
    return tuple(declare(name, pa.float64(), description) for name, description in told.items())
