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
from training.progress import METRICS, read_json_lines

REASONS = {"e03": "undecodable_picture", "e04": "unreadable_picture", "e51": "unreadable_picture"}
N_ROWS = 60  # three of them are just as many as may be lost


def rows_of(folder: Path) -> list[Given]:
    """Rows of split test, answer "red": e03 is cut in the middle, e04's file is gone, e51's is another one."""
    whole = {index: good(index, "test") for index in range(N_ROWS)}
    cut = Given("e03", whole[3].data[: len(whole[3].data) // 2], whole[3].size_wh, "test")
    (folder / "other.png").write_bytes(png((112, 84), seed=77))
    gone = good(4, "test", uri=str(folder / "gone.png"))
    other = good(51, "test", uri=str(folder / "other.png"))
    return list((whole | {3: cut, 4: gone, 51: other}).values())


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]], str]:
    folder = tmp_path_factory.mktemp("broken")
    return folder, write(folder / "tables", rows_of(folder)), save_speaking_policy(folder / "policy")


def config_of(desk, name: str, **settings):
    folder, tables, policy = desk
    # pictures of like size go together: e03 and e04 are a batch of their own, without any picture
    chosen = {"split": "test", "batch_size": 2, "max_completion_length": 16}
    return stage_config("evaluate", folder / name, tables, policy, **(chosen | settings))


def test_they_are_named_and_counted_and_change_no_score(desk, capsys):
    config = config_of(desk, "whole", faithfulness_rows=N_ROWS, token_flow_rows=N_ROWS)
    assert run_from_file(evaluate, config, desk[0]) == 0
    told = capsys.readouterr().err
    for example_id in REASONS:
        assert [line for line in told.splitlines() if "not measured: " in line and example_id in line], told
    predictions, maps, flows = (
        read_table(config.work_path / f"{name}.parquet", name=name) for name in evaluate.TABLES
    )
    rows = {row["example_id"]: row for row in predictions.to_pylist()}
    assert list(rows) == [f"e{index:02}" for index in range(N_ROWS)]
    kept = {"policy_id", "policy", "example_id", "image_sha256", "unscorable_reason"}
    for example_id, reason in REASONS.items():
        row = rows[example_id]
        assert {name for name, value in row.items() if value is not None} == kept
        assert row["unscorable_reason"] == reason
    measured = [row for example_id, row in rows.items() if example_id not in REASONS]
    assert [(row["answer"], row["correct"]) for row in measured] == [("red", True)] * 57
    assert not set(maps["example_id"].to_pylist()) & set(REASONS)
    flow_of = {row["example_id"]: row for row in flows.to_pylist()}
    assert {e: flow_of[e]["unscorable_reason"] for e in REASONS} == REASONS
    assert len(flow_of) == len({row["flow_id"] for row in flow_of.values()}) == N_ROWS
    summary = json.loads((config.work_path / "result.json").read_text())["summary"]
    assert (summary["n"], summary["n_not_measured"], summary["accuracy"]) == (57, 3, 1.0)
    assert json.loads(summary["not_measured_by_reason"]) == {
        "undecodable_picture": 1,
        "unreadable_picture": 2,
    }
    unscored = [row["unscorable_reason"] for row in measured if row["unscorable_reason"] is not None]
    assert sum(json.loads(summary["unscorable_by_reason"]).values()) == len(unscored)
    assert summary["unscorable_frac"] == pytest.approx(len(unscored) / 57)
    lines = read_json_lines(config.work_path / METRICS)
    assert [line["n"] for line in lines[:3]] == [2, 2, 4]  # the second batch has no picture at all
    assert lines[-1]["n"] == 57


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
    assert scores["accuracy"] == (1.0, 57) == scores["format_valid"]
    assert scores["map_scorable"][1] == 57


def _paths(desk) -> list[str]:
    return [desk[1][name][0] for name in ("examples", "splits")]


def test_they_keep_their_place_among_the_first_rows(desk):
    config = config_of(desk, "first", max_rows=40)
    assert run_from_file(evaluate, config, desk[0]) == 0
    predictions = read_table(config.work_path / "predictions.parquet", name="predictions")
    assert predictions["example_id"].to_pylist() == [f"e{index:02}" for index in range(40)]
    assert predictions["correct"].to_pylist() == [True, True, True, None, None] + [True] * 35


def test_more_than_a_few_lost_pictures_are_an_error(desk, capsys):
    config = config_of(desk, "many", max_rows=39)  # two of them are more than 5 %
    assert run_from_file(evaluate, config, desk[0]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "2 of 39 examples cannot be asked: no picture that can be read; at most 5% may be lost" in said
    assert "e03 (undecodable_picture)" in said and "e04 (unreadable_picture)" in said
    assert not (config.work_path / "result.json").exists()


def drive_of(folder: Path, n: int) -> tuple[Path, dict[str, list[str]]]:
    """A folder of pictures, and tables that keep them by reference."""
    rows = [good(index, "test", uri=str(folder / "drive" / f"{index}.png")) for index in range(n)]
    (folder / "drive").mkdir()
    for row in rows:
        Path(str(row.uri)).write_bytes(row.data)
    return folder / "drive", write(folder / "tables", rows)


def test_after_a_drive_is_back_the_run_is_made(desk, tmp_path, capsys):
    drive, tables = drive_of(tmp_path, 4)
    away = drive.rename(tmp_path / "away")
    config = config_of((tmp_path, tables, desk[2]), "run")
    assert run_from_file(evaluate, config, tmp_path) == 1
    assert "4 of 4 examples cannot be asked" in capsys.readouterr().err
    assert list(config.work_path.iterdir()) == []  # said before anything is asked
    away.rename(drive)
    assert run_from_file(evaluate, config, tmp_path) == 0
    predictions = read_table(config.work_path / "predictions.parquet", name="predictions")
    assert predictions["correct"].to_pylist() == [True] * 4


def test_a_picture_that_is_back_is_measured_and_no_other_batch_anew(desk, tmp_path):
    rows = rows_of(tmp_path)
    config = config_of((tmp_path, write(tmp_path / "tables", rows), desk[2]), "run")
    assert run_from_file(evaluate, config, tmp_path) == 0
    parts = sorted((config.work_path / "parts").glob("*.predictions.parquet"))
    before = [part.stat().st_mtime_ns for part in parts]
    (tmp_path / "gone.png").write_bytes(rows[4].data)
    assert run_from_file(evaluate, config, tmp_path) == 0
    predictions = read_table(config.work_path / "predictions.parquet", name="predictions")
    not_measured = predictions.filter(predictions["correct"].is_null())
    assert not_measured["example_id"].to_pylist() == ["e03", "e51"]
    after = [part.stat().st_mtime_ns for part in parts]
    assert [index for index, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1] == [1]
    lines = read_json_lines(config.work_path / METRICS)
    assert [line["step"] for line in lines] == list(range(1, 31)) and lines[-1]["n"] == 58


def study(tmp_path: Path, tables: dict[str, list[str]], policy: str, n_wanted: int) -> int:
    ledger = Ledger(Store(str(tmp_path / "var")))
    for name, paths in tables.items():
        artifact = ledger.put_table(Work("by_hand", config={"t": name}), name, name, read_table(paths[0]))
        ledger.point(f"data/{name}", "" if name == "splits" else "odd", artifact)
    options = ["--root", str(tmp_path / "var"), "--batch-size", "4", "--sanity-examples", "0"]
    chosen = ["--method", "raw_attention", "--examples", str(n_wanted), "--policy", policy]
    return faithfulness_study.main([*options, *chosen])


def test_the_study_of_faithfulness_goes_on_without_them(desk, tmp_path, capsys):
    tables = write(tmp_path / "tables", rows_of(tmp_path)[:40])
    assert study(tmp_path, tables, desk[2], 40) == 0
    told = capsys.readouterr().err
    assert all(f"example {example_id}" in told for example_id in ("e03", "e04"))
    assert told.count("not measured: ") == 2 and "only 38 of 40 examples have a map" in told


def test_a_study_that_lost_too_many_pictures_says_so_and_is_made_once_they_are_back(desk, tmp_path, capsys):
    drive, tables = drive_of(tmp_path, 8)
    away = drive.rename(tmp_path / "away")
    assert study(tmp_path, tables, desk[2], 8) == 1
    assert "8 of 8 examples cannot be asked: no picture that can be read" in capsys.readouterr().err
    away.rename(drive)
    lost = (drive / "5.png").rename(tmp_path / "5.png")
    assert study(tmp_path, tables, desk[2], 8) == 1
    assert "1 of 8 examples cannot be asked" in capsys.readouterr().err
    lost.rename(drive / "5.png")
    assert study(tmp_path, tables, desk[2], 8) == 0
    parts = sorted((tmp_path / "var" / "work").rglob("*.json"))
    kept = [record["example_id"] for part in parts for record in json.loads(part.read_text())]
    assert len(kept) == 8 == len({*kept})
