"""Held-out examples whose pictures are really broken: named, counted as not measured, neither right nor wrong."""

import json
from pathlib import Path

import pytest

from ops.comparison import compare
from storage.lineage import Ledger, Work
from storage.objects import Store
from storage.tables import read_table
from tests.training.odd_rows import Given, good, png, write
from tests.training.small_run import run_from_file, save_speaking_policy, stage_config
from training import evaluate, faithfulness_study

REASONS = {"e01": "undecodable_picture", "e04": "unreadable_picture", "e06": "unreadable_picture"}


def rows_of(folder: Path) -> list[Given]:
    """Eight rows of split test, answer "red": e01 is cut in the middle, e04's file is gone, e06's is another one."""
    whole = {index: good(index, "test") for index in range(8)}
    cut = Given("e01", whole[1].data[: len(whole[1].data) // 2], whole[1].size_wh, "test")
    (folder / "other.png").write_bytes(png((112, 84), seed=77))
    gone = good(4, "test", uri=str(folder / "gone.png"))
    other = good(6, "test", uri=str(folder / "other.png"))
    return list((whole | {1: cut, 4: gone, 6: other}).values())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]], str]:
    folder = tmp_path_factory.mktemp("broken")
    return folder, write(folder / "tables", rows_of(folder)), save_speaking_policy(folder / "policy")


def config_of(desk, name: str, **settings):
    folder, tables, policy = desk
    # pictures of one size go together: e01 and e04 are a batch of their own, without any picture
    chosen = {"split": "test", "batch_size": 2, "max_completion_length": 16, "token_flow_rows": 8}
    return stage_config("evaluate", folder / name, tables, policy, **(chosen | settings))


def test_they_are_named_and_counted_and_change_no_score(desk, capsys):
    config = config_of(desk, "whole", faithfulness_rows=8)
    assert run_from_file(evaluate, config, desk[0]) == 0
    told = capsys.readouterr().err
    for example_id in REASONS:
        assert [line for line in told.splitlines() if "not measured: " in line and example_id in line], told
    predictions, maps, flows = (
        read_table(config.work_path / f"{name}.parquet", name=name) for name in evaluate.TABLES
    )
    rows = {row["example_id"]: row for row in predictions.to_pylist()}
    assert list(rows) == [f"e{index:02}" for index in range(8)]
    kept = {"policy_id", "policy", "example_id", "image_sha256", "unscorable_reason"}
    for example_id, reason in REASONS.items():
        row = rows[example_id]
        assert {name for name, value in row.items() if value is not None} == kept
        assert row["unscorable_reason"] == reason
    measured = [row for example_id, row in rows.items() if example_id not in REASONS]
    assert [(row["answer"], row["correct"]) for row in measured] == [("red", True)] * 5
    assert not set(maps["example_id"].to_pylist()) & set(REASONS)
    flow_of = {row["example_id"]: row for row in flows.to_pylist()}
    assert {e: flow_of[e]["unscorable_reason"] for e in REASONS} == REASONS
    assert len(flow_of) == 8 and len({row["flow_id"] for row in flow_of.values()}) == 8
    summary = json.loads((config.work_path / "result.json").read_text())["summary"]
    assert (summary["n"], summary["n_not_measured"], summary["accuracy"]) == (5, 3, 1.0)
    reasons = json.loads(summary["unscorable_by_reason"])
    assert (reasons["undecodable_picture"], reasons["unreadable_picture"]) == (1, 2)


def test_a_comparison_is_over_the_others(desk):
    config = config_of(desk, "compared")
    assert run_from_file(evaluate, config, desk[0]) == 0
    predictions, examples, splits = (
        read_table(path) for path in (config.work_path / "predictions.parquet", *_paths(desk))
    )
    scores = {
        row["metric"]: (row["value"], row["n"])
        for row in compare(predictions, examples, splits, draws=50).to_pylist()
        if row["subset"] == "all"
    }
    assert scores["accuracy"] == (1.0, 5) == scores["format_valid"]
    assert scores["map_scorable"][1] == 5


def _paths(desk) -> list[str]:
    return [desk[1][name][0] for name in ("examples", "splits")]


def test_they_keep_their_place_among_the_first_rows(desk):
    config = config_of(desk, "first", max_rows=2)
    assert run_from_file(evaluate, config, desk[0]) == 0
    predictions = read_table(config.work_path / "predictions.parquet", name="predictions")
    assert predictions["example_id"].to_pylist() == ["e00", "e01"]
    assert predictions["correct"].to_pylist() == [True, None]


def test_a_split_without_any_picture_is_an_error(desk, tmp_path, capsys):
    tables = write(tmp_path / "tables", [good(0, "test", uri=str(tmp_path / "gone.png"))])
    config = config_of((tmp_path, tables, desk[2]), "none")
    assert run_from_file(evaluate, config, tmp_path) == 1
    assert "none of 1 examples of test can be asked: no picture can be read" in capsys.readouterr().err
    assert not (config.work_path / "result.json").exists()


def test_the_study_of_faithfulness_goes_on_without_them(desk, tmp_path, capsys):
    ledger = Ledger(Store(str(tmp_path / "var")))
    for name, paths in desk[1].items():
        artifact = ledger.put_table(Work("by_hand", config={"t": name}), name, name, read_table(paths[0]))
        ledger.point(f"data/{name}", "" if name == "splits" else "odd", artifact)
    options = ["--root", str(tmp_path / "var"), "--batch-size", "4", "--sanity-examples", "0"]
    chosen = ["--method", "raw_attention", "--examples", "8", "--policy", desk[2]]
    assert faithfulness_study.main([*options, *chosen]) == 0
    told = capsys.readouterr().err
    assert all(f"example {example_id}" in told for example_id in REASONS)
    assert told.count("not measured: ") == 3 and "only 5 of 8 examples have a map" in told
