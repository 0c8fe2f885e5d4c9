"""What was measured by filling parts of pictures -> the `faithfulness` table.

Here: the shares of cells at which curves are taken, the area under a curve, and which mean, difference and
interval stands in which row. Filling and looking is training/faithfulness.py, intervals are ops/statistics.py, and
what a reader is told is ops/faithfulness_markdown.py.

A record is one example of one policy, as plain JSON: example_id, image_sha256; `curves`: "method:rows" (or
RANDOM) -> {"deletion": {"answer": [...], "completion": [...]}, "insertion": ...}, a change of log-probability in
nats at each of FRACTIONS; correct, correct_evidence_masked, correct_elsewhere_masked; `map_seconds`: "method:rows" ->
processor time of making the example's map; and, for the first examples only, `sanity`: method -> depth -> rank
correlation or None.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pyarrow as pa

from ops.statistics import DRAWS, Estimate, Kind, mean_by_cluster, paired_difference
from storage.tables import from_rows

Record = Mapping[str, Any]
Value = Callable[[Record], float | None]

FRACTIONS = (0.0, 0.05, 0.15, 0.3, 0.6, 1.0)
"""Shares of the cells at which curves are taken."""
SHOWN = (5, 15, 30)
SIDES = ("deletion", "insertion")
SPANS = {"completion": "_completion", "answer": ""}
"""Whose log-probability -> the end of the metric's name. completion: thought and answer, which tells more where the
answer is copied from the thought and so hardly moves."""
RANDOM = "random"
REFERENCE = "cot_rollout:predictor"
"""The kind of map that every other is held against."""
WITHOUT_MAP = ("correct", "correct_evidence_masked", "correct_elsewhere_masked")


def area_under(values: Sequence[float], fractions: Sequence[float] = FRACTIONS) -> float:
    """Trapezoid rule over the fractions; of a curve of changes from 0 to 1 it is the mean change."""
    if len(values) != len(fractions) or any(b <= a for a, b in pairwise(fractions)):
        raise ValueError(f"{len(values)} values at {list(fractions)}; wanted one at each, fractions rising")
    steps = zip(pairwise(fractions), pairwise(values), strict=True)
    return float(sum((b - a) * (low + high) / 2 for (a, b), (low, high) in steps))


def measure(kind: str, side: str, at: str, span: str = "answer") -> Value:
    """One number per record: a curve's value `at` 5, 15 or 30 percent, or its `auc`; None where there is no map."""

    def value(record: Record) -> float | None:
        curves = record["curves"].get(kind)
        if curves is None:
            return None
        curve = curves[side][span]
        return area_under(curve) if at == "auc" else float(curve[FRACTIONS.index(int(at) / 100)])

    return value


def summarise(
    records: Sequence[Record], policy_id: str, policy: str, *, seed: int = 0, draws: int = DRAWS
) -> pa.Table:
    """Rows of `faithfulness`: each measure with interval, n and chance, and paired differences."""
    table = _Rows(records, {"policy_id": policy_id, "policy": policy}, seed, draws)
    kinds = sorted({kind for record in records for kind in record["curves"]} - {RANDOM})
    for kind in kinds:
        _of_kind(table, kind, kinds)
    for column in WITHOUT_MAP:
        table.mean(column, _column(column), None, None, None, "rate")
    table.difference(
        "evidence_reliance", _column(WITHOUT_MAP[2]), _column(WITHOUT_MAP[1]), None, None, None, "difference"
    )
    for method, depth in _depths(records):
        table.mean(f"sanity_{depth}", _sanity(method, depth), method, "predictor", lambda record: 0.0)
    return from_rows("faithfulness", table.rows)


def _of_kind(table: "_Rows", kind: str, kinds: Sequence[str]) -> None:
    """The rows of one kind of map: curves, areas, areas against others on the same examples, cost."""
    method, rows = kind.split(":")
    versus = {RANDOM: RANDOM}
    if rows == "predictor" and f"{method}:state" in kinds:
        versus["state"] = f"{method}:state"
    if kind != REFERENCE and REFERENCE in kinds:
        versus[REFERENCE] = REFERENCE
    for side in SIDES:
        for span, suffix in SPANS.items():
            for at in map(str, SHOWN):
                value, by_chance = (measure(each, side, at, span) for each in (kind, RANDOM))
                table.mean(f"{side}_{at}{suffix}", value, method, rows, by_chance)
            auc, named = measure(kind, side, "auc", span), f"{side}_auc{suffix}"
            table.mean(named, auc, method, rows, measure(RANDOM, side, "auc", span))
            for name, other in versus.items():
                table.difference(named, auc, measure(other, side, "auc", span), method, rows, name)
    table.cost_ratio(kind)


class _Rows:
    def __init__(self, records: Sequence[Record], of: Mapping[str, str], seed: int, draws: int) -> None:
        self.records, self.of, self.options = records, of, {"seed": seed, "draws": draws}
        self.rows: list[dict[str, Any]] = []

    def mean(
        self,
        metric: str,
        value: Value,
        method: str | None,
        rows: str | None,
        chance: Value | None,
        kind: Kind = "free",
    ) -> None:
        covered = [(r, v) for r in self.records if (v := value(r)) is not None]
        clusters = [r["image_sha256"] for r, _ in covered]
        estimate = mean_by_cluster([v for _, v in covered], clusters, kind=kind, **self.options)
        by_chance = [c for r, _ in covered if chance is not None and (c := chance(r)) is not None]
        expected = sum(by_chance) / len(by_chance) if by_chance else None
        self._keep(metric, estimate, method, rows, expected, None)

    def difference(
        self,
        metric: str,
        value: Value,
        other: Value,
        method: str | None,
        rows: str | None,
        versus: str | None,
        kind: Kind = "free",
    ) -> None:
        both: list[dict[str, float]] = [
            {r["example_id"]: v for r in self.records if (v := read(r)) is not None}
            for read in (value, other)
        ]
        clusters = {r["example_id"]: r["image_sha256"] for r in self.records}
        estimate = paired_difference(both[0], both[1], clusters, kind=kind, **self.options)  # type: ignore[arg-type]
        self._keep(metric, estimate, method, rows, 0.0, versus)

    def cost_ratio(self, kind: str) -> None:
        """Median over examples, so that the first call of anything does not weigh; without an interval, because
        examples of a batch share its time."""
        told = [r["map_seconds"] for r in self.records]
        ratios = [t[kind] / t[REFERENCE] for t in told if kind in t and t.get(REFERENCE)]
        if ratios:
            method, rows = kind.split(":")
            n = len(ratios)
            self._keep("cost_ratio", Estimate(median(ratios), None, None, n, n), method, rows, 1.0, None)

    def _keep(
        self,
        metric: str,
        estimate: Estimate | None,
        method: str | None,
        rows: str | None,
        chance: float | None,
        versus: str | None,
    ) -> None:
        if estimate is not None:
            numbers = {name: getattr(estimate, name) for name in ("value", "ci_low", "ci_high", "n")}
            told = {"metric": metric, "method": method, "rows": rows, "chance": chance, "versus": versus}
            self.rows.append({**self.of, **told, **numbers})


def _column(name: str) -> Value:
    """A yes or no of records whose two masked answers are both known (accuracy on other examples would not pair)."""

    def value(record: Record) -> float | None:
        whole = all(record[column] is not None for column in WITHOUT_MAP)
        return float(record[name]) if whole else None

    return value


def _sanity(method: str, depth: str) -> Value:
    def value(record: Record) -> float | None:
        found = record.get("sanity", {}).get(method, {}).get(depth)
        return None if found is None else float(found)

    return value


def _depths(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Method and depth, in the order in which weights were lost."""
    seen = {(m, d): None for r in records for m, of in r.get("sanity", {}).items() for d in of}
    return list(seen)
