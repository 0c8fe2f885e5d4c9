"""The stage that names rows that do not fit, and trainings that take the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.rows import RowsError, rows_from_paths
from storage.schema import TABLES
from storage.tables import encode_table, from_rows, read_table
from tests.training.odd_rows import Given, good, png, write
from tests.training.small_grpo import grpo_config
from tests.training.small_run import (
    run_and_interrupt,
    run_from_file,
    save_speaking_policy,
    stage_config,
    weights,
    without_seconds,
)
from training import grpo, inspect_policy, process_rows, sft
from training.config import StageConfig
from training.progress import METRICS, read_json_lines
from training.stage import RESULT, run_stage

LIMITS = {"max_completion_length": 24, "max_image_tokens": 80}
SFT = {"max_steps": 6, "batch_size": 2, "save_steps": 6, "learning_rate": 1e-3}
ODD = {
    "z1": "prompt_too_long",
    "z2": "reference_too_long",
    "z3": "undecodable_picture",
    "z4": "processor_refused",
    "z5": "unreadable_picture",
}


def odd_rows(folder: Path) -> list[Given]:
    """A question beyond the context of 2048 tokens, a reasoning beyond a completion, a picture cut short, a thread of
    pixels, and a picture kept by reference whose file was written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept.png").write_bytes(b"something else")
    wide = {"size_wh": (112, 84), "boxes": ((0.0, 0.0, 9.0, 2.0),)}
    return [
        Given("z1", png((112, 84), 91), **wide, question="What colour is it? " * 700),
        Given("z2", png((112, 84), 92), **wide, reasoning="The cup. " * 40),
        Given("z3", png((112, 84), 93)[:-300], **wide),
        Given("z4", png((402, 2), 94), (402, 2), boxes=((0.0, 0.0, 9.0, 2.0),)),
        Given("z5", png((112, 84), 95), **wide, uri=str(folder / "kept.png")),
    ]


def good_rows() -> list[Given]:
    return [good(i) for i in range(8)] + [good(8, "val"), good(9, "test")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_speaking_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("mixed")
    return write(folder, odd_rows(folder) + good_rows())  # not in the order of their names


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return write(tmp_path_factory.mktemp("fine"), good_rows())


def process_config(work_dir: Path, tables: dict[str, list[str]], policy: str, **changes: Any) -> StageConfig:
    return stage_config("process", work_dir, tables, policy, **LIMITS | changes)


def processed(work_dir: Path, tables: dict[str, list[str]], policy: str) -> dict[str, list[str]]:
    """The tables with processed_rows among them."""
    process_rows.run(process_config(made_folder(work_dir), tables, policy))
    return {**tables, "processed_rows": [str(work_dir / "processed_rows.parquet")]}


def made_folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def summary_of(work_path: Path) -> dict[str, Any]:
    return json.loads((work_path / RESULT).read_text())["summary"]


def test_the_stage_names_every_row_that_does_not_fit(tmp_path, mixed, policy) -> None:
    config = process_config(tmp_path / "work", mixed, policy, pictures_per_part=4)
    assert run_from_file(process_rows, config, tmp_path) == 0
    table = read_table(config.work_path / "processed_rows.parquet", name="processed_rows")
    rows = table.to_pylist()
    assert table.schema.names == TABLES["processed_rows"].names
    assert [row["example_id"] for row in rows] == [f"e{i:02d}" for i in range(10)] + sorted(ODD)
    assert {row["example_id"]: row["reason"] for row in rows if not row["fits"]} == ODD
    assert [row["split"] for row in rows] == ["train"] * 8 + ["val", "test"] + ["train"] * 5
    assert {row["policy_id"] for row in rows} == {config.policy_id}
    assert all(row["reason"] is None and row["detail"] is None for row in rows if row["fits"])
    assert rows[14]["detail"].endswith("recorded " + rows[14]["image_sha256"][:12])
    summary = summary_of(config.work_path)
    assert {name: n for name, n in summary.items() if name.startswith(("n_rows", "n_fit", "reason"))} == {
        "n_rows": 15,
        "n_rows_that_do_not_fit": 5,
        "n_fit_train": 8,
        "n_fit_val": 1,
        "n_fit_test": 1,
        **{f"reason_{reason}": 1 for reason in ODD.values()},
        "n_rows_with_a_box_below_a_cell": 2,  # of z1 and z2; the others have no grid
    }
    lines = read_json_lines(config.work_path / METRICS)
    assert [(line["step"], line["total_steps"]) for line in lines] == [(i, 4) for i in range(1, 5)]
    assert lines[-1]["n_rows_that_do_not_fit"] == 5


def test_a_killed_stage_goes_on_with_the_next_part_and_ends_with_the_same_table(
    tmp_path, mixed, policy
) -> None:
    whole = process_config(tmp_path / "whole", mixed, policy)
    assert run_from_file(process_rows, whole, tmp_path) == 0
    broken = process_config(tmp_path / "broken", mixed, policy, pictures_per_part=1)
    assert run_and_interrupt(process_rows, broken, tmp_path, after_step=3) == 130
    parts = sorted((broken.work_path / "parts").glob("*.parquet"))
    assert 3 <= len(parts) < 15 and not (broken.work_path / RESULT).exists()
    written = {part: part.stat().st_mtime_ns for part in parts}
    assert run_from_file(process_rows, broken, tmp_path) == 0
    assert {part: part.stat().st_mtime_ns for part in parts} == written
    name = "processed_rows.parquet"
    assert (broken.work_path / name).read_bytes() == (whole.work_path / name).read_bytes()
    assert [line["step"] for line in read_json_lines(broken.work_path / METRICS)] == list(range(1, 16))


def test_the_cold_start_takes_the_rows_that_fit_and_ends_as_if_there_were_no_others(
    tmp_path, mixed, fine, policy
) -> None:
    tables = processed(tmp_path / "process", mixed, policy)
    config = stage_config("sft", tmp_path / "some", tables, policy, **SFT)
    assert run_from_file(sft, config, tmp_path) == 0
    alone = stage_config("sft", tmp_path / "alone", fine, policy, **SFT)
    assert run_from_file(sft, alone, tmp_path) == 0
    assert_same(config, alone)
    summary = summary_of(config.work_path)
    assert (summary["n_rows"], summary["n_rows_left_out"]) == (8, 5)
    assert {summary[f"left_out_{reason}"] for reason in ODD.values()} == {1}
    assert summary["rows_left_out"] == ", ".join(f"{name} ({reason})" for name, reason in ODD.items())
    assert summary_of(alone.work_path)["n_rows_left_out"] == 0
    assert "rows_left_out" not in summary_of(alone.work_path)


def test_grpo_takes_the_rows_that_fit_and_ends_as_if_there_were_no_others(
    tmp_path, mixed, fine, policy
) -> None:
    tables = processed(tmp_path / "process", mixed, policy)
    config = grpo_config(tmp_path / "some", tables, policy)
    assert run_from_file(grpo, config, tmp_path) == 0
    alone = grpo_config(tmp_path / "alone", fine, policy)
    assert run_from_file(grpo, alone, tmp_path) == 0
    assert_same(config, alone)
    said = [read_table(c.work_path / "completions.parquet").to_pylist() for c in (config, alone)]
    assert said[0] == said[1] and len(said[0]) == 4 * 2 * 3
    assert (summary_of(config.work_path)["n_rows"], summary_of(config.work_path)["n_rows_left_out"]) == (8, 5)


@pytest.mark.parametrize("stage", [sft, grpo], ids=["sft", "grpo"])
def test_where_every_row_fits_the_training_is_the_same_with_the_table_and_without(
    tmp_path, fine, policy, stage
) -> None:
    tables = processed(tmp_path / "process", fine, policy)
    assert rows_from_paths(tables, "train") == rows_from_paths(fine, "train")
    configs = [
        grpo_config(tmp_path / name, given, policy)
        if stage is grpo
        else stage_config("sft", tmp_path / name, given, policy, **SFT)
        for name, given in (("with", tables), ("without", fine))
    ]
    for config in configs:
        assert run_from_file(stage, config, tmp_path) == 0
    assert_same(*configs)


def assert_same(one: StageConfig, other: StageConfig) -> None:
    """The same weights, to the bit, by the same steps."""
    found, wanted = (weights(config.work_path / "policy") for config in (one, other))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert without_seconds(read_json_lines(one.work_path / METRICS)) == without_seconds(
        read_json_lines(other.work_path / METRICS)
    )


# ---- What becomes of such rows where nobody looked before.


@pytest.mark.parametrize(
    ("name", "said"),
    [("z3", "PictureError: picture"), ("z4", "aspect ratio"), ("z5", "recorded")],
)
def test_without_the_table_such_a_row_ends_the_training(tmp_path, policy, capsys, name, said) -> None:
    odd = [row for row in odd_rows(tmp_path) if row.example_id == name]
    tables = write(tmp_path, good_rows() + odd)
    config = stage_config("sft", tmp_path / "work", tables, policy, **SFT | {"max_steps": 12})
    assert run_from_file(sft, config, tmp_path) == 1
    (last,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft failed: ")]
    assert said in last


def test_without_the_table_a_prompt_beyond_the_context_is_trained_on_whole(tmp_path, policy) -> None:
    """Nothing cuts it and nothing raises: the model is trained where it has no positions."""
    tables = write(tmp_path, [odd_rows(tmp_path)[0], odd_rows(tmp_path)[1]])
    config = stage_config("sft", tmp_path / "work", tables, policy, **SFT | {"max_steps": 1})
    assert run_from_file(sft, config, tmp_path) == 0
    table = read_table(processed(tmp_path / "p", tables, policy)["processed_rows"][0])
    assert table["n_prompt_tokens"].to_pylist()[0] > 2048


def test_a_training_of_which_no_row_is_left_says_so(tmp_path, mixed, policy) -> None:
    tables = processed(tmp_path / "process", mixed, policy)
    rows = read_table(tables["processed_rows"][0]).to_pylist()
    none = [{**row, "fits": False, "reason": "picture_too_small"} for row in rows]
    Path(tables["processed_rows"][0]).write_bytes(
        encode_table("processed_rows", from_rows("processed_rows", none))
    )
    with pytest.raises(RowsError, match="split 'train': all of its 13 examples are left out"):
        sft.run(stage_config("sft", tmp_path / "work", tables, policy, **SFT))


# ---- The base comes before the table: one bad picture must not keep it from being made.


def test_the_base_is_held_against_the_rows_that_can_be_looked_at(tmp_path, mixed, policy) -> None:
    config = stage_config("base", tmp_path / "base", mixed, policy, max_rows=8, max_image_tokens=80)
    assert run_base(config, tmp_path) == 0
    summary = summary_of(config.work_path)
    # z5 cannot be read; z4 is of a size of its own and refused. z3 comes last and is not needed.
    assert (summary["n_rows_looked_at"], summary["n_rows_refused"]) == (8, 2)
    strict = stage_config("base", tmp_path / "strict", mixed, policy, max_image_tokens=29)
    assert run_base(strict, tmp_path) == 0
    # 112 x 84 becomes 30 tokens; 140 x 84 is 177 x 106 px after enlarging, 7 x 4 of them: 28.
    assert summary_of(strict.work_path)["image_tokens_max"] == 28
    assert summary_of(strict.work_path)["n_rows_looked_at"] == 2


def run_base(config: StageConfig, folder: Path) -> int:
    path = folder / "base.json"
    path.write_text(json.dumps(config.to_dict()))
    return run_stage("base", inspect_policy.body, [str(path)])


def test_a_base_that_takes_no_row_says_why(tmp_path, mixed, policy, capsys) -> None:
    config = stage_config("base", tmp_path / "base", mixed, policy, max_image_tokens=3)
    assert run_base(config, tmp_path) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no row of the train split can be held against the policy" in last
    assert "image tokens; max_image_tokens allows 3" in last
