"""The headless runner: what it refuses, what it leaves behind, and how it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines import run
from pipelines.instance import (
    RUNNER_TAG,
    holders,
    opened,
    prepared_home,
    runner_alive,
    sweep_dead_runs,
    sync_sources,
)
from tests.assets.small_source import write_sources_file
from tests.assets.small_world import NORMALISED, SmallWorld
from tests.pipelines.test_launchers import is_alive, until

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that names the small world; what the runner changes in it is put back."""
    monkeypatch.setenv("SALIENCY_R1_ROOT", world.settings.root)
    monkeypatch.setenv("SALIENCY_R1_SOURCES", str(world.settings.sources_file))
    monkeypatch.setenv("DAGSTER_HOME", str(world.folder / "root" / "dagster_home"))
    return monkeypatch


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["teach"], {}, "invalid choice: 'teach' (choose from"),
        (["train", "--profile", "huge"], {}, "profile = 'huge': want one of cluster, local-gpu, paper-3b"),
        (
            ["train", "--recipe", "lift"],
            {},
            "recipes: 'lift' is no recipe; want some of accuracy, saliency_r1, saliency_loss",
        ),
        (["train"], {"SALIENCY_R1_PROFILE": "huge"}, "profile = 'huge': want one of"),
        (
            ["train"],
            {"SALIENCY_R1_ROOT": "ftp://x"},
            "SALIENCY_R1_ROOT='ftp://x': wanted a local path or s3://",
        ),
        (["train"], {"SALIENCY_R1_SOURCES": "/nowhere.yaml"}, "list of sources /nowhere.yaml cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_computed(
    world: SmallWorld,
    here: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        here.setenv(name, value)
    try:
        code = run.main(arguments)
    except SystemExit as left:  # how argparse refuses
        code = left.code
    assert code == 2
    assert said in capsys.readouterr().err
    assert not Path(world.settings.root).exists() or not list(Path(world.settings.root).iterdir())


def test_a_root_that_cannot_be_made_is_named(
    world: SmallWorld, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = world.folder / "a file"
    file.write_text("in the way")
    here.setenv("SALIENCY_R1_ROOT", str(file / "root"))
    here.delenv("DAGSTER_HOME")
    assert run.main(["prepare_data"]) == 2
    said = capsys.readouterr().err
    assert f"SALIENCY_R1_ROOT={file / 'root'}" in said and "Not a directory" in said


def test_a_failure_is_one_line_that_says_why(world: SmallWorld, here: pytest.MonkeyPatch) -> None:
    (world.more / "annotations.json").unlink()
    with pytest.raises(run.StepError) as caught:
        run.work(world.given, "prepare_data")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("raw/files, data/images")
    assert (
        "[more]: blocked by check delivered_and_readable of raw/files: annotations.json: missing_file" in line
    )


def test_a_source_that_left_the_list_leaves_partitions_and_handles(
    world: SmallWorld, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run.work(world.given, "prepare_data")
    assert "unchanged" not in capsys.readouterr().err
    world.list_sources(blocks=world.blocks)
    run.work(world.given, "prepare_data")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"[1/2] raw/files, {', '.join(NORMALISED)}, data/profile [blocks]"
    assert told[1].endswith(" s, unchanged")
    assert sorted(world.ledger.current_all("data/images")) == ["blocks"]
    with opened(prepared_home(world.settings)) as instance:
        assert instance.get_dynamic_partitions("source") == ["blocks"]


def test_an_interrupt_leaves_nothing_running_and_nothing_half_done(
    world: SmallWorld, here: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C in the middle of a stage: exit code 130, the stage is gone, the run is over, the slot is free."""
    with world.instance() as in_memory:
        world.prepare(in_memory)
    stage = Path(__file__).with_name("scripted_stage.py")
    work = Path(world.settings.root) / "work"
    work.mkdir()
    (work / "script.json").write_text('[["wait_for", "never"]]')
    code = f"""
import sys
from pipelines import launchers, run
launchers.WITH_COMMAND = tuple(launchers.MODULES)
sys.exit(run.main(["train", "--profile", {str(tmp_path / "scripted.yaml")!r}]))
"""
    (tmp_path / "scripted.yaml").write_text(
        f"description: a stage in the hands of the test\npolicy: {tmp_path}\ncommand: [{sys.executable}, {stage}]\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=TOP,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = int(until(work / "started.txt").read_text().split()[0])
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "interrupted: train stopped; run it again to go on where it was"
    while is_alive(pid):
        time.sleep(0.02)
    with opened(prepared_home(world.settings)) as instance:
        assert [run.status for run in instance.get_runs() if not run.is_finished] == []
        assert instance.event_log_storage.get_concurrency_info("gpu").slot_count == 1
        assert not instance.event_log_storage.get_concurrency_info("gpu").active_run_ids
    assert world.ledger.current("policy/base") is None


def test_runs_of_a_killed_runner_are_swept(world: SmallWorld) -> None:
    """One run of a runner that is gone, one of a runner that is alive: only the first is ended."""
    home = prepared_home(world.settings)
    with opened(home) as instance, runner_alive(home) as alive:
        dead = dg.DagsterRun(
            job_name="train", status=dg.DagsterRunStatus.STARTED, tags={RUNNER_TAG: "1-gone"}
        )
        living = dg.DagsterRun(job_name="train", status=dg.DagsterRunStatus.STARTED, tags={RUNNER_TAG: alive})
        for run_ in (dead, living):
            instance.add_run(run_)
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 1)
        assert holders(instance, ["gpu"]) == []
        assert storage.claim_concurrency_slot("gpu", dead.run_id, "step").is_claimed
        assert holders(instance, ["gpu"]) == [dead.run_id]
        assert sweep_dead_runs(instance, home) == [dead.run_id]
        assert instance.get_run_by_id(living.run_id).status == dg.DagsterRunStatus.STARTED  # type: ignore[union-attr]
        assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
        assert storage.claim_concurrency_slot("gpu", living.run_id, "step").is_claimed


def test_partitions_follow_the_list(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert sync_sources(instance, ["a", "b"]) == []
        assert sync_sources(instance, ["b", "c"]) == ["a"]
        assert sorted(instance.get_dynamic_partitions("source")) == ["b", "c"]


def test_home_is_below_the_root_and_its_settings_are_the_owners(world: SmallWorld) -> None:
    home = prepared_home(world.settings)
    assert home == Path(world.settings.root) / "dagster_home"
    assert "default_limit: 1" in (home / "dagster.yaml").read_text()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    prepared_home(world.settings)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_sources_of_another_shape_are_refused(
    world: SmallWorld, here: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_sources_file(world.folder / "sources.yaml", blocks=world.blocks)
    path.write_text(path.read_text().replace("format: coco", "format: cocoa").replace("licence", "license"))
    assert run.main(["prepare_data"]) == 2
    told = capsys.readouterr().err
    assert "format='cocoa': allowed are coco, visual_cot" in told
    assert "license: no such setting" in told
