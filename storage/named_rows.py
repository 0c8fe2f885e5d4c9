"""The one row of a table that a person names by KEY=VALUE words, or what is wrong with the name.

What a row came from is `why`. Current tables are looked at first, as the catalogue shows them, then older ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from storage.chain import Found, Records, where
from storage.schema import ROW_KEYS
from storage.walk import printable

NULL = "null"
_VALUES_SHOWN = 4
_LETTERS_SHOWN = 40


class ChainError(Exception):
    """Words that name no row, or several; the message says what would."""


@dataclass(frozen=True)
class Named:
    """The row, and what a person should know of how it was found."""

    found: Found
    notes: tuple[str, ...] = ()


def wanted_of(table: str, schema: pa.Schema, words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words as values of the table's columns (None = null). Raises ChainError with all that is wrong."""
    if not words:
        keys = " ".join(f"{key}=..." for key in ROW_KEYS.get(table, schema.names[:1]))
        raise ChainError(f"which row of {table}? give KEY=VALUE, such as {keys}")
    problems, wanted = [], {}
    for word in words:
        key, is_pair, text = word.partition("=")
        if not is_pair:
            problems.append(f"{word!r}: wanted KEY=VALUE")
        elif key not in schema.names:
            problems.append(f"{table} has no column {key!r}; it has {', '.join(schema.names)}")
        elif key in wanted:
            problems.append(f"{key} is given twice")
        else:
            try:
                wanted[key] = None if text == NULL else _value(schema.field(key).type, text)
            except (ValueError, OverflowError, pa.ArrowException):
                problems.append(
                    f"{key}={_shown(text)}: wanted a value of type {schema.field(key).type}, or {NULL}"
                )
    if problems:
        raise ChainError("; ".join(problems))
    return wanted


def _value(kind: pa.DataType, text: str) -> Any:
    if pa.types.is_string(kind):
        text.encode()  # words of a command line may hold bytes that are no text
        return text
    if pa.types.is_integer(kind):
        return pa.scalar(int(text), type=kind).as_py()
    if pa.types.is_floating(kind):
        return float(text)
    if pa.types.is_boolean(kind) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise ValueError(f"{text!r} is no {kind}")


def named_row(records: Records, table: str, wanted: Mapping[str, Any]) -> Named:
    """The row of a table with these values, in what is current, else in the newest older table that has any.

    Raises ChainError where there is none, or where several differ.
    """
    current = {a.uri: a for a in records.state.current if a.kind == table}
    older = {a.uri: a for a in records.all if a.kind == table and a.uri not in current}
    newest_first = sorted(older.values(), key=lambda a: a.created_at, reverse=True)
    groups = [(True, list(current.values())), *((False, [artifact]) for artifact in newest_first)]
    for is_current, group in groups:
        found = [(artifact, records.rows(artifact, wanted)) for artifact in group]
        holders = [artifact for artifact, rows in found for _ in range(rows.num_rows)]
        if holders:
            matched = pa.concat_tables([rows for _, rows in found])
            place, notes = _one(table, wanted, matched)
            if not is_current:
                notes = (*notes, "no longer current: the catalogue does not show it")
            return Named(Found(holders[place], matched.slice(place, 1).to_pylist()[0]), notes)
    raise ChainError(
        "; ".join([_nowhere(table, wanted, len(current) + len(older)), *records.unreadable.values()])
    )


def ledger_row(table: str, rows: pa.Table, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a table of the ledger itself. Raises ChainError as `named_row`."""
    matched = rows.filter(pa.array(where(rows, wanted)))
    if not matched.num_rows:
        raise ChainError(_nowhere(table, wanted, 1))
    place, _ = _one(table, wanted, matched)
    return dict(matched.slice(place, 1).to_pylist()[0])


def _nowhere(table: str, wanted: Mapping[str, Any], n_tables: int) -> str:
    return f"no row of {table} has {_said(wanted)}, in {n_tables} stored {'table' if n_tables == 1 else 'tables'}"


def _said(wanted: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_shown(value)}" for key, value in wanted.items())


def _shown(value: Any) -> str:
    return NULL if value is None else printable(str(value)[:_LETTERS_SHOWN])


def _one(table: str, wanted: Mapping[str, Any], matched: pa.Table) -> tuple[int, tuple[str, ...]]:
    """Place of the row that is meant, and notes. Raises ChainError naming the columns that tell the rows apart."""
    n = matched.num_rows
    if n == 1:
        return 0, ()
    if table == "images" and _n_kinds(matched, ["image_sha256"]) == 1:
        return _first_delivered(matched)
    telling = _telling_apart(matched)
    if not telling:
        return 0, (f"{n} rows are alike in every column",)
    raise ChainError(
        f"{n} rows of {table} have {_said(wanted)}; give also "
        + " and ".join(f"{column} ({_values_of(matched, column)})" for column in telling)
    )


def _first_delivered(matched: pa.Table) -> tuple[int, tuple[str, ...]]:
    """The catalogue shows a picture that came with several sources once, by this order."""
    keys = [(row["source"], row["file_name"]) for row in matched.select(["source", "file_name"]).to_pylist()]
    place = min(range(len(keys)), key=keys.__getitem__)
    others = ", ".join(f"source={source} as {name}" for source, name in sorted(set(keys) - {keys[place]}))
    return place, (f"delivered too with {others}",) if others else ()


def _telling_apart(matched: pa.Table) -> list[str]:
    """Columns, none of them for nothing, whose values tell most rows apart; [] = all are alike. Keys stand first."""
    flat = [field.name for field in matched.schema if not pa.types.is_list(field.type)]
    chosen: list[str] = []
    n_kinds = 1
    for column in flat:
        more = _n_kinds(matched, [*chosen, column])
        if more > n_kinds:
            chosen.append(column)
            n_kinds = more
        if n_kinds == matched.num_rows:
            break
    for column in list(chosen):
        rest = [other for other in chosen if other != column]
        if rest and _n_kinds(matched, rest) == n_kinds:
            chosen = rest
    return chosen


def _n_kinds(table: pa.Table, columns: Sequence[str]) -> int:
    return int(table.group_by(list(columns)).aggregate([]).num_rows)


def _values_of(matched: pa.Table, column: str) -> str:
    values = sorted({_shown(value) for value in matched[column].unique().to_pylist()})
    more = f", ... {len(values)} in all" if len(values) > _VALUES_SHOWN else ""
    return ", ".join(values[:_VALUES_SHOWN]) + more
