"""Every check is shown good tables and bad ones; the bad ones are made by hand, one fault each."""

import json
import math
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import checks, checks_data, checks_evidence, product
from ops.sources import Source
from storage.archive import region_columns
from storage.lineage import Ledger, Work
from storage.objects import Store
from storage.tables import from_rows
from tests.assets.small_world import placed

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
SOURCE = Source("s", "coco", "/somewhere", "annotations.json", "questions.jsonl")


def said(result: dg.AssetCheckResult) -> str:
    return str(result.description)


def steps(*losses: float | None, **columns: list[Any]) -> pa.Table:
    rows = [
        {"policy_id": "p@1", "stage": "grpo", "step": n + 1, "loss": loss} for n, loss in enumerate(losses)
    ]
    for name, values in columns.items():
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    return from_rows("training_steps", rows)


def completions(*rows: tuple[float | None, float | None, float | None, str | None]) -> pa.Table:
    """Rows of (format, accuracy, saliency, reason)."""
    return from_rows(
        "completions",
        [
            {
                "policy_id": "p@1",
                "step": 1,
                "example_id": str(n),
                "completion": "",
                "reward_format": form,
                "reward_accuracy": accuracy,
                "reward_saliency": saliency,
                "unscorable_reason": why,
            }
            for n, (form, accuracy, saliency, why) in enumerate(rows)
        ],
    )


def prediction(
    example: str, map_id: str | None = None, reason: str | None = None, **changes: Any
) -> dict[str, Any]:
    return {
        "policy_id": "base@1",
        "policy": "base",
        "example_id": example,
        "image_sha256": "i",
        "completion": "",
        "completion_sha256": "c",
        "thought": None,
        "answer": "red",
        "correct": True,
        "accuracy_score": 1.0,
        "format_valid": True,
        "truncated": False,
        "n_tokens": 3,
        "unscorable_reason": reason,
        "map_id": map_id,
    } | changes


def a_map(map_id: str) -> dict[str, Any]:
    return {
        "map_id": map_id,
        "policy_id": "base@1",
        "policy": "base",
        "example_id": "e",
        "image_sha256": "i",
        "completion_sha256": "c",
        "method": "cot_rollout",
        "rows": "predictor",
        "span": "answer",
        "grid_h": 1,
        "grid_w": 2,
        "image_w_px": 20,
        "image_h_px": 10,
        **region_columns((0, 0, 1, 1)),
        "values": b"\0\0\0\0",
    }


def test_losses_must_be_finite_and_there() -> None:
    assert checks.finite_loss(steps(2.0, None, 1.0), "cold_start").passed
    bad = checks.finite_loss(steps(2.0, math.nan, math.inf), "grpo")
    assert (bad.passed, bad.severity, said(bad)) == (False, ERROR, "2 of 3 logged losses are not finite")
    assert said(checks.finite_loss(steps(None), "grpo")) == "no loss was logged"


def test_better_than_base_compares_the_first_tenth_with_the_last(tmp_path: Path) -> None:
    """20 steps: the first two average 0.15, the last two 0.95."""
    ledger = Ledger(Store(str(tmp_path)))
    policy = ledger.put_bytes(Work("x"), "policy", "policy", b"", ".bin")
    rising = [0.1, 0.2, *[0.5] * 16, 0.9, 1.0]
    good = checks.better_than_base(steps(*[1.0] * 20, token_accuracy=rising), policy)
    assert (good.passed, said(good)) == (True, "token_accuracy 0.15 at the start, 0.95 at the end")
    bad = checks.better_than_base(steps(*[1.0] * 20, token_accuracy=rising[::-1]), policy)
    assert (bad.passed, bad.severity) == (False, WARN)


def test_rewards_that_never_vary_block() -> None:
    varied = completions((1.0, 1.0, 0.3, None), (0.0, 0.0, 0.6, None))
    assert checks.rewards_alive(steps(0.1, frac_zero_std=[0.5]), varied, "saliency_r1").passed
    same = completions((1.0, 0.0, 0.3, None), (0.0, 0.0, 0.3, None))
    bad = checks.rewards_alive(steps(0.1, frac_zero_std=[0.0]), same, "saliency_r1")
    assert (bad.passed, bad.severity) == (False, ERROR)
    assert (
        said(bad)
        == "reward accuracy was 0 for all 2 completions; reward saliency was 0.3 for all 2 completions"
    )


def test_a_reward_that_was_never_given_blocks() -> None:
    silent = completions((1.0, 1.0, None, "no_thought"), (0.0, 0.0, None, "no_thought"))
    assert "reward saliency was never given" in said(checks.rewards_alive(steps(0.1), silent, "saliency_r1"))
    assert checks.rewards_alive(steps(0.1, frac_zero_std=[0.0]), silent, "accuracy").passed


def test_a_form_that_is_always_right_is_no_failure() -> None:
    formed = completions((1.0, 1.0, 0.3, None), (1.0, 0.0, 0.6, None))
    assert checks.rewards_alive(steps(0.1, frac_zero_std=[0.5]), formed, "saliency_r1").passed


def test_groups_without_contrast_block() -> None:
    varied = completions((1.0, 1.0, 0.3, None), (0.0, 0.0, 0.6, None))
    bad = checks.rewards_alive(steps(0.1, 0.1, frac_zero_std=[1.0, 1.0]), varied, "saliency_r1")
    assert said(bad) == "in no step did the completions of a group differ in reward"


def test_the_share_of_unscorable_completions() -> None:
    """One of two is at the limit, two of three beyond it."""
    half = completions((1.0, 1.0, 0.3, None), (0.0, 0.0, None, "truncated"))
    assert checks.unscorable_share(steps(0.1), half, "saliency_r1").passed
    most = completions((1.0, 1.0, 0.3, None), (0.0, 0.0, None, "truncated"), (0.0, 0.0, None, "no_thought"))
    bad = checks.unscorable_share(steps(0.1), most, "saliency_r1")
    assert (bad.passed, bad.severity) == (False, WARN)
    assert said(bad).startswith("66.7% of 3 unscorable")
    assert checks.unscorable_share(steps(0.1), most, "accuracy").passed


def test_the_share_of_right_completions_without_a_map_to_learn_from() -> None:
    """Three of four is beyond the limit, three of six at it; a run without a right completion shows nothing."""
    none = completions((1.0, 1.0, None, None))

    def lost(n_maps: int, n_zero: int) -> pa.Table:
        told = [None, json.dumps({"zero_map": n_zero})]
        return steps(0.1, 0.1, n_maps=[n_maps, 0], unscorable_by_reason=told)

    assert checks.unscorable_share(lost(3, 3), none, "saliency_loss").passed
    bad = checks.unscorable_share(lost(1, 3), none, "saliency_loss")
    assert (bad.passed, said(bad)) == (False, '75.0% of 4 unscorable {"zero_map": 3}')
    assert not checks.unscorable_share(steps(0.1, n_maps=[0]), none, "saliency_loss").passed


def test_delivery(tmp_path: Path) -> None:
    def manifest(**sha256: str | None) -> dict[str, Any]:
        names = {"annotations": "annotations.json", "questions": "questions.jsonl"}
        files = [
            {
                "path": names.get(name, f"{name}.png"),
                "sha256": value,
                "n_bytes": value and 3,
                "problem": "missing_file",
            }
            for name, value in sha256.items()
        ]
        pictures = [file["path"] for file in files if file["path"].endswith(".png")]
        return {"files": files, "pictures": pictures, "n_pictures_in_rows": 0}

    good = checks_data.delivered(manifest(annotations="a", questions="q", one="1", two=None), SOURCE)
    assert (good.passed, said(good)) == (True, "1 pictures, 1 files missing or unreadable")
    bad = checks_data.delivered(manifest(annotations=None, questions="q", one="1"), SOURCE)
    assert (bad.passed, bad.severity, said(bad)) == (False, ERROR, "annotations.json: missing_file")
    empty = checks_data.delivered(manifest(annotations="a", questions="q", one=None, two=None), SOURCE)
    assert said(empty) == "/somewhere: none of the 2 pictures that the rows name can be read"
    # SOURCE told as a folder of annotation files: its name is no file, those inside it are.
    inside = manifest(a="1", b=None, one="1") | {
        "annotation_files": ["a.png", "b.png"],
        "pictures": ["one.png"],
    }
    assert said(checks_data.delivered(inside, SOURCE)) == "b.png: missing_file"
    in_rows = manifest(annotations="a", questions="q") | {
        "n_pictures_in_rows": 7,
        "refused_members": {"../x": "leads out"},
    }
    told = checks_data.delivered(in_rows, SOURCE)
    assert said(told) == "7 pictures, 0 files missing or unreadable, 1 members of the archive refused"


def tables(**changes: list[dict[str, Any]]) -> dict[str, pa.Table]:
    """One picture, one example with one box, one refused row."""
    rows: dict[str, list[dict[str, Any]]] = {
        "images": [
            {
                "image_sha256": "i",
                "pixels_sha256": "p",
                "thumb": bytes(768),
                "source": "s",
                "source_file": "a",
                "file_name": "f",
                "uri": "u",
                "format": "PNG",
                "width_px": 20,
                "height_px": 10,
                "n_bytes": 3,
            }
        ],
        "examples": [example("e")],
        "boxes": [
            {"example_id": "e", "box_index": 0, "x1_px": 0.0, "y1_px": 0.0, "x2_px": 5.0, "y2_px": 4.0}
        ],
        "quarantine": [
            {
                "source": "s",
                "source_file": "q",
                "stage": "question",
                "reason": "no_answer",
                "detail": "",
                "raw": "",
            }
        ],
    }
    return {name: from_rows(name, value) for name, value in (rows | changes).items()}


def example(example_id: str, share: float = 0.1, image: str = "i") -> dict[str, Any]:
    return {
        "example_id": example_id,
        "source": "s",
        "source_file": "q",
        "source_row": 0,
        "image_sha256": image,
        "question": "?",
        "answer": "!",
        "accepted_answers": [],
        "answer_type": "word",
        "n_boxes": 1,
        "evidence_area_frac": share,
    }


def test_rows_are_conserved() -> None:
    assert checks_data.conserved(tables(), 2).passed
    assert "3 raw rows, but 1 examples + 1 quarantined" in said(checks_data.conserved(tables(), 3))
    assert "0 boxes for 1 counted" in said(checks_data.conserved(tables(boxes=[]), 2))
    assert "1 examples have no picture" in said(checks_data.conserved(tables(images=[]), 2))
    two = tables(examples=[example("other")])
    assert "1 boxes belong to no example" in said(checks_data.conserved(two, 2))


def test_evidence_over_everything_or_nothing_is_told() -> None:
    """One of five is at the limit, two of six beyond it."""
    fair = [example(str(n)) for n in range(4)]
    assert checks_data.plausible(tables(examples=[*fair, example("x", 1.0)])["examples"]).passed
    bad = checks_data.plausible(tables(examples=[*fair, example("x", 1.0), example("y", 0.0)])["examples"])
    assert (bad.passed, bad.severity) == (False, WARN)


def test_the_schema_is_read_from_the_file(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    table = tables()["boxes"]
    good = ledger.put_table(Work("ops.normalise", "s"), "boxes", "boxes", table)
    assert checks_data.schema(ledger, "boxes", good).passed
    file = tmp_path / "other.parquet"
    changed = table.drop_columns(["label"]).set_column(2, "x1_px", pa.array([1], pa.int32()))
    pq.write_table(changed.replace_schema_metadata(None), file)
    other = ledger.put_bytes(Work("ops.normalise", "t"), "boxes", "boxes", file.read_bytes(), ".parquet")
    bad = checks_data.schema(ledger, "boxes", other)
    assert (bad.passed, bad.severity) == (False, ERROR)
    assert "x1_px: saw int32, wanted double not null" in said(bad)
    assert "label: saw no such column, wanted string" in said(bad)
    assert "schema_version: saw None" in said(bad)


def test_every_held_out_row_is_answered_or_explained() -> None:
    splits = placed("train", "test", "test")

    def check(*rows: dict[str, Any], most: int = 0) -> dg.AssetCheckResult:
        return checks_evidence.answered(from_rows("predictions", list(rows)), splits, "test", most)

    assert check(prediction("1"), prediction("2", answer=None, unscorable_reason="no_thought")).passed
    assert check(prediction("2"), most=1).passed
    assert "1 rows for 2 examples of test" in said(check(prediction("1")))
    assert "1 examples answered twice" in said(check(prediction("1"), prediction("1")))
    assert "1 rows answer examples outside test" in said(check(prediction("1"), prediction("0")))
    silent = check(prediction("1"), prediction("2", answer=None))
    assert (silent.severity, said(silent)) == (ERROR, "1 rows have neither an answer nor a reason")


def test_one_map_per_scorable_answer() -> None:
    def check(rows: list[dict[str, Any]], *maps: str) -> dg.AssetCheckResult:
        kept = from_rows("saliency_maps", [a_map(each) for each in maps])
        return checks_evidence.one_map(from_rows("predictions", rows), kept)

    good = [prediction("1", "m1"), prediction("2", None, "zero_map")]
    assert check(good, "m1").passed
    assert "1 maps are archived twice" in said(check(good, "m1", "m1"))
    assert "they are not the same ones" in said(check(good, "m2"))
    assert "they are not the same ones" in said(check(good))
    assert "1 answers have neither a map nor a reason" in said(check([*good, prediction("3")], "m1"))


def score(**changes: Any) -> dict[str, Any]:
    return {
        "policy_id": "base@1",
        "policy": "base",
        "metric": "lift",
        "subset": "all",
        "value": 0.3,
        "ci_low": 0.2,
        "ci_high": 0.4,
        "n": 9,
        "chance": 0.0,
        "versus": None,
    } | changes


def test_no_score_without_its_chance_value() -> None:
    def check(*rows: dict[str, Any]) -> dg.AssetCheckResult:
        return checks_evidence.chance_beside(from_rows("evaluations", list(rows)))

    assert check(score(), score(chance=None, versus="base")).passed
    bad = check(score(), score(metric="mass", chance=None))
    assert (bad.severity, said(bad)) == (ERROR, "1 scores without a chance value: mass")
    assert said(check(score(n=0))) == "1 scores over no example"
    assert said(check()) == "nothing was compared"


def test_broken_lineage_is_named(tmp_path: Path) -> None:
    ledger = Ledger(Store(str(tmp_path)))
    artifact = ledger.put_bytes(Work("ops.x", "n"), "out", "thing", b"content", ".bin")
    ledger.point("data/thing", "", artifact)
    assert checks_evidence.lineage_unbroken(ledger).passed
    (tmp_path / artifact.uri).write_bytes(b"altered")
    bad = checks_evidence.lineage_unbroken(ledger)
    assert (bad.passed, bad.severity) == (False, ERROR)
    assert "content was altered" in said(bad)


PAGE = (
    "<html><head><style></style></head><body><table><tr><td>base cold_start</td></tr></table>{}</body></html>"
)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('<img src="data:image/png;base64,AA=="><a href="https://arxiv.org">paper</a>', None),
        ('<img src="http://example.org/a.png">', "it fetches <img src=http://example.org/a.png>"),
        ('<script src="app.js"></script>', "it fetches <script src=app.js>"),
        ('<link rel="stylesheet" href="style.css">', "it fetches <link href=style.css>"),
    ],
)
def test_the_page_fetches_nothing(extra: str, problem: str | None) -> None:
    result = checks_evidence.page_opens(PAGE.format(extra).encode(), ("base", "cold_start"))
    assert result.passed == (problem is None)
    assert problem is None or said(result) == problem


def test_the_page_is_whole_and_names_every_policy() -> None:
    page = PAGE.format("").encode()
    assert said(checks_evidence.page_opens(page, ("base", "grpo"))) == "it does not name the policy grpo"
    assert "it ends before </html>" in said(checks_evidence.page_opens(page[:-20], ("base",)))


def test_a_page_that_does_not_open_leaves_the_last_one_in_place(tmp_path: Path) -> None:
    ledger, good = Ledger(Store(str(tmp_path))), PAGE.format("").encode()
    assert product.publish(ledger, good, ("base",)).passed
    assert not product.publish(ledger, good[:-20], ("base",)).passed
    assert ledger.store.read_bytes(product.REPORT) == good


def test_the_decision_is_whole() -> None:
    whole = {"champion": "accuracy", "policy_id": "accuracy@1", "rule": "r", "why": "w", "steps": [1]}
    assert checks_evidence.decided(whole, ("base", "accuracy")).passed
    bad = checks_evidence.decided(json.loads(json.dumps(whole | {"champion": "x", "why": ""})), ("base",))
    assert said(bad) == "why is missing; champion 'x' is none of base"
