"""The Rosetta set as rows: Open Images, Visual-CoT, and tables with named columns in every convention of theirs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ops.sources import Source
from tests.ops.delivery import json_lines, source, write
from tests.ops.rosetta_set import LABELS, Picture, Pictures, Thing, numbered


def open_images(folder: Path, pictures: Pictures) -> Source:
    """Shares with both x before both y, labels by code."""
    lines = ["ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf"]
    for _, picture, thing in numbered(pictures):
        x1, y1, x2, y2 = picture.share(thing)
        lines.append(f"{picture.number},x,/m/{LABELS.index(thing[0])},1,{x1},{x2},{y1},{y2},0")
    write(folder, "boxes.csv", "\n".join(lines) + "\n")
    write(folder, "names.csv", "".join(f"/m/{n},{label}\n" for n, label in enumerate(LABELS)))
    options = {"images": "images", "label_names": "names.csv"}
    return source(folder, "open_images", annotations="boxes.csv", options=options)


def _write_parquet(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / name)


def _inside(picture: Picture) -> dict[str, Any]:
    """The picture as a Parquet row holds it."""
    return {"bytes": picture.data, "path": f"images/{picture.file}"}


def visual_cot(kind: str, folder: Path, pictures: Pictures) -> Source:
    """A row for each thing: JSON Lines, a JSON list, or Parquet with the pictures inside."""
    rows = [
        {"image": f"images/{picture.file}", "problem": f"What is {n}?", "solution": thing[0]}
        | {"bbox": str(picture.share(thing)), "dataset": "gqa"}
        for n, picture, thing in numbered(pictures)
    ]
    if kind == "parquet":
        inside = {f"images/{picture.file}": _inside(picture) for picture in pictures}
        _write_parquet(folder, "rows.parquet", [row | {"image": inside[row["image"]]} for row in rows])
    else:
        write(folder, f"rows.{kind}", rows if kind == "json" else json_lines(list(rows)))
    return source(folder, "visual_cot", annotations=f"rows.{kind}")


UNITS = {"px": None, "normalised": 1.0, "percent": 100.0, "permille": 1000.0}
SIDES = {"xyxy": "x1,y1,x2,y2", "xywh": "x,y,w,h", "cxcywh": "cx,cy,w,h"}


TABLE_CONVENTIONS = [f"{layout}_{unit}" for unit in UNITS for layout in SIDES]


def _values(convention: str, picture: Picture, thing: Thing) -> list[float]:
    """A box in a convention of tables, worked out from its edges."""
    layout, _, unit = convention.partition("_")
    whole = UNITS.get(unit)
    x1, y1, x2, y2 = thing[1:] if whole is None else picture.share(thing, whole)
    if unit == "px_from_1":
        return [x1 + 1, y1 + 1, x2, y2]
    if layout == "xyxy":
        return [x1, y1, x2, y2]
    start = [x1, y1] if layout == "xywh" else [(x1 + x2) / 2, (y1 + y2) / 2]
    return [*start, x2 - x1, y2 - y1]


def _csv(folder: Path, name: str, convention: str, pictures: Pictures) -> None:
    lines = [f"image,label,{SIDES[convention.partition('_')[0]]}"]
    for _, picture, thing in numbered(pictures):
        lines.append(",".join(map(str, [picture.file, thing[0], *_values(convention, picture, thing)])))
    write(folder, name, "\n".join(lines) + "\n")


def table_csv(convention: str, folder: Path, pictures: Pictures) -> Source:
    """A row for each thing, its box in four columns."""
    _csv(folder, "rows.csv", convention, pictures)
    return _table(folder, "rows.csv", convention)


def table_folder(convention: str, folder: Path, pictures: Pictures) -> Source:
    """A CSV file for each picture."""
    for picture in pictures:
        _csv(folder, f"rows/{picture.number}.csv", convention, [picture])
    return _table(folder, "rows", convention)


def table_jsonl(convention: str, folder: Path, pictures: Pictures) -> Source:
    """A row for each thing, its box in a list."""
    rows: list[object] = [
        {"image": picture.file, "label": thing[0], "bbox": _values(convention, picture, thing)}
        for _, picture, thing in numbered(pictures)
    ]
    write(folder, "rows.jsonl", json_lines(rows))
    return _table(folder, "rows.jsonl", convention)


def table_parquet(convention: str, folder: Path, pictures: Pictures) -> Source:
    """A row for each picture, which stands inside, with its objects as Hugging Face has them."""
    rows = []
    for each in pictures:
        boxes = [_values(convention, each, thing) for thing in each.things]
        objects = {"bbox": boxes, "category": [thing[0] for thing in each.things]}
        rows.append({"image": _inside(each), "objects": objects})
    _write_parquet(folder, "rows.parquet", rows)
    return _table(folder, "rows.parquet", convention)


def table_questions(folder: Path, pictures: Pictures) -> Source:
    """A question about each thing."""
    rows: list[object] = [
        {"image": picture.file, "question": f"What is {n}?", "answer": "it"}
        | {"bbox": [list(thing[1:])], "label": [thing[0]]}
        for n, picture, thing in numbered(pictures)
    ]
    write(folder, "rows.jsonl", json_lines(rows))
    return _table(folder, "rows.jsonl", "xyxy_px")


def _table(folder: Path, name: str, convention: str) -> Source:
    options = {"box_convention": convention, "images": "images"}
    return source(folder, "table", annotations=name, options=options)
