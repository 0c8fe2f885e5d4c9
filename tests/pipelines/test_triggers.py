"""What starts work by itself: the schedule, the sensor, and the job that both start, run for real."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ops.steps import Headless
from pipelines.definitions import build_defs
from pipelines.instance import opened, prepared_home
from pipelines.resources import environment_of
from tests.assets.small_source import write_source
from tests.assets.small_world import NORMALISED, SmallWorld


@pytest.fixture
def instance(world: SmallWorld) -> Iterator[dg.DagsterInstance]:
    with world.instance() as instance:
        yield instance


def tick(world: SmallWorld, instance: dg.DagsterInstance) -> dg.SensorResult:
    definitions = build_defs(given=world.given)
    sensor = definitions.resolve_sensor_def("changed_sources")
    given = {name: (definitions.resources or {})[name] for name in ("ledger", "sources")}
    with dg.build_sensor_context(instance=instance, resources=given) as context:
        return sensor.evaluate_tick(context)


def deliver(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    for source in ("blocks", "more"):
        assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition=source).success


def test_new_sources_ask_for_one_run(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    """The same content gives the same run_key, by which Dagster starts a run only once."""
    first, second = tick(world, instance), tick(world, instance)
    (request,) = first.run_requests or []
    assert request.tags["saliency_r1/changed"] == "blocks, more"
    assert request.run_key == (second.run_requests or [])[0].run_key


def test_unchanged_sources_ask_for_nothing(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    deliver(world, instance)
    result = tick(world, instance)
    assert not result.run_requests
    assert result.skip_message == "no change in blocks, more"


def test_a_touched_file_is_no_change_and_a_changed_one_is(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    deliver(world, instance)
    questions = world.more / "questions.jsonl"
    os.utime(questions, (1, 1))
    assert not tick(world, instance).run_requests
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[0]["answer"] = "purple"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (request,) = tick(world, instance).run_requests or []
    assert request.tags["saliency_r1/changed"] == "more"


def test_a_source_added_to_the_list_becomes_a_partition(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    deliver(world, instance)
    third = write_source(world.folder / "third", 3, seed=9)
    world.list_sources(blocks=world.blocks, more=world.more, third=third)
    result = tick(world, instance)
    (request,) = result.dynamic_partitions_requests or []
    assert list(request.partition_keys) == ["third"]


def test_the_schedule_asks_for_the_retraining_job(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    definitions = build_defs(given=world.given)
    schedule = definitions.resolve_schedule_def("weekly_retraining")
    with dg.build_schedule_context(instance=instance) as context:
        result = schedule.evaluate_tick(context)
    (request,) = result.run_requests or []
    job = definitions.resolve_job_def(schedule.job_name)
    assert dg.validate_run_config(job, request.run_config) is not None


def test_the_retraining_job_works_through_the_partitions(world: SmallWorld) -> None:
    """The target of schedule and sensor for real, on the data half; its runs are on the same instance."""
    home = prepared_home(world.settings)
    with opened(home) as instance:
        result = (
            build_defs(given=world.given)
            .resolve_job_def("retrain")
            .execute_in_process(
                instance=instance,
                run_config={"ops": {"work_through": {"config": {"job": "prepare_data"}}}},
                raise_on_error=False,
            )
        )
        assert result.success
        runs = [run for run in instance.get_runs() if run.job_name == "prepare_data"]
    assert [run.tags.get("dagster/partition") for run in runs[::-1]] == ["blocks", "more", None]
    assert all(run.status == dg.DagsterRunStatus.SUCCESS for run in runs)
    assert (world.folder / "root" / "catalog.duckdb").exists()


def test_the_retraining_job_fails_as_the_runner_fails(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    settings = {**environment_of(world.settings), "SALIENCY_R1_PROFILE": "tinny"}
    headless = Headless((sys.executable, "-m", "pipelines.run"), settings, Path.cwd())
    job = build_defs({"headless": headless}, world.given).resolve_job_def("retrain")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    described = failure.step_failure_data.user_failure_data
    assert described is not None
    assert "exit code 2" in str(described.description)
    assert "profile = 'tinny': want one of" in str(described.description)


def test_upkeep_verifies_and_clears(
    world: SmallWorld, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of work that is recorded goes; one of unfinished work stays, and one that is held."""
    abandoned = world.folder / "tmp" / "saliency-r1-tmp-pieces-left"
    abandoned.mkdir(parents=True)
    deliver(world, instance)
    done = world.ledger.everything()[0].work_key[:16]
    scratch = world.folder / "root" / "work"
    for name in (f"sft-{done}", "sft-0123456789abcdef", f"grpo-{done}"):
        (scratch / name).mkdir(parents=True)
    held = scratch / f"grpo-{done}" / "lock"
    code = f"import fcntl; f = open({str(held)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setattr("tempfile.tempdir", str(abandoned.parent))
    try:
        assert world.run(instance, "upkeep").success
    finally:
        holder.communicate(b"\n")
    assert not abandoned.exists()
    assert {path.name for path in scratch.iterdir()} == {"sft-0123456789abcdef", f"grpo-{done}"}


def test_upkeep_fails_naming_what_is_broken(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    deliver(world, instance)
    table = next((world.folder / "root" / "tables" / "boxes").rglob("*.parquet"))
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    result = world.run(instance, "upkeep")
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "content was altered" in str(failure.step_failure_data.user_failure_data)
