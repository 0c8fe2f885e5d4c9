"""The `faithfulness` table of one policy as Markdown: which map is true to it, what that costs, and by how much.

Here: looking up rows, what counts as won, and sentences and tables made of them. What was measured is
ops/faithfulness.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ops.faithfulness import RANDOM, REFERENCE, SHOWN, SIDES, SPANS

Kind = tuple[str, str]
"""Method and rows."""
METHOD, _, ROWS = REFERENCE.partition(":")
SPAN_WORDS = {"completion": "thought and answer", "answer": "the answer alone"}


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
    def kinds(self) -> list[Kind]:
        """(method, rows) that have curves, best first: by the deletion of thought and answer, each against the
        reference (or, without it, against random) on the same examples. The means are of different examples."""
        metric = f"deletion_auc{SPANS['completion']}"
        there = [(r["method"], r["rows"]) for r in self.rows if r["metric"] == metric and r["versus"] is None]
        versus = REFERENCE if (METHOD, ROWS) in there else RANDOM
        differences = [self.get(metric, method, rows, versus) for method, rows in there]
        # The reference has no difference to itself.
        order = {k: d["value"] if d else 0.0 for k, d in zip(there, differences, strict=True)}
        return sorted(there, key=order.__getitem__)


def markdown(table: pa.Table) -> str:
    """The table of one policy as Markdown: verdicts, curves by method, masks over evidence, maps under lost weights."""
    found = Found(table)
    policy = found.rows[0]["policy_id"] if found.rows else "no policy"
    parts = [f"Faithfulness of maps to `{policy}`", _winners(found), _default_rows(found), _verdicts(found)]
    parts += [_areas_markdown(found), _shares_markdown(found), _rows_verdict(found)]
    parts += [_evidence_markdown(found), _sanity_markdown(found)]
    return "\n\n".join(part for part in parts if part)


def _named(kind: Kind) -> str:
    return f"`{kind[0]}`/`{kind[1]}`"


def _outcome(found: Found, kind: Kind, versus: str, span: str) -> tuple[int, ...] | None:
    """Per side 1: clearly better than `versus` on the same examples, -1: clearly worse, 0: not told apart."""
    differences = [found.get(f"{side}_auc{SPANS[span]}", *kind, versus) for side in SIDES]
    if None in differences:
        return None
    return tuple(_better(each, side) for each, side in zip(differences, SIDES, strict=True))


def _winners(found: Found) -> str:
    """Whether any kind of map is better than the reference by both measures; which are by one."""
    reference = _named((METHOD, ROWS))
    lines = []
    for span, words in SPAN_WORDS.items():
        against = {kind: _outcome(found, kind, REFERENCE, span) for kind in found.kinds}
        others = {kind: outcome for kind, outcome in against.items() if outcome is not None}
        if not others:
            continue
        best = [kind for kind, outcome in others.items() if outcome == (1, 1)]
        true = [kind for kind in best if _outcome(found, kind, RANDOM, span) == (1, 1)]
        says = (
            f"better by both, and than random too: {', '.join(_with_cost(found, k) for k in true) or 'none'}"
        )
        says += f" (of {len(others)})"
        if rest := [_named(kind) for kind in best if kind not in true]:
            says += f"; better by both, but not than random: {', '.join(rest)}"
        for i, side in enumerate(SIDES):
            one = [_named(kind) for kind, outcome in others.items() if outcome[i] == 1 and kind not in best]
            says += f"; {side} only: {', '.join(one) or 'none'}"
        itself = _outcome(found, (METHOD, ROWS), RANDOM, span)
        says += f". {reference} itself against random: {_words(itself)}."
        lines.append(f"- By {words}, held against {reference}: {says}")
    return "Which map is the most faithful?\n\n" + "\n".join(lines) if lines else ""


def _with_cost(found: Found, kind: Kind) -> str:
    cost = found.get("cost_ratio", *kind)
    return f"**{_named(kind)}**" + (f" at {cost['value']:.2f} times the cost" if cost else "")


def _default_rows(found: Found) -> str:
    """Which rows `cot_rollout`, the default method, should read, as measured."""
    outcome = _outcome(found, (METHOD, ROWS), "state", "completion")
    if outcome is None:
        return ""
    won, lost = 1 in outcome, -1 in outcome
    name = "state" if lost and not won else ROWS
    if won and lost:
        why = "deletion and insertion disagree, and the paper reads these"
    else:
        why = (
            f"`{METHOD}` is the more faithful with them"
            if won or lost
            else "neither is clearly better, and the paper reads these"
        )
    measured = []
    for side in SIDES:
        row = found.get(f"{side}_auc{SPANS['completion']}", METHOD, ROWS, "state")
        n = row["n"] if row else 0
        measured.append(
            f"{side} {_with_interval(row, signed=True)} (n {n}), {_rows_words(_better(row, side))}"
        )
    return (
        f"The default rows: `{name}`, because {why} (`predictor` minus `state`, thought and answer: "
        f"{'; '.join(measured)})."
    )


def _verdicts(found: Found) -> str:
    reference = _named((METHOD, ROWS))
    heads = f"against random | against {reference} | deletion minus its | insertion minus its | n | cost"
    lines = [f"| method | rows | {heads} |", "|---|---|---|---|---:|---:|---:|---:|"]
    for method, rows in found.kinds:
        random = _outcome(found, (method, rows), RANDOM, "completion")
        other = _outcome(found, (method, rows), REFERENCE, "completion")
        names = [f"{side}_auc{SPANS['completion']}" for side in SIDES]
        differences = [found.get(name, method, rows, REFERENCE) for name in names]
        minus = [_with_interval(each, signed=True) for each in differences]
        minus.append(str(differences[0]["n"]) if differences[0] else "-")
        cost = _number(found.get("cost_ratio", method, rows))
        lines.append(
            f"| {method} | {rows} | {_words(random)} | {_words(other)} | {' | '.join(minus)} | {cost} |"
        )
    lines.append(
        "\nBy the areas under the curves of thought and answer, on the same examples; won or lost where the 95 % "
        "interval of the difference leaves 0 out (of many comparisons, one in twenty does so by chance). Deletion: "
        f"lower is better, insertion: higher is. Cost: processor time of making such a map over that of {reference}; "
        "the pass that all share is not counted."
    )
    return "\n".join(lines)


def _words(outcome: Sequence[int] | None) -> str:
    if outcome is None:
        return "-"
    says = {1: "wins", -1: "loses", 0: "not told apart"}
    if outcome[0] == outcome[1]:
        return f"{says[outcome[0]]} both" if outcome[0] else says[0]
    return ", ".join(
        f"{side} {says[each]}" if not each else f"{says[each]} {side}"
        for each, side in zip(outcome, SIDES, strict=True)
    )


def _areas_markdown(found: Found) -> str:
    """Areas of thought and answer, then of the answer alone, each beside a random order's."""
    heads = [f"{side} AUC{of} | random" for of in ("", ", answer") for side in SIDES]
    lines = [f"| method | rows | n | {' | '.join(heads)} |", "|---|---|---:|" + "---:|" * (2 * len(heads))]
    for method, rows in found.kinds:
        cells, n = [], 0
        for span, suffix in SPANS.items():
            digits = 2 if span == "completion" else 3
            for side in SIDES:
                auc = found.get(f"{side}_auc{suffix}", method, rows)
                against = found.get(f"{side}_auc{suffix}", method, rows, RANDOM)
                cells.append(_with_interval(auc, digits=digits) + _mark(against, side))
                cells.append(f"{auc['chance']:.{digits}f}" if auc and auc["chance"] is not None else "-")
                n = auc["n"] if auc else n
        lines.append(f"| {method} | {rows} | {n} | {' | '.join(cells)} |")
    lines.append(
        "\nChange of the log-probability of thought and answer, or of the answer alone, in nats, mean and 95 % "
        "interval. Deletion: the strongest cells are filled, lower is better. Insertion: all others are, higher is "
        "better. `*`: clearly better than a random order of the cells on the same examples, `!`: clearly worse. "
        "Means with another n are of other examples: compare kinds by the differences above."
    )
    return "\n".join(lines)


def _shares_markdown(found: Found) -> str:
    """A table for each span: the change at shares of the cells, and that of a random order."""
    names = [(side, at) for side in SIDES for at in SHOWN]
    heads = " | ".join(f"{side} {at} %" for side, at in names)
    parts = []
    for span, suffix in SPANS.items():
        lines = [f"| method | rows | {heads} |", "|---|---|" + "---:|" * len(names)]
        for method, rows in found.kinds:
            of_kind = [found.get(f"{side}_{at}{suffix}", method, rows) for side, at in names]
            cells = [f"{_number(row, 3)} ({row['chance']:.3f})" if row else "-" for row in of_kind]
            lines.append(f"| {method} | {rows} | {' | '.join(cells)} |")
        of = "the answer alone" if span == "answer" else "thought and answer"
        lines.append(f"\nThe same at shares of the cells, of {of}; in brackets a random order of the cells.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _mark(difference: Mapping[str, Any] | None, side: str) -> str:
    return {1: " *", -1: " !", 0: ""}[_better(difference, side)]


def _better(difference: Mapping[str, Any] | None, side: str) -> int:
    """1: clearly better, -1: clearly worse, 0: not told apart."""
    return _clear_sign(difference) * (-1 if side == "deletion" else 1)


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
            row = found.get(f"{side}_auc{SPANS['completion']}", method, "predictor", "state")
            if row is not None:
                says = _rows_words(_better(row, side))
                told.append(f"{side} {_with_interval(row, signed=True)} (n {row['n']}), {says}")
        if told:
            lines.append(f"- {method}: {'; '.join(told)}")
    head = "Rows `predictor` minus `state`, AUC of thought and answer on the same examples:\n\n"
    return head + "\n".join(lines) if lines else ""


def _rows_words(better: int) -> str:
    return {1: "`predictor` is better", -1: "`state` is better", 0: "not told apart"}[better]


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
    lines = [f"| method | n | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for method in methods:
        of_depth = [found.get(depth, method, "predictor") for depth in depths]
        n = [row["n"] for row in of_depth if row]
        examples = f"{min(n)} to {max(n)}" if min(n) < max(n) else f"{n[0]}"
        cells = [_with_interval(row) for row in of_depth]
        lines.append(f"| {method} | {examples} | {' | '.join(cells)} |")
    lines.append(
        "\nRank correlation with the original map when weights are lost from the head down, mean and 95 % interval "
        "over the n examples that have both maps; 0 is wanted."
    )
    return "\n".join(lines)


def _number(row: Mapping[str, Any] | None, digits: int = 2) -> str:
    return "-" if row is None else f"{row['value']:.{digits}f}"


def _with_interval(row: Mapping[str, Any] | None, signed: bool = False, digits: int = 2) -> str:
    if row is None:
        return "-"
    digits = 3 if signed else digits
    value = f"{row['value']:{'+' if signed else ''}.{digits}f}"
    if row["ci_low"] is None:
        return value
    return f"{value} [{row['ci_low']:.{digits}f}, {row['ci_high']:.{digits}f}]"
