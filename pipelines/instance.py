"""The Dagster instance of a root: its home, its source partitions, and runs that died with their process.

Nothing about data belongs here.
"""

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from assets.partitions import SOURCES
from pipelines.home import settle
from storage.objects import sha256_bytes
from storage.settings import Settings, SettingsError

RUNNER_TAG = "saliency_r1/runner"
UNFINISHED = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def local_folder(settings: Settings) -> Path:
    """Where what must be local lives: the root itself, or a cache folder of its own for an s3:// root."""
    if "://" not in settings.root:
        return Path(settings.root)
    return Path.home() / ".cache" / "saliency-r1" / "roots" / sha256_bytes(settings.root.encode())[:16]


def scratch_folder(settings: Settings) -> Path:
    """The work folders of training stages."""
    return local_folder(settings) / "work"


def prepared_home(settings: Settings) -> Path:
    """DAGSTER_HOME, or its default below the root, made ready: the folder and its dagster.yaml."""
    home = Path(os.environ.get("DAGSTER_HOME") or local_folder(settings) / "dagster_home").absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"SALIENCY_R1_ROOT={settings.root} with DAGSTER_HOME={home}: {error.strerror}; "
            "wanted folders that can be made and written, or s3://bucket/prefix for the root"
        ) from error
    settle(home)
    return home


@contextmanager
def opened(home: Path) -> Iterator[dg.DagsterInstance]:
    """The instance at a home; one process at a time makes its databases, which Dagster leaves to luck."""
    with (home / "opening.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _told_to_dagster(home):
            instance = dg.DagsterInstance.from_config(str(home))
        instance.get_dynamic_partitions(
            str(SOURCES.name)
        )  # makes the index of events, which waits for its first use
    with instance:
        yield instance


@contextmanager
def _told_to_dagster(home: Path) -> Iterator[None]:
    """DAGSTER_HOME is this home inside the block: `dagster.yaml` refers to it."""
    before = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = before


def sync_sources(instance: dg.DagsterInstance, names: Sequence[str]) -> list[str]:
    """Make the source partitions those of the list of sources; returns the ones that were taken away."""
    known = set(instance.get_dynamic_partitions(str(SOURCES.name)))
    gone = sorted(known - set(names))
    for name in gone:
        instance.delete_dynamic_partition(str(SOURCES.name), name)
    instance.add_dynamic_partitions(str(SOURCES.name), [name for name in names if name not in known])
    return gone


@contextmanager
def runner_alive(home: Path) -> Iterator[str]:
    """Hold a lock for as long as this process works; yields its name, with which runs are tagged."""
    folder = home / "runners"
    folder.mkdir(exist_ok=True)
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield path.name
        finally:
            path.unlink(missing_ok=True)


def _is_alive(home: Path, runner: str) -> bool:
    path = home / "runners" / Path(runner).name
    if not path.exists():
        return False
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    path.unlink(missing_ok=True)
    return False


def sweep_dead_runs(instance: dg.DagsterInstance, home: Path) -> list[str]:
    """Mark runs as failed whose headless runner was killed, and free the pool slots of all finished runs.

    Without this a killed run would stay "started" for ever, and its slot of the pool `gpu` taken.
    """
    dead = []
    for run in instance.get_runs(RunsFilter(statuses=UNFINISHED)):
        runner = run.tags.get(RUNNER_TAG)
        if runner and not _is_alive(home, runner):
            instance.report_run_failed(run, "the process that worked on this run is gone")
            dead.append(run.run_id)
    storage = instance.event_log_storage
    for pool in storage.get_concurrency_keys():
        for run_id in (
            storage.get_concurrency_info(pool).active_run_ids
            | storage.get_concurrency_info(pool).pending_run_ids
        ):
            holder = instance.get_run_by_id(run_id)
            if holder is None or holder.is_finished:
                storage.free_concurrency_slots_for_run(run_id)
    return dead


def holders(instance: dg.DagsterInstance, pools: Iterable[str]) -> list[str]:
    """The runs that hold every slot of one of the pools: a step that needs it has to wait for them."""
    found: set[str] = set()
    for pool in pools:
        info = instance.event_log_storage.get_concurrency_info(pool)
        if info.slot_count and len(info.claimed_slots) >= info.slot_count:
            found |= info.active_run_ids
    return sorted(found)
