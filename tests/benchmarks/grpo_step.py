"""What the saliency reward costs a GRPO step: `python -m tests.benchmarks.grpo_step [--policy NAME] [--rounds N]`.

Three trainers in one process, the recipes `accuracy`, `saliency_r1` and `saliency_loss`, with the same settings,
weights, prompts and random numbers, do one round each in turn (a round: sample, old log-probabilities, rewards,
optimiser steps). Prints JSON: seconds per optimiser step of each and their ratios to `accuracy`, by the clock and by
processor time (for a machine that is shared; with OMP_NUM_THREADS=1), and the share of completions that had a map:
where completions are not scorable there is little to compute and the ratio flatters. The map as a reward is wanted at
1.05 at most; the map as a loss, which keeps its graph, has its ratio stated.

The order within a round alternates, so that no recipe always comes second to a warm cache.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from storage.rows import rows_from_paths
from tests.tiny_models import tiny_tokenizer
from tests.training.small_run import save_speaking_policy, stage_config, write_tables
from training import grpo
from training.architecture import build_policy
from training.policy import load_policy
from training.progress import COMPLETIONS, JsonLines, Progress, read_json_lines
from training.trainer import SaliencyGRPOTrainer

RECIPES = ("accuracy", "saliency_r1", "saliency_loss")
MOST = 1.05


def speaking_policy(folder: Path) -> str:
    """A policy of the embedded policy's shape that says one well-formed sentence."""
    return save_speaking_policy(
        folder, build_policy(tiny_tokenizer(), seed=0), n_steps=160, learning_rate=1e-3
    )


def trainer_of(recipe: str, policy: str, folder: Path, args: argparse.Namespace) -> SaliencyGRPOTrainer:
    tables = write_tables(folder / "tables", n=args.prompts * 2 + 2)
    config = stage_config(
        *("grpo", folder / recipe, tables, policy),
        recipe=recipe,
        steps=2,
        prompts_per_step=args.prompts,
        num_generations=args.generations,
        max_completion_length=args.length,
        learning_rate=1e-9,  # both keep saying the same, so that they do the same work
        save_steps=1000,
    )
    lines = JsonLines(config.work_path / COMPLETIONS, 0)
    rows = rows_from_paths(tables, "train")
    return grpo.make_trainer(config, load_policy(policy), rows, Progress(config.work_path, recipe, 0), lines)


def seconds_of_a_round(trainer: SaliencyGRPOTrainer, batch: list[dict], seed: int) -> tuple[float, float]:
    """Sample and score one round, then take its two optimiser steps; (wall, processor) seconds."""
    torch.manual_seed(seed)
    began, began_cpu = time.perf_counter(), time.process_time()
    trainer._step = 0
    for _ in range(2):
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(trainer.model, batch, None)
        trainer.optimizer.step()
        trainer.model.zero_grad()
    return time.perf_counter() - began, time.process_time() - began_cpu


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians per optimiser step, their ratio, and the ratios of the rounds that were run next to each other."""
    per_step = {recipe: statistics.median(times) / 2 for recipe, times in seconds.items()}
    told: dict[str, Any] = {"seconds_per_step": {recipe: round(each, 4) for recipe, each in per_step.items()}}
    for recipe in RECIPES[1:]:
        pairs = sorted(b / a for a, b in zip(seconds["accuracy"], seconds[recipe], strict=True))
        told[recipe] = {
            "ratio": round(per_step[recipe] / per_step["accuracy"], 4),
            "ratio_of_pairs": [round(each, 4) for each in (pairs[0], statistics.median(pairs), pairs[-1])],
        }
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--policy",
        default=None,
        help="a policy that can speak; default: one of the embedded policy's shape, made here",
    )
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--length", type=int, default=32)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = args.policy or speaking_policy(folder / "policy")
        trainers = {recipe: trainer_of(recipe, policy, folder, args) for recipe in RECIPES}
        batches = {}
        for recipe, trainer in trainers.items():
            trainer.create_optimizer_and_scheduler(1000)
            trainer.model.train()
            batches[recipe] = next(iter(trainer.get_train_dataloader()))
        seconds: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
        cpu_seconds: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
        for index in range(args.rounds + 1):
            for recipe in RECIPES if index % 2 else RECIPES[::-1]:
                took, took_cpu = seconds_of_a_round(trainers[recipe], batches[recipe], index)
                if index:  # the first round warms up
                    seconds[recipe].append(took)
                    cpu_seconds[recipe].append(took_cpu)
        sampled = read_json_lines(folder / "saliency_r1" / COMPLETIONS)
    result = {
        "wall": compared(seconds),
        "processor": compared(cpu_seconds),
        "wanted_ratio_of_saliency_r1_at_most": MOST,
        "scorable": round(sum(row["unscorable_reason"] is None for row in sampled) / len(sampled), 3),
        "completion_tokens": args.length,
        "completions_per_step": args.prompts * args.generations,
        "rounds": args.rounds,
        "threads": torch.get_num_threads(),
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["processor"]["saliency_r1"]["ratio"] <= MOST and result["scorable"] >= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
