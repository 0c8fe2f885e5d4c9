"""Sentences of the report that are computed from the `evaluations` table: the headline and what supports it.

A difference is called one only if its interval leaves 0 out; otherwise the sentence says that there is none
to be seen. How a number is measured is ops/comparison.py; the page is ops/report.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ops.comparison import ACCURACY, COLD_START, named
from ops.gallery import focus_of

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """The headline and one sentence with the intervals behind it."""

    headline: str
    support: tuple[str, ...]


class Evaluations:
    """Look-up in the rows of `evaluations`: by policy, metric, subset and versus."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {(r["policy"], r["metric"], r["subset"], r["versus"]): r for r in rows}
        self.policies = list(dict.fromkeys(r["policy"] for r in rows))
        self.subsets = list(dict.fromkeys(r["subset"] for r in rows))

    def get(self, policy: str, metric: str, subset: str = "all", versus: str | None = None) -> Row | None:
        """The row, or None where nothing was measured."""
        return self._rows.get((policy, metric, subset, versus))


def verdict(row: Row | None) -> str:
    """What a paired difference shows: "up", "down", "same" (nothing to be seen) or "none" (not measured)."""
    if row is None or row["ci_low"] is None or row["ci_high"] is None:
        return "none"
    if row["ci_low"] > 0:
        return "up"
    return "down" if row["ci_high"] < 0 else "same"


def finding(evaluations: Evaluations) -> Finding:
    """The headline, and a sentence for each number in it with interval and n."""
    focus = focus_of(evaluations.policies)
    if focus is None or evaluations.get(focus, "accuracy", "all", COLD_START) is None:
        return _plain_finding(evaluations)
    mine = evaluations.get(focus, "accuracy")
    theirs = evaluations.get(COLD_START, "accuracy")
    if mine is None or theirs is None:
        return _plain_finding(evaluations)
    accuracy = evaluations.get(focus, "accuracy", "all", COLD_START)
    rival = ACCURACY if ACCURACY in evaluations.policies and focus != ACCURACY else COLD_START
    lift = evaluations.get(focus, "lift", "all", rival)
    subject = "the saliency reward" if focus == "saliency_r1" else f"the recipe {focus}"
    first = {
        "up": f"Training with {subject} raised accuracy from {_pc(theirs)} to {_pc(mine)}",
        "down": f"Training with {subject} lowered accuracy from {_pc(theirs)} to {_pc(mine)}",
        "same": f"Training with {subject} did not clearly change accuracy ({_pc(mine)} after {_pc(theirs)})",
        "none": f"Training with {subject} ended at an accuracy of {_pc(mine)} after {_pc(theirs)}",
    }[verdict(accuracy)]
    rival_words = "training on accuracy alone" if rival == ACCURACY else "the cold start"
    good = verdict(accuracy) == "up"
    second = {
        "up": f"{'and' if good else 'but'} put more of the map on the evidence than {rival_words} did",
        "down": f"{'but' if good else 'and'} put less of the map on the evidence than {rival_words} did",
        "same": f"{'but' if good else 'and'} moved the map no closer to the evidence than {rival_words} did",
        "none": "",
    }[verdict(lift)]
    headline = f"{first}, {second}." if second else f"{first}."
    support = [
        _support("Accuracy", focus, COLD_START, accuracy, points=True),
        _support("Lift", focus, rival, lift, points=False),
        _conflict_sentence(evaluations, focus),
    ]
    return Finding(headline, tuple(sentence for sentence in support if sentence))


def _plain_finding(evaluations: Evaluations) -> Finding:
    """Without a recipe and a cold start to compare: what each policy scored."""
    parts = []
    for policy in evaluations.policies:
        row = evaluations.get(policy, "accuracy")
        if row is not None:
            parts.append(f"{policy} answers {_pc(row)} of {row['n']:,} held-out questions")
    return Finding(("; ".join(parts) + ".") if parts else "No policy has been evaluated yet.", ())


def _conflict_sentence(evaluations: Evaluations, focus: str) -> str:
    difference = evaluations.get(focus, "accuracy", "prior_conflict=conflict", COLD_START)
    what = "Accuracy where picture and expectation disagree"
    return _support(what, focus, COLD_START, difference, points=True)


def _support(what: str, policy: str, versus: str, row: Row | None, *, points: bool) -> str:
    if row is None:
        return ""
    unit = " points" if points else ""

    def show(value: float) -> str:
        return (f"{100 * value:+.1f}" if points else f"{value:+.3f}").replace("-", "\N{MINUS SIGN}")

    if row["ci_low"] is None:
        interval = "one picture only, so no interval"
    else:
        interval = f"95\N{NO-BREAK SPACE}% CI {show(row['ci_low'])} to {show(row['ci_high'])}"
    doubt = ", which may be chance" if verdict(row) in ("same", "none") else ""
    return (
        f"{what}, {named(policy)} against {named(versus)} on the same {row['n']:,} questions: "
        f"{show(row['value'])}{unit} ({interval}){doubt}."
    )


def _pc(row: Row) -> str:
    return f"{100 * row['value']:.0f}\N{NO-BREAK SPACE}%"
