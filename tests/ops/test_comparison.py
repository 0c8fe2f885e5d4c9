import pytest

from ops.comparison import (
    METRIC,
    METRICS,
    ComparisonError,
    compare,
    majority_rates,
    policy_order,
    references_of,
)
from storage.tables import encode_table, from_rows
from tests.ops.synthetic_evidence import make


def example(example_id, answer="red", kind="colour", image="p", source="s", condition=None):
    return {
        "example_id": example_id,
        "source": source,
        "source_file": "q.jsonl",
        "source_row": 0,
        "image_sha256": image,
        "question": "?",
        "answer": answer,
        "accepted_answers": [],
        "answer_type": "word",
        "question_kind": kind,
        "slice": "prior_conflict" if condition else None,
        "condition": condition,
        "n_boxes": 1,
        "evidence_area_frac": 0.25,
    }


def prediction(policy, example_id, correct, image="p", **measures):
    return {
        "policy_id": f"{policy}@0",
        "policy": policy,
        "example_id": example_id,
        "image_sha256": image,
        "completion": "x",
        "completion_sha256": "x",
        "correct": correct,
        "accuracy_score": float(correct),
        "format_valid": True,
        "truncated": False,
        "n_tokens": 1,
        "unscorable_reason": None if measures else "no_thought",
        **measures,
    }


def tables(predictions, examples, train=()):
    sides = [
        {
            "example_id": e["example_id"],
            "image_sha256": e["image_sha256"],
            "split": "train" if e["example_id"] in train else "test",
            "split_rule": "content_hash",
        }
        for e in examples
    ]
    return from_rows("predictions", predictions), from_rows("examples", examples), from_rows("splits", sides)


def rows_of(table, **wanted):
    return [row for row in table.to_pylist() if all(row[k] == v for k, v in wanted.items())]


def one(table, policy, metric, subset="all", versus=None):
    (row,) = rows_of(table, policy=policy, metric=metric, subset=subset, versus=versus)
    return row


def test_majority_rate_by_kind_from_the_train_split_only():
    # train colour: red, Red, blue -> 2/3 (case does not count); train count: 2 -> 1; test answers do not count
    examples = [
        example("t1", "red"),
        example("t2", " Red"),
        example("t3", "blue"),
        example("t4", "2", kind="count"),
        *[example(f"e{i}", "blue") for i in range(9)],
    ]
    _, known, splits = tables([], examples, train={"t1", "t2", "t3", "t4"})
    rates = majority_rates(known, splits)
    assert rates["colour"] == pytest.approx(2 / 3)
    assert rates["count"] == 1.0
    assert rates[None] == pytest.approx(2 / 4)  # all kinds together: red 2, blue 1, "2" 1


def test_accuracy_stands_beside_its_chance_and_n():
    examples = [
        example("t1", "red"),
        example("t2", "red"),
        example("t3", "blue"),
        example("t4", "blue"),
        example("t5", "2", kind="count"),
        example("a", image="p1"),
        example("b", image="p2", kind="count"),
        example("c", image="p3", kind="where"),
    ]
    said = [
        prediction("base", "a", True, "p1"),
        prediction("base", "b", False, "p2"),
        prediction("base", "c", True, "p3"),
    ]
    found = compare(*tables(said, examples, {"t1", "t2", "t3", "t4", "t5"}))
    row = one(found, "base", "accuracy")
    assert row["value"] == pytest.approx(2 / 3)
    assert row["n"] == 3
    # colour 2/4, count 1/1, and `where` never seen in training: all kinds together, 2 of 5
    assert row["chance"] == pytest.approx((0.5 + 1.0 + 0.4) / 3)
    assert one(found, "base", "accuracy", "kind=count")["chance"] == 1.0
    assert rows_of(found, metric="mass") == []  # nothing scorable, no number


def test_measures_of_the_map_cover_scorable_answers_and_carry_their_chance():
    measures = {
        "mass": 0.6,
        "chance": 0.2,
        "lift": 0.5,
        "pointing_hit": True,
        "pointing_chance": 0.3,
        "auroc": 0.8,
        "ap": 0.7,
        "ap_chance": 0.25,
        "iou_area": 0.4,
        "iou_chance": 0.15,
        "entropy": 0.9,
    }
    examples = [example("a", image="p1"), example("b", image="p2")]
    said = [prediction("base", "a", True, "p1", **measures), prediction("base", "b", False, "p2")]
    found = compare(*tables(said, examples))
    chances = {
        "mass": 0.2,
        "lift": 0.0,
        "pointing": 0.3,
        "auroc": 0.5,
        "ap": 0.25,
        "iou": 0.15,
        "entropy": 1.0,
    }
    for metric, chance in chances.items():
        row = one(found, "base", metric)
        assert row["n"] == 1
        assert row["chance"] == pytest.approx(chance), metric
    assert one(found, "base", "map_scorable")["value"] == 0.5
    assert one(found, "base", "lift")["ci_low"] is None  # one picture: no interval for a free value
    assert one(found, "base", "accuracy")["chance"] is None  # nothing in train to know it from


def test_subsets_are_those_of_the_examples():
    examples = [
        example("a", image="p1", source="s1", condition="conflict"),
        example("b", image="p2", source="s2", condition="control", kind=None),
        example("c", image="p3", source="s2", kind="count"),
    ]
    said = [prediction("base", e, e != "a", f"p{i}") for i, e in enumerate("abc", 1)]
    found = compare(*tables(said, examples))
    assert {row["subset"] for row in rows_of(found, metric="accuracy")} == {
        "all",
        "source=s1",
        "source=s2",
        "kind=colour",
        "kind=count",
        "prior_conflict=conflict",
        "prior_conflict=control",
    }
    assert one(found, "base", "accuracy", "source=s2")["n"] == 2
    assert one(found, "base", "accuracy", "prior_conflict=conflict")["value"] == 0.0
    gap = one(found, "base", "accuracy_gap", "prior_conflict")
    assert (gap["value"], gap["n"], gap["chance"]) == (1.0, 2, 0.0)


def test_paired_differences_run_over_the_same_examples():
    # the recipe answers a, b, c; the cold start a, b, d. Shared: a (0 -> 1), b (1 -> 1): difference 1/2
    examples = [example(e, image=f"p{e}") for e in "abcd"]
    said = [prediction("cold_start", e, v, f"p{e}") for e, v in (("a", False), ("b", True), ("d", False))]
    said += [prediction("saliency_r1", e, v, f"p{e}") for e, v in (("a", True), ("b", True), ("c", False))]
    found = compare(*tables(said, examples))
    row = one(found, "saliency_r1", "accuracy", versus="cold_start")
    assert (row["value"], row["n"], row["chance"]) == (0.5, 2, 0.0)
    assert rows_of(found, policy="cold_start", versus="base") == []


def test_who_is_held_against_whom():
    names = policy_order(["saliency_r1", "base", "accuracy", "cold_start", "another"])
    assert names == ["base", "cold_start", "accuracy", "another", "saliency_r1"]
    assert references_of("base", names) == []
    assert references_of("cold_start", names) == ["base"]
    assert references_of("accuracy", names) == ["cold_start"]
    assert references_of("saliency_r1", names) == ["cold_start", "accuracy"]


def test_strangers_and_double_answers_are_all_named():
    said = [prediction("base", "a", True), prediction("base", "a", False), prediction("base", "z", True)]
    with pytest.raises(ComparisonError) as error:
        compare(*tables(said, [example("a")]))
    assert "two answers to example a" in str(error.value)
    assert "example z" in str(error.value)


def test_every_plain_row_has_chance_and_n_and_fits_the_schema():
    evidence = make(n_pictures=24)
    found = compare(evidence.predictions, evidence.examples, evidence.splits, draws=200)
    assert encode_table("evaluations", found)
    assert all(row["chance"] is not None and row["n"] > 0 for row in found.to_pylist())
    assert {row["metric"] for row in found.to_pylist()} == {m.name for m in METRICS} | {"accuracy_gap"}
    again = compare(evidence.predictions, evidence.examples, evidence.splits, draws=200)
    assert again.equals(found)


def test_the_champion_may_trust_the_mark_of_what_reads_the_map():
    assert [m.name for m in METRICS if not m.reads_map] == [
        "accuracy",
        "format_valid",
        "evidence_reliance",
    ]
    assert METRIC["lift"].kind == "free"
