"""The stage sft: teaches a policy to think and answer in the wanted form, from rows with a written reasoning.

`python -m training.sft CONFIG.json`; the settings are SftSettings of `training/config.py`. Loss on the
completion only. Reads top to bottom; what it shares with GRPO is in arguments, checkpoints, dataset,
progress and stage.
"""

import sys
from dataclasses import replace
from typing import Any

from transformers import PrinterCallback
from trl import SFTConfig

from storage.rows import Row
from storage.tables import encode_table, from_rows
from training.arguments import fresh_folder, load_for, lora_config, shared_arguments
from training.checkpoints import CHECKPOINTS, MarkComplete, latest_checkpoint, steps_of, train_from
from training.chosen_rows import chosen_rows, told
from training.config import SftSettings, StageConfig
from training.dataset import sft_dataset
from training.policy import Policy, save_policy
from training.progress import Progress, first_and_last, step_rows
from training.stage import StageError, run_stage, write_result
from training.trainer import ResumableSFTTrainer

STEPS_TABLE = "training_steps.parquet"


def run(config: StageConfig) -> None:
    """Train, then write the policy, the table training_steps and, last, the result."""
    settings: SftSettings = config.settings
    rows, n_without, out = _rows(config, "train", settings.max_rows)
    policy = load_for(config)
    checkpoint = latest_checkpoint(config.work_path / CHECKPOINTS)
    progress = Progress(config.work_path, "sft", steps_of(checkpoint))
    trainer = make_trainer(config, policy, rows, progress)
    train_from(trainer, checkpoint)
    if not trainer.accelerator.is_main_process:
        return
    lines = progress.lines.rows()
    trained = replace(policy, model=trainer.accelerator.unwrap_model(trainer.model))
    save_policy(trained, fresh_folder(config.work_path / "policy"))
    steps = from_rows("training_steps", step_rows(lines, config.policy_id, "sft"))
    (config.work_path / STEPS_TABLE).write_bytes(encode_table("training_steps", steps))
    summary: dict[str, Any] = {
        "n_rows": len(rows),
        "n_rows_without_reasoning": n_without,
        **told(out),
        "n_steps": max(line["step"] for line in lines),
        **first_and_last(lines, ("loss", "token_accuracy", "eval_loss")),
    }
    write_result(config, {"policy": "policy", "training_steps": STEPS_TABLE}, summary, policy.device.type)


def _rows(config: StageConfig, split: str, limit: int) -> tuple[list[Row], int, dict[str, str]]:
    """Rows that fit and have a reasoning (at most `limit` unless 0), how many fit and have none, why others do not."""
    every, out = chosen_rows(config, split)
    rows = [row for row in every if row.reasoning]
    if split == "train" and not rows:
        raise StageError(
            f"none of the {len(every)} rows of the split {split} has a reasoning; the cold start needs some: "
            "add a source with reasonings, or start GRPO from the base policy"
        )
    return (rows[:limit] if limit else rows), len(every) - len(rows), out


def make_trainer(
    config: StageConfig, policy: Policy, rows: list[Row], progress: Progress
) -> ResumableSFTTrainer:
    """The trainer of this stage, ready to train."""
    settings: SftSettings = config.settings
    held_out = _rows(config, "val", settings.max_eval_rows)[0] if settings.eval_steps else []
    evaluation: dict[str, Any] = {}
    if held_out:
        evaluation = {"eval_strategy": "steps", "eval_steps": settings.eval_steps}
    arguments = SFTConfig(
        **shared_arguments(config, settings, policy.device.type),
        **evaluation,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        max_length=None,  # a cut could part a picture's tokens
        completion_only_loss=True,
    )
    trainer = ResumableSFTTrainer(
        model=policy.model,
        processing_class=policy.processor,
        args=arguments,
        train_dataset=sft_dataset(rows, settings.system_prompt),
        eval_dataset=sft_dataset(held_out, settings.system_prompt) if held_out else None,
        peft_config=lora_config(policy, settings),
        callbacks=[progress, MarkComplete()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    sys.exit(run_stage("sft", run, sys.argv[1:]))
