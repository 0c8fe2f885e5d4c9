"""Asset checks of the rows that a policy's processor has seen; how checks work is said in assets/checks.py."""

from collections import Counter
from collections.abc import Sequence

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetCheckResult

from assets.checks import blocking, outcome, warning

SHOWN = 20
_COLUMNS = ("example_id", "split", "reason", "detail")
_TOKENS = ("n_image_tokens", "n_prompt_tokens", "n_reference_tokens")

SOME_FIT = blocking(
    "rows_fit",
    ["policy", "processed_rows"],
    "Of every side that the profile's stages read, there are rows that the policy's processor and context take.",
)
ALL_FIT = warning(
    "all_rows_fit",
    ["policy", "processed_rows"],
    "Every row fits; those that do not are named, and no training takes them.",
)


def some_fit(rows: pa.Table, needed: Sequence[str]) -> AssetCheckResult:
    """Count rows that fit by side; a side without one stops what comes after."""
    problems, counts = [], {}
    for split in needed:
        side = rows.filter(pc.equal(rows["split"], split))
        counts[split] = int(pc.sum(side["fits"]).as_py() or 0)
        if not counts[split]:
            problems.append(f"{split}: none of {side.num_rows} rows fits ({_by_reason(side)})")
    said = ", ".join(f"{n} of {split}" for split, n in counts.items()) + " fit"
    return outcome(SOME_FIT, problems, said, **{f"n_fit_{split}": n for split, n in counts.items()})


def all_fit(rows: pa.Table) -> AssetCheckResult:
    """Name the rows that do not fit, with their reasons; numbers by reason and quantiles of tokens in the metadata."""
    bad = rows.filter(pc.invert(rows["fits"])).sort_by("example_id")
    named = [f"{row['example_id']} ({row['reason']}: {row['detail']})" for row in bad.slice(0, 3).to_pylist()]
    problem = (
        f"{bad.num_rows} of {rows.num_rows} rows do not fit ({_by_reason(bad)}), such as {'; '.join(named)}"
    )
    reasons = Counter(bad["reason"].to_pylist())
    return outcome(
        ALL_FIT,
        [problem] if bad.num_rows else [],
        f"all {rows.num_rows} rows fit",
        **{f"n_{reason}": n for reason, n in sorted(reasons.items())},
        **_quantiles(rows),
        do_not_fit=first_rows(rows),
    )


def first_rows(rows: pa.Table) -> dg.MetadataValue:
    """The first rows that do not fit, as a table."""
    bad = rows.filter(pc.invert(rows["fits"])).sort_by("example_id").slice(0, SHOWN)
    records = [dg.TableRecord(row) for row in bad.select(_COLUMNS).to_pylist()]
    return dg.MetadataValue.table(
        records, schema=dg.TableSchema([dg.TableColumn(name, "string") for name in _COLUMNS])
    )


def _by_reason(rows: pa.Table) -> str:
    counts = Counter(rows["reason"].drop_null().to_pylist())
    return ", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "there is none"


def _quantiles(rows: pa.Table) -> dict[str, int]:
    found: dict[str, int] = {}
    for column in _TOKENS:
        values = rows[column].drop_null()
        if len(values):
            middle, high, most = pc.quantile(values, q=[0.5, 0.95, 1.0], interpolation="nearest").to_pylist()
            found |= {f"{column}_p50": middle, f"{column}_p95": high, f"{column}_max": most}
    return found
