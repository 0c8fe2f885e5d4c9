"""The asset check of held-out answers where pictures were lost."""

import dagster as dg

from assets.checks_evidence import answered
from storage.tables import from_rows
from tests.assets.small_world import placed


def check(n_lost: int) -> dg.AssetCheckResult:
    """Of twenty examples, the first n_lost without a picture."""
    rows = []
    for i in range(20):
        told = (
            {"unscorable_reason": "undecodable_picture"} if i < n_lost else {"answer": "red", "correct": True}
        )
        who = {"policy_id": "base@1", "policy": "base", "example_id": str(i), "image_sha256": "i"}
        rows.append(who | told)
    return answered(from_rows("predictions", rows), placed(*["test"] * 20), "test", 0)


def test_a_few_examples_may_be_left_unmeasured_and_are_named() -> None:
    one = check(1)
    assert (one.passed, one.description) == (
        True,
        "20 of 20, 1 of them not measured: the picture cannot be read",
    )
    assert one.metadata["not_measured"].value == ["0 (undecodable_picture)"]


def test_more_than_a_few_stop_what_comes_after_and_are_named() -> None:
    two = check(2)
    assert (two.passed, two.severity) == (False, dg.AssetCheckSeverity.ERROR)
    wanted = "2 of 20 examples cannot be asked: no picture that can be read; at most 5% may be lost"
    assert two.description == wanted
    assert two.metadata["not_measured"].value == ["0 (undecodable_picture)", "1 (undecodable_picture)"]
