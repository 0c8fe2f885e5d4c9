"""Real ops: steps that are no assets. Here: working through the jobs in order, in a process of its own.

What the jobs are and in which order their partitions come is not known here; the command is given.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Headless:
    """How to start the headless runner: command, environment variables to add, folder to start in."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


class WorkThroughConfig(dg.Config):
    """What to work through."""

    job: str = "everything"


@dg.op(description="Works through a job's partitions in order; each is a run of its own on this instance.")
def work_through(
    context: dg.OpExecutionContext, config: WorkThroughConfig, headless: dg.ResourceParam[Headless]
) -> None:
    """Start the headless runner, pass its lines on to the log, fail as it fails; ending this run ends it."""
    home = {"DAGSTER_HOME": str(context.instance.root_directory)}
    process = subprocess.Popen(  # noqa: S603 - a command of ours, a job name as its only argument
        [*headless.command, config.job],
        cwd=headless.folder,
        env={**os.environ, **headless.environment, **home},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    last = ""
    try:
        for line in process.stdout or ():
            last = line.strip() or last
            context.log.info(line.rstrip())
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise dg.Failure(f"the runner ended with exit code {code}: {last}")


def _end(process: "subprocess.Popen[str]") -> None:
    """Ask the runner to stop, which ends its stage; kill what does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
