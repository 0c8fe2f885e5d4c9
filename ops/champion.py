"""The stated rule that names the champion among the trained policies, and the record of the decision.

Only measures that do not read the saliency map count: a map can be trained to flatter. Estimates come from
ops/statistics.py, rows from ops/comparison.py; nothing is stored or drawn here.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ops.comparison import COLD_START, METRIC, Row, gather, named, paired
from ops.statistics import DRAWS, Estimate, mean_by_cluster

RULE = (
    "Candidates are the cold start and the recipes trained from it. "
    "1. Out is whoever answers clearly fewer questions than the cold start. "
    "2. Of the rest, the highest accuracy leads; whoever is clearly below the leader is out. "
    "3. Among those left, the same again on the questions where picture and expectation disagree. "
    "4. Among those still left, the same by evidence reliance: accuracy with other places masked minus accuracy "
    "with the evidence masked. "
    "5. Among those still left the simplest wins: fewest training signals (rewards, or a map as loss), "
    "the cold start having none. "
    "Clearly below means that the 95 % interval of the paired difference on the same questions, "
    "resampled by picture, lies wholly below 0. No measure of the saliency map takes part."
)
CONFLICT = ("prior_conflict", "conflict")


class ChampionError(ValueError):
    """No decision can be made; the message says what is missing."""


def decide(
    predictions: pa.Table,
    examples: pa.Table,
    splits: pa.Table,
    rewards_of: Mapping[str, int],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """The decision as a JSON-able dict: champion, runner_up, why, rule, steps with numbers, candidates.

    rewards_of: candidate -> number of rewards and losses it was trained with (cold_start: 0). Base is no candidate.
    Raises ChampionError when cold_start or every recipe is missing from predictions or from rewards_of.
    """
    by_policy = gather(predictions, examples, splits)
    names = [name for name in rewards_of if name in by_policy]
    if COLD_START not in names or len(names) < 2:
        raise ChampionError(
            f"saw predictions of {sorted(by_policy)} and rewards of {sorted(rewards_of)}; wanted cold_start "
            "and at least one recipe in both: evaluate the missing policies first"
        )
    names = sorted(names, key=lambda name: (rewards_of[name], name))
    rows = {name: by_policy[name] for name in names}
    conflict = {name: _conflict_rows(each) for name, each in rows.items()}
    options: dict[str, Any] = {"seed": seed, "draws": draws}

    eligible, step_1 = _not_below(names, COLD_START, rows, **options)
    steps = [{"step": "eligible", "measure": "accuracy", **step_1}]
    entered = eligible  # whoever took part in the latest step
    left, step_2 = _leading(eligible, rows, **options)
    steps.append({"step": "accuracy", "measure": "accuracy", **step_2})
    if len(left) > 1 and all(conflict[name] for name in left):
        entered = left
        left, step_3 = _leading(left, conflict, **options)
        steps.append({"step": "conflict", "measure": "accuracy under conflict", **step_3})
    relying = {name: _reliance_rows(each) for name, each in rows.items()}
    if len(left) > 1 and all(relying[name] for name in left):
        entered = left
        left, step_4 = _leading(left, relying, metric="evidence_reliance", **options)
        steps.append({"step": "reliance", "measure": "evidence reliance", **step_4})
    champion = left[0]  # names are in order of simplicity
    if len(left) > 1:
        entered = left
        steps.append(
            {"step": "simplest", "measure": "number of training signals", "kept": [champion], "compared": []}
        )
    runner_up = _runner_up(champion, entered, rows)
    return {
        "champion": champion,
        "policy_id": next(iter(rows[champion].values()))["policy_id"],
        "runner_up": runner_up,
        "decided_by": steps[-1]["step"],
        "why": _why(champion, runner_up, steps, rows, conflict, relying, rewards_of, options),
        "rule": RULE,
        "steps": steps,
        "candidates": [_candidate(name, rows, conflict, rewards_of, options) for name in names],
        "seed": seed,
    }


def _conflict_rows(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {key: row for key, row in rows.items() if (row["slice"], row["condition"]) == CONFLICT}


def _reliance_rows(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {key: row for key, row in rows.items() if METRIC["evidence_reliance"].value(row) is not None}


def _not_below(
    names: list[str],
    leader: str,
    rows: Mapping[str, Mapping[str, Row]],
    seed: int,
    draws: int,
    metric: str = "accuracy",
) -> tuple[list[str], dict[str, Any]]:
    """Names that are not clearly below the leader, and the numbers."""
    kept, compared = [], []
    for name in names:
        if name == leader:
            kept.append(name)
            continue
        difference = paired(rows[name].values(), rows[leader], METRIC[metric], seed=seed, draws=draws)
        below = difference is not None and difference.value < 0 and difference.excludes(0.0)
        kept += [] if below else [name]
        compared.append({"policy": name, "versus": leader, **_numbers(difference), "out": below})
    return kept, {"leader": leader, "kept": kept, "compared": compared}


def _leading(
    names: list[str],
    rows: Mapping[str, Mapping[str, Row]],
    seed: int,
    draws: int,
    metric: str = "accuracy",
) -> tuple[list[str], dict[str, Any]]:
    leader = max(
        names, key=lambda name: _mean(rows[name], metric)
    )  # the simpler one on equality: names are in order
    return _not_below(names, leader, rows, seed, draws, metric)


def _mean(rows: Mapping[str, Row], metric: str) -> float:
    values = [v for row in rows.values() if (v := METRIC[metric].value(row)) is not None]
    return sum(values) / len(values)


def _accuracy(rows: Mapping[str, Row]) -> float:
    return _mean(rows, "accuracy")


def _estimate(rows: Mapping[str, Row], seed: int, draws: int) -> Estimate | None:
    values = [float(row["correct"]) for row in rows.values()]
    clusters = [row["image_sha256"] for row in rows.values()]
    return mean_by_cluster(values, clusters, seed=seed, kind="rate", draws=draws)


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"value": None, "ci_low": None, "ci_high": None, "n": 0}
    return {"value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high, "n": estimate.n}


def _candidate(
    name: str,
    rows: Mapping[str, Mapping[str, Row]],
    conflict: Mapping[str, Mapping[str, Row]],
    rewards_of: Mapping[str, int],
    options: Mapping[str, int],
) -> dict[str, Any]:
    return {
        "policy": name,
        "n_rewards": rewards_of[name],
        "accuracy": _measured(rows[name], options),
        "accuracy_under_conflict": _measured(conflict[name], options),
    }


def _measured(rows: Mapping[str, Row], options: Mapping[str, int]) -> dict[str, Any]:
    chances = [row["majority_rate"] for row in rows.values() if row["majority_rate"] is not None]
    chance = sum(chances) / len(chances) if chances else None
    return {**_numbers(_estimate(rows, **options)), "chance": chance}


def _runner_up(champion: str, entered: list[str], rows: Mapping[str, Mapping[str, Row]]) -> str | None:
    """The most accurate of the others that entered the deciding step; None when all others were out before it."""
    others = [name for name in entered if name != champion]
    return max(others, key=lambda name: _accuracy(rows[name])) if others else None


def _why(
    champion: str,
    runner_up: str | None,
    steps: list[dict[str, Any]],
    rows: Mapping[str, Mapping[str, Row]],
    conflict: Mapping[str, Mapping[str, Row]],
    relying: Mapping[str, Mapping[str, Row]],
    rewards_of: Mapping[str, int],
    options: Mapping[str, int],
) -> str:
    if runner_up is None:
        return f"All others answer clearly fewer questions than the cold start; {named(champion)} is left."
    first, second = named(champion), named(runner_up)
    overall = paired(rows[champion].values(), rows[runner_up], METRIC["accuracy"], **options)
    decided_by = steps[-1]["step"]
    if decided_by == "accuracy":
        return f"More questions are answered by {first} than by {second}: {_signed(overall)}."
    if decided_by == "conflict":
        under = paired(conflict[champion].values(), conflict[runner_up], METRIC["accuracy"], **options)
        return (
            f"Accuracy does not tell {first} from {second}: {_signed(overall)}. Where picture and "
            f"expectation disagree, {first} is clearly ahead: {_signed(under)}."
        )
    if any(step["step"] == "conflict" for step in steps):
        under = paired(conflict[champion].values(), conflict[runner_up], METRIC["accuracy"], **options)
        nor = f"Nor does accuracy where picture and expectation disagree: {_signed(under)}."
    else:
        nor = "No questions are marked on which picture and expectation disagree."
    if any(step["step"] == "reliance" for step in steps):
        metric = METRIC["evidence_reliance"]
        reliance = _signed(paired(relying[champion].values(), relying[runner_up], metric, **options))
        if decided_by == "reliance":
            return (
                f"Accuracy does not tell {first} from {second}: {_signed(overall)}. {nor} But {first} relies "
                f"more on the evidence: {reliance}."
            )
        nor += f" Nor does reliance on the evidence: {reliance}."
    return (
        f"Accuracy does not tell {first} from {second}: {_signed(overall)}. {nor} So the simpler wins: "
        f"{rewards_of[champion]} training signals against {rewards_of[runner_up]}."
    )


def _signed(estimate: Estimate | None) -> str:
    if estimate is None or estimate.ci_low is None or estimate.ci_high is None:
        return "no paired difference"
    value, low, high = (
        f"{100 * v:+.1f}".replace("-", "\N{MINUS SIGN}")
        for v in (estimate.value, estimate.ci_low, estimate.ci_high)
    )
    return f"{value} points (95\N{NO-BREAK SPACE}% CI {low} to {high}, n\N{NO-BREAK SPACE}{estimate.n:,})"
