"""Rows that do not fit are named before the first training, which takes the others."""

import dataclasses
import json
from typing import Any

import dagster as dg
import pytest

from assets import checks_rows
from assets.processed import needed_splits, process_settings, rows_that_fit
from pipelines.profiles import read_profile
from pipelines.run import reason
from storage.catalog import query
from storage.lineage import Artifact, Ledger, LineageError, Work
from storage.tables import from_rows
from tests.assets.small_world import SmallWorld
from tests.assets.test_data_assets import break_row, checks_of, metadata_of

PROFILE = {
    "description": "two steps of each training",
    "recipes": ["accuracy"],
    "base": {"max_rows": 2, "max_image_tokens": 100},
    "process": {"pictures_per_part": 10},
    "sft": {"max_steps": 2, "batch_size": 2, "save_steps": 2, "system_prompt": "Think, then answer."},
    "grpo": {
        "steps": 2,
        "prompts_per_step": 2,
        "num_generations": 2,
        "max_completion_length": 24,
        "save_steps": 2,
        "system_prompt": "Think, then answer.",
    },
}


def a_row(example_id: str, split: str, reason: str | None = None, **measures: Any) -> dict[str, Any]:
    return {
        "policy_id": "base@0",
        "example_id": example_id,
        "image_sha256": "s",
        "split": split,
        "fits": reason is None,
        "reason": reason,
        "detail": reason and f"detail of {example_id}",
        **measures,
    }


def test_the_settings_are_those_of_the_trainings() -> None:
    given = {**PROFILE, "grpo": {**PROFILE["grpo"], "system_prompt": "Look."}}
    assert process_settings(read_profile("p", given)) == {
        "system_prompts": ["Think, then answer.", "Look."],
        "max_completion_length": 24,
        "max_image_tokens": 100,
        "pictures_per_part": 10,
    }
    assert process_settings(read_profile("p", PROFILE))["system_prompts"] == ["Think, then answer."]
    assert process_settings(read_profile("p", {"description": "-"}))["system_prompts"] == [None]


def test_the_sides_are_those_that_the_stages_read() -> None:
    assert needed_splits(read_profile("p", PROFILE)) == ("train", "test")
    given = {**PROFILE, "sft": {**PROFILE["sft"], "eval_steps": 2}}
    assert needed_splits(read_profile("p", given)) == ("train", "val", "test")
    assert needed_splits(read_profile("p", {**given, "evaluate": {"split": "val"}})) == ("train", "val")


def test_a_side_without_a_row_that_fits_blocks() -> None:
    rows = [
        a_row("a", "train"),
        a_row("b", "train", "prompt_too_long"),
        a_row("c", "test", "prompt_too_long"),
    ]
    table = from_rows("processed_rows", rows)
    check = checks_rows.some_fit(table, ("train",))
    assert check.passed and check.description == "1 of train fit"
    check = checks_rows.some_fit(table, ("train", "test"))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description == "test: none of 1 rows fits (1 prompt_too_long)"
    check = checks_rows.some_fit(table, ("val",))
    assert check.description == "val: none of 0 rows fits (there is none)"


def test_rows_that_do_not_fit_are_named_and_counted() -> None:
    rows = [a_row(f"g{i}", "train", n_prompt_tokens=n, n_image_tokens=9) for i, n in enumerate([10, 30, 20])]
    bad = [
        a_row(f"b{i:02d}", "train", "picture_too_small" if i % 3 else "processor_refused") for i in range(25)
    ]
    check = checks_rows.all_fit(from_rows("processed_rows", rows + bad))
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == (
        "25 of 28 rows do not fit (16 picture_too_small, 9 processor_refused), such as "
        "b00 (processor_refused: detail of b00); b01 (picture_too_small: detail of b01); "
        "b02 (picture_too_small: detail of b02)"
    )
    told = {name: value.value for name, value in check.metadata.items()}
    shown, _ = told.pop("do_not_fit")
    assert [record.data["example_id"] for record in shown] == [f"b{i:02d}" for i in range(20)]
    assert told == {
        "n_picture_too_small": 16,
        "n_processor_refused": 9,
        "n_image_tokens_p50": 9,
        "n_image_tokens_p95": 9,
        "n_image_tokens_max": 9,
        "n_prompt_tokens_p50": 20,
        "n_prompt_tokens_p95": 30,
        "n_prompt_tokens_max": 30,
    }
    assert checks_rows.all_fit(from_rows("processed_rows", rows)).passed


def test_a_table_of_other_splits_or_settings_is_refused(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    world.prepare(instance)
    profile, ledger = read_profile("p", PROFILE), world.ledger
    splits = ledger.require(ledger.current("data/splits"))

    def table(settings: dict[str, Any], parent: Artifact) -> Artifact:
        work = Work(
            "by_hand", "base", {"settings": settings}, parents={"splits": parent}, outputs=("processed_rows",)
        )
        rows = from_rows("processed_rows", [a_row("a", "train")])
        return ledger.put_table(work, "processed_rows", "processed_rows", rows)

    right = process_settings(profile)
    found = rows_that_fit(ledger, profile, splits, table(right, splits))
    assert set(found.parents) == {"processed_rows", "splits"} | {
        f"{t}:{s}" for t in ("images", "examples", "boxes") for s in ("blocks", "more")
    }
    assert set(found.paths) == {"images", "examples", "boxes", "splits", "processed_rows"}
    examples = ledger.require(ledger.current("data/examples", "blocks"))
    for wrong in (table({**right, "max_completion_length": 25}, splits), table(right, examples)):
        with pytest.raises(LineageError, match="materialise policy/processed_rows again"):
            rows_that_fit(ledger, profile, splits, wrong)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_goes_on_with_the_rows_that_fit(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    (world.folder / "profile.yaml").write_text(json.dumps(PROFILE))
    world.settings = dataclasses.replace(world.settings, profile=str(world.folder / "profile.yaml"))
    world.prepare(instance)
    long_question, long_reasoning = rows_of_train(world.ledger)[:2]
    break_row(world, long_question, question="Which colour is the block? " * 500)
    break_row(world, long_reasoning, reasoning="The block is red. " * 30)
    world.prepare(instance)
    result = world.run(instance, "train", "policy/base", "policy/processed_rows", "policy/cold_start")
    assert result.success
    assert checks_of(result) == {
        "policy/base:loads_and_fits": True,
        "policy/processed_rows:rows_fit": True,
        "policy/processed_rows:all_rows_fit": False,
        "policy/cold_start:finite_loss": True,
        "policy/cold_start:better_than_base": checks_of(result)["policy/cold_start:better_than_base"],
    }
    told = metadata_of(result, "policy/processed_rows")
    assert (told["n_rows"], told["n_rows_that_do_not_fit"]) == (42, 2)
    named = {record.data["reason"]: record.data["example_id"] for record in told["do_not_fit"].records}
    assert set(named) == {"prompt_too_long", "reference_too_long"}
    started = metadata_of(result, "policy/cold_start")
    assert started["n_rows_left_out"] == 2
    assert all(example_id in started["rows_left_out"] for example_id in named.values())
    assert started["n_rows"] == told["n_fit_train"]
    # So short a training may be refused for rewards that never vary; that it could be made is what counts here.
    result = world.run(instance, "train", "policy/grpo", partition="accuracy")
    assert result.success or "rewards_not_degenerate" in reason(result), reason(result)
    made = world.ledger.everything()
    (trained,) = [each for each in made if (each.producer, each.kind) == ("training.grpo", "policy")]
    assert trained.summary["n_rows_left_out"] == 2
    assert "processed_rows" in {parent.role for parent in trained.parents}
    assert world.run(instance, "train", "data/catalog").success
    answer = query(world.ledger.store.root, "rows_that_do_not_fit").to_pylist()
    assert {(row["reason"], row["n"]) for row in answer if row["reason"] != "fits"} == {
        ("prompt_too_long", 1),
        ("reference_too_long", 1),
    }


def rows_of_train(ledger: Ledger) -> list[int]:
    """Rows of the file of questions of `blocks` whose examples train."""
    splits = ledger.read_table(ledger.require(ledger.current("data/splits"))).to_pylist()
    train = {row["example_id"] for row in splits if row["split"] == "train"}
    examples = ledger.read_table(ledger.require(ledger.current("data/examples", "blocks"))).to_pylist()
    return sorted(row["source_row"] for row in examples if row["example_id"] in train)
