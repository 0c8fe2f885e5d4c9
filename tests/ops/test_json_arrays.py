"""Arrays of a JSON object block by block, against Python's own reader of the whole."""

import io
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from ops.readers import json_arrays
from ops.readers.json_arrays import NotStreamable, blocks
from ops.readers.json_files import json_object

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.list_(pa.float64()))])
KINDS = {"rows": SCHEMA, "kinds": None}


def _read(text: str | bytes) -> tuple[dict[str, list], int]:
    """All entries by key, as the schema tells them, and how many blocks were columns; places and bytes are checked."""
    data = text if isinstance(text, bytes) else text.encode()
    found: dict[str, list] = {}
    n_columns = 0
    for block in blocks(io.BytesIO(data), KINDS):
        entries = found.setdefault(block.key, [])
        assert block.first == len(entries)
        pieces = [data[at : at + length] for at, length in zip(block.starts, block.lengths, strict=True)]
        values = [json.loads(piece, object_pairs_hook=json_object) for piece in pieces]
        if block.columns is not None:
            n_columns += 1
            seen = block.columns.to_pylist()
            assert seen == [{name: value.get(name) for name in SCHEMA.names} for value in values]
        else:
            assert repr(block.values) == repr(values)
        entries += values
    return found, n_columns


@pytest.mark.parametrize("size", [40, 300, 1000])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":"), (" ,\t", " : ")])
def test_every_layout_and_block_size_gives_all_entries_in_order(size, indent, separators, monkeypatch):
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", size)
    rows = [
        {"id": n, "name": f"n{n} é", "at": [n, n + 0.5], "more": {"x": [1, {"y": "]}"}]}} for n in range(23)
    ]
    content = {
        "about": {"rows": [1, 2]},
        "rows": rows,
        "kinds": [1, "two", None, [3], {"four": 4}],
        "z": -1.5e3,
    }
    found, n_columns = _read(json.dumps(content, indent=indent, separators=separators, ensure_ascii=False))
    assert found == {"rows": rows, "kinds": content["kinds"]}
    assert n_columns > 0 or size == 40  # an entry is longer than such a block


def test_entries_that_fit_no_columns_cost_a_block_not_the_file(monkeypatch):
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 100)
    rows = [{"id": n, "name": "x" * 30, "at": [0.0, 1]} for n in range(40)]
    rows[17] = {"id": "seventeen"}
    rows[23]["at"] = [[1, 2]]
    found, n_columns = _read(json.dumps({"rows": rows}))
    assert found["rows"] == rows
    assert 10 < n_columns < 40


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "}, {", "id": 1},
        {"name": '}, {"id": 2', "id": 1},
        {"more": [{"id": 2}, {"id": 3}], "id": 1},
        {"more": [{"id": 2}], "id": 1},
        {"name": "}], ", "id": 1},
        {"name": '"}]}', "id": 1},
        {"name": "\\", "id": 1},
        {"name": "\x1e\n", "id": 1},
        {"name": "\ud83d\ude00", "id": 1},
        {"id": 2**63},
        {"id": 1.0},
        {"id": True},
        {"at": [1e400]},
        {"at": [None, 2]},
        5,
        None,
        "}, {",
        [],
        {},
    ],
)
@pytest.mark.parametrize("size", [30, 400])
def test_what_looks_like_a_seam_inside_an_entry_is_none(entry, size, monkeypatch):
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", size)
    for place in (0, 3, 6):
        rows: list[object] = [{"id": n, "name": "plain", "at": [1, 2]} for n in range(7)]
        rows[place] = entry
        for text in (json.dumps({"rows": rows}), json.dumps({"rows": rows}, indent=1)):
            assert repr(_read(text)[0]["rows"]) == repr(json.loads(text)["rows"])


def test_random_objects_are_read_as_python_reads_them(monkeypatch):
    draw = random.Random(4)
    for _ in range(150):
        monkeypatch.setattr(json_arrays, "BLOCK_BYTES", draw.randrange(20, 300))
        rows = [_anything(draw, 3) for _ in range(draw.randrange(12))]
        text = json.dumps({"a": _anything(draw, 2), "rows": rows, "kinds": []}, indent=draw.choice([None, 2]))
        assert repr(_read(text)[0]["rows"]) == repr(json.loads(text)["rows"])


def _anything(draw: random.Random, depth: int) -> object:
    texts = ["", "}, {", '"', "\\", "],", "é", "x\n", "}]}"]
    kind = draw.randrange(8 if depth else 4)
    if kind < 4:
        return [draw.choice(texts), draw.randrange(-9, 9), draw.random() * 100, draw.choice([None, True])][
            kind
        ]
    if kind == 4:
        return [_anything(draw, depth - 1) for _ in range(draw.randrange(3))]
    keys = ["id", "name", "at", draw.choice(texts)]
    return {key: _anything(draw, depth - 1) for key in draw.sample(keys, draw.randrange(1, 4))}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "[]",
        "5",
        '{"rows": [{"id": 1}]',
        '{"rows": [{"id": 1}}',
        '{"rows": [{"id": 1}, ]}',
        '{"rows": [{"id": 1} {"id": 2}]}',
        '{"rows": [{"id": 1},, {"id": 2}]}',
        '{"rows": [{"id": 1}]} x',
        '{"rows": [{"id": 1}], }',
        '{"rows": [{"id": 1}] "kinds": []}',
        '{"rows": [{"id": 1}], "rows": []}',
        '{"rows": {"id": 1}}',
        '{"rows": null}',
        '{"rows": [1 2]}',
        '{"rows": [{"id": 1} null, {"id": 2}]}',  # brings Arrow's reader down where it is shown to it
        '{"rows": [{"id": 1}null, {"id": 2}, {"id": 3}]}',
        '{"rows": [{"id": 1, "name": "a\nb"}]}',
        '{"a": nothing, "rows": []}',
        '{"a": {"b": 1]}, "rows": []}',
        "{'rows': []}",
        '{"rows": [{"id": 01}]}',
        b'{"rows": [{"name": "\xff"}]}',
        b'{"a": "\xff", "rows": []}',
        '{"rows": [' + "[" * 2000 + "]" * 2000 + "]}",
    ],
)
@pytest.mark.parametrize("size", [16, 4096])
def test_what_has_to_be_read_whole_says_so(text, size, monkeypatch):
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", size)
    with pytest.raises(NotStreamable):
        _read(text)


def test_lists_of_objects_that_follow_each_other_are_kept_apart(monkeypatch):
    rows, kinds = ([{"id": n, "name": word} for n in range(9)] for word in ("row", "kind"))
    for size in (60, 200, 100_000):
        monkeypatch.setattr(json_arrays, "BLOCK_BYTES", size)
        found, _ = _read(
            json.dumps({"rows": rows, "kinds": kinds, "other": [{"id": 1}, {"id": 2}, {"id": 3}]})
        )
        assert found == {"rows": rows, "kinds": kinds}


def test_empty_objects_and_arrays_and_a_mark_in_front(monkeypatch):
    assert _read("{}") == ({}, 0)
    assert _read(' {"rows" : [ ] , "kinds":[]} \n') == ({"rows": [], "kinds": []}, 0)
    assert _read(b"\xef\xbb\xbf" + b'{"rows": [{"id": 1}]}')[0] == {"rows": [{"id": 1}]}


def test_an_entry_longer_than_allowed_is_not_streamed(monkeypatch):
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 64)
    monkeypatch.setattr(json_arrays, "MAX_VALUE_BYTES", 1000)
    text = json.dumps({"rows": [{"id": 1}, {"name": ["y" * 3000]}]})
    with pytest.raises(NotStreamable, match="no end of rows"):
        _read(text)
    assert len(_read(json.dumps({"rows": [{"id": 1}, {"name": ["y" * 500]}]}))[0]["rows"]) == 2


def test_starts_and_lengths_are_numbers_of_bytes():
    (block,) = blocks(io.BytesIO('{"é":1,"rows":[{"name":"ü"},{"id":2}]}'.encode()), {"rows": SCHEMA})
    assert block.starts.tolist() == [16, 30] and block.lengths.tolist() == [13, 8]
    assert block.starts.dtype == block.lengths.dtype == np.int64


BROKEN_IN = [
    b"null",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b'"id"',
    b'"at"',
    b"1",
    b"-1.5e3",
    b" ",
    b"\n",
    b"\\",
]
BROKEN_IN += [
    b"\xff",
    b"\x00",
    b"{}",
    b"[]",
    b'"x"',
    b"}, {",
    b"}]",
    b"NaN",
    b'{"id":1}',
    b"//",
    b"\xef\xbb\xbf",
    b"true",
]


def test_broken_bytes_are_read_as_python_reads_them_or_refused(monkeypatch):
    draw, n_read = random.Random(11), 0
    row = b'{"id":%d,"name":"n","at":[1,2.5],"zz":{"a":[1,null]}}'
    for _ in range(4000):
        text = bytearray(b'{"rows":[' + b", ".join(row % n for n in range(4)) + b"]}")
        for _ in range(draw.randrange(1, 4)):
            at, new = draw.randrange(len(text)), draw.choice(BROKEN_IN)
            text[at : at + draw.choice([0, 0, 1, len(new)])] = new
        monkeypatch.setattr(json_arrays, "BLOCK_BYTES", draw.choice([50, 1000]))
        try:
            found, _ = _read(bytes(text))
        except NotStreamable:
            continue
        plain = bytes(text).removeprefix(b"\xef\xbb\xbf")
        whole = json.loads(plain, object_pairs_hook=json_object)
        assert repr(found.get("rows", [])) == repr(whole.get("rows", []))
        n_read += 1
    assert n_read > 100
