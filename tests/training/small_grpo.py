"""GRPO on a desk: the settings of a small run, in one place, and its trainer."""

from storage.rows import rows_from_paths
from tests.training.small_run import stage_config
from training import grpo
from training.policy import load_policy
from training.progress import COMPLETIONS, JsonLines, Progress

SETTINGS = {
    "recipe": "saliency_r1",
    "steps": 4,
    "prompts_per_step": 2,
    "num_generations": 3,
    "max_completion_length": 24,
    "temperature": 0.8,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "scale_rewards": "none",
}


def grpo_config(work_dir, tables, policy, **changes):
    """The configuration of a small run, with `changes` to its settings."""
    return stage_config("grpo", work_dir, tables, policy, **SETTINGS | changes)


def grpo_trainer(work_dir, tables, policy, **changes):
    """The trainer of a small run on the split train; it logs into `work_dir`."""
    config = grpo_config(work_dir, tables, policy, **changes)
    lines = JsonLines(config.work_path / COMPLETIONS, 0)
    rows = rows_from_paths(tables, "train")
    progress = Progress(config.work_path, "grpo", 0)
    return grpo.make_trainer(config, load_policy(config.policy), rows, progress, lines)
