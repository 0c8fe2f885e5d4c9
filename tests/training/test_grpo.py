import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from storage.tables import read_table
from tests.training.small_grpo import grpo_config
from tests.training.small_run import (
    run_and_interrupt,
    run_from_file,
    save_speaking_policy,
    weights,
    without_seconds,
    write_tables,
)
from training import grpo
from training.checkpoints import CHECKPOINTS, is_complete, latest_checkpoint, mark_complete, steps_of
from training.policy import load_policy
from training.progress import COMPLETIONS, METRICS, JsonLines, read_json_lines, step_rows
from training.recipes import RECIPES
from training.stage import RESULT

CHANGES = {"steps": 8, "temperature": 1.0}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_speaking_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_one_round_of_each_recipe_end_to_end(tmp_path, tables, policy, recipe):
    config = grpo_config(tmp_path / "work", tables, policy, steps=2, temperature=1.0, recipe=recipe)
    assert run_from_file(grpo, config, tmp_path) == 0
    work = config.work_path
    result = json.loads((work / RESULT).read_text())
    assert result["outputs"] == {
        "policy": "policy",
        "training_steps": "training_steps.parquet",
        "completions": "completions.parquet",
    }
    assert (
        result["summary"]["n_completions"] == 12
    )  # 2 prompts x 3 completions for each of the round's 2 steps
    assert result["summary"]["n_steps"] == 2

    steps = read_table(work / "training_steps.parquet").to_pylist()
    assert [(row["stage"], row["step"]) for row in steps] == [("grpo", 1), ("grpo", 2)]
    assert 0 <= steps[0]["accuracy_mean"] <= 1
    assert steps[1]["accuracy_mean"] is None  # the second step of a round learns from the same completions
    assert all(row["loss"] is not None and row["seconds"] > 0 for row in steps)

    sampled = read_table(work / "completions.parquet").to_pylist()
    assert len(sampled) == 12
    assert {row["step"] for row in sampled} == {1}
    scored = [row["reward_saliency"] for row in sampled if row["reward_saliency"] is not None]
    if recipe == "saliency_r1":
        assert all(0 <= mass <= 1 for mass in scored)
        assert len(set(scored)) > 1
        assert steps[0]["saliency_mean"] == pytest.approx(sum(scored) / len(scored), rel=1e-5)
        assert steps[0]["n_unscorable"] == 12 - len(scored)
    else:
        assert scored == []
        assert steps[0]["saliency_mean"] is None
        assert (steps[0]["n_unscorable"] is None) == (recipe == "accuracy")  # a map loss counts them too
    trained, before = load_policy(str(work / "policy")), load_policy(policy)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trained.model.parameters(), before.model.parameters(), strict=True)
    )


@pytest.mark.parametrize(("lora_rank", "beta"), [(0, 0.0), (2, 0.05)], ids=["full", "lora"])
@pytest.mark.parametrize("recipe", ["saliency_r1", "saliency_loss"])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, tables, policy, recipe, lora_rank, beta):
    settings = CHANGES | {"recipe": recipe, "lora_rank": lora_rank, "beta": beta}
    through = grpo_config(tmp_path / "through", tables, policy, **settings)
    assert run_from_file(grpo, through, tmp_path) == 0

    broken = grpo_config(tmp_path / "broken", tables, policy, **settings)
    assert run_and_interrupt(grpo, broken, tmp_path, after_step=3) == 130
    assert not (broken.work_path / RESULT).exists()
    assert 2 <= steps_of(latest_checkpoint(broken.work_path / CHECKPOINTS)) < 8
    assert run_from_file(grpo, broken, tmp_path) == 0

    wanted, found = weights(through.work_path / "policy"), weights(broken.work_path / "policy")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    lines = read_json_lines(broken.work_path / METRICS)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert without_seconds(lines) == without_seconds(read_json_lines(through.work_path / METRICS))
    if recipe == "saliency_loss":  # there were maps to learn from before the interruption and after it
        assert lines[0]["n_maps"] > 0 and any(line["n_maps"] > 0 for line in lines[3:])
    table = "completions.parquet"
    assert (broken.work_path / table).read_bytes() == (through.work_path / table).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["saliency_r1", "saliency_loss"])
def test_a_killed_process_resumes_to_the_same_weights(tmp_path, tables, policy, recipe):
    # SIGKILL: nothing in the process can tidy up. The first round's checkpoint is there, the run is not done.
    configs = {}
    for name in ("through", "killed"):
        config = grpo_config(tmp_path / name, tables, policy, **CHANGES, recipe=recipe)
        configs[name] = config.work_path
        (tmp_path / f"{name}.json").write_text(json.dumps(config.to_dict()))

    def start(name):
        command = [sys.executable, "-m", "training.grpo", str(tmp_path / f"{name}.json")]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    assert start("through").wait() == 0
    killed = start("killed")
    while not any(row["step"] >= 3 for row in read_json_lines(configs["killed"] / METRICS)):
        assert killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (configs["killed"] / RESULT).exists()
    assert start("killed").wait() == 0
    wanted, found = (weights(work / "policy") for work in configs.values())
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_too_few_rows_for_a_round_are_an_error_that_says_so(tmp_path, tables, policy, capsys):
    config = grpo_config(tmp_path / "work", tables, policy, **CHANGES, max_rows=3)
    assert run_from_file(grpo, config, tmp_path) == 1
    assert (
        "the split train gives 3 rows, a sampling round takes 4" in capsys.readouterr().err.splitlines()[-1]
    )
    assert not (config.work_path / RESULT).exists()


def test_a_checkpoint_that_was_cut_short_is_not_trusted(tmp_path):
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * 100)
        mark_complete(folder)
    assert latest_checkpoint(tmp_path).name == "checkpoint-10"  # by number, not by name
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"x" * 60)
    (tmp_path / "checkpoint-4" / "complete.json").unlink()
    assert not is_complete(tmp_path / "checkpoint-10")
    assert latest_checkpoint(tmp_path).name == "checkpoint-2"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert latest_checkpoint(tmp_path) is None
    assert steps_of(None) == 0


def test_logged_lines_after_the_checkpoint_and_a_line_cut_short_are_dropped(tmp_path):
    path = tmp_path / COMPLETIONS
    path.write_text('{"step": 1, "n": 1}\n{"step": 1, "n": 2}\n{"step": 3, "n": 3}\n{"step": 3, "n"')
    lines = JsonLines(path, keep_to_step=2)
    lines.append([{"step": 3, "n": 4}])
    assert [row["n"] for row in lines.rows()] == [1, 2, 4]


def test_lines_of_an_evaluation_are_no_steps():
    lines = [
        {
            "step": 2,
            "loss": 0.5,
            "n_unscorable": 3,
            "unscorable_truncated": 2,
            "unscorable_no_thought": 1,
        },
        {"step": 2, "eval_loss": 0.7},
    ]
    assert step_rows(lines, "p@0", "grpo") == [
        {"policy_id": "p@0", "stage": "grpo", "step": 2, "loss": 0.5, "n_unscorable": 3}
        | {"unscorable_by_reason": '{"no_thought": 1, "truncated": 2}'}
    ]
