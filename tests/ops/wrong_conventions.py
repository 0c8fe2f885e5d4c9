"""A source of random boxes on non-square pictures, written by one convention and told by another.

Boxes are whole pixels, 8 to 50 % of the picture's sides, their middles anywhere, cut where they leave the picture: so
some touch each edge, as objects at the edge of a photo do.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ops.normalise import NothingLeft, Tables, normalise
from ops.sources import Source
from storage.objects import Store
from tests.ops.delivery import encoded, json_lines, write

SIZES = ((320, 240), (240, 320), (400, 267))

# x1, y1, x2, y2 in pixels and width, height of the picture to four numbers, written out for each convention
WRITERS = {
    "xyxy_px": lambda x1, y1, x2, y2, w, h: (x1, y1, x2, y2),
    "xywh_px": lambda x1, y1, x2, y2, w, h: (x1, y1, x2 - x1, y2 - y1),
    "cxcywh_px": lambda x1, y1, x2, y2, w, h: ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    "xyxy_px_from_1": lambda x1, y1, x2, y2, w, h: (x1 + 1, y1 + 1, x2, y2),
}


def written(convention: str, box: tuple[float, ...], size_wh: tuple[int, int]) -> list[float]:
    """A box as a file holds it, shares with six digits as exporters write them."""
    layout, _, unit = convention.partition("_")
    if unit.startswith("px"):
        return [float(value) for value in WRITERS[convention](*box, *size_wh)]
    whole = {"normalised": 1, "percent": 100, "permille": 1000}[unit]
    sides = (*size_wh, *size_wh)
    shares = [value / side * whole for value, side in zip(box, sides, strict=True)]
    return [round(value, 6) for value in WRITERS[f"{layout}_px"](*shares, 0, 0)]


def random_boxes(
    n: int, seed: int, sizes: tuple[tuple[int, int], ...] = SIZES, *, inside_px: int = 0
) -> list[tuple[tuple[int, int, int, int], tuple[int, int]]]:
    """Boxes with the size of each one's picture; none is nearer to an edge than `inside_px`."""
    rng, out = np.random.default_rng(seed), []
    while len(out) < n:
        width, height = sizes[len(out) % len(sizes)]
        half = rng.uniform(0.04, 0.25, 2) * (width, height)
        middle = rng.uniform(0, 1, 2) * (width, height)
        x1, y1 = np.rint(np.maximum(middle - half, inside_px)).astype(int)
        x2, y2 = np.rint(np.minimum(middle + half, (width - inside_px, height - inside_px))).astype(int)
        if x2 > x1 and y2 > y1:
            out.append(((int(x1), int(y1), int(x2), int(y2)), (width, height)))
    return out


def deliver(folder: Path, true: str, boxes: list[Any], name: str = "rows.jsonl") -> None:
    """Pictures, one of each size, and a row for each box."""
    rows = []
    for number, (box, size_wh) in enumerate(boxes):
        picture = f"{size_wh[0]}x{size_wh[1]}.png"
        if not (folder / picture).exists():
            write(folder, picture, encoded(np.full((size_wh[1], size_wh[0], 3), 120, np.uint8)))
        values = written(true, box, size_wh)
        rows.append({"image": picture, "question": f"What is at {number}?", "answer": "cup", "bbox": values})
    write(folder, name, json_lines(rows))


def told(folder: Path, convention: str, name: str = "rows.jsonl", **options: Any) -> Source:
    """The source as a person lists it."""
    return Source("shelf", "table", str(folder), name, options={"box_convention": convention, **options})


def normalised(source: Source, store: Store) -> Tables:
    """The tables, also of a source of which nothing is left."""
    try:
        return normalise(source, store)
    except NothingLeft as error:
        return error.tables
