"""Batches of generated scenes to build the embedded policy from: pictures, conversations, what lies under each token.

Only `training/pretrain.py` learns from these; the pipeline itself reads scenes back from files like any other source.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ops.scene_pictures import Scene, compose, draw_plan
from ops.scene_questions import SceneQuestion, caption, questions
from training.overlap import coverage
from training.policy import Policy

CAPTION_REQUEST = "What can be seen?"
NOTHING = " nothing"
SIMPLE_KINDS = ("what", "where", "colour")

IGNORED = -100


@dataclass(frozen=True)
class SceneBatch:
    """Model inputs with `labels` [batch, length], and per image token a distribution over words.

    `word_targets` is float32 [image tokens of the batch, vocabulary]: what lies under the token, half as the thing's
    name and half as its colour, by exact share of the token's area, the rest as `nothing`.
    """

    inputs: dict[str, Tensor]
    word_targets: Tensor


def draw_scenes(seed: int, n_scenes: int) -> Iterator[Scene]:
    """Scenes drawn one after the other from one seed."""
    rng = np.random.default_rng(seed)
    for _ in range(n_scenes):
        yield compose(draw_plan(rng), grain_seed=int(rng.integers(2**31)))


def choose_turns(scene: Scene, rng: Generator, harder_rate: float) -> list[tuple[str, str]]:
    """Turns (request, answer) about one scene: sometimes a caption first, then questions answered without a thought."""
    captioned = rng.random() < 0.4
    turns = [(CAPTION_REQUEST, caption(scene))] if captioned else []
    asked = [q for q in questions(scene) if q.kind in SIMPLE_KINDS or rng.random() < harder_rate]
    return turns + [(q.question, q.answer) for q in _some(asked, rng, 2 if captioned else 5)]


def _some(asked: list[SceneQuestion], rng: Generator, n_wanted: int) -> list[SceneQuestion]:
    chosen = rng.permutation(len(asked))[:n_wanted]
    return [asked[i] for i in chosen]


def conversation_ids(
    policy: Policy, system_prompt: str, n_image_tokens: int, turns: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation; only the answers and their end tokens carry labels."""
    tokenizer = policy.tokenizer
    ids: list[int] = []
    labels: list[int] = []

    def add(text: str, learned: bool) -> None:
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(piece)
        labels.extend(piece if learned else [IGNORED] * len(piece))

    if system_prompt:
        add(f"<|im_start|>system\n{system_prompt}<|im_end|>\n", False)
    for index, (request, answer) in enumerate(turns):
        picture = (
            "<|vision_start|>" + "<|image_pad|>" * n_image_tokens + "<|vision_end|>" if index == 0 else ""
        )
        add(f"<|im_start|>user\n{picture}{request}<|im_end|>\n<|im_start|>assistant\n", False)
        add(f"{answer}<|im_end|>", True)
        add("\n", False)
    return ids, labels


def word_targets(scene: Scene, grid_hw: tuple[int, int], policy: Policy) -> NDArray[np.float32]:
    """What lies under each image token: float32 [gh * gw, vocabulary], each row summing to one."""
    height, width = scene.picture.shape[:2]
    targets = np.zeros((grid_hw[0] * grid_hw[1], len(policy.tokenizer)), dtype=np.float32)
    for thing in scene.placed:
        share = coverage([thing.box], (width, height), grid_hw).reshape(-1)
        for word in (thing.name, thing.colour):
            targets[:, word_id(policy, f" {word}")] += 0.5 * share
    targets[:, word_id(policy, NOTHING)] += np.clip(1.0 - targets.sum(axis=1), 0.0, 1.0)
    return targets / targets.sum(axis=1, keepdims=True)


def word_id(policy: Policy, word: str) -> int:
    """The one token of a word (with its leading space); ValueError when the tokenizer splits it."""
    ids = policy.tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens; the embedded tokenizer must hold it as one")
    return int(ids[0])


def make_batch(
    policy: Policy, scenes: Sequence[Scene], rng: Generator, system_prompts: Sequence[str], harder_rate: float
) -> SceneBatch:
    """A right-padded batch, one conversation of up to five turns for each scene."""
    pictures = policy.processor.image_processor(
        [Image.fromarray(s.picture) for s in scenes], return_tensors="pt"
    )
    merge = policy.processor.image_processor.merge_size
    grids = [(int(h) // merge, int(w) // merge) for _, h, w in pictures["image_grid_thw"]]
    rows = [
        conversation_ids(
            policy, str(rng.choice(list(system_prompts))), gh * gw, choose_turns(scene, rng, harder_rate)
        )
        for scene, (gh, gw) in zip(scenes, grids, strict=True)
    ]
    inputs = _pad(rows, int(policy.tokenizer.pad_token_id), int(policy.processor.image_token_id))
    targets = np.concatenate([word_targets(s, g, policy) for s, g in zip(scenes, grids, strict=True)])
    pixels: dict[str, Any] = {name: pictures[name] for name in ("pixel_values", "image_grid_thw")}
    return SceneBatch(inputs | pixels, torch.from_numpy(targets))


def _pad(rows: Sequence[tuple[list[int], list[int]]], pad_id: int, image_id: int) -> dict[str, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _ in rows])
    labels = torch.tensor([lab + [IGNORED] * (length - len(lab)) for _, lab in rows])
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    return {
        "input_ids": input_ids,
        "labels": labels,
        "attention_mask": (torch.arange(length)[None] < lengths[:, None]).long(),
        "mm_token_type_ids": (input_ids == image_id).long(),
    }
