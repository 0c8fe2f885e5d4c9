"""Made-up evidence with the shape of a real run, drawn by code from a seed: no policy was ever asked.

Coloured figures on non-square pictures, four policies whose right answers are tosses of stated coins, and
maps that are bumps on or beside the evidence. For tests of what reads the tables, and for
looking at the page.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from storage.archive import region_columns
from storage.schema import TABLES

COLOURS = {"red": (208, 60, 50), "blue": (50, 100, 200), "yellow": (235, 195, 50), "green": (60, 150, 85)}
SIZES = ((320, 224), (224, 320), (384, 216))
CELL_PX = 28
# accuracy overall, accuracy under conflict, how much of the map is on the evidence
COINS = {
    "base": (0.42, 0.20, 0.10),
    "cold_start": (0.61, 0.34, 0.25),
    "accuracy": (0.70, 0.47, 0.27),
    "saliency_r1": (0.71, 0.52, 0.55),
}


@dataclass(frozen=True)
class Evidence:
    """Tables as in storage.schema, and the bytes of every picture by its hash."""

    images: pa.Table
    examples: pa.Table
    boxes: pa.Table
    quarantine: pa.Table
    splits: pa.Table
    training_steps: pa.Table
    predictions: pa.Table
    saliency_maps: pa.Table
    pictures: dict[str, bytes]
    artifacts: list[dict[str, Any]]


def make(
    seed: int = 0, n_pictures: int = 60, coins: dict[str, tuple[float, float, float]] | None = None
) -> Evidence:
    """Evidence of n_pictures pictures with two questions each, a third of them in the train split."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    pictures: dict[str, bytes] = {}
    for index in range(n_pictures):
        size_wh = SIZES[index % len(SIZES)]
        colour = str(rng.choice(list(COLOURS)))
        things, data = _picture(rng, size_wh, colour)
        sha = hashlib.sha256(data).hexdigest()
        pictures[sha] = data
        rows["images"].append(_image(sha, data, size_wh, index))
        split = "train" if index % 3 == 0 else "test"
        condition = (None, "conflict", "control")[int(rng.integers(0, 3))]
        questions = [
            ("colour", "What colour is the disc?", colour, condition),
            (
                "where",
                "Where is the block?",
                "top right" if things[1][1] < size_wh[1] / 2 - 20 else "bottom right",
                None,
            ),
        ]
        for k, (kind, question, answer, side) in enumerate(questions):
            example = _example(sha, index, k, kind, question, answer, side, things[k : k + 1], size_wh)
            rows["examples"].append(example)
            rows["splits"].append(
                {
                    "example_id": example["example_id"],
                    "image_sha256": sha,
                    "split": split,
                    "split_rule": "content_hash",
                }
            )
            for b, box in enumerate(things[k : k + 1]):
                rows["boxes"].append(
                    {
                        "example_id": example["example_id"],
                        "box_index": b,
                        **dict(zip(("x1_px", "y1_px", "x2_px", "y2_px"), box, strict=True)),
                        "label": ("disc", "block")[k],
                    }
                )
            if split == "test":
                for policy, coin in (coins or COINS).items():
                    _answer(rng, rows, policy, coin, example, things[k : k + 1], size_wh)
    rows["quarantine"] = _refused()
    rows["training_steps"] = _steps(rng)
    tables = {name: pa.Table.from_pylist(rows[name], schema=TABLES[name]) for name in TABLES}
    wanted = (
        "images",
        "examples",
        "boxes",
        "quarantine",
        "splits",
        "training_steps",
        "predictions",
        "saliency_maps",
    )
    return Evidence(**{name: tables[name] for name in wanted}, pictures=pictures, artifacts=_artifacts())


def _picture(
    rng: np.random.Generator, size_wh: tuple[int, int], colour: str
) -> tuple[list[tuple[float, ...]], bytes]:
    """A disc in `colour` and a grey block on a soft background; their boxes, and PNG bytes."""
    width, height = size_wh
    back = np.linspace(205, 235, height)[:, None, None] + rng.normal(0, 4, (height, width, 3))
    picture = Image.fromarray(np.clip(back, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    side = 0.26 * min(size_wh)
    x1, y1 = float(rng.uniform(6, width / 2 - side)), float(rng.uniform(6, height - side - 6))
    x2, y2 = float(rng.uniform(width / 2, width - side - 6)), float(rng.uniform(6, height - side - 6))
    draw.ellipse((x1, y1, x1 + side - 1, y1 + side - 1), fill=COLOURS[colour])
    draw.rectangle((x2, y2, x2 + side * 1.2 - 1, y2 + side * 0.7 - 1), fill=(110, 110, 118))
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return [(x1, y1, x1 + side, y1 + side), (x2, y2, x2 + side * 1.2, y2 + side * 0.7)], out.getvalue()


def _image(sha: str, data: bytes, size_wh: tuple[int, int], index: int) -> dict[str, Any]:
    return {
        "image_sha256": sha,
        "pixels_sha256": sha,
        "thumb": bytes(768),
        "source": _source(index),
        "source_file": "annotations.json",
        "file_name": f"{index}.png",
        "uri": f"images/{index}.png",
        "format": "PNG",
        "width_px": size_wh[0],
        "height_px": size_wh[1],
        "n_bytes": len(data),
        "bytes": None,
    }


def _source(index: int) -> str:
    return "figures" if index % 4 else "more_figures"


def _example(
    sha: str,
    index: int,
    k: int,
    kind: str,
    question: str,
    answer: str,
    condition: str | None,
    boxes: list[tuple[float, ...]],
    size_wh: tuple[int, int],
) -> dict[str, Any]:
    area = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes)  # the two figures never overlap
    return {
        "example_id": hashlib.sha256(f"{sha}{k}".encode()).hexdigest()[:24],
        "source": _source(index),
        "source_file": "questions.jsonl",
        "source_row": 2 * index + k,
        "image_sha256": sha,
        "question": question,
        "answer": answer,
        "accepted_answers": [answer],
        "answer_type": "word",
        "question_kind": kind,
        "slice": "prior_conflict" if condition else None,
        "condition": condition,
        "reasoning": None,
        "n_boxes": len(boxes),
        "evidence_area_frac": area / (size_wh[0] * size_wh[1]),
    }


def _answer(
    rng: np.random.Generator,
    rows: dict[str, list[dict[str, Any]]],
    policy: str,
    coin: tuple[float, float, float],
    example: dict[str, Any],
    boxes: list[tuple[float, ...]],
    size_wh: tuple[int, int],
) -> None:
    correct = bool(rng.random() < coin[1 if example["condition"] == "conflict" else 0])
    reason = None if policy != "base" and rng.random() > 0.04 else "no_thought"
    answer = (
        example["answer"] if correct else ("grey" if example["question_kind"] == "colour" else "top left")
    )
    thought = None if reason else f"I look at the disc on the left, and {answer} is what I see."
    completion = answer if reason else f"<think>\n{thought}\n</think>\n{answer}"
    sha = hashlib.sha256(completion.encode()).hexdigest()
    policy_id = f"{policy}@0123456789ab"
    prediction: dict[str, Any] = {
        "policy_id": policy_id,
        "policy": policy,
        "example_id": example["example_id"],
        "image_sha256": example["image_sha256"],
        "completion": completion,
        "completion_sha256": sha,
        "thought": thought,
        "answer": answer,
        "correct": correct,
        "accuracy_score": float(correct),
        "format_valid": reason is None,
        "truncated": False,
        "n_tokens": len(completion) // 3,
        "unscorable_reason": reason,
    }
    # Half of the answers were also looked at under masks, the same examples for every policy.
    if int(example["example_id"], 16) % 2 == 0:
        prediction |= {
            "correct_evidence_masked": correct and bool(rng.random() < 0.5),
            "correct_elsewhere_masked": correct and bool(rng.random() < 0.9),
        }
        if reason is None:
            names = ("deletion_auc", "insertion_auc", "random_deletion_auc", "random_insertion_auc")
            prediction |= {
                k: -float(rng.gamma(4, m)) for k, m in zip(names, (0.6, 0.2, 0.4, 0.4), strict=True)
            }
    if reason is None:
        values, measures = _map(rng, coin[2], boxes, size_wh)
        map_id = hashlib.sha256(f"{policy}{example['example_id']}".encode()).hexdigest()[:24]
        prediction |= {**measures, "map_id": map_id}
        columns = set(TABLES["saliency_maps"].names)
        rows["saliency_maps"].append(
            {k: v for k, v in prediction.items() if k in columns}
            | {
                "method": "cot_rollout",
                "rows": "predictor",
                "span": "answer",
                "grid_h": values.shape[0],
                "grid_w": values.shape[1],
                "image_w_px": size_wh[0],
                "image_h_px": size_wh[1],
                **region_columns((0, 0, 1, 1)),
                "values": values.astype("<f2").tobytes(),
            }
        )
    rows["predictions"].append(prediction)


def _map(
    rng: np.random.Generator, on_evidence: float, boxes: list[tuple[float, ...]], size_wh: tuple[int, int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Noise plus a bump on the first box; mass by cell centres, which is enough for made-up numbers."""
    grid_h, grid_w = size_wh[1] // CELL_PX, size_wh[0] // CELL_PX
    y, x = np.mgrid[0:grid_h, 0:grid_w]
    cx, cy = (x + 0.5) * size_wh[0] / grid_w, (y + 0.5) * size_wh[1] / grid_h
    inside = np.zeros((grid_h, grid_w), bool)
    for x1, y1, x2, y2 in boxes:
        inside |= (cx >= x1) & (cx < x2) & (cy >= y1) & (cy < y2)
    x1, y1, x2, y2 = boxes[0]
    bump = np.exp(-(((cx - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((cy - (y1 + y2) / 2) / (y2 - y1)) ** 2) * 3)
    noise = rng.gamma(0.5, 1.0, (grid_h, grid_w))
    share = float(np.clip(rng.normal(on_evidence, 0.15), 0, 1))
    values = (
        (share * bump / bump.sum() + (1 - share) * noise / noise.sum()).astype(np.float16).astype(np.float32)
    )
    chance = float(inside.mean())
    mass = float(values[inside].sum() / values.sum())
    hit = bool(inside.flat[int(values.argmax())])
    return values, {
        "mass": mass,
        "chance": chance,
        "lift": (mass - chance) / (1 - chance),
        "pointing_hit": hit,
        "pointing_chance": chance,
        "auroc": 0.5 + 0.4 * share,
        "ap": mass,
        "ap_chance": chance,
        "iou_chance": chance / (2 - chance),
        "iou_area": mass * 0.7,
        "entropy": 1 - 0.4 * share,
    }


def _steps(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for step in range(1, 121):
        rows.append(
            {
                "policy_id": "cold_start@0123456789ab",
                "stage": "sft",
                "step": step,
                "loss": 2.2 * np.exp(-step / 30) + 0.3 + rng.normal(0, 0.05),
                "token_accuracy": 0.9 - 0.5 * np.exp(-step / 30) + rng.normal(0, 0.01),
                "seconds": 0.8,
            }
        )
    for policy, gain in (("accuracy", 0.10), ("saliency_r1", 0.30)):
        for step in range(1, 81):
            done = 1 - np.exp(-step / 30)
            row = {
                "policy_id": f"{policy}@0123456789ab",
                "stage": "grpo",
                "step": step,
                "loss": rng.normal(0, 0.02),
                "format_mean": min(1, 0.93 + 0.06 * done + rng.normal(0, 0.02)),
                "accuracy_mean": 0.55 + 0.15 * done + rng.normal(0, 0.06),
                "frac_zero_std": max(0.0, (0.5 if policy == "accuracy" else 0.05) + rng.normal(0, 0.05)),
                "seconds": 1.6,
            }
            if policy == "saliency_r1":
                row |= {
                    "saliency_mean": None if step == 40 else 0.3 + gain * done + rng.normal(0, 0.04),
                    "n_unscorable": int(rng.poisson(1.2)),
                    "unscorable_by_reason": json.dumps({"no_thought": 1}),
                }
            rows.append({key: float(v) if isinstance(v, np.floating) else v for key, v in row.items()})
    return rows


def _refused() -> list[dict[str, Any]]:
    row = {
        "source": "figures",
        "source_file": "questions.jsonl",
        "stage": "box",
        "reason": "box_outside_picture",
        "raw": "{}",
    }
    return [
        {
            **row,
            "source_row": 300 + i,
            "detail": f"figures/{300 + i}: box x2=652.0 lies beyond image width 320",
        }
        for i in range(3)
    ] + [
        {
            **row,
            "source": "more_figures",
            "source_row": 9,
            "stage": "question",
            "reason": "no_answer",
            "detail": "questions.jsonl row 9: answer is empty",
        }
    ]


def _artifacts() -> list[dict[str, Any]]:
    def artifact(
        kind: str, name: str, producer: str, roles: list[str], seed: int | None = None
    ) -> dict[str, Any]:
        sha = hashlib.sha256(f"{kind}{name}".encode()).hexdigest()
        return {
            "kind": kind,
            "name": name,
            "sha256": sha,
            "producer": producer,
            "n_rows": None if kind == "policy" else 120,
            "seed": seed,
            "device": "cpu" if kind == "policy" else None,
            "versions": {"torch": "2.13.0", "trl": "1.16.0"},
            "code_sha256": sha[::-1],
            "config_sha256": sha,
            "git_commit": sha[:40],
            "dirty": False,
            "parents": [{"role": r, "sha256": sha} for r in roles],
        }

    return [
        artifact("table:examples", "figures", "ops.normalise", ["raw"]),
        artifact("table:splits", "", "ops.split", ["examples", "images"]),
        artifact("policy", "cold_start", "training.sft", ["base", "examples", "splits"], 11),
        artifact("policy", "saliency_r1", "training.grpo", ["cold_start", "examples", "splits"], 11),
    ]
