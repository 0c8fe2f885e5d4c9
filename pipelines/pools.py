"""The event log of a home whose pools may be asked for by several processes at the same moment.

Dagster's own, on SQLite, looks and writes in separate transactions. Two processes then get the same slot, or one
enters the queue just after the other left the slot, and nobody is left to call it up: it waits for ever. Here one
lock makes each claim and each release one act. `dagster.yaml` names this class; other storages have locks of their
own. Only pools are its business.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import StringSource
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from dagster._utils.concurrency import ConcurrencyClaimStatus
from dagster._utils.interrupts import pop_captured_interrupt

from pipelines.instance import sweep_dead_runs

ASK_AGAIN_AFTER_S = 1.0
_LOOK_FOR_SIGNALS_EVERY_S = 0.1


class PoolsOfOneMachine(SqliteEventLogStorage):
    """Dagster's event log below `home`, at its usual place, with claims and releases one at a time.

    A claim that has to wait takes a second, in which a signal is heard (DagsterExecutionInterruptedError) and slots
    of processes that are gone are freed; Dagster's loop around it would spin and be deaf.
    """

    def __init__(self, home: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._home = Path(home).absolute()
        super().__init__(str(self._home / "history" / "runs"), inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """`home`, the folder of the instance."""
        return {"home": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> "PoolsOfOneMachine":
        """As the configuration says."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._home / "pools.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def claim_concurrency_slot(
        self, concurrency_key: str, run_id: str, step_key: str, priority: int | None = None
    ) -> ConcurrencyClaimStatus:
        """Claim a slot, or wait a second; Dagster asks again. Raises DagsterExecutionInterruptedError."""
        with self._alone():
            status = super().claim_concurrency_slot(concurrency_key, run_id, step_key, priority)
        if status.is_claimed:
            return status
        _sleep_but_listen(ASK_AGAIN_AFTER_S)
        if self.has_instance:
            sweep_dead_runs(self._instance, self._home)
        return status.with_sleep_interval(0.0)

    def free_concurrency_slot_for_step(self, run_id: str, step_key: str) -> None:
        """Give the slot of a step to who waits longest."""
        with self._alone():
            super().free_concurrency_slot_for_step(run_id, step_key)

    def free_concurrency_slots_for_run(self, run_id: str) -> None:
        """Give all slots of a run to those who wait longest."""
        with self._alone():
            super().free_concurrency_slots_for_run(run_id)


def _sleep_but_listen(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if pop_captured_interrupt():
            raise DagsterExecutionInterruptedError
        time.sleep(_LOOK_FOR_SIGNALS_EVERY_S)
