"""What a training stage tells while it runs: metrics.jsonl, a bar in the terminal, completions for the
archive.

Belongs here: names and files of what is logged, and that a resumed run goes on without a gap or a repeated
step. Not here: what is measured (TRL and `training/trainer.py`).
"""

import json
import math
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.stage import StageError, write_atomically

METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
UNSCORABLE = "unscorable_"

# Names of TRL and transformers -> ours. What is not named here is kept under its own name.
_NAMES = {
    "reward": "reward_mean",
    "frac_reward_zero_std": "frac_zero_std",
    "completions/mean_length": "completion_tokens_mean",
    "completions/clipped_ratio": "truncated_frac",
    "mean_token_accuracy": "token_accuracy",
} | {
    f"rewards/{name}_reward/{kind}": f"{name}_{kind}"
    for name in ("format", "accuracy", "saliency")
    for kind in ("mean", "std")
}
_NOT_METRICS = {"epoch", "step", "step_time", "num_tokens", "total_flos"} | {
    f"eval_{name}" for name in ("runtime", "samples_per_second", "steps_per_second", "num_tokens")
}
_STEP_COLUMNS = (
    *("loss", "reward_mean", "reward_std", "format_mean", "format_std", "accuracy_mean", "accuracy_std"),
    *("saliency_mean", "saliency_std", "frac_zero_std", "n_unscorable", "n_maps", "map_contrast_mean"),
    *("completion_tokens_mean", "entropy"),
    *("grad_norm", "learning_rate", "token_accuracy", "seconds"),
)
_SHOWN = ("loss", "token_accuracy", "reward_mean", "accuracy_mean", "saliency_mean", "map_contrast_mean")


class JsonLines:
    """A file of JSON objects, one a line, each with a `step`; later steps are dropped on opening."""

    def __init__(self, path: Path, keep_to_step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_json_lines(path) if row["step"] <= keep_to_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; each is written whole or, if the process is killed, dropped when the file is read."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def rows(self) -> list[dict[str, Any]]:
        """Every row written so far, in order."""
        return read_json_lines(self.path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; a last line that a kill cut short is left out, no file is no rows."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Progress(TrainerCallback):
    """Writes one line per logged step to metrics.jsonl and keeps a bar on stderr.

    Raises StageError when the loss is not finite: training on would only waste time.
    """

    def __init__(self, work_path: Path, stage: str, keep_to_step: int) -> None:
        self.lines = JsonLines(work_path / METRICS, keep_to_step)
        self.stage = stage
        self._bar: tqdm | None = None
        self._step_began = 0.0
        self._seconds = 0.0
        self._n_steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar where the run stands."""
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.stage,
                file=sys.stderr,
                unit="step",
            )

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._step_began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop the clock and move the bar."""
        self._seconds += time.perf_counter() - self._step_began
        self._n_steps += 1
        if self._bar is not None:
            self._bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write the step's numbers; those that are not finite (a deviation of one value) are left out."""
        if not logs or "train_runtime" in logs or not state.is_world_process_zero:
            return
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise StageError(
                f"step {state.global_step}: the loss is {logs['loss']} with learning_rate "
                f"{args.learning_rate:g}; use a smaller one, or a smaller max_grad_norm"
            )
        row: dict[str, Any] = {"step": state.global_step, "total_steps": state.max_steps}
        row |= {
            _NAMES.get(name, name): value
            for name, value in logs.items()
            if name not in _NOT_METRICS and isinstance(value, int | float) and math.isfinite(value)
        }
        if "loss" in logs and self._n_steps:
            row["seconds"] = self._seconds / self._n_steps
            self._seconds, self._n_steps = 0.0, 0
        self.lines.append([row])
        if self._bar is not None:
            self._bar.set_postfix({name: f"{row[name]:.3f}" for name in _SHOWN if name in row})

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def step_rows(lines: Iterable[Mapping[str, Any]], policy_id: str, stage: str) -> list[dict[str, Any]]:
    """Rows of the table training_steps: one per line that logged a loss; evaluation lines are not steps."""
    rows = []
    for line in lines:
        if "loss" not in line:
            continue
        reasons = {
            name.removeprefix(UNSCORABLE): n for name, n in line.items() if name.startswith(UNSCORABLE)
        }
        rows.append(
            {"policy_id": policy_id, "stage": stage, "step": line["step"]}
            | {name: line[name] for name in _STEP_COLUMNS if name in line}
            | ({"unscorable_by_reason": json.dumps(reasons, sort_keys=True)} if reasons else {})
        )
    return rows


def first_and_last(lines: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, float]:
    """Means over the first and the last fifth of the steps: where training began and ended."""
    rows = list(lines)
    summary = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        n = max(1, len(values) // 5)
        if values:
            summary[f"{name}_first"] = sum(values[:n]) / n
            summary[f"{name}_last"] = sum(values[-n:]) / n
    return summary
