"""One small GRPO run that keeps its gradients, in this process or as one of several that torchrun starts.

`python -m tests.training.grpo_process FOLDER TABLES.json POLICY PROMPTS RECIPE [RECIPE ...]`.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from tests.training.small_grpo import grpo_trainer

N_PROMPTS = 4  # of one optimiser step, over all processes


class KeepGradients(TrainerCallback):
    """Writes what each optimiser step is given, once all processes have added theirs, as STEP.safetensors."""

    def __init__(self, folder):
        self.folder = folder

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.is_world_process_zero:
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            save_file(gradients, self.folder / f"{state.global_step + 1}.safetensors")


def train(folder, tables, policy, n_prompts, recipe):
    """Two steps of `n_prompts` prompts for each process; all but greedy, so that it is known what is said."""
    work = folder / recipe
    work.mkdir(parents=True, exist_ok=True)
    trainer = grpo_trainer(
        *(work, tables, policy),
        recipe=recipe,
        steps=2,
        steps_per_generation=1,
        prompts_per_step=n_prompts,
        temperature=0.01,
        max_grad_norm=1e9,
    )
    trainer.add_callback(KeepGradients(work))
    trainer.train()


if __name__ == "__main__":
    folder, tables, policy, n_prompts, *recipes = sys.argv[1:]
    for recipe in recipes:
        train(Path(folder), json.loads(Path(tables).read_text()), policy, int(n_prompts), recipe)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
