"""Pools that several processes ask for: each wait ends, by a slot or by a signal."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines import pools
from pipelines.instance import RUNNER_TAG, opened, prepared_home, runner_alive
from tests.assets.small_world import SmallWorld

pytestmark = pytest.mark.timeout(120)
TOP = Path(__file__).resolve().parents[2]


def test_who_asks_while_the_slot_is_given_back_gets_it(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks, sees no free slot, and before it queues the first would leave and call up nobody."""
    home = prepared_home(world.settings)
    looked = threading.Event()

    class Slow(pools.PoolsOfOneMachine):
        def has_unassigned_slots(self, concurrency_key: str) -> bool:
            found = super().has_unassigned_slots(concurrency_key)
            looked.set()
            time.sleep(0.5)
            return found

    monkeypatch.setattr(pools, "ASK_AGAIN_AFTER_S", 0.0)
    with opened(home) as instance:
        first = instance.event_log_storage
        first.set_concurrency_slots("gpu", 1)
        assert first.claim_concurrency_slot("gpu", "one", "step").is_claimed
        second = Slow(str(home))
        asking = threading.Thread(target=second.claim_concurrency_slot, args=("gpu", "two", "step"))
        asking.start()
        looked.wait()
        first.free_concurrency_slot_for_step("one", "step")
        asking.join()
        assert second.claim_concurrency_slot("gpu", "two", "step").is_claimed
        assert first.get_concurrency_info("gpu").active_run_ids == {"two"}


def _waiting(world: SmallWorld, home: Path) -> subprocess.Popen[str]:
    told = {
        "SALIENCY_R1_ROOT": world.settings.root,
        "SALIENCY_R1_SOURCES": str(world.folder / "sources.yaml"),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.run", "prepare_data"],
        cwd=TOP,
        env=os.environ | told | {"DAGSTER_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("waiting for run" in line for line in process.stderr)
    time.sleep(3)  # it is in the queue now
    return process


def _last_words(process: subprocess.Popen[str], seconds: float) -> str:
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("how", ["a signal", "the end of the holder"])
def test_a_wait_for_a_pool_ends_with(world: SmallWorld, how: str) -> None:
    """The holder lives and keeps the slot: a signal ends the wait. It is gone: the slot is free, the step is done."""
    home = prepared_home(world.settings)
    with opened(home) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("catalog", 1)
        with runner_alive(home) as alive:
            run = dg.DagsterRun(
                job_name="prepare_data", status=dg.DagsterRunStatus.STARTED, tags={RUNNER_TAG: alive}
            )
            instance.add_run(run)
            assert storage.claim_concurrency_slot("catalog", run.run_id, "step").is_claimed
            process = _waiting(world, home)
            if how == "a signal":
                process.send_signal(signal.SIGTERM)
                told = _last_words(process, 20)
        if how == "a signal":
            assert process.returncode == 130, told
            assert "run it again" in told.splitlines()[-1]
            assert [info.run_id for info in storage.get_concurrency_info("catalog").pending_steps] == [
                run.run_id
            ]
        else:
            told = _last_words(process, 60)
            assert process.returncode == 0, told
            assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
            assert not storage.get_concurrency_info("catalog").active_run_ids
