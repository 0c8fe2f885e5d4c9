"""Which rows of a split a stage trains on: those that the policy's processor was found to take.

What a row needs to fit is `training/row_fit.py`. A configuration that names no table processed_rows leaves none out.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from storage.rows import Row, left_out, rows_from_paths
from training.config import StageConfig

_NAMED = 20


def chosen_rows(config: StageConfig, split: str) -> tuple[list[Row], dict[str, str]]:
    """The rows of a split that fit, ordered by example_id, and the reason of each that does not. Raises RowsError."""
    out = left_out(config.tables, split)
    return rows_from_paths(config.tables, split, root=config.root, without=out), out


def told(out: Mapping[str, str]) -> dict[str, Any]:
    """What a stage's summary says of the rows that were left out: how many, by reason, and the first by name."""
    summary: dict[str, Any] = {"n_rows_left_out": len(out)}
    summary |= {f"left_out_{reason}": n for reason, n in sorted(Counter(out.values()).items())}
    if out:
        named = [f"{example_id} ({reason})" for example_id, reason in list(out.items())[:_NAMED]]
        more = [f"and {len(out) - _NAMED} more"] if len(out) > _NAMED else []
        summary["rows_left_out"] = ", ".join(named + more)
    return summary
