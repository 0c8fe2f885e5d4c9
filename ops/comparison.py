"""Predictions of several policies -> the `evaluations` table: each metric with interval, n and chance.

What a metric is, what chance would give and which subsets are looked at belong here. How an interval is made
is in ops/statistics.py, who wins in ops/champion.py, how it looks in ops/report.py.

Chance of accuracy is the majority-answer rate: for each question kind, the share of the commonest answer
among the answers of the train split, averaged over the examples in question. It is what a policy gets that
knows the questions and never looks at a picture.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ops.statistics import DRAWS, Estimate, Kind, group_difference, mean_by_cluster, paired_difference
from storage.measured import was_measured
from storage.schema import TABLES

Row = dict[str, Any]
BASE, COLD_START, ACCURACY = "base", "cold_start", "accuracy"


class ComparisonError(ValueError):
    """Predictions that cannot be compared; the message lists every reason."""


@dataclass(frozen=True)
class Metric:
    """One number per prediction: where it comes from, its range and what chance gives.

    value and chance return None for a row that the metric does not cover.
    kind: "rate" for values in [0, 1], "difference" for [-1, 1], "free" for others (see ops.statistics).
    intervenes: the map is tested by changing the picture, so that a map cannot be trained to flatter.
    """

    name: str
    label: str
    definition: str
    chance_is: str
    value: Callable[[Row], float | None]
    chance: Callable[[Row], float | None]
    kind: Kind = "rate"
    reads_map: bool = True
    intervenes: bool = False


def _column(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else float(row[name])


def _reliance(row: Row) -> float | None:
    elsewhere, evidence = row["correct_elsewhere_masked"], row["correct_evidence_masked"]
    return None if elsewhere is None or evidence is None else float(elsewhere) - float(evidence)


METRICS = (
    Metric(
        "accuracy",
        "Accuracy",
        "share of questions whose answer the scorer of their answer type accepts",
        "the commonest training answer of the same question kind",
        _column("correct"),
        _column("majority_rate"),
        reads_map=False,
    ),
    Metric(
        "format_valid",
        "Format",
        "share of completions with one thought and one answer in the wanted form",
        "0: the form does not come about by itself",
        _column("format_valid"),
        lambda row: 0.0,
        reads_map=False,
    ),
    Metric(
        "evidence_reliance",
        "Evidence reliance",
        "accuracy with cells beside the evidence filled minus accuracy with as many cells of the evidence filled",
        "0: the evidence is worth no more than any other place",
        _reliance,
        lambda row: 0.0,
        kind="difference",
        reads_map=False,
    ),
    Metric(
        "deletion",
        "Deletion",
        "mean change of the log-probability of thought and answer (nats) while cells are filled with the picture's "
        "mean colour, the map's strongest first; lower is better",
        "the same in a random order of the cells",
        _column("deletion_auc"),
        _column("random_deletion_auc"),
        kind="free",
        intervenes=True,
    ),
    Metric(
        "insertion",
        "Insertion",
        "mean change of the log-probability of thought and answer (nats) while only the map's strongest cells are "
        "kept, more and more of them; higher is better",
        "the same in a random order of the cells",
        _column("insertion_auc"),
        _column("random_insertion_auc"),
        kind="free",
        intervenes=True,
    ),
    Metric(
        "map_scorable",
        "Scorable maps",
        "share of completions that have a map which can be held against the evidence boxes",
        "0: a completion without thought or answer has no map",
        lambda row: float(row["unscorable_reason"] is None),
        lambda row: 0.0,
    ),
    Metric(
        "mass",
        "Mass in evidence",
        "share of the map that lies inside the union of the evidence boxes",
        "the evidence's share of the picture's area: an even map",
        _column("mass"),
        _column("chance"),
    ),
    Metric(
        "lift",
        "Lift",
        "(mass - chance) / (1 - chance): 0 is an even map, 1 lies wholly inside the evidence",
        "0: an even map",
        _column("lift"),
        lambda row: 0.0,
        kind="free",
    ),
    Metric(
        "pointing",
        "Pointing game",
        "share of maps whose highest cell lies on the evidence",
        "the share of cells that would count as a hit",
        _column("pointing_hit"),
        _column("pointing_chance"),
    ),
    Metric(
        "auroc",
        "AUROC",
        "probability that a cell of the evidence ranks above a cell outside it",
        "0.5: a random order",
        _column("auroc"),
        lambda row: 0.5,
    ),
    Metric(
        "ap",
        "Average precision",
        "area under the precision-recall curve of the cells, ranked by the map",
        "the mean over the map's own values shuffled among the cells",
        _column("ap"),
        _column("ap_chance"),
    ),
    Metric(
        "iou",
        "IoU, equal area",
        "overlap of the evidence with the map's top cells of the same total area",
        "the mean over random cells of the same total area",
        _column("iou_area"),
        _column("iou_chance"),
    ),
    Metric(
        "entropy",
        "Map entropy",
        "entropy of the map divided by that of an even map; low is concentrated, neither is better",
        "1: an even map",
        _column("entropy"),
        lambda row: 1.0,
    ),
)
METRIC = {metric.name: metric for metric in METRICS}


def policy_order(names: Iterable[str]) -> list[str]:
    """base, cold_start, accuracy, then the other recipes by name."""
    first = {BASE: 0, COLD_START: 1, ACCURACY: 2}
    return sorted(set(names), key=lambda name: (first.get(name, 3), name))


def named(policy: str) -> str:
    """A policy in a sentence: its name alone may read like a word, as in "accuracy"."""
    return {BASE: "the base policy", COLD_START: "the cold start"}.get(policy, f"recipe {policy}")


def references_of(policy: str, policies: Sequence[str]) -> list[str]:
    """Whom a policy is held against: cold start against base, recipes against cold start and `accuracy`."""
    wanted = {BASE: [], COLD_START: [BASE], ACCURACY: [COLD_START]}.get(policy, [COLD_START, ACCURACY])
    return [name for name in wanted if name in policies]


def compare(
    predictions: pa.Table, examples: pa.Table, splits: pa.Table, *, seed: int = 0, draws: int = DRAWS
) -> pa.Table:
    """Rows of `evaluations` for all policies in `predictions` (tables of storage.schema).

    examples and splits: of all sources, train included (chance of accuracy needs its answers).
    Plain rows carry `versus` = None; paired differences name the policy subtracted, and their chance is 0.
    Metric `accuracy_gap` is accuracy under control minus accuracy under conflict of a marked slice.
    Raises ComparisonError for answers to unknown examples and for two answers of a policy to one example.
    """
    by_policy = gather(predictions, examples, splits)
    policies = policy_order(by_policy)
    out: list[Row] = []
    for policy in policies:
        for subset, rows in _subsets(by_policy[policy].values()).items():
            out += _plain(policy, subset, rows, seed, draws)
            for reference in references_of(policy, policies):
                out += _paired(policy, subset, rows, reference, by_policy[reference], seed, draws)
        out += _gaps(policy, list(by_policy[policy].values()), seed, draws)
    return pa.Table.from_pylist(out, schema=TABLES["evaluations"])


def gather(predictions: pa.Table, examples: pa.Table, splits: pa.Table) -> dict[str, dict[str, Row]]:
    """policy -> example_id -> one row: the prediction, its example's columns and `majority_rate`.

    Examples that were not measured, whose picture cannot be read, are left out: they are neither right nor wrong.
    """
    rates = majority_rates(examples, splits)
    overall = rates.get(None)
    wanted = set(predictions["example_id"].to_pylist())
    columns = ["example_id", "source", "question_kind", "slice", "condition"]
    known = {
        row["example_id"]: row for row in examples.select(columns).to_pylist() if row["example_id"] in wanted
    }
    problems = [f"example {e}: answered, but not in the examples table" for e in sorted(wanted - set(known))]
    by_policy: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in predictions.filter(was_measured(predictions)).to_pylist():
        answers = by_policy[row["policy"]]
        if row["example_id"] in answers:
            problems.append(f"policy {row['policy']}: two answers to example {row['example_id']}; wanted one")
        elif row["example_id"] in known:
            example = known[row["example_id"]]
            rate = rates.get(example["question_kind"], overall)
            answers[row["example_id"]] = {**row, **example, "majority_rate": rate}
    if problems:
        raise ComparisonError(
            "predictions cannot be compared:\n" + "\n".join(f"  - {p}" for p in problems[:20])
        )
    return dict(by_policy)


def majority_rates(examples: pa.Table, splits: pa.Table) -> dict[str | None, float]:
    """Question kind -> share of its commonest answer among train answers; key None: over all kinds together.

    Empty when nothing is in the train split. Answers are compared stripped and in lower case.
    """
    train = {
        r["example_id"] for r in splits.select(["example_id", "split"]).to_pylist() if r["split"] == "train"
    }
    counts: dict[str | None, Counter[str]] = defaultdict(Counter)
    for row in examples.select(["example_id", "question_kind", "answer"]).to_pylist():
        if row["example_id"] in train:
            answer = row["answer"].strip().lower()
            counts[None][answer] += 1
            if row["question_kind"] is not None:
                counts[row["question_kind"]][answer] += 1
    return {kind: max(answers.values()) / answers.total() for kind, answers in counts.items()}


def _subsets(rows: Iterable[Row]) -> dict[str, list[Row]]:
    subsets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        subsets["all"].append(row)
        subsets[f"source={row['source']}"].append(row)
        if row["question_kind"] is not None:
            subsets[f"kind={row['question_kind']}"].append(row)
        if row["slice"] is not None and row["condition"] is not None:
            subsets[f"{row['slice']}={row['condition']}"].append(row)
    return {name: subsets[name] for name in sorted(subsets, key=lambda name: (name != "all", name))}


def _plain(policy: str, subset: str, rows: list[Row], seed: int, draws: int) -> list[Row]:
    out = []
    for metric in METRICS:
        covered = [(row, value) for row in rows if (value := metric.value(row)) is not None]
        estimate = mean_by_cluster(
            [value for _, value in covered],
            [row["image_sha256"] for row, _ in covered],
            seed=seed,
            kind=metric.kind,
            draws=draws,
        )
        if estimate is not None:
            chances = [chance for row, _ in covered if (chance := metric.chance(row)) is not None]
            chance = sum(chances) / len(chances) if chances else None
            out.append(_row(rows[0]["policy_id"], policy, metric.name, subset, estimate, chance))
    return out


def _paired(
    policy: str,
    subset: str,
    rows: list[Row],
    reference: str,
    reference_rows: Mapping[str, Row],
    seed: int,
    draws: int,
) -> list[Row]:
    out = []
    for metric in METRICS:
        estimate = paired(rows, reference_rows, metric, seed=seed, draws=draws)
        if estimate is not None:
            out.append(_row(rows[0]["policy_id"], policy, metric.name, subset, estimate, 0.0, reference))
    return out


def paired(
    rows: Iterable[Row], reference_rows: Mapping[str, Row], metric: Metric, *, seed: int, draws: int = DRAWS
) -> Estimate | None:
    """Mean difference of a metric over the examples that both policies have it for."""
    mine: dict[Any, float] = {}
    theirs: dict[Any, float] = {}
    cluster_of = {}
    for row in rows:
        other = reference_rows.get(row["example_id"])
        a, b = metric.value(row), None if other is None else metric.value(other)
        if a is not None and b is not None:
            mine[row["example_id"]], theirs[row["example_id"]] = a, b
            cluster_of[row["example_id"]] = row["image_sha256"]
    # The difference of two differences may reach 2: it has no range to fall back on.
    kind: Kind = "difference" if metric.kind == "rate" else "free"
    return paired_difference(mine, theirs, cluster_of, seed=seed, kind=kind, draws=draws)


def _gaps(policy: str, rows: list[Row], seed: int, draws: int) -> list[Row]:
    """Accuracy under control minus under conflict, for each marked slice."""
    out = []
    for name in sorted({row["slice"] for row in rows if row["slice"] is not None}):
        sides: dict[str, tuple[list[float], list[str]]] = {"control": ([], []), "conflict": ([], [])}
        for row in rows:
            if row["slice"] == name and row["condition"] in sides:
                sides[row["condition"]][0].append(float(row["correct"]))
                sides[row["condition"]][1].append(row["image_sha256"])
        estimate = group_difference(sides["control"], sides["conflict"], seed=seed, draws=draws)
        if estimate is not None:
            out.append(_row(rows[0]["policy_id"], policy, "accuracy_gap", name, estimate, 0.0))
    return out


def _row(
    policy_id: str,
    policy: str,
    metric: str,
    subset: str,
    estimate: Estimate,
    chance: float | None,
    versus: str | None = None,
) -> Row:
    return {
        "policy_id": policy_id,
        "policy": policy,
        "metric": metric,
        "subset": subset,
        "value": estimate.value,
        "ci_low": estimate.ci_low,
        "ci_high": estimate.ci_high,
        "n": estimate.n,
        "chance": chance,
        "versus": versus,
    }
