"""What a saliency map costs: `python -m tests.benchmarks.saliency_cost [--processes N] [--rounds N] [--small]`.

A random Qwen2.5-VL of hidden size 1024 with 4 layers and a vocabulary of 151,936 looks at one picture of 288 image
tokens (12 rows of 24, after the merge of two by two patches) and is explained with 96 thought and 24 answer tokens,
float32 on the CPU. Three kinds of process, with the same seed:

- `bare`: the forward pass, with the logits of the last position only and a small vision tower, so that the pass is not
  made dearer than it need be;
- `engine`: the same pass inside `record_maps`, and its map;
- `plain`: the same pass with eager attention, and then the map as the paper writes it: every image token through the
  output projection, the frozen norm and the whole head, for all answer tokens at once, as the public code does it.

They must agree, or nothing is printed but the difference: engine and bare on the last logits bit by bit, plain on
those and on the map to 1e-4 of its largest cell. Then JSON: seconds of processor time (for a machine that is shared;
with OMP_NUM_THREADS=1), peak memory beyond the model's and the ratios. The engine's seconds on top of the pass are
those of its own calls (finding the tokens, each layer, the end, the map), the median over rounds; beside them stand the
quartiles of pass-with-engine minus a bare pass next to it, which on a busy machine say less. Exit
code 1 when a ratio misses what is wanted, 2 when the three do not agree.
"""

import argparse
import ctypes
import dataclasses
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.parity.models import words
from training.architecture import CHAT_TEMPLATE, build_policy
from training.conversation import SYSTEM_PROMPT
from training.policy import Policy
from training.processors import QwenPictureProcessor
from training.saliency import record_maps
from training.teacher_forcing import teacher_forced

PARTS = ("bare", "engine", "plain")
WANTED = {
    "plain_after_pass_over_engine_at_least": 300.0,
    "engine_on_top_of_pass_at_most": 0.03,
    "engine_extra_memory_over_plain_at_most": 0.05,
    "engine_extra_memory_over_pass_at_most": 0.05,
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is explained, and by how large a model."""

    hidden: int = 1024
    intermediate: int = 2816
    layers: int = 4
    heads: int = 16
    key_heads: int = 4
    vocabulary: int = 151_936
    grid_hw: tuple[int, int] = (12, 24)
    n_thought: int = 96
    n_answer: int = 24


SMALL = Shape(64, 48, 2, 4, 2, 2_000, (3, 5), 7, 3)


def random_policy(shape: Shape) -> Policy:
    """Random weights, with biases and norms moved off 0 and 1; pictures keep their size."""
    quarter = shape.hidden // shape.heads // 8
    policy = build_policy(
        words(),
        seed=0,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [quarter, quarter, 2 * quarter],
        },
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    any_size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 10_000}
    pictures = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2, size=any_size)
    processor = QwenPictureProcessor(pictures, policy.tokenizer, chat_template=CHAT_TEMPLATE)
    return dataclasses.replace(policy, processor=processor)


def example(policy: Policy, shape: Shape) -> tuple[Image.Image, str, list[int]]:
    """A picture of noise, and a completion of exactly the wanted numbers of tokens."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (shape.grid_hw[0] * 28, shape.grid_hw[1] * 28, 3), dtype=np.uint8)
    vocabulary = policy.tokenizer.get_vocab()
    spoken = [vocabulary[f"Ġ{word}"] for word in ("red", "ball", "is", "at")]
    thought = rng.choice(spoken, shape.n_thought).tolist()
    answer = rng.choice(spoken, shape.n_answer).tolist()
    opening, closing = vocabulary["<think>"], vocabulary["</think>"]
    completion = [opening, *thought, closing, *answer, policy.tokenizer.eos_token_id]
    return Image.fromarray(pixels), "what is it", completion


@torch.no_grad()
def bare(policy: Policy, inputs: dict[str, Any]) -> torch.Tensor:
    """The forward pass; logits of the last position."""
    return policy.model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]


class Stopwatch:
    """Adds up the processor time of the calls that go through it."""

    def __init__(self) -> None:
        self.total = 0.0

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.process_time()
            try:
                return work(*args)
            finally:
                self.total += time.process_time() - began

        return call


def engine(policy: Policy, inputs: dict[str, Any], start: int) -> tuple[np.ndarray, torch.Tensor, float]:
    """The pass with the engine looking on: the signed map, the logits and the seconds of the engine's own calls."""
    watch = Stopwatch()
    recording = record_maps(policy, inputs, start)
    recorder = watch.timed(recording.__enter__)()
    try:
        recorder.on_layer, recorder.on_final = watch.timed(recorder.on_layer), watch.timed(recorder.on_final)
        logits = bare(policy, inputs)
    finally:
        recording.__exit__(None, None, None)
    watch.timed(recorder.maps)()
    return recorder.signed[0].numpy(), logits, watch.total


class Plain:
    """The map written forwards. `pass_` and `after` are separate, to be timed apart."""

    def __init__(self, policy: Policy, inputs: dict[str, Any], shape: Shape, rows: str):
        self.policy, self.inputs = policy, inputs
        self.text_model = policy.family.text_model(policy.model)
        self.text_model.set_attn_implementation("eager")
        ids = inputs["input_ids"][0]
        self.image = (ids == policy.family.image_token_id(policy.model)).nonzero()[:, 0]
        # ... <think> thought </think> answer <|im_end|>
        self.answer = torch.arange(len(ids) - 1 - shape.n_answer, len(ids) - 1)
        self.thought = torch.arange(shape.n_thought) + int(self.answer[0]) - 1 - shape.n_thought
        self.shift = 1 if rows == "predictor" else 0

    @torch.no_grad()
    def pass_(self) -> torch.Tensor:
        """Keep all attention weights, the values and the last hidden state, as the public code does."""
        self.values: list[torch.Tensor] = []
        undo = [
            layer.self_attn.v_proj.register_forward_hook(lambda _, __, out: self.values.append(out[0]))
            for layer in self.text_model.layers
        ]
        undo.append(self.text_model.norm.register_forward_pre_hook(self._keep_hidden))
        out = self.policy.model(**self.inputs, use_cache=False, logits_to_keep=1, output_attentions=True)
        for handle in undo:
            handle.remove()
        self.attentions = out.attentions
        return out.logits[0, -1]

    def _keep_hidden(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.hidden = args[0][0]

    @torch.no_grad()
    def after(self) -> np.ndarray:
        """Everything from the kept tensors to the signed map [grid_h * grid_w]."""
        answer_rows, thought_rows = self.answer - self.shift, self.thought - self.shift
        stream = torch.zeros(len(self.answer), len(self.image), self.hidden.shape[1])
        for layer, attentions, values in zip(
            self.text_model.layers, self.attentions, self.values, strict=True
        ):
            heads = attentions.shape[1]
            to_thought = attentions[0][:, answer_rows][:, :, self.thought]
            to_image = attentions[0][:, thought_rows][:, :, self.image]
            share = to_thought @ to_image  # [heads, answer, image]
            head_dim = layer.self_attn.o_proj.in_features // heads
            v = values[self.image].view(len(self.image), -1, head_dim)
            v = v.repeat_interleave(heads // v.shape[1], dim=1)  # [image, heads, head_dim]
            mixed = share.permute(1, 2, 0)[..., None] * v
            stream += layer.self_attn.o_proj(mixed.flatten(2))
        norm = self.text_model.norm
        rms = (self.hidden[answer_rows].square().mean(dim=1) + norm.variance_epsilon).sqrt()
        logits = self.policy.family.head(self.policy.model)(stream * norm.weight / rms[:, None, None])
        said = self.inputs["input_ids"][0, self.answer]
        return logits[torch.arange(len(said)), :, said].sum(dim=0).numpy()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of this process, and what `work` returned."""
    began = time.process_time()
    out = work()
    return time.process_time() - began, out


def memory_mb(field: str) -> float:
    """`VmRSS` or `VmHWM` of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def peak_mb(work: Callable[[], Any]) -> tuple[float, Any]:
    """Peak resident memory beyond what was there before `work` (the model, warm), and what it returned."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS
    before = memory_mb("VmRSS")
    out = work()
    return memory_mb("VmHWM") - before, out


def run_part(part: str, shape: Shape, rounds: int, plain_rows: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """In a process of its own: numbers of one part, and the arrays that the parts must agree on."""
    policy = random_policy(shape)
    inputs, start = teacher_forced(policy, [example(policy, shape)], SYSTEM_PROMPT)
    little = dataclasses.replace(shape, grid_hw=(2, 3), n_thought=3, n_answer=2)
    warm, warm_start = teacher_forced(policy, [example(policy, little)], SYSTEM_PROMPT)
    engine(policy, warm, warm_start)
    if part == "bare":
        memory, logits = peak_mb(lambda: bare(policy, inputs))
        times = [seconds(lambda: bare(policy, inputs))[0] for _ in range(rounds)]
        return {"memory_mb": memory, "pass": times}, {"logits": logits}
    if part == "plain":
        plain = Plain(policy, inputs, shape, plain_rows)
        memory, ((pass_s, logits), (after_s, values)) = peak_mb(
            lambda: (seconds(plain.pass_), seconds(plain.after))
        )
        return {"memory_mb": memory, "pass": [pass_s], "after": [after_s]}, {"logits": logits, "map": values}
    memory, (values, logits, _) = peak_mb(lambda: engine(policy, inputs, start))
    alone, watched, own = [], [], []
    for index in range(rounds):
        for which in ("bare", "engine") if index % 2 else ("engine", "bare"):
            if which == "bare":
                alone.append(seconds(lambda: bare(policy, inputs))[0])
            else:
                took, (_, _, in_calls) = seconds(lambda: engine(policy, inputs, start))
                watched.append(took)
                own.append(in_calls)
    arrays = {"logits": logits, "map": values.ravel()}
    return {"memory_mb": memory, "pass": alone, "with_engine": watched, "own": own}, arrays


def disagreement(arrays: dict[str, Any], tolerance: float = 1e-4) -> str | None:
    """What is not alike in the arrays of the three parts, or None."""
    bare_logits, plain_map = arrays["bare"]["logits"], arrays["plain"]["map"]
    if not np.array_equal(bare_logits, arrays["engine"]["logits"]):
        return "the logits with the engine are not bit-equal to those of the bare pass"
    for name, found, wanted in (
        ("logits", arrays["plain"]["logits"], bare_logits),
        ("map", arrays["engine"]["map"], plain_map),
    ):
        error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
        if not error <= tolerance:
            return f"{name}: plain and engine differ by {error:.2g} of the largest entry; wanted {tolerance}"
    return None


def compared(numbers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over processes and rounds, and the ratios."""

    def pooled(part: str, name: str) -> list[float]:
        return [each for process in numbers[part] for each in process[name]]

    memory = {part: statistics.median(each["memory_mb"] for each in numbers[part]) for part in PARTS}
    alone, watched = pooled("engine", "pass"), pooled("engine", "with_engine")
    differences = [b - a for a, b in zip(alone, watched, strict=True)]
    pass_s, on_top = statistics.median(alone), statistics.median(pooled("engine", "own"))
    after = statistics.median(pooled("plain", "after"))
    # less than the bare pass is noise of the allocator, not memory gained
    extra = {part: max(memory[part] - memory["bare"], 0.0) for part in ("engine", "plain")}
    return {
        "seconds": {
            "pass": pass_s,
            "engine_on_top_of_pass": on_top,
            "pass_with_engine_minus_pass_quartiles": statistics.quantiles(differences, n=4),
            "plain_pass": statistics.median(pooled("plain", "pass")),
            "plain_after_pass": after,
        },
        "peak_memory_beyond_model_mb": memory,
        "ratios": {
            "plain_after_pass_over_engine": after / max(on_top, 1e-9),
            "engine_on_top_of_pass": on_top / pass_s,
            "engine_extra_memory_over_plain": extra["engine"] / extra["plain"] if extra["plain"] else 0.0,
            "engine_extra_memory_over_pass": extra["engine"] / memory["bare"] if memory["bare"] else 0.0,
        },
    }


def missed(ratios: dict[str, float]) -> list[str]:
    """The wanted ratios that were not reached."""
    low = [n for n, limit in WANTED.items() if n.endswith("_at_most") and ratios[n[:-8]] > limit]
    return low + [n for n, limit in WANTED.items() if n.endswith("_at_least") and ratios[n[:-9]] < limit]


def start_part(part: str, folder: Path, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run one part in a process of its own and read what it left."""
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.saliency_cost",
        "--part",
        part,
        "--folder",
        str(folder),
    ]
    command += ["--rounds", str(args.rounds), "--plain-rows", args.plain_rows]
    subprocess.run([*command, *(["--small"] if args.small else [])], check=True)
    with np.load(folder / f"{part}.npz") as arrays:
        return json.loads((folder / f"{part}.json").read_text(encoding="utf-8")), dict(arrays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=3, help="of each kind, in turn")
    parser.add_argument("--rounds", type=int, default=7, help="of each process; a plain one does one")
    parser.add_argument("--small", action="store_true", help="a little model; its ratios mean nothing")
    parser.add_argument("--plain-rows", default="predictor", help="`state` makes the plain map a wrong one")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape = SMALL if args.small else Shape()
    if args.part:
        found, arrays = run_part(args.part, shape, args.rounds, args.plain_rows)
        np.savez(args.folder / f"{args.part}.npz", **{name: np.asarray(a) for name, a in arrays.items()})
        (args.folder / f"{args.part}.json").write_text(json.dumps(found), encoding="utf-8")
        return 0
    numbers: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    with tempfile.TemporaryDirectory() as name:
        for index in range(args.processes):
            latest = {}
            for part in PARTS if index % 2 else PARTS[::-1]:
                found, latest[part] = start_part(part, Path(name), args)
                numbers[part].append(found)
            if fault := disagreement(latest):
                sys.stderr.write(fault + "\n")
                return 2
    result = compared(numbers)
    short = [] if args.small else missed(result["ratios"])
    shape_of = {"shape": dataclasses.asdict(shape), "threads": torch.get_num_threads()}
    settings = {"processes": args.processes, "rounds": args.rounds}
    sys.stdout.write(json.dumps({**result, "wanted": WANTED, "missed": short, **shape_of, **settings}) + "\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
