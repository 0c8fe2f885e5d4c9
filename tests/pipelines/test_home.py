"""The settings of a Dagster home: our own from before are written anew, a person's are kept, with a warning."""

from pathlib import Path

import dagster as dg
import pytest

from pipelines import home as homes
from pipelines import run
from pipelines.home import lacking
from pipelines.instance import opened, prepared_home
from pipelines.pools import PoolsOfOneMachine
from tests.assets.small_world import SmallWorld

FIRST = """# Copied into DAGSTER_HOME when there is none yet; edit the copy, not this file.
telemetry: {enabled: false}
nux: {enabled: false}
concurrency:
  pools: {granularity: op, default_limit: 1}    # pool `gpu`: one training stage at a time, whoever starts it
  runs: {max_concurrent_runs: 3}
run_retries: {enabled: true, max_retries: 0}
run_monitoring: {enabled: true, free_slots_after_run_end_seconds: 60}
"""
SECOND = f"""{FIRST}event_log_storage:                              \
# SQLite in this folder; two processes never take one slot of a pool
  module: pipelines.pools
  class: PoolsOfOneMachine
  config: {{home: {{env: DAGSTER_HOME}}}}
"""
OURS = homes.TEMPLATE.read_text()


def home_with(world: SmallWorld, text: str) -> Path:
    home = Path(world.settings.root) / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text(text)
    return home


@pytest.mark.parametrize("text", [FIRST, SECOND])
def test_a_home_of_an_earlier_version_gets_the_settings_of_this_one(world: SmallWorld, text: str) -> None:
    home = home_with(world, text)
    assert prepared_home(world.settings) == home
    assert (home / "dagster.yaml").read_text() == OURS != text
    assert lacking(home) is None


def test_its_runs_are_still_there(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_with(world, FIRST)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert not isinstance(instance.event_log_storage, PoolsOfOneMachine)
        run_id = instance.create_run_for_job(_nothing, status=dg.DagsterRunStatus.STARTED).run_id
        instance.report_run_failed(instance.get_run_by_id(run_id), "by hand")
        n_events = len(instance.all_logs(run_id))
    assert n_events > 0
    with opened(prepared_home(world.settings)) as instance:
        assert isinstance(instance.event_log_storage, PoolsOfOneMachine)
        assert [each.run_id for each in instance.get_runs()] == [run_id]
        assert len(instance.all_logs(run_id)) == n_events


@dg.job
def _nothing() -> None:
    """No step."""


def test_a_later_version_knows_what_this_one_wrote(
    world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = prepared_home(world.settings)
    later = tmp_path / "later.yaml"
    later.write_text(f"{OURS}schedules: {{use_threads: false}}\n")
    monkeypatch.setattr(homes, "TEMPLATE", later)
    prepared_home(world.settings)
    assert (home / "dagster.yaml").read_text() == later.read_text()
    (home / "dagster.yaml").write_text(edited := f"{later.read_text()}# mine\n")
    (home / homes.WRITTEN).write_bytes(b"\xff, half written")
    later.write_text(OURS)
    prepared_home(world.settings)
    assert (home / "dagster.yaml").read_text() == edited


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FIRST.replace("runs: 3", "runs: 5"), "without event_log_storage; two runs"),
        (
            SECOND.replace("  pools: {granularity: op, default_limit: 1}", ""),
            "without concurrency.pools; two",
        ),
        ("concurrency: [\n", "cannot be read"),
        ("[" * 500, "cannot be read"),
        ("just a word\n", "without concurrency.pools and event_log_storage"),
        ("concurrency: 5\n", "without concurrency.pools and event_log_storage"),
        ("concurrency:\n", "without concurrency.pools and event_log_storage"),
        (f"{OURS}# mine\n", None),
        (f"{FIRST}storage: {{postgres: {{postgres_url: {{env: URL}}}}}}\n", None),
        (OURS.replace("runs: 3", "runs: 5"), None),
    ],
)
def test_a_persons_settings_are_kept_and_what_they_lack_is_said(
    world: SmallWorld, text: str, said: str | None
) -> None:
    home = home_with(world, text)
    prepared_home(world.settings)
    assert (home / "dagster.yaml").read_text() == text
    told = lacking(home)
    assert told is None if said is None else told is not None and said in told and str(home) in told


def test_the_command_warns_once_and_works(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = home_with(world, FIRST.replace("max_retries: 0", "max_retries: 1"))
    monkeypatch.setenv("DAGSTER_HOME", str(home))  # the command sets it too, and leaves it
    monkeypatch.setattr(run, "steps_of", lambda *_: [])
    run.work(world.given, "prepare_data")
    told = capsys.readouterr().err
    assert told.count("warning: ") == 1
    assert "was edited and is kept as it is, without event_log_storage" in told
    assert "done: prepare_data" in told
