"""COCO detections as columns against the same file row by row: hostile entries, any layout of JSON, small blocks."""

import json
import random
from dataclasses import replace
from functools import partial

import pytest

from ops import lanes
from ops.normalise import NothingLeft, normalise
from ops.readers import coco_scan, formats, json_arrays
from ops.sources import files_of
from storage.objects import StoreError
from tests.ops.delivery import conserved, encoded, new_store, pixels, source, write

NAMES = ("cup", "plate", "fork", "cup")  # two categories of one name
SIZES = {"a.png": (7, 5), "b.png": (40, 31), "c.png": (30, 64), "d.png": (9, 9)}


def _in_lines(content: dict) -> str:
    """One entry a line."""
    parts = []
    for key, value in content.items():
        text = (
            "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
            if isinstance(value, list)
            else json.dumps(value)
        )
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}"


DUMPS = {
    "plain": json.dumps,
    "tight": partial(json.dumps, separators=(",", ":")),
    "indented": partial(json.dumps, indent=2),
    "wide": partial(json.dumps, separators=(" ,  ", " : ")),
    "lines": _in_lines,
}


def _row_by_row(monkeypatch) -> None:
    """Have every source read whole, without columns."""
    plain = {name: replace(each, in_columns=None) for name, each in formats.FORMATS.items()}
    monkeypatch.setattr("ops.sources.FORMATS", plain)


def _small_pieces(monkeypatch, in_blocks_of: int) -> None:
    """Have pieces and stretches of a few entries each."""
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", in_blocks_of)
    monkeypatch.setattr(coco_scan, "PIECE_BYTES", 400)
    monkeypatch.setattr(coco_scan, "_PER_BATCH", 2)
    monkeypatch.setattr(lanes, "PICTURES_AT_ONCE", 3)


def _image(number: int, name: str, **more) -> dict:
    width, height = SIZES[name]
    return {"id": number, "file_name": name, "width": width, "height": height} | more


def _box(number: int, image: object, bbox: object, category: object = 1, **more) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0} | more


def _file(seed: int) -> dict:
    """Random pictures and boxes, some of them out of the ordinary in every way that the reader knows."""
    draw = random.Random(seed)
    names = list(SIZES)
    images: list[object] = [_image(10 + n, names[n % 4]) for n in range(9)]
    images[4] = draw.choice(
        [_image(14, "a.png", width=9), {"id": 14}, _image(11, "b.png"), 5, {"file_name": "a.png"}]
    )
    images[6] = draw.choice(
        [_image(16, "c.png", height=None), {"id": 16, "file_name": "no.png"}, _image("16", "c.png")]
    )
    boxes: list[object] = []
    for number in range(60):
        image = 10 + draw.randrange(9)
        width, height = SIZES[names[(image - 10) % 4]]
        x, y = round(draw.uniform(0, width * 0.6), 2), round(draw.uniform(0, height * 0.6), 2)
        bbox = [x, y, round(width * 0.3, 1), draw.choice([1, 2, 0.3 * height])]
        half = [[x, y, x + bbox[2] / 2, y, x + bbox[2] / 2, y + bbox[3]]]
        boxes.append(_box(number, image, bbox, draw.choice([1, 1, 2, 3, 4]), segmentation=half))
    odd = [
        _box(70, 12, None),
        _box(71, 12, [1, 1, -1, 1]),
        _box(72, 13, [0, 0, 1, "1"]),
        _box(73, 13, [0, 0, 1]),
        _box(74, 99, [0, 0, 1, 1]),
        _box(75, "16", [0, 0, 1, 1]),
        _box(76, 15, [0, 0, 1, 1], None),
        _box(77, 15, [0, 0, 1, 1], 9),
        _box(78, 15, [0, 0, 1, 1], iscrowd=1),
        _box(79, 17, [0, 0, 999, 1]),
        _box(80, 17, [0, 0, 1e400, 1]),
        _box([], 17, [0, 0, 1, 1]),
        _box(82, True, [0, 0, 1, 1]),
        _box(83, 10**30, [0, 0, 1, 1]),
        _box(84, 18, None, segmentation=[[0, 0, 4, 0, 4, 3]]),
        _box(85, 18, [0, 0, 1, 1], note="}, {", more=[{"a": 1}, {"b": "]"}]),
        _box(86, 18, [0, 0, 1, 1], note='a " } ] , {\\" \u00e9 \ud83d\ude00'),
        _box(87, 18, [0, 0, 1, 1], 2, iscrowd=None),
        _box(88, 18, [0.00001, 0, 1, 1], 3),
        _box(89, 18, [-0.0, 0, 1, 1], 3),
        _box(90, 18, [2, 2, 5.015, 1], 2),
        "box",
        None,
        7.5,
    ]
    for each in draw.sample(odd, draw.randrange(4)):
        boxes.insert(draw.randrange(len(boxes)), each)
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(NAMES)]
    content = {"info": {"annotations": [1]}, "images": images, "annotations": boxes, "categories": categories}
    keys = draw.sample(list(content), len(content))
    return {key: content[key] for key in keys}


def _rows(tables, name: str) -> list[dict]:
    return getattr(tables, name).to_pylist()


def _delivered(tmp_path, text: str) -> None:
    for seed, (name, size_wh) in enumerate(SIZES.items()):
        write(tmp_path, f"shelf/{name}", encoded(pixels(size_wh, seed)))
    write(tmp_path, "shelf/annotations.json", text)


def _normalised(shelf, store):
    try:
        return normalise(shelf, store)
    except NothingLeft as error:
        return error.tables


def _both(tmp_path, monkeypatch, in_blocks_of: int = 300, **options):
    shelf = source(tmp_path / "shelf", options=options)
    with monkeypatch.context() as change:
        _row_by_row(change)
        rows = _normalised(shelf, new_store(tmp_path))
    with monkeypatch.context() as change:
        _small_pieces(change, in_blocks_of)
        columns = _normalised(shelf, new_store(tmp_path))
    for tables in (rows, columns):
        conserved(tables)
    return rows, columns


@pytest.mark.parametrize("layout", DUMPS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_boxes": True},
        {"pictures": "unread"},
        {"annotated_size": "ignore"},
        {"boxes_from": "segmentation"},
    ],
)
def test_columns_give_what_rows_give(layout, options, tmp_path, monkeypatch):
    for seed in range(8):
        _delivered(tmp_path, DUMPS[layout](_file(seed)))
        rows, columns = _both(tmp_path, monkeypatch, **options)
        assert rows.counts == columns.counts
        for name in ("images", "examples", "boxes"):
            by_id = [sorted(_rows(tables, name), key=_key) for tables in (rows, columns)]
            assert by_id[0] == by_id[1], (seed, name)
        refused = [sorted(_rows(tables, "quarantine"), key=str) for tables in (rows, columns)]
        assert refused[0] == refused[1], seed


def _key(row: dict) -> tuple:
    return row.get("example_id", row.get("image_sha256")), row.get("box_index", 0)


GOOD = {
    "images": [_image(n, name) for n, name in enumerate(SIZES, start=10)],
    "annotations": [_box(n, 10 + n % 4, [1, 1, 2 + n, 2]) for n in range(4)],
    "categories": [{"id": 1, "name": "cup"}],
}
HOSTILE = {
    "category beyond 64 bits": ("categories", {"id": 2**70, "name": "plate"}),
    "list as id": ("images", {"id": [1], "file_name": "a.png"}),
    "object as id": ("images", {"id": {"a": 1}, "file_name": "a.png"}),
    "number as name": ("images", {"id": 50, "file_name": 5}),
    "text id twice": ("images", {"id": "x", "file_name": 5}),
    "id twice": ("images", _image(11, "b.png")),
    "name too long": ("images", {"id": 51, "file_name": "n" * 100_001}),
    "width beyond 64 bits": ("images", {"id": 52, "file_name": "a.png", "width": 2**63, "height": 5}),
    "width beyond 32 bits": ("images", {"id": 53, "file_name": "a.png", "width": 2**31, "height": 5}),
    "giant number nobody reads": ("annotations", _box(9, 11, [0, 0, -1, 1]) | {"area": 5}),
    "minus nothing": ("annotations", _box(8, 12, [-0.0, 1, 2, 2])),
}


@pytest.mark.parametrize("how", ["kept", "unread"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_entry_costs_its_row_in_either_way(name, how, tmp_path, monkeypatch):
    key, entry = HOSTILE[name]
    content = GOOD | {key: [*GOOD[key], entry]}
    if key == "images":
        content["annotations"] = [*GOOD["annotations"], _box(9, entry["id"], [1, 1, 2, 2])]
    _delivered(tmp_path, json.dumps(content).replace("-0.0", "-0"))
    rows, columns = _both(tmp_path, monkeypatch, pictures=how)
    assert rows.counts == columns.counts and columns.counts["rows_out"] >= 6
    for table in ("examples", "boxes"):
        found = [sorted(_rows(tables, table), key=_key) for tables in (rows, columns)]
        assert found[0] == found[1]
    refused = [sorted(_rows(tables, "quarantine"), key=str) for tables in (rows, columns)]
    assert refused[0] == refused[1]


NOT_READ = {
    "a key twice": '5, "area": 6',
    "a key twice in an object": '{"a": 1, "a": 2}',
    "a number of thousands of digits": "9" * 5000,
    "a negative one": "-" + "9" * 5000,
    "infinite": "-Infinity",
    "no number": "NaN",
    "half a letter": '"\\ud800"',
    "deep": "[" * 490 + "]" * 490,
    "very long": "[" + "[1,2]," * 3000 + "5]",
    "not a number to Python": "-NaN",
    "not infinite to Python": "Inf",
    "not infinite either": "[1,-Inf]",
    "too deep for Python": "[" * 5000 + "]" * 5000,
}


@pytest.mark.parametrize("layout", ["plain", "indented"])
@pytest.mark.parametrize("in_blocks_of", [300, 2**22])
@pytest.mark.parametrize("name", NOT_READ)
def test_what_no_reader_reads_is_judged_alike_in_either_way(
    name, in_blocks_of, layout, tmp_path, monkeypatch
):
    """Beside good boxes, and in an entry that is refused for another reason; broken JSON costs the file both times."""
    content = GOOD | {"annotations": [*GOOD["annotations"], _box(9, 11, [0, 0, -1, 1])]}
    content["annotations"] = [
        each | {"area": 7} if each["id"] in (2, 9) else each for each in content["annotations"]
    ]
    _delivered(tmp_path, DUMPS[layout](content).replace('"area": 7', f'"area": {NOT_READ[name]}'))
    rows, columns = _both(tmp_path, monkeypatch, in_blocks_of)
    assert rows.counts == columns.counts
    for table in ("examples", "boxes", "quarantine"):
        found = [sorted(_rows(tables, table), key=str) for tables in (rows, columns)]
        assert found[0] == found[1]
    assert columns.counts["quarantined"] >= 1


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "iscrowd"])
def test_a_key_that_is_read_and_comes_twice_costs_the_box(key, tmp_path, monkeypatch):
    text = json.dumps(GOOD).replace(f'"{key}": ', f'"{key}": 7, "{key}": ', 8)
    with_ids = text.replace('"id": 7, "id"', '"id"') if key == "id" else text
    if key == "id":  # of the annotations alone
        start = with_ids.index('"annotations"')
        with_ids = with_ids[:start] + with_ids[start:].replace('{"id": 2', '{"id": 7, "id": 2')
    _delivered(tmp_path, with_ids)
    rows, columns = _both(tmp_path, monkeypatch)
    assert rows.counts == columns.counts
    assert "more than once" in " ".join(columns.quarantine["detail"].to_pylist())
    refused = [sorted(_rows(tables, "quarantine"), key=str) for tables in (rows, columns)]
    assert refused[0] == refused[1]


@pytest.mark.parametrize("how", ["kept", "unread"])
def test_rows_stand_in_the_order_of_their_pictures_though_two_of_them_share_a_file(
    how, tmp_path, monkeypatch
):
    """The last picture is the first one's file again, and is no plain one: its second box has no width."""
    names = ["a.png", "b.png", "c.png", "a.png"]
    boxes = [_box(n, n, [1, 1, 2 + n / 8, 2], 1) for n in range(4)] + [_box(9, 3, [1, 1, 0, 2], 2)]
    categories = [{"id": 1, "name": "cup"}, {"id": 2, "name": "plate"}]
    content = {"images": [_image(n, name) for n, name in enumerate(names)]}
    _delivered(tmp_path, json.dumps(content | {"annotations": boxes, "categories": categories}))
    columns = normalise(source(tmp_path / "shelf", options={"pictures": how}), new_store(tmp_path))
    conserved(columns)
    assert columns.examples["source_row"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(columns.quarantine["source_row"].to_pylist()) == {4}


def test_a_file_that_grows_while_it_is_read_is_an_error_and_no_other_entry(tmp_path):
    _delivered(tmp_path, json.dumps(GOOD))
    files = files_of(source(tmp_path / "shelf"), new_store(tmp_path))
    piece, _ = formats.FORMATS["coco"].pieces(files, source(tmp_path / "shelf"), tmp_path)
    write(tmp_path, "shelf/annotations.json", " " + json.dumps(GOOD))
    with pytest.raises(StoreError, match="changed while it was read"):
        list(piece.rows([0]))


@pytest.mark.parametrize("order", [("images", "annotations"), ("annotations", "images")])
def test_no_list_has_to_fit_into_memory_whichever_comes_first(order, tmp_path, monkeypatch):
    monkeypatch.setattr(json_arrays, "MAX_VALUE_BYTES", 4000)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 1000)
    names = list(SIZES)
    lists = {
        "images": [_image(n, names[n % 4]) for n in range(100)],
        "annotations": [_box(n, n, [1, 1, 2, 2]) for n in range(100)],
    }
    assert all(len(json.dumps(each)) > 5000 for each in lists.values())
    _delivered(tmp_path, json.dumps({key: lists[key] for key in order} | {"categories": GOOD["categories"]}))
    with monkeypatch.context() as change:
        change.setattr("ops.readers.coco.whole_file", None)
        tables = normalise(source(tmp_path / "shelf", options={"pictures": "unread"}), new_store(tmp_path))
    assert (tables.counts["rows_in"], tables.counts["rows_out"]) == (200, 8)  # of four files
