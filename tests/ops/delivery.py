"""Small deliveries of data for the tests of this room: pictures as bytes, COCO files, questions."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ops.sources import Source
from storage.objects import Store
from storage.tables import encode_table


def pixels(size_wh: tuple[int, int] = (7, 5), seed: int = 0) -> np.ndarray:
    """Smooth random pixels, uint8 [height, width, 3]; smooth, so that JPEG keeps them nearly as they are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(size_wh, Image.Resampling.BICUBIC))


def encoded(rgb: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Pixels as the bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, kind, **options)
    return stream.getvalue()


def turned(rgb: np.ndarray, orientation: int) -> bytes:
    """A PNG file that stores `rgb` as it is and asks by EXIF to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(rgb, exif=exif)


def write(folder: Path, name: str, content: object) -> None:
    """Write bytes, text, or anything else as JSON, below the folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def json_lines(rows: list[object]) -> str:
    """Rows as JSON Lines; texts are taken for lines already."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def source(folder: Path, kind: str = "coco", **fields: Any) -> Source:
    """A source at the folder, by default COCO with annotations.json."""
    return Source("shelf", kind, str(folder), **({"annotations": "annotations.json"} | fields))


def coco(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    """A COCO file with the categories 1 cup and 2 plate."""
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "plate"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def runs_of(mask: np.ndarray) -> list[int]:
    """Runs of a mask [height, width] down its columns, found pixel by pixel."""
    counts, current = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != current:
            counts.append(0)
            current = pixel
        counts[-1] += 1
    return counts


def packed_runs(counts: list[int]) -> str:
    """COCO's packing, written from its description, one count after the other."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + (32 if more else 0))
            if not more:
                break
    return text


def question(image_id: object = 1, annotation_ids: object = (1,), **fields: Any) -> dict[str, Any]:
    """A good row of a questions file unless told otherwise."""
    row = {"image_id": image_id, "question": "What is it?", "answer": "cup", "annotation_ids": annotation_ids}
    return row | fields


def new_store(tmp_path) -> Store:
    """An empty store."""
    return Store(str(tmp_path / "root"))


def conserved(tables) -> None:
    """Rows in are rows out and refused rows, and every table keeps to its schema."""
    assert tables.counts["rows_out"] == tables.examples.num_rows
    assert tables.counts["quarantined"] == tables.quarantine.num_rows
    assert tables.counts["rows_in"] == tables.counts["rows_out"] + tables.counts["quarantined"]
    for name in ("images", "examples", "boxes", "quarantine"):
        encode_table(name, getattr(tables, name))


def refused(tables) -> list[tuple]:
    """File, row and reason of each refused row; nothing is lost."""
    conserved(tables)
    return [(row["source_file"], row["source_row"], row["reason"]) for row in tables.quarantine.to_pylist()]
