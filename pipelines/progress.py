"""What a person and the UI see of a running stage: a line in the terminal, now and then an observation.

Belongs here: reading new lines of metrics.jsonl and thinning them out. Nothing here waits or starts anything.
"""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from assets.resources import Observe

OBSERVATIONS = 60  # per stage; the UI plots the last 100
SHOWN = (
    "loss",
    "eval_loss",
    "token_accuracy",
    "reward_mean",
    "format_mean",
    "accuracy_mean",
    "saliency_mean",
    "correct",
)
BAR_WIDTH = 20
LINE_SECONDS = 10.0  # between lines where the terminal cannot rewrite one


class Tail:
    """Rows that are appended to a JSON-lines file, each given once; what is there already is left out.

    A stage that resumes puts a shorter file in the place of the old one and goes on from there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at, self._inode, self._last_step = 0, 0, -1
        self.new_rows()

    def new_rows(self) -> list[dict[str, Any]]:
        """The rows since the last call. A line without its end, or not JSON, is no row."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as stream:
            state = os.fstat(stream.fileno())
            replaced = self._inode not in (0, state.st_ino) or state.st_size < self._at
            if replaced:
                self._at = 0
            self._inode = state.st_ino
            stream.seek(self._at)
            whole, end, _ = stream.read().rpartition(b"\n")
        self._at += len(whole) + len(end)
        rows = [row for row in map(_row, whole.splitlines()) if row]
        if replaced:
            self._last_step = min(self._last_step, max((_step(row) for row in rows), default=-1))
        new = [row for row in rows if _step(row) > self._last_step]
        self._last_step = max((_step(row) for row in new), default=self._last_step)
        return new


def _step(row: Mapping[str, Any]) -> int:
    return int(row.get("step", 0))


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


class Progress:
    """Shows rows of one stage: each in the terminal, at most `OBSERVATIONS` of them to `observe`."""

    def __init__(self, title: str, observe: Observe, stream: TextIO | None = None) -> None:
        self._title = title
        self._observe = observe
        self._stream = stream or sys.stderr
        self._next_observed = 0
        self._next_line = 0.0
        self._started = time.monotonic()
        self._open_line = False

    def show(self, rows: list[dict[str, Any]]) -> None:
        """Take the new rows."""
        for row in rows:
            step, total = _step(row), int(row.get("total_steps", 0))
            if step >= self._next_observed or step == total:
                self._observe(numbers(row))
                self._next_observed = step + max(1, math.ceil(total / OBSERVATIONS))
        if rows:
            self._write(rows[-1])

    def _write(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if not self._stream.isatty():
            if now < self._next_line:
                return
            self._next_line = now + LINE_SECONDS
        text = line(self._title, row, now - self._started)
        self._stream.write(f"\r\033[K  {text}" if self._stream.isatty() else f"  {text}\n")
        self._stream.flush()
        self._open_line = self._stream.isatty()

    def end(self) -> None:
        """Finish the line that is being rewritten."""
        if self._open_line:
            self._stream.write("\n")
            self._open_line = False


def line(title: str, row: Mapping[str, Any], seconds: float) -> str:
    """`title [####......] 12/30  loss 1.23  0:42`: how far, and the numbers that tell most."""
    step, total = _step(row), int(row.get("total_steps", 0))
    filled = round(BAR_WIDTH * step / total) if total else 0
    bar = f"{title} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {step}/{total or '?'}"
    shown = [f"{name} {row[name]:.3g}" for name in SHOWN if isinstance(row.get(name), int | float)]
    return "  ".join([bar, *shown, f"{int(seconds) // 60}:{int(seconds) % 60:02d}"])


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row: what can be plotted."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
