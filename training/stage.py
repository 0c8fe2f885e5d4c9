"""How every training stage starts and ends: one JSON file in, one result file out, a clear last line on
failure.

Belongs here: reading the configuration, signals, exit codes, the result file and what is common to all
results. Not here: what a stage does between the two (`training/sft.py`, `training/grpo.py`, ...).
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from storage.provenance import library_versions
from training.config import ConfigError, StageConfig, read_stage_config

RESULT = "result.json"


class StageError(RuntimeError):
    """A stage cannot go on; the message says what was seen, what was wanted and what to do."""


def run_stage(stage: str, body: Callable[[StageConfig], None], argv: Sequence[str]) -> int:
    """Run `body` with the configuration named in `argv`; returns the process's exit code.

    0: done, and `body` has written the result. 1: failed. 2: the configuration cannot be used. 130:
    interrupted (Ctrl-C or SIGTERM). In every case but 0 there is no result file, and the last line on stderr
    says why.
    """
    if len(argv) != 1:
        return _end(2, f"usage: python -m training.{stage} CONFIG.json")
    try:
        config = read_stage_config(argv[0])
    except ConfigError as error:
        return _end(2, str(error))
    if config.stage != stage:
        return _end(2, f"{argv[0]}: stage is {config.stage!r}; this is the stage {stage!r}")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        config.work_path.mkdir(parents=True, exist_ok=True)
        (config.work_path / RESULT).unlink(missing_ok=True)
        body(config)
    except KeyboardInterrupt:
        return _end(130, f"{stage}: interrupted; run it again to go on from the last checkpoint")
    except Exception as error:
        traceback.print_exc()
        return _end(1, f"{stage} failed: {type(error).__name__}: {error}")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(code: int, message: str) -> int:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
    return code


def write_result(
    config: StageConfig, outputs: Mapping[str, str], summary: Mapping[str, Any], device: str
) -> None:
    """Write the result file, last: who finds it may trust the outputs (paths below the work folder)."""
    missing = [path for path in outputs.values() if not (config.work_path / path).exists()]
    if missing:
        raise StageError(f"{config.work_dir}: outputs {missing} were not written")
    result = {
        "outputs": dict(outputs),
        "summary": dict(summary),
        "versions": library_versions(),
        "device": device,
    }
    write_atomically(config.work_path / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """The file is there whole or not at all, also after a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
