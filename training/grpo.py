"""The stage grpo: improves a policy by reward, with or without the saliency map, as its recipe says.

`python -m training.grpo CONFIG.json`; the settings are GrpoSettings of `training/config.py`. Reads top to
bottom; what it shares with SFT is in arguments, checkpoints, dataset, progress and stage.
"""

import sys
from dataclasses import replace
from typing import Any

from transformers import PrinterCallback
from trl import GRPOConfig

from storage.rows import Row
from storage.tables import encode_table, from_rows
from training.arguments import fresh_folder, load_for, lora_config, shared_arguments
from training.checkpoints import CHECKPOINTS, MarkComplete, latest_checkpoint, steps_of, train_from
from training.chosen_rows import chosen_rows, told
from training.config import GrpoSettings, StageConfig
from training.dataset import grpo_dataset
from training.policy import Policy, save_policy
from training.progress import COMPLETIONS, JsonLines, Progress, first_and_last, step_rows
from training.recipes import RECIPES
from training.stage import StageError, run_stage, write_result
from training.trainer import MapSettings, SaliencyGRPOTrainer

STEPS_TABLE = "training_steps.parquet"
COMPLETIONS_TABLE = "completions.parquet"
_SUMMED_UP = (
    *("reward_mean", "format_mean", "accuracy_mean", "saliency_mean", "frac_zero_std"),
    "completion_tokens_mean",
)


def run(config: StageConfig) -> None:
    """Train, then write the policy, the tables training_steps and completions and, last, the result."""
    settings: GrpoSettings = config.settings
    rows, out = _rows(config, settings)
    policy = load_for(config)
    checkpoint = latest_checkpoint(config.work_path / CHECKPOINTS)
    progress = Progress(config.work_path, "grpo", steps_of(checkpoint))
    completions = JsonLines(config.work_path / COMPLETIONS, steps_of(checkpoint))
    trainer = make_trainer(config, policy, rows, progress, completions)
    train_from(trainer, checkpoint)
    if not trainer.accelerator.is_main_process:
        return
    trained = replace(policy, model=trainer.accelerator.unwrap_model(trainer.model))
    save_policy(trained, fresh_folder(config.work_path / "policy"))
    lines, sampled = progress.lines.rows(), completions.rows()
    _write_tables(config, lines, sampled)
    outputs = {"policy": "policy", "training_steps": STEPS_TABLE, "completions": COMPLETIONS_TABLE}
    write_result(config, outputs, _summary(lines, sampled, len(rows)) | told(out), policy.device.type)


def _rows(config: StageConfig, settings: GrpoSettings) -> tuple[list[Row], dict[str, str]]:
    """Rows of the train split that fit (the first max_rows of them unless 0), and why others were left out.

    Raises StageError when they fill no round.
    """
    rows, out = chosen_rows(config, "train")
    rows = rows[: settings.max_rows] if settings.max_rows else rows
    if len(rows) < settings.prompts_per_round:
        raise StageError(
            f"the split train gives {len(rows)} rows, a sampling round takes {settings.prompts_per_round}: "
            "add rows, raise settings.max_rows, or lower settings.prompts_per_step or steps_per_generation"
        )
    return rows, out


def make_trainer(
    config: StageConfig, policy: Policy, rows: list[Row], progress: Progress, completions: JsonLines
) -> SaliencyGRPOTrainer:
    """The trainer of this stage, ready to train; each round's completions are appended to `completions`."""
    settings: GrpoSettings = config.settings
    recipe = RECIPES[settings.recipe]
    arguments = GRPOConfig(
        **shared_arguments(config, settings, policy.device.type),
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.steps,
        num_generations=settings.num_generations,
        steps_per_generation=settings.steps_per_generation,
        num_iterations=settings.num_iterations,
        max_completion_length=settings.max_completion_length,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        beta=settings.beta,
        epsilon=settings.epsilon,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        mask_truncated_completions=settings.mask_truncated,
        reward_weights=list(recipe.weights),
    )
    trainer = SaliencyGRPOTrainer(
        policy,
        recipe,
        maps=MapSettings(settings.saliency_method, settings.saliency_rows),
        on_round=completions.append,
        args=arguments,
        train_dataset=grpo_dataset(rows, settings.system_prompt),
        peft_config=lora_config(policy, settings),
        callbacks=[progress, MarkComplete()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _write_tables(config: StageConfig, lines: list[dict[str, Any]], sampled: list[dict[str, Any]]) -> None:
    steps = from_rows("training_steps", step_rows(lines, config.policy_id, "grpo"))
    (config.work_path / STEPS_TABLE).write_bytes(encode_table("training_steps", steps))
    said = from_rows("completions", [{"policy_id": config.policy_id, **row} for row in sampled])
    (config.work_path / COMPLETIONS_TABLE).write_bytes(encode_table("completions", said))


def _summary(lines: list[dict[str, Any]], sampled: list[dict[str, Any]], n_rows: int) -> dict[str, Any]:
    reasons = [row["unscorable_reason"] for row in sampled if row["unscorable_reason"]]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    return {
        "n_rows": n_rows,
        "n_steps": max(line["step"] for line in lines),
        "n_completions": len(sampled),
        "n_unscorable": len(reasons),
        **{f"unscorable_{reason}": reasons.count(reason) for reason in sorted(set(reasons))},
        "seconds_per_step": sum(seconds) / len(seconds),
        **first_and_last(lines, _SUMMED_UP),
    }


if __name__ == "__main__":
    sys.exit(run_stage("grpo", run, sys.argv[1:]))
