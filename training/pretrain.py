"""Build the embedded policy from nothing, on generated scenes: `python -m training.pretrain --out FOLDER`.

First the picture tower learns what lies under each image token (exact boxes give that for free: words of names
and colours, read off by the policy's own final norm and head), then the whole model learns captions, short
questions, and, when it is told to look, to say in a sentence what it sees before it answers. Asked plainly it
answers at once: thinking before every answer is taught by the cold start. A phase that is finished in the same folder
under the same settings is not run again. The result is kept in `training/embedded/` with its lineage and the scores
of the day.
"""

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ops.scene_pictures import Scene, compose, draw_plan
from ops.scene_questions import questions, vocabulary_sentences
from storage.provenance import code_sha256, library_versions
from training.architecture import build_policy, build_tokenizer
from training.conversation import SYSTEM_PROMPT, completion_text, messages
from training.policy import Policy, load_policy, save_policy
from training.scene_batches import CAPTION_REQUEST, NOTHING, SceneBatch, draw_scenes, make_batch
from training.scene_batches import caption as scene_caption

PHASES = ("labels", "joint", "questions", "sentences")


@dataclass(frozen=True)
class PretrainSettings:
    """All that decides the embedded policy. Steps are optimiser steps over `batch_size` pictures."""

    seed: int = 1
    label_steps: int = 400
    joint_steps: int = 700
    question_steps: int = 600
    sentence_steps: int = 850
    batch_size: int = 16
    label_learning_rate: float = 2e-3
    joint_learning_rate: float = 1.2e-3
    question_learning_rate: float = 1.0e-3
    sentence_learning_rate: float = 1.0e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    label_weight: float = 0.3
    place_weight: float = 0.5
    place_layer: int = 2
    harder_rate: float = 0.08
    caption_rate: float = 0.4
    sentence_rate: float = 0.6
    fresh_scenes_per_batch: int = 8
    system_prompts: tuple[str, ...] = ("", SYSTEM_PROMPT, "Think, then answer.")
    extra_words: str = (
        "circle square rectangle triangle shape black gray teal yes no Is there does the image contain a not "
        "What is the color of the shape? number picture image photo person man woman object sign text page"
    )
    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 6
    num_key_value_heads: int = 2
    vision_hidden_size: int = 128
    vision_intermediate_size: int = 320
    vision_heads: int = 4

    def of_phase(self, phase: str) -> tuple[int, float]:
        """Steps and peak learning rate of a phase."""
        return {
            "labels": (self.label_steps, self.label_learning_rate),
            "joint": (self.joint_steps, self.joint_learning_rate),
            "questions": (self.question_steps, self.question_learning_rate),
            "sentences": (self.sentence_steps, self.sentence_learning_rate),
        }[phase]


class _SceneStream(IterableDataset[SceneBatch]):
    """An endless stream of batches: some scenes fresh, the others drawn again from the latest few thousand."""

    def __init__(self, policy: Policy, settings: PretrainSettings, phase: str):
        self._policy, self._settings = policy, settings
        self._seed = settings.seed + 11 * (1 + PHASES.index(phase))
        self._caption_rate = settings.caption_rate if phase == "joint" else 0.0
        self._sentence_rate = settings.sentence_rate if phase == "sentences" else 0.0

    def __iter__(self) -> Iterator[SceneBatch]:
        settings, rng = self._settings, np.random.default_rng(self._seed)
        pool: list[Scene] = []
        while True:
            n_fresh = (
                settings.batch_size if len(pool) < settings.batch_size else settings.fresh_scenes_per_batch
            )
            fresh = [compose(draw_plan(rng), int(rng.integers(2**31))) for _ in range(n_fresh)]
            known = rng.integers(max(1, len(pool)), size=settings.batch_size - n_fresh)
            chosen = fresh + [pool[i] for i in known]
            pool = (pool + fresh)[-4000:]
            yield make_batch(
                self._policy,
                chosen,
                rng,
                settings.system_prompts,
                settings.harder_rate,
                self._caption_rate,
                self._sentence_rate,
            )


def tokenizer_sentences(settings: PretrainSettings) -> list[str]:
    """The text that decides the tokenizer: captions, questions, reasonings and prompts of a few hundred scenes."""
    sentences = [
        *vocabulary_sentences() * 4,
        *[SYSTEM_PROMPT, settings.extra_words, CAPTION_REQUEST, NOTHING] * 4,
    ]
    for scene in draw_scenes(settings.seed, 300):
        sentences.append(scene_caption(scene))
        for asked in questions(scene):
            sentences += [asked.question, completion_text(asked.reasoning, asked.answer), asked.answer]
    return sentences


def new_policy(settings: PretrainSettings) -> Policy:
    """The untrained policy with its tokenizer."""
    return build_policy(
        build_tokenizer(tokenizer_sentences(settings), settings.vocab_size),
        settings.seed,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_hidden_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_key_value_heads,
        vision={
            "hidden_size": settings.vision_hidden_size,
            "intermediate_size": settings.vision_intermediate_size,
            "num_heads": settings.vision_heads,
        },
    )


def label_loss(policy: Policy, states: Tensor, word_targets: Tensor) -> Tensor:
    """Cross entropy between what norm and head read off each image token and what lies there.

    `states` is [image tokens, hidden], before the final norm; `word_targets` is [image tokens, vocabulary].
    """
    logits = policy.model.lm_head(policy.family.text_model(policy.model).norm(states))
    return -(word_targets * logits.float().log_softmax(-1)).sum(-1).mean()


def joint_loss(
    policy: Policy, batch: SceneBatch, settings: PretrainSettings
) -> tuple[Tensor, dict[str, float]]:
    """Next-token loss of the answers, plus what is read off the image tokens: what lies there when they enter the
    text layers, that and where it is when they leave layer `place_layer` (features alone do not know where they are,
    and a place that is known only after the last layer binds nothing)."""
    inputs = dict(batch.inputs)
    pixels, grid = inputs.pop("pixel_values"), inputs.pop("image_grid_thw")
    labels = inputs.pop("labels")
    seen = policy.model.model.get_image_features(pixels, grid, return_dict=True)
    words = label_loss(policy, torch.cat(seen.pooler_output), batch.word_targets)
    layers = policy.model.model(
        **inputs,
        image_grid_thw=grid,
        mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=seen.pooler_output)},
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    hidden = layers[-1]
    wanted = labels[:, 1:]
    chosen = wanted >= 0
    logits = policy.model.lm_head(hidden[:, :-1][chosen]).float()
    text = torch.nn.functional.cross_entropy(logits, wanted[chosen])
    right = float((logits.argmax(-1) == wanted[chosen]).float().mean())
    at_pictures = layers[settings.place_layer][inputs["input_ids"] == policy.processor.image_token_id]
    places = label_loss(policy, at_pictures, 0.5 * batch.word_targets + 0.5 * batch.place_targets)
    parts = {"text": text, "words": words, "places": places}
    loss = text + settings.label_weight * words + settings.place_weight * places
    return loss, {name: part.item() for name, part in parts.items()} | {"token_accuracy": right}


def _tower_loss(policy: Policy, batch: SceneBatch) -> tuple[Tensor, dict[str, float]]:
    seen = policy.model.model.get_image_features(
        batch.inputs["pixel_values"], batch.inputs["image_grid_thw"], return_dict=True
    )
    words = label_loss(policy, torch.cat(seen.pooler_output), batch.word_targets)
    return words, {"words": words.item()}


def _rate(step: int, n_steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, n_steps - warmup)))


def _run_phase(policy: Policy, settings: PretrainSettings, phase: str, log: Any, out: Path) -> None:
    labels_only = phase == "labels"
    n_steps, peak = settings.of_phase(phase)
    optimiser = torch.optim.AdamW(
        policy.model.parameters(), lr=peak, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    stream = _SceneStream(policy, settings, phase)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4))
    sums: dict[str, list[float]] = defaultdict(list)
    policy.model.train()
    for step in tqdm(range(n_steps), desc=f"pretrain {phase}", file=sys.stderr, mininterval=10):
        for group in optimiser.param_groups:
            group["lr"] = peak * _rate(step, n_steps, settings.warmup_steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch = next(batches)
            loss, parts = _tower_loss(policy, batch) if labels_only else joint_loss(policy, batch, settings)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{phase} step {step}: loss is {float(loss)}; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimiser.step()
        for name, value in parts.items():
            sums[name].append(value)
        if (step + 1) % 50 == 0 or step + 1 == n_steps:
            means = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
            log.write(json.dumps({"phase": phase, "step": step + 1, "total_steps": n_steps} | means) + "\n")
            log.flush()
            sums.clear()
        if (step + 1) % 300 == 0 and step + 1 < n_steps:
            save_policy(policy, out / f"{phase}-{step + 1}")
    policy.model.eval()
    save_policy(policy, out / f"{phase}-done")


@torch.no_grad()
def held_out_scores(policy: Policy, seed: int, n_scenes: int) -> dict[str, dict[str, float]]:
    """Accuracy of greedy answers by question kind on scenes that were never trained on: {kind: {accuracy, n}}."""
    rng = np.random.default_rng(seed)
    asked = [(scene, q) for scene in draw_scenes(seed, n_scenes) for q in _one_of_each(questions(scene), rng)]
    hits: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(asked), 64):
        rows = asked[start : start + 64]
        for (_, question), said in zip(rows, _answers(policy, rows), strict=True):
            hits[question.kind].append(said == question.answer)
    return {
        kind: {"accuracy": float(np.mean(right)), "n": len(right)} for kind, right in sorted(hits.items())
    }


def _one_of_each(asked: list[Any], rng: np.random.Generator) -> list[Any]:
    kinds = sorted({q.kind for q in asked})
    return [(of_kind := [q for q in asked if q.kind == kind])[rng.integers(len(of_kind))] for kind in kinds]


def _answers(policy: Policy, rows: Sequence[tuple[Scene, Any]]) -> list[str]:
    texts = [
        policy.processor.apply_chat_template(messages(q.question), add_generation_prompt=True, tokenize=False)
        for _, q in rows
    ]
    inputs = policy.processor(
        images=[Image.fromarray(scene.picture) for scene, _ in rows],
        text=texts,
        padding=True,
        return_tensors="pt",
    )
    said = policy.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return [
        str(t).strip()
        for t in policy.tokenizer.batch_decode(
            said[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    ]


def _claim_folder(out: Path, settings: PretrainSettings) -> None:
    """Write the settings into a new folder; ValueError for a folder whose phases were run under other settings."""
    wanted = json.dumps(asdict(settings), indent=1) + "\n"
    kept = out / "settings.json"
    if kept.is_file() and kept.read_text(encoding="utf-8") != wanted:
        raise ValueError(f"{kept}: this folder was begun under other settings; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(wanted, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, train, score and save."""
    parser = argparse.ArgumentParser(description="Build the embedded policy from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished policy and its log")
    parser.add_argument("--label-steps", type=int, default=PretrainSettings.label_steps)
    parser.add_argument("--joint-steps", type=int, default=PretrainSettings.joint_steps)
    parser.add_argument("--question-steps", type=int, default=PretrainSettings.question_steps)
    parser.add_argument("--sentence-steps", type=int, default=PretrainSettings.sentence_steps)
    parser.add_argument("--seed", type=int, default=PretrainSettings.seed)
    parser.add_argument("--held-out-scenes", type=int, default=300)
    chosen = parser.parse_args(arguments)
    settings = PretrainSettings(
        seed=chosen.seed,
        label_steps=chosen.label_steps,
        joint_steps=chosen.joint_steps,
        question_steps=chosen.question_steps,
        sentence_steps=chosen.sentence_steps,
    )
    _claim_folder(chosen.out, settings)
    torch.manual_seed(settings.seed)
    policy, started = new_policy(settings), time.monotonic()
    with (chosen.out / "pretrain.jsonl").open("a", encoding="utf-8") as log:
        for phase in PHASES:
            done = chosen.out / f"{phase}-done"
            if (done / "model.safetensors").is_file():
                policy = replace(policy, model=load_policy(str(done), device="cpu").model)
            else:
                _run_phase(policy, settings, phase, log, chosen.out)
    folder = chosen.out / "policy"
    save_policy(Policy(policy.model.half(), policy.processor), folder)
    scores = held_out_scores(
        Policy(policy.model.float(), policy.processor), settings.seed + 99, chosen.held_out_scenes
    )
    lineage = {
        "producer": "training.pretrain",
        "settings": asdict(settings),
        "n_parameters": sum(p.numel() for p in policy.model.parameters()),
        "held_out": scores,
        "held_out_seed": settings.seed + 99,
        "code_sha256": code_sha256(("training", "ops")),
        "versions": library_versions(),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "data": "generated scenes; drawings by OpenMoji, CC BY-SA 4.0",
    }
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
