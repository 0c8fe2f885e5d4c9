"""A small source as a user would bring it: pictures of several shapes, a COCO file, a questions file."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 200), "yellow": (220, 200, 40)}
SIZES = ((96, 64), (64, 112), (80, 48))  # width, height: never square


def write_source(folder: Path, n_pictures: int = 24, seed: int = 0) -> Path:
    """Write pictures with one coloured block each, and one question a picture; returns the folder."""
    draw = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations, questions = [], [], []
    for number in range(n_pictures):
        width, height = SIZES[number % len(SIZES)]
        name = list(COLOURS)[number % len(COLOURS)]
        x, y = int(draw.integers(0, width - 24)), int(draw.integers(0, height - 20))
        pixels = draw.integers(90, 165, (height, width, 3), dtype=np.uint8)  # noise: no two pictures are near
        pixels[:, : width // 2] //= 1 + int(draw.integers(0, 3))
        pixels[: height // 2] //= 1 + int(draw.integers(0, 3))
        pixels[y : y + 20, x : x + 24] = COLOURS[name]
        file_name = f"images/{number:03}.png"
        Image.fromarray(pixels).save(folder / file_name)
        images.append({"id": number, "file_name": file_name, "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 24, 20]})
        questions.append(
            {
                "image_id": number,
                "question": "Which colour is the block?",
                "answer": name,
                "answer_type": "word",
                "question_kind": "colour",
                "annotation_ids": [number],
                "reasoning": f"The block is {name}.",
            }
        )
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "block"}]}
    (folder / "annotations.json").write_text(json.dumps(coco))
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return folder


def write_sources_file(path: Path, **folders: Path) -> Path:
    """Write the YAML list of sources that names these folders."""
    lines = ["sources:"]
    for name, folder in folders.items():
        lines += [
            f"  - name: {name}",
            "    format: coco",
            f"    location: {folder}",
            "    annotations: annotations.json",
            "    questions: questions.jsonl",
            "    licence: CC0",
        ]
    path.write_text("\n".join(lines) + "\n")
    return path
