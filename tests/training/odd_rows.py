"""Tables in which rows do not fit, each for a reason that really holds, among rows that do."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from storage.objects import sha256_bytes
from storage.tables import encode_table, from_rows

QUESTION = "What colour is it?"


def png(size_wh: tuple[int, int], seed: int = 0) -> bytes:
    """A picture of noise: no two seeds give the same file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Given:
    """One example as the tables shall have it. size_wh: what the table says; uri: where the picture lies, if not in
    the table itself.
    """

    example_id: str
    data: bytes
    size_wh: tuple[int, int]
    split: str = "train"
    question: str = QUESTION
    reasoning: str | None = "The cup."
    boxes: tuple[tuple[float, float, float, float], ...] = ((10.0, 8.0, 50.0, 38.0),)
    uri: str | None = None


def good(index: int, split: str = "train", **changes: Any) -> Given:
    """A row that fits; every third has another size."""
    size_wh = [(112, 84), (84, 112), (140, 84)][index % 3]
    return Given(f"e{index:02d}", png(size_wh, index), size_wh, split, **changes)


def write(folder: Path, rows: list[Given]) -> dict[str, list[str]]:
    """Parquet files of the rows; table name -> [path]."""
    images: dict[str, dict[str, Any]] = {}
    examples, boxes, splits = [], [], []
    for number, row in enumerate(rows):
        sha = sha256_bytes(row.data)
        images[sha] = {
            "image_sha256": sha,
            "pixels_sha256": sha,
            "thumb": b"",
            "source": "odd",
            "source_file": "a.json",
            "file_name": f"{number}.png",
            "uri": row.uri or f"{number}.png",
            "format": "PNG",
            "width_px": row.size_wh[0],
            "height_px": row.size_wh[1],
            "n_bytes": len(row.data),
            "bytes": None if row.uri else row.data,
        }
        examples.append(
            {
                "example_id": row.example_id,
                "source": "odd",
                "source_file": "q.jsonl",
                "source_row": number,
                "image_sha256": sha,
                "question": row.question,
                "answer": "red",
                "accepted_answers": ["scarlet"],
                "answer_type": "word",
                "n_boxes": len(row.boxes),
                "evidence_area_frac": 0.1,
                "reasoning": row.reasoning,
            }
        )
        boxes += [
            {"example_id": row.example_id, "box_index": i, "x1_px": x1, "y1_px": y1, "x2_px": x2, "y2_px": y2}
            for i, (x1, y1, x2, y2) in enumerate(row.boxes)
        ]
        place = {"example_id": row.example_id, "image_sha256": sha, "split": row.split}
        splits.append({**place, "split_rule": "content_hash"})
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"images": list(images.values()), "examples": examples, "boxes": boxes, "splits": splits}
    for name, values in tables.items():
        (folder / f"{name}.parquet").write_bytes(encode_table(name, from_rows(name, values)))
    return {name: [str(folder / f"{name}.parquet")] for name in tables}
