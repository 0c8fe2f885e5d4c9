"""Checkpoints that a resumed run may trust: complete ones only, and every weight restored.

Belongs here: which checkpoint to resume from, the mark of a complete one, and the repair of two habits of the
libraries underneath. Not here: what is trained.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.stage import StageError, write_atomically

CHECKPOINTS = "checkpoints"
_MARK = "complete.json"
_WEIGHTS = "model.safetensors"
_STATE = "trainer_state.json"


class MarkComplete(TrainerCallback):
    """After each save, notes the size of every file: a save that was killed has no such mark."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint of this step."""
        if state.is_world_process_zero:
            mark_complete(Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def mark_complete(checkpoint: Path) -> None:
    """Write the mark, last of all files."""
    write_atomically(checkpoint / _MARK, json.dumps(_sizes(checkpoint), sort_keys=True).encode())


def is_complete(checkpoint: Path) -> bool:
    """Whether the mark is there and every file still has the size that it names."""
    try:
        return bool(json.loads((checkpoint / _MARK).read_text(encoding="utf-8")) == _sizes(checkpoint))
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name != _MARK}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`; incomplete ones are removed, so none is counted."""
    found = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if is_complete(path):
            found[steps_of(path)] = path
        else:
            shutil.rmtree(path)
    return found[max(found)] if found else None


def steps_of(checkpoint: Path | None) -> int:
    """Optimiser steps that the checkpoint has behind it; 0 for None."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def train_from(trainer: Trainer, checkpoint: Path | None) -> None:
    """Train to the end, from `checkpoint` when there is one.

    A checkpoint of the last step is only loaded: transformers would otherwise train one step too many.
    """
    if checkpoint is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(checkpoint / _STATE))
    if state.global_step < (trainer.args.max_steps if trainer.args.max_steps > 0 else state.max_steps):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    else:
        trainer._load_from_checkpoint(str(checkpoint))


class RestoresEveryWeight:
    """Mixin in front of a TRL trainer: full fine-tuning resumes with all weights, nothing is reported home.

    transformers saves vision-language weights under legacy names and, on resume, loads them without the
    renaming and without being strict: most tensors silently keep their initial values
    (huggingface/transformers#43701, #40187). Adapters, DeepSpeed and FSDP take other paths and are left to
    them.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        target: Any = self.model if model is None else model  # type: ignore[attr-defined]
        target = self.accelerator.unwrap_model(target)  # type: ignore[attr-defined]
        if isinstance(target, PeftModel) or self.is_fsdp_enabled:  # type: ignore[attr-defined]
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        saved = type(target).from_pretrained(resume_from_checkpoint, dtype=target.dtype, use_safetensors=True)
        weights = saved.state_dict()
        wrong = [
            name
            for name, tensor in target.state_dict().items()
            if name not in weights or weights[name].shape != tensor.shape
        ]
        if wrong or len(weights) != len(target.state_dict()):
            raise StageError(
                f"{resume_from_checkpoint} holds other weights than the model (first: {wrong[:1]}); "
                "remove the work folder to start again"
            )
        target.load_state_dict(weights, strict=True)

    def _send_telemetry(self) -> None:
        """TRL reports each run to its makers unless told not to; a run on private data should not."""
