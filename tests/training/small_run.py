"""A stage on a desk: tables of a few pictures, a small policy that can speak, a configuration."""

import io
import json
import os
import signal
import threading
import time

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from storage.objects import sha256_bytes
from storage.tables import encode_table, from_rows
from tests.tiny_models import tiny_policy
from training.config import StageConfig
from training.conversation import completion_text, messages
from training.policy import save_policy
from training.progress import METRICS, read_json_lines
from training.stage import run_stage

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30)}
SIZES = [(112, 84), (84, 112), (140, 84)]  # (width, height) in px: none of them square
SAID = completion_text("The cup.", "red")


def write_tables(folder, n=12, with_reasoning=True):
    """Parquet files of `n` examples (a coloured patch on grey), the last two in val; table name -> [path]."""
    images, examples, boxes, splits = [], [], [], []
    for index in range(n):
        width, height = SIZES[index % len(SIZES)]
        colour = list(COLOURS)[index % 2]
        x1, y1 = 10 + 2 * index, 8 + index
        picture = Image.new("RGB", (width, height), (120, 120, 120 + index))
        picture.paste(COLOURS[colour], (x1, y1, x1 + 40, y1 + 30))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        data = buffer.getvalue()
        example_id, sha = f"e{index:02d}", sha256_bytes(data)
        images.append(
            {
                "image_sha256": sha,
                "pixels_sha256": sha,
                "thumb": b"",
                "source": "desk",
                "source_file": "a.json",
            }
            | {"file_name": f"{index}.png", "uri": f"{index}.png", "format": "PNG", "width_px": width}
            | {"height_px": height, "n_bytes": len(data), "bytes": data}
        )
        examples.append(
            {"example_id": example_id, "source": "desk", "source_file": "q.jsonl", "source_row": index}
            | {
                "image_sha256": sha,
                "question": "What colour is it?",
                "answer": colour,
                "accepted_answers": [],
            }
            | {"answer_type": "word", "n_boxes": 1, "evidence_area_frac": 1200 / (width * height)}
            | {"reasoning": "The cup." if with_reasoning else None}
        )
        boxes.append(
            {
                "example_id": example_id,
                "box_index": 0,
                "x1_px": x1,
                "y1_px": y1,
                "x2_px": x1 + 40,
                "y2_px": y1 + 30,
            }
        )
        split = "val" if index >= n - 2 else "train"
        splits.append(
            {"example_id": example_id, "image_sha256": sha, "split": split, "split_rule": "content_hash"}
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, rows in (("images", images), ("examples", examples), ("boxes", boxes), ("splits", splits)):
        path = folder / f"{name}.parquet"
        path.write_bytes(encode_table(name, from_rows(name, rows)))
        paths[name] = [str(path)]
    return paths


def save_speaking_policy(folder, policy=None, n_steps=80, learning_rate=3e-3):
    """A policy (by default a tiny one) that mostly says SAID, whatever it is asked, saved in `folder`."""
    policy = policy or tiny_policy(seed=3)
    pictures = [Image.new("RGB", size, (120, 120, 120)) for size in SIZES]
    asked = policy.processor.apply_chat_template(
        messages("What colour is it?"), add_generation_prompt=True, tokenize=False
    )
    said = SAID + policy.tokenizer.eos_token
    n = len(policy.tokenizer(said)["input_ids"])
    inputs = policy.processor(
        images=pictures, text=[asked + said] * len(SIZES), padding=True, return_tensors="pt"
    )
    optimiser = torch.optim.Adam(policy.model.parameters(), lr=learning_rate)
    for _ in range(n_steps):
        logits = policy.model(**inputs).logits[:, -n - 1 : -1]
        loss = F.cross_entropy(logits.flatten(0, 1), inputs["input_ids"][:, -n:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_policy(policy, folder)
    return str(folder)


def stage_config(stage, work_dir, tables, policy, **settings):
    """The configuration of one small stage."""
    return StageConfig.from_dict(
        {
            "stage": stage,
            "root": str(work_dir),
            "work_dir": str(work_dir),
            "policy": policy,
            "policy_name": "small",
            "policy_id": "small@0123456789ab",
            "seed": 5,
            "tables": tables,
            "settings": settings,
        }
    )


def run_and_interrupt(stage_module, config, folder, after_step):
    """Run a stage in this process, send it SIGTERM once it has logged `after_step`; returns the exit code."""
    watched = config.work_path / METRICS

    def interrupt():
        while not any(row["step"] >= after_step for row in read_json_lines(watched)):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        return run_from_file(stage_module, config, folder)
    finally:
        watcher.join()


def run_from_file(stage_module, config, folder):
    """Write the configuration into `folder` and run the stage as its command does; returns the exit code."""
    path = folder / f"{config.stage}.json"
    path.write_text(json.dumps(config.to_dict()))
    return run_stage(config.stage, stage_module.run, [str(path)])


def weights(folder):
    """Every tensor of a saved policy or adapter, by name."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def without_seconds(lines):
    """Logged lines without the times, which no two runs share."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
