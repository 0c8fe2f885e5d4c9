"""COCO entries as the columns in which `ops/readers/coco_scan.py` lays them out.

Here: which entries are plain, that is, hold nothing that columns of numbers cannot. Not here: judging any value.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.readers.coco import READ, annotated_wh, identifier
from ops.readers.json_arrays import Block, NotStreamable
from ops.readers.rows import MAX_TEXT, FieldError, as_object, file_name

IMAGE = pa.schema(
    [
        ("id", pa.int64()),
        ("file_name", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)
ANNOTATION = pa.schema(
    [
        ("id", pa.int64()),
        ("image_id", pa.int64()),
        ("category_id", pa.int64()),
        ("bbox", pa.list_(pa.float64())),
        ("iscrowd", pa.int64()),
    ]
)
WHERE = [("place", pa.int64()), ("start", pa.int64()), ("length", pa.int64())]
STORED_IMAGE = pa.schema([*IMAGE, *WHERE])
STORED_BOX = pa.schema(
    [
        ("picture", pa.int64()),
        ("category", pa.int64()),
        *[(name, pa.float64()) for name in ("x", "y", "width", "height")],
        ("plain", pa.bool_()),
        *WHERE,
    ]
)


def pictures_of(block: Block, texts: dict[str, int]) -> pa.Table:
    """Pictures in the stored columns, with `usable`: whether it has a name and an id that no text id before took."""
    if block.columns is not None:
        table = block.columns
        length = pc.fill_null(pc.utf8_length(table["file_name"]), 0)
        named = pc.and_(pc.greater(length, 0), pc.less_equal(length, MAX_TEXT))
        usable = pc.and_(table["id"].is_valid(), named)
        sizes = [pc.greater(pc.fill_null(table[side], 0), 0) for side in ("width", "height")]
        told = pc.and_(*sizes)
        for side in ("width", "height"):
            where = table.schema.get_field_index(side)
            table = table.set_column(where, side, pc.if_else(told, table[side], None))
    else:
        rows = [_picture(value, place, texts) for place, value in enumerate(block.values or (), block.first)]
        table = pa.Table.from_pylist(
            [row or {} for row in rows], schema=pa.schema([*IMAGE, ("usable", pa.bool_())])
        )
        usable = pc.fill_null(table["usable"], False)
        table = table.drop_columns(["usable"])
    return _with_where(table, block).append_column("usable", usable)


def _picture(value: object, place: int, texts: dict[str, int]) -> dict[str, object] | None:
    try:
        entry = as_object(value, READ["images"])
        kind, number = identifier(entry, "id")
        name = file_name(entry, "file_name")
    except FieldError:
        return None
    if kind == "str" and texts.setdefault(str(number), place) != place:
        return None
    width, height = annotated_wh(entry) or (None, None)
    strange = [each for each in (number, width, height) if isinstance(each, int) and not is_int64(each)]
    if strange:
        raise NotStreamable("numbers of a picture beyond 64 bits")
    own = number if kind == "int" else None
    return {"id": own, "file_name": name, "width": width, "height": height, "usable": True}


def boxes_of(block: Block, place_of_text: Callable[[str], int], boxes_from: str) -> pa.Table:
    """Annotations in the stored columns, with image_id and has_number; `picture` is set for text ids alone."""
    if block.columns is not None:
        made = _boxes_of_columns(block.columns, boxes_from)
    else:
        rows = [_box(value, place_of_text, boxes_from) for value in block.values or ()]
        made = pa.Table.from_pylist(rows, schema=_BOX_WITH_ID)
    return _with_where(made, block)


_BOX_WITH_ID = pa.schema(
    [
        ("image_id", pa.int64()),
        ("has_number", pa.bool_()),
        *[field for field in STORED_BOX if field.name not in ("place", "start", "length")],
    ]
)


def _boxes_of_columns(table: pa.Table, boxes_from: str) -> pa.Table:
    bbox = table["bbox"].combine_chunks()
    four = pc.fill_null(pc.equal(pc.list_value_length(bbox), 4), False).to_numpy(zero_copy_only=False)
    numbers = pc.list_flatten(bbox.filter(pa.array(four))).to_numpy(zero_copy_only=False).reshape(-1, 4)
    values = np.full((len(bbox), 4), np.nan)
    values[four] = numbers  # a null among them is NaN here, and so no plain box
    crowd = pc.fill_null(pc.not_equal(table["iscrowd"], 0), False).to_numpy()
    named = table["category_id"].is_valid().to_numpy()
    plain = np.isfinite(values).all(axis=1) & ~crowd & named & (boxes_from == "bbox")
    columns = {
        "image_id": pc.fill_null(table["image_id"], 0),
        "has_number": table["image_id"].is_valid(),
        "picture": pa.array(np.full(len(bbox), -1)),
        "category": pc.fill_null(table["category_id"], 0),
        **{name: values[:, number] for number, name in enumerate(("x", "y", "width", "height"))},
        "plain": plain,
    }
    return pa.table(columns, schema=_BOX_WITH_ID)


def _box(value: object, place_of_text: Callable[[str], int], boxes_from: str) -> dict[str, object]:
    entry = _told(value)
    image, category, bbox = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    by_number, named = is_int64(image), is_int64(category)
    row: dict[str, object] = {
        "image_id": image if by_number else 0,
        "has_number": by_number,
        "picture": place_of_text(image) if isinstance(image, str) else -1,
        "category": category if named else 0,
        **dict.fromkeys(("x", "y", "width", "height"), math.nan),
        "plain": False,
    }
    values = bbox if isinstance(bbox, list) and len(bbox) == 4 else []
    numbers = bool(values) and all(type(each) in (int, float) for each in values)
    ours = entry.get("id") is None or type(entry["id"]) in (int, str)
    if numbers and named and ours and not entry.get("iscrowd") and boxes_from == "bbox":
        try:
            values = [float(each) for each in values]
        except OverflowError:
            return row
        row |= dict(zip(("x", "y", "width", "height"), values, strict=True))
        row["plain"] = all(math.isfinite(each) for each in values)
    return row


def _told(value: object) -> Mapping[str, object]:
    try:
        return as_object(value, READ["annotations"])
    except FieldError:
        return {}


def is_int64(value: object) -> bool:
    """Whether a value is a whole number that a column of them holds."""
    return type(value) is int and -(2**63) <= value < 2**63


def _with_where(table: pa.Table, block: Block) -> pa.Table:
    places = block.first + np.arange(len(block.starts))
    for name, column in (("place", places), ("start", block.starts), ("length", block.lengths)):
        table = table.append_column(name, pa.array(column, pa.int64()))
    return table


def looked_up(values: np.ndarray, keys: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What stands under each value among the sorted keys, int64; -1 for none."""
    if not len(keys):
        return np.full(len(values), -1)
    span = int(keys[-1]) - int(keys[0]) + 1
    if span <= 8 * len(keys) + 1024:  # numbers that lie close, as they do nearly everywhere
        table = np.full(span, -1)
        table[keys - keys[0]] = found
        at = values - keys[0]
        inside = (values >= keys[0]) & (values <= keys[-1])
        return np.where(inside, table[np.where(inside, at, 0)], -1)
    at = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return np.where(keys[at] == values, found[at], -1)
