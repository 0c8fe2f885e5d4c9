"""What the map as a loss costs: `python -m tests.benchmarks.map_loss_cost [--processes N] [--rounds N] [--small]`.

The policy and the example of `tests/benchmarks/saliency_cost.py`: hidden size 1024, 4 layers, 288 image tokens, 96
thought and 24 answer tokens, float32 on the CPU. Two kinds of process, with the same seed: `plain`, a step forward and
backward of the negative log-likelihood of the completion, and `map`, the same step with the contrast of a
differentiable `cot_rollout` map taken off the loss. Gradients of all weights, no optimiser.

JSON: seconds of processor time and peak memory beyond the model, medians, and the ratios map / plain. No ratio is
wanted of them: they are what `training/map_loss.py` states. Exit code 2 when the gradients of `map` are those of
`plain`, so that nothing of the map was learned, or are not finite.
"""

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import torch

from tests.benchmarks.saliency_cost import SMALL, Shape, example, peak_mb, random_policy, seconds
from training.conversation import SYSTEM_PROMPT
from training.map_loss import contrast
from training.policy import Policy
from training.saliency import record_maps
from training.teacher_forcing import teacher_forced

PARTS = ("plain", "map")


def step(policy: Policy, inputs: dict[str, Any], start: int, size_wh: tuple[int, int], part: str) -> float:
    """One step's gradients; the size of all of them. The evidence is the left half of the picture."""
    policy.model.zero_grad(set_to_none=True)
    n_said = inputs["input_ids"].shape[1] - start
    told = {"logits_to_keep": n_said + 1, "use_cache": False}
    if part == "map":
        with record_maps(policy, inputs, start, image_sizes_wh=[size_wh], differentiable=True) as recorder:
            logits = policy.model(**inputs, **told).logits
        found = contrast(recorder.signed[0], [(0, 0, size_wh[0] / 2, size_wh[1])], size_wh)
        if isinstance(found, str):
            raise ValueError(f"the map of the benchmark has no contrast: {found}")
        aside = -found
    else:
        logits, aside = policy.model(**inputs, **told).logits, 0.0
    said = inputs["input_ids"][0, start:]
    (torch.nn.functional.cross_entropy(logits[0, :-1], said) + aside).backward()
    squares = [p.grad.square().sum() for p in policy.model.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())


def run_part(part: str, shape: Shape, rounds: int) -> dict[str, Any]:
    """In a process of its own."""
    policy = random_policy(shape)
    shown = example(policy, shape)
    inputs, start = teacher_forced(policy, [shown], SYSTEM_PROMPT)
    size_wh = shown[0].size
    step(policy, inputs, start, size_wh, part)  # warm, with the gradients' memory taken
    policy.model.zero_grad(set_to_none=True)
    memory, norm = peak_mb(lambda: step(policy, inputs, start, size_wh, part))
    times = [seconds(lambda: step(policy, inputs, start, size_wh, part))[0] for _ in range(rounds)]
    return {"memory_mb": memory, "seconds": times, "gradient_norm": norm}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=3, help="of each kind, in turn")
    parser.add_argument("--rounds", type=int, default=5, help="of each process")
    parser.add_argument("--small", action="store_true", help="a little model; its ratios mean nothing")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = SMALL if args.small else Shape()
    if args.part:
        sys.stdout.write(json.dumps(run_part(args.part, shape, args.rounds)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    command = [sys.executable, "-m", "tests.benchmarks.map_loss_cost", "--rounds", str(args.rounds)]
    for index in range(args.processes):
        for part in PARTS if index % 2 else PARTS[::-1]:
            small = ["--small"] if args.small else []
            ran = subprocess.run(
                [*command, *small, "--part", part], check=True, capture_output=True, text=True
            )
            found[part].append(json.loads(ran.stdout))
    norms = {part: of[0]["gradient_norm"] for part, of in found.items()}
    if not all(0 < norm < float("inf") for norm in norms.values()) or norms["map"] == norms["plain"]:
        sys.stderr.write(f"gradient norms {norms}: wanted two that differ, both finite\n")
        return 2
    took = {part: statistics.median(s for each in of for s in each["seconds"]) for part, of in found.items()}
    memory = {part: statistics.median(each["memory_mb"] for each in of) for part, of in found.items()}
    ratios = {"time": took["map"] / took["plain"], "peak_memory": memory["map"] / memory["plain"]}
    told = {"seconds": took, "peak_memory_beyond_model_mb": memory, "ratios": ratios, "gradient_norms": norms}
    sys.stdout.write(json.dumps({**told, "threads": torch.get_num_threads()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
