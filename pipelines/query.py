"""Answers from the catalogue in the terminal: `python -m pipelines.query NAME [name=value ...]`.

The queries are storage/sql/*.sql; only printing belongs here. Without a name: the list of them.
"""

import sys
from collections.abc import Mapping, Sequence

import pyarrow as pa

from assets.product import REPORT
from storage.catalog import CATALOG, CatalogError, query, questions
from storage.objects import Store
from storage.settings import Settings, SettingsError

SUMMARY = ("what_is_in_each_split", "lift_by_policy", "prior_conflict_accuracy")
ROWS = 40
WIDTH = 48


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        root = Settings.from_environment().root
        if words == ["--summary"]:
            return summary(root)
        if not words:
            for name, question in questions().items():
                print(f"{name:45} {question}")
            return 0
        values = dict(word.split("=", 1) for word in words[1:])
        print(answer(root, words[0], values))
    except (CatalogError, SettingsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def summary(root: str) -> int:
    """Where things are, and three questions with their answers."""
    store = Store(root)
    print(f"\nreport     {store.url(REPORT)}\ncatalogue  {store.url(CATALOG)}")
    for name in SUMMARY:
        print(f"\n{questions()[name]}\n  make query NAME={name}\n\n{answer(root, name, {})}")
    return 0


def answer(root: str, name: str, values: Mapping[str, str]) -> str:
    """A stored query's answer as a text table."""
    return as_text(query(root, name, values))


def as_text(table: pa.Table) -> str:
    """Columns side by side, numbers to the right; at most ROWS rows."""
    shown = table.slice(0, ROWS).to_pydict()
    columns = [[name, *(cell(value) for value in values)] for name, values in shown.items()]
    numeric = [not (pa.types.is_string(kind) or pa.types.is_list(kind)) for kind in table.schema.types]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
    rule = "  ".join("-" * width for width in widths)
    more = [f"({table.num_rows - ROWS} more rows)"] if table.num_rows > ROWS else []
    return "\n".join([lines[0], rule, *lines[1:], *more]) if lines else "(no columns)"


def cell(value: object) -> str:
    """One value, short enough for a line."""
    if value is None:
        return ""
    text = f"{value:.3f}" if isinstance(value, float) else str(value).replace("\n", " ")
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
