"""What was measured by filling parts of pictures -> the `faithfulness` table, and the same as Markdown.

Here: the shares of cells at which curves are taken, the area under a curve, and which mean, difference and
interval stands in which row. Filling and looking is training/faithfulness.py, intervals are ops/statistics.py.

A record is one example of one policy, as plain JSON: example_id, image_sha256; `curves`: "method:rows" (or
RANDOM) -> {"deletion": {"answer": [...], "completion": [...]}, "insertion": ...}, a change of log-probability in
nats at each of FRACTIONS; correct, correct_evidence_masked, correct_elsewhere_masked; and, for the first examples
only, `sanity`: method -> depth -> rank correlation or None.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
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
RANDOM = "random"
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
        method, rows = kind.split(":")
        for side in SIDES:
            for at in (*map(str, SHOWN), "auc"):
                table.mean(f"{side}_{at}", measure(kind, side, at), method, rows, measure(RANDOM, side, at))
            of_all = (measure(k, side, "auc", "completion") for k in (kind, RANDOM))
            table.mean(f"{side}_auc_completion", next(of_all), method, rows, next(of_all))
            auc = measure(kind, side, "auc")
            table.difference(f"{side}_auc", auc, measure(RANDOM, side, "auc"), method, rows, RANDOM)
            if rows == "predictor" and f"{method}:state" in kinds:
                other = measure(f"{method}:state", side, "auc")
                table.difference(f"{side}_auc", auc, other, method, rows, "state")
    for column in WITHOUT_MAP:
        table.mean(column, _column(column), None, None, None, "rate")
    table.difference(
        "evidence_reliance", _column(WITHOUT_MAP[2]), _column(WITHOUT_MAP[1]), None, None, None, "difference"
    )
    for method, depth in _depths(records):
        table.mean(f"sanity_{depth}", _sanity(method, depth), method, "predictor", lambda record: 0.0)
    return from_rows("faithfulness", table.rows)


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


class Found:
    """Look-up in the rows of one policy's `faithfulness` table."""

    def __init__(self, table: pa.Table) -> None:
        self.rows = table.to_pylist()
        self._by = {(r["metric"], r["method"], r["rows"], r["versus"]): r for r in self.rows}

    def get(
        self, metric: str, method: str | None, rows: str | None, versus: str | None = None
    ) -> dict[str, Any] | None:
        """The row, or None where nothing was measured."""
        return self._by.get((metric, method, rows, versus))

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """(method, rows) that have curves, best deletion first."""
        found = [r for r in self.rows if r["metric"] == "deletion_auc" and r["versus"] is None]
        return [(r["method"], r["rows"]) for r in sorted(found, key=lambda r: r["value"])]


def markdown(table: pa.Table) -> str:
    """The table of one policy as Markdown: curves by method, masks over evidence, maps under lost weights."""
    found = Found(table)
    policy = found.rows[0]["policy_id"] if found.rows else "no policy"
    parts = [f"Faithfulness of maps to `{policy}`", _curves_markdown(found), _rows_verdict(found)]
    parts += [_evidence_markdown(found), _sanity_markdown(found)]
    return "\n\n".join(part for part in parts if part)


def _curves_markdown(found: Found) -> str:
    heads = [f"del {at} %" for at in SHOWN] + ["deletion AUC", "random"]
    heads += [f"ins {at} %" for at in SHOWN] + ["insertion AUC", "random"]
    lines = [f"| method | rows | n | {' | '.join(heads)} |", "|---|---|---:|" + "---:|" * len(heads)]
    for method, rows in found.kinds:
        cells = []
        for side in SIDES:
            cells += [_number(found.get(f"{side}_{at}", method, rows)) for at in SHOWN]
            auc = found.get(f"{side}_auc", method, rows)
            against = found.get(f"{side}_auc", method, rows, RANDOM)
            cells += [f"{_with_interval(auc)}{_mark(against, side)}"]
            cells += [f"{auc['chance']:.2f}" if auc and auc["chance"] is not None else "-"]
        n = (found.get("deletion_auc", method, rows) or {"n": 0})["n"]
        lines.append(f"| {method} | {rows} | {n} | {' | '.join(cells)} |")
    lines.append(
        "\nChange of the answer's log-probability in nats, mean and 95 % interval. Deletion: the strongest cells are "
        "filled, lower is better. Insertion: all others are, higher is better. `*`: clearly better than a random "
        "order of the cells on the same examples, `!`: clearly worse."
    )
    return "\n".join(lines)


def _mark(difference: Mapping[str, Any] | None, side: str) -> str:
    sign = _clear_sign(difference) * (-1 if side == "deletion" else 1)
    return {1: " *", -1: " !", 0: ""}[sign]


def _clear_sign(difference: Mapping[str, Any] | None) -> int:
    """1 or -1 where the interval of a paired difference leaves 0 out, else 0."""
    if difference is None or difference["ci_low"] is None:
        return 0
    return 1 if difference["ci_low"] > 0 else -1 if difference["ci_high"] < 0 else 0


def _rows_verdict(found: Found) -> str:
    lines = []
    for method in sorted({method for method, _ in found.kinds}):
        told = []
        for side in SIDES:
            row = found.get(f"{side}_auc", method, "predictor", "state")
            if row is not None:
                better = _clear_sign(row) * (-1 if side == "deletion" else 1)
                says = {1: "`predictor` is better", -1: "`state` is better", 0: "not told apart"}[better]
                told.append(f"{side} {_with_interval(row, signed=True)} (n {row['n']}), {says}")
        if told:
            lines.append(f"- {method}: {'; '.join(told)}")
    return "Rows `predictor` minus `state`, AUC on the same examples:\n\n" + "\n".join(lines) if lines else ""


def _evidence_markdown(found: Found) -> str:
    names = {
        "correct": "as it is",
        "correct_elsewhere_masked": "masked elsewhere",
        "correct_evidence_masked": "evidence masked",
        "evidence_reliance": "elsewhere minus evidence",
    }
    rows = [(label, found.get(name, None, None)) for name, label in names.items()]
    lines = [f"| {label} | {_with_interval(row)} | {row['n']} |" for label, row in rows if row]
    return "\n".join(["| picture | accuracy | n |", "|---|---:|---:|", *lines]) if lines else ""


def _sanity_markdown(found: Found) -> str:
    depths = list(dict.fromkeys(r["metric"] for r in found.rows if r["metric"].startswith("sanity_")))
    methods = sorted({r["method"] for r in found.rows if r["metric"] in depths})
    if not depths:
        return ""
    names = [depth.removeprefix("sanity_").replace("_", " ") for depth in depths]
    lines = [f"| method | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for method in methods:
        cells = [_number(found.get(depth, method, "predictor")) for depth in depths]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines.append(
        "\nRank correlation with the original map when weights are lost from the head down; 0 is wanted."
    )
    return "\n".join(lines)


def _number(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['value']:.2f}"


def _with_interval(row: Mapping[str, Any] | None, signed: bool = False) -> str:
    if row is None:
        return "-"
    value = f"{row['value']:+.3f}" if signed else f"{row['value']:.2f}"
    if row["ci_low"] is None:
        return value
    digits = 3 if signed else 2
    return f"{value} [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
