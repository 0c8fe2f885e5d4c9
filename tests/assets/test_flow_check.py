"""The check that holds the token flows of a policy against its answers."""

import dagster as dg

from assets import checks_evidence
from storage.tables import from_rows
from tests.assets.test_checks import prediction, said


def test_one_flow_per_chosen_example() -> None:
    def check(n_wanted: int, *examples: str) -> dg.AssetCheckResult:
        answers = from_rows("predictions", [prediction("1"), prediction("2")])
        columns = ("policy_id", "policy", "example_id", "image_sha256", "completion_sha256")
        of = {row["example_id"]: {c: row[c] for c in columns} for row in answers.to_pylist()}
        flow = {"flow_id": "f", "rows": "state", "unscorable_reason": "no_thought"}
        return checks_evidence.one_flow(
            answers,
            from_rows("token_flows", [(of["1"] | {"example_id": e}) | flow for e in examples]),
            n_wanted,
        )

    assert check(1, "1").passed
    assert check(24, "1", "2").passed  # as many as there are answers
    assert "1 flows, wanted 2" in said(check(2, "1"))
    assert "1 flows are kept twice" in said(check(2, "1", "1"))
    assert "1 flows explain no answer of this table" in said(check(2, "1", "3"))
