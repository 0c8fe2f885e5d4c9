"""The benchmark of a map's cost compares like with like, and says so when it does not."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # each starts three processes


def _run(*arguments):
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.saliency_cost",
        "--small",
        "--processes",
        "1",
        "--rounds",
        "2",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_a_small_run_prints_its_ratios():
    done = _run()
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["ratios"]) == {name.rpartition("_at_")[0] for name in found["wanted"]}
    assert found["seconds"]["plain_after_pass"] > 0
    assert found["shape"]["grid_hw"] == [3, 5]


def test_maps_that_differ_are_not_timed():
    done = _run("--plain-rows", "state")
    assert done.returncode == 2
    assert not done.stdout
    assert "map: plain and engine differ by" in done.stderr


def test_the_map_as_a_loss_is_measured_against_the_same_step_without():
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.map_loss_cost",
        "--small",
        "--processes",
        "1",
        "--rounds",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert set(found["ratios"]) == {"time", "peak_memory"}
    assert found["gradient_norms"]["map"] != found["gradient_norms"]["plain"]
