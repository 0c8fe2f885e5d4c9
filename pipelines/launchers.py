"""Starts a training stage in a process of its own, follows it, and stores what it made.

Belongs here: the work folder and its lock, the process group, tailing of metrics.jsonl. What a stage does is
in training/; what its outputs mean is in assets/. The stage is never imported: a crash there ends a process.

The lock is a file lock that the stage's process inherits. When this process is killed without a chance to end
its child, the lock stays taken until the child is gone; whoever comes next waits and takes over its result.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from assets.resources import Observe
from pipelines.progress import Progress, Tail
from storage.lineage import Artifact, Ledger, Work
from storage.schema import TABLES
from training.config import StageConfig, local_folder_of

MODULES = {
    "base": "training.inspect_policy",
    "process": "training.process_rows",
    "sft": "training.sft",
    "grpo": "training.grpo",
    "evaluate": "training.evaluate",
}
WITH_COMMAND = ("sft", "grpo")  # the stages that a multi-process command may start
KEPT = ("CONFIG.json", "metrics.jsonl", "stage.log", "lock")
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0


class StageError(RuntimeError):
    """A stage that ended without a result; the message has its last line and where its log is."""


@dataclass(frozen=True)
class LocalLauncher:
    """Runs stages on this machine (or through `command`), one at a time per piece of work.

    ledger: where results go. root: passed on to the stage. scratch: local folder for work folders, which
    survive a kill so that a stage resumes. command: see `assets.resources.Profile`.
    """

    ledger: Ledger
    root: str
    scratch: Path
    command: tuple[str, ...] = ()

    def __call__(
        self, stage: str, work: Work, config: Mapping[str, Any], observe: Observe
    ) -> dict[str, Artifact]:
        """The outputs of `work`: found, or made now. Raises StageError, ConfigError."""
        folder = self.scratch / f"{stage}-{work.key[:16]}"
        data = {**config, "stage": stage, "root": self.root, "work_dir": str(folder), "seed": work.seed}
        StageConfig.from_dict(data)
        if found := self.ledger.find(work):
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "lock") as lock:
            if found := self.ledger.find(work):
                return found  # made by another run while this one waited for the lock
            text = json.dumps(data, indent=2, sort_keys=True, default=list)
            if not (folder / "result.json").exists() or _text(folder / "CONFIG.json") != text:
                (folder / "result.json").unlink(missing_ok=True)
                (folder / "CONFIG.json").write_text(text, encoding="utf-8")
                self._run(stage, work, str(data["policy"]), folder, lock, observe)
            outputs = self._store(work, folder)
            tidy(folder)
        return outputs

    def _run(
        self, stage: str, work: Work, policy: str, folder: Path, lock: IO[str], observe: Observe
    ) -> None:
        prefix = self.command if stage in WITH_COMMAND else ()
        command = [*(prefix or (sys.executable, "-m")), MODULES[stage], str(folder / "CONFIG.json")]
        progress = Progress(f"{stage} {work.name}".strip(), observe)
        tail = Tail(folder / "metrics.jsonl")
        log_path = folder / "stage.log"
        with log_path.open("ab") as log, child(command, log, lock, environment(policy)) as process:
            while process.poll() is None:
                progress.show(tail.new_rows())
                time.sleep(POLL_SECONDS)
            progress.show(tail.new_rows())
        progress.end()
        if process.returncode or not (folder / "result.json").exists():
            how = (
                f"exit code {process.returncode}"
                if process.returncode >= 0
                else f"signal {-process.returncode}"
            )
            raise StageError(
                f"stage {stage} of {work.name or work.producer} ended with {how} and no result: "
                f"{last_line(log_path)}; its whole log is {log_path}; a new run goes on where it stopped"
            )

    def _store(self, work: Work, folder: Path) -> dict[str, Artifact]:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        facts = {
            "summary": result.get("summary", {}),
            "versions": result.get("versions", {}),
            "device": result.get("device", ""),
        }
        outputs = {}
        for output, relative in result["outputs"].items():
            path = folder / relative
            if path.is_dir():
                outputs[output] = self.ledger.put_folder(work, output, output, path, **facts)
            elif output in TABLES:
                outputs[output] = self.ledger.put_table(work, output, output, pq.read_table(path), **facts)
            else:
                outputs[output] = self.ledger.put_bytes(
                    work, output, output, path.read_bytes(), path.suffix, **facts
                )
        return outputs


@contextmanager
def held(path: Path) -> Iterator[IO[str]]:
    """Hold the lock file; waits, saying for whom, while another process holds it."""
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(
                f"waiting for process {lock.read().strip() or '?'}, which does this work already ({path})",
                file=sys.stderr,
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield lock


@contextmanager
def child(
    command: list[str], log: IO[bytes], lock: IO[str], env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own that inherits the lock; the group is ended when the block is left."""
    process = subprocess.Popen(  # noqa: S603 - the command is a profile's, never a row's
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
        env=dict(env),
    )
    try:
        yield process
    finally:
        end_group(process)


def environment(policy: str) -> dict[str, str]:
    """The stage's environment: ours, nothing reported to anybody, and offline where no hub is needed."""
    changes = {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    if local_folder_of(policy):
        changes["HF_HUB_OFFLINE"] = "1"
    return {**os.environ, **changes}


def end_group(process: subprocess.Popen[bytes], grace_seconds: float = GRACE_SECONDS) -> None:
    """End the process's whole group, and kill what is left of it after the grace time or a second Ctrl-C."""
    if process.poll() is not None and not _group_lives(process.pid):
        return
    try:
        _signal_group(process.pid, signal.SIGTERM)
        process.wait(grace_seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def tidy(folder: Path) -> None:
    """Remove what a finished stage no longer needs: checkpoints, and outputs that are stored by now."""
    (folder / "result.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def last_line(path: Path) -> str:
    """The last line of a log that says something, progress bars left out."""
    text = _text(path)[-20_000:].replace("\r", "\n")
    lines = [
        line.strip()
        for line in text.splitlines()
        if line.strip() and "it/s]" not in line and "s/it]" not in line
    ]
    return lines[-1] if lines else "(it wrote nothing)"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
