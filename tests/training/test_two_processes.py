"""GRPO in two processes with half of each batch is GRPO in one with the whole: its gradient and what it counts."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.grpo_process import N_PROMPTS, train
from tests.training.small_run import save_speaking_policy, without_seconds, write_tables
from training.progress import COMPLETIONS, METRICS, read_json_lines

RECIPES = ("saliency_loss", "saliency_r1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the run in one process and of the run in two, which talk over the loopback."""
    folder = tmp_path_factory.mktemp("runs")
    tables, policy = write_tables(folder / "tables"), save_speaking_policy(folder / "policy")
    (folder / "tables.json").write_text(json.dumps(tables))
    for recipe in RECIPES:
        train(folder / "one", tables, policy, N_PROMPTS, recipe)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", "-m", "tests.training.grpo_process", str(folder / "two")]
    command += [str(folder / "tables.json"), policy, str(N_PROMPTS // 2), *RECIPES]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return folder / "one", folder / "two"


def steps(folder, recipe):
    return [line for line in without_seconds(read_json_lines(folder / recipe / METRICS)) if "loss" in line]


def counts(lines):
    """What is counted, not measured: it must be the same to the last one."""
    return [{name: n for name, n in line.items() if name.startswith(("n_", "unscorable_"))} for line in lines]


@pytest.mark.parametrize("step", [1, 2])
def test_the_gradient_of_two_halves_is_that_of_the_whole(runs, step):
    """Nothing but the map is learned here: all completions of a group are the same, so no advantage is above 0."""
    one, two = (load_file(folder / "saliency_loss" / f"{step}.safetensors") for folder in runs)
    assert one.keys() == two.keys()
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    assert largest > 0
    for name, gradient in one.items():
        # float32 in another order; in step 2 after a step of Adam, which makes more of it
        torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_logged_is_of_all_processes(runs, recipe):
    one, two = (steps(folder, recipe) for folder in runs)
    assert len(one) == 2
    assert counts(two) == counts(one)
    counted = "n_maps" if recipe == "saliency_loss" else "n_unscorable"
    assert all(line[counted] > 0 for line in one)
    measured = "map_contrast_mean" if recipe == "saliency_loss" else "saliency_mean"
    for name in ("loss", "accuracy_mean", measured):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], rel=1e-3, abs=1e-6)


def test_the_halves_are_not_alike(runs):
    """In step 2 one process has all the right completions and the other none, so no part can pass for the whole."""
    said = read_json_lines(runs[1] / "saliency_loss" / COMPLETIONS)
    points = [row["reward_accuracy"] for row in said if row["step"] == 2]
    half = N_PROMPTS * 3 // 2  # completions of a process: three for each prompt
    assert (points[:half], points[half:]) == ([0.0] * half, [1.0] * half)
