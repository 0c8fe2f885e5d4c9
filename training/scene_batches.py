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

from ops.scene_pictures import Scene, cells_of, compose, draw_plan, place_name
from ops.scene_questions import caption, questions
from training.overlap import coverage
from training.policy import Policy

CAPTION_REQUEST = "What can be seen?"
SENTENCE_REQUEST = "Look at the picture."
NOTHING = " nothing"
SIMPLE_KINDS = ("what", "where", "colour")
MOST_TURNS = 6

IGNORED = -100


@dataclass(frozen=True)
class SceneBatch:
    """Model inputs with `labels` [batch, length], and per image token a distribution over words.

    `word_targets` is float32 [image tokens of the batch, vocabulary]: what lies under the token, half as the thing's
    name and half as its colour, by exact share of the token's area, the rest as `nothing`. `place_targets` is the same
    for the two words of the token's place ("top", "left").
    """

    inputs: dict[str, Tensor]
    word_targets: Tensor
    place_targets: Tensor


def draw_scenes(seed: int, n_scenes: int) -> Iterator[Scene]:
    """Scenes drawn one after the other from one seed."""
    rng = np.random.default_rng(seed)
    for _ in range(n_scenes):
        yield compose(draw_plan(rng), grain_seed=int(rng.integers(2**31)))


def choose_turns(
    scene: Scene, rng: Generator, harder_rate: float, caption_rate: float, sentence_rate: float
) -> list[tuple[str, str]]:
    """Turns (request, answer) about one scene: a caption, or questions answered at once or after a sentence."""
    if rng.random() < caption_rate:
        return [(CAPTION_REQUEST, caption(scene))]
    turns = []
    for q in questions(scene):
        if rng.random() < sentence_rate:
            turns.append((f"{SENTENCE_REQUEST} {q.question}", f"{q.reasoning}\n{q.answer}"))
        elif q.kind in SIMPLE_KINDS or rng.random() < harder_rate:
            turns.append((q.question, q.answer))
    return [turns[i] for i in rng.permutation(len(turns))[:MOST_TURNS]]


@dataclass(frozen=True)
class PackedRow:
    """Several turns about one picture in one sequence, each as if it stood alone after the picture.

    `turn` is 0 for what all share (system prompt and picture) and the turn's number otherwise: a token sees what all
    share and its own turn. `positions` (time, row, column) start again after the picture for each turn.
    """

    ids: list[int]
    labels: list[int]
    turn: list[int]
    positions: list[tuple[int, int, int]]


def pack_turns(
    policy: Policy, system_prompt: str, grid_hw: tuple[int, int], turns: Sequence[tuple[str, str]]
) -> PackedRow:
    """Pack turns that share a picture; only the answers and their end tokens carry labels."""
    row = PackedRow([], [], [], [])
    cursor = 0

    def add(text: str, turn: int, learned: bool = False) -> None:
        nonlocal cursor
        piece = policy.tokenizer(text, add_special_tokens=False)["input_ids"]
        row.ids.extend(piece)
        row.labels.extend(piece if learned else [IGNORED] * len(piece))
        row.turn.extend([turn] * len(piece))
        row.positions.extend((cursor + k,) * 3 for k in range(len(piece)))
        cursor += len(piece)

    if system_prompt:
        add(f"<|im_start|>system\n{system_prompt}<|im_end|>\n", 0)
    add("<|im_start|>user\n<|vision_start|>", 0)
    n_tokens = grid_hw[0] * grid_hw[1]
    row.ids.extend([policy.processor.image_token_id] * n_tokens)
    row.labels.extend([IGNORED] * n_tokens)
    row.turn.extend([0] * n_tokens)
    row.positions.extend((cursor, cursor + r, cursor + c) for r, c in np.ndindex(*grid_hw))
    cursor += max(grid_hw)
    add("<|vision_end|>", 0)
    after_picture = cursor
    for number, (request, answer) in enumerate(turns, start=1):
        cursor = after_picture
        add(f"{request}<|im_end|>\n<|im_start|>assistant\n", number)
        add(f"{answer}<|im_end|>", number, learned=True)
    return row


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


def place_targets(scene: Scene, grid_hw: tuple[int, int], policy: Policy) -> NDArray[np.float32]:
    """Where each image token is: float32 [gh * gw, vocabulary], one half on each of the two words of its cell."""
    height, width = scene.picture.shape[:2]
    rows, columns = cells_of((width, height))
    targets = np.zeros((grid_hw[0] * grid_hw[1], len(policy.tokenizer)), dtype=np.float32)
    for token, (row, column) in enumerate(np.ndindex(*grid_hw)):
        cell = (int((row + 0.5) / grid_hw[0] * rows), int((column + 0.5) / grid_hw[1] * columns))
        for word in place_name(cell, (rows, columns)).split():
            targets[token, word_id(policy, f" {word}")] += 0.5
    return targets


def word_id(policy: Policy, word: str) -> int:
    """The one token of a word (with its leading space); ValueError when the tokenizer splits it."""
    ids = policy.tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens; the embedded tokenizer must hold it as one")
    return int(ids[0])


def make_batch(
    policy: Policy,
    scenes: Sequence[Scene],
    rng: Generator,
    system_prompts: Sequence[str],
    harder_rate: float,
    caption_rate: float,
    sentence_rate: float = 0.0,
) -> SceneBatch:
    """A right-padded batch, one packed row for each scene."""
    pictures = policy.processor.image_processor(
        [Image.fromarray(s.picture) for s in scenes], return_tensors="pt"
    )
    merge = policy.processor.image_processor.merge_size
    grids = [(int(h) // merge, int(w) // merge) for _, h, w in pictures["image_grid_thw"]]
    rows = [
        pack_turns(
            policy,
            str(rng.choice(list(system_prompts))),
            grid,
            choose_turns(scene, rng, harder_rate, caption_rate, sentence_rate),
        )
        for scene, grid in zip(scenes, grids, strict=True)
    ]
    words, places = (
        torch.from_numpy(np.concatenate([make(s, g, policy) for s, g in zip(scenes, grids, strict=True)]))
        for make in (word_targets, place_targets)
    )
    pixels: dict[str, Any] = {name: pictures[name] for name in ("pixel_values", "image_grid_thw")}
    return SceneBatch(collate(rows, int(policy.tokenizer.pad_token_id)) | pixels, words, places)


def collate(rows: Sequence[PackedRow], pad_id: int) -> dict[str, Tensor]:
    """Rows padded on the right: input_ids, labels [batch, length], position_ids [3, batch, length] and attention_mask
    [batch, 1, query, key], 0 where a token is seen and very negative where not: eager attention adds the mask, so a
    boolean one would hide nothing."""
    length = max(len(row.ids) for row in rows)

    def padded(values: Sequence[Any], filler: Any) -> list[Any]:
        return [*values, *[filler] * (length - len(values))]

    turn = torch.tensor([padded(row.turn, -1) for row in rows])
    query, key = turn[:, :, None], turn[:, None, :]
    visible = ((key == 0) | (key == query)) & torch.ones(length, length).tril().bool()
    return {
        "input_ids": torch.tensor([padded(row.ids, pad_id) for row in rows]),
        "labels": torch.tensor([padded(row.labels, IGNORED) for row in rows]),
        "position_ids": torch.tensor([padded(row.positions, (0, 0, 0)) for row in rows]).permute(2, 0, 1),
        "attention_mask": torch.where(visible[:, None], 0.0, torch.finfo(torch.float32).min),
    }
