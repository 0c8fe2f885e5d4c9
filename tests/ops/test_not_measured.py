"""Answers that were never given, because a picture cannot be read: in no score, in no gallery, and named."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from ops import gallery
from ops.champion import decide
from ops.comparison import compare
from ops.report import render
from ops.report_tables import not_measured
from storage.schema import TABLES
from tests.ops.synthetic_evidence import make
from tests.ops.test_report import inputs_of

IDENTITY = ("policy_id", "policy", "example_id", "image_sha256")


@pytest.fixture(scope="module")
def evidence():
    return make(seed=3, n_pictures=45)


def broken(predictions: pa.Table, n: int) -> tuple[pa.Table, set[str]]:
    """The answers with those to the first `n` wrong examples of `base` taken away from every policy."""
    rows = predictions.to_pylist()
    wrong = {row["example_id"] for row in rows if row["policy"] == "base" and not row["correct"]}
    lost = set(sorted(wrong)[:n])
    return without(predictions, lambda row: row["example_id"] in lost), lost


def without(predictions: pa.Table, is_lost: Callable[[dict[str, Any]], bool]) -> pa.Table:
    """The same rows, some of them as of examples whose pictures cannot be read."""
    rows = [
        {name: row[name] for name in IDENTITY} | {"unscorable_reason": "undecodable_picture"}
        if is_lost(row)
        else row
        for row in predictions.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=TABLES["predictions"])


def accuracies(table: pa.Table) -> dict[str, tuple[float, int]]:
    return {
        row["policy"]: (row["value"], row["n"])
        for row in table.to_pylist()
        if (row["metric"], row["subset"], row["versus"]) == ("accuracy", "all", None)
    }


def test_scores_are_those_of_the_answers_that_were_given(evidence):
    predictions, lost = broken(evidence.predictions, 4)
    given = predictions.filter(predictions["correct"].is_valid())
    with_them, without_them = (
        compare(table, evidence.examples, evidence.splits, draws=50) for table in (predictions, given)
    )
    assert with_them.equals(without_them)
    before = accuracies(compare(evidence.predictions, evidence.examples, evidence.splits, draws=50))["base"]
    # 4 wrong answers less: as many right ones among 4 fewer
    n = before[1] - 4
    assert accuracies(with_them)["base"] == (pytest.approx(before[0] * before[1] / n), n)
    rewards = {"cold_start": 0, "accuracy": 2, "saliency_r1": 3}
    decisions = [
        decide(t, evidence.examples, evidence.splits, rewards, draws=50) for t in (predictions, given)
    ]
    assert decisions[0] == decisions[1]
    assert len(lost) == 4


def test_the_gallery_shows_none_of_them_and_the_page_names_them(evidence):
    predictions, lost = broken(evidence.predictions, 4)
    shown = [e for group in gallery.choose(predictions, evidence.examples, 1) for e in group.example_ids]
    assert shown and not set(shown) & lost
    told = not_measured(predictions)
    policies = sorted(set(predictions["policy"].to_pylist()))
    assert told == [
        {"policy": name, "reason": "undecodable_picture", "n": 4, "first": min(lost)} for name in policies
    ]
    page = render(inputs_of(dataclasses.replace(evidence, predictions=predictions))).decode()
    assert "Held-out examples that were not measured" in page and min(lost) in page
    assert "undecodable picture" in page
    assert "Held-out examples that were not measured" not in render(inputs_of(evidence)).decode()


def test_an_answer_that_one_policy_alone_did_not_give_is_not_drawn_as_wrong(evidence):
    """`accuracy` is neither the policy before nor the one in focus: its gap does not keep the example away."""
    group = gallery.choose(evidence.predictions, evidence.examples, 1)[0]
    answer = ("accuracy", group.example_ids[0])
    predictions = without(evidence.predictions, lambda row: (row["policy"], row["example_id"]) == answer)
    figures = gallery.figures(
        gallery.choose(predictions, evidence.examples, 1)[0].example_ids,
        predictions,
        evidence.examples,
        evidence.boxes,
        evidence.saliency_maps,
        evidence.images,
        evidence.pictures,
    )
    drawn = [said.policy for said in figures[group.example_ids[0]].answers]
    assert "saliency_r1" in drawn and "accuracy" not in drawn
