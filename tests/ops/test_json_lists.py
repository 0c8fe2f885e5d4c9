"""Large lists of JSON, entry by entry, against the same lists read whole."""

import json
import re
import tracemalloc

import pytest

from ops.readers import json_arrays, json_lists
from ops.readers.json_lists import list_entries
from ops.readers.rows import Refusal
from ops.sources import files_of, pieces_of
from tests.ops.delivery import coco, new_store, source, write

ROWS = [{"id": n, "name": "\u00e9 }, {" * (n % 3), "more": [[n], {"a": "]"}]} for n in range(40)]
LISTS = {
    "rows": json.dumps(ROWS),
    "indented": json.dumps(ROWS, indent=1, ensure_ascii=False),
    "marked": "\ufeff" + json.dumps(ROWS[:3]),
    "anything": '[1, null, "a", [2], {"a": 1, "a": 2}, 1e999, %s]' % ("9" * 5000),
    "empty": "[]",
    "spaces": " [ ] \n",
}
BROKEN = {
    "object": '{"rows": []}',
    "number": "5",
    "no end": json.dumps(ROWS)[:-1],
    "half an entry": json.dumps(ROWS)[:-9],
    "no comma": "[1 2]",
    "comma at the end": "[1, 2, ]",
    "more behind": "[1, 2] 3",
    "not JSON": "[1, -NaN]",
    "too deep": "[" * 3000 + "]" * 3000,
    "nothing": "",
}


def _read(folder, content: str) -> list:
    write(folder, "rows.json", content)
    files = files_of(source(folder, "table"), new_store(folder))
    return list(list_entries(files, "rows.json", "rows"))


@pytest.mark.parametrize("block", [40, 700, 2**22])
@pytest.mark.parametrize("name", [*LISTS, *BROKEN])
def test_a_large_list_is_read_as_a_small_one_is(name, block, tmp_path, monkeypatch):
    content = (LISTS | BROKEN)[name]
    small = _read(tmp_path, content)
    monkeypatch.setattr(json_lists, "LARGE_BYTES", -1)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", block)
    monkeypatch.setattr(json_lists, "whole_list", None)  # nothing of it may be read whole then
    large = _read(tmp_path, content)
    if name in LISTS:
        assert repr(large) == repr(small)
        assert not any(isinstance(row, Refusal) for row in large)
        return
    for (row,) in (small, large):
        assert (row.origin.source_file, row.origin.source_row) == ("rows.json", None)
        assert (row.stage, row.reason) == ("read", "broken_json")
    assert re.search(r"a list of rows cannot be read.* at byte \d+", large[0].detail)


def test_a_large_list_with_an_entry_of_enormous_length_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "LARGE_BYTES", -1)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 64)
    monkeypatch.setattr(json_arrays, "MAX_VALUE_BYTES", 1000)
    long = "y" * 5000
    assert [value for _, value in _read(tmp_path, json.dumps([1, long, 2]))] == [1, long, 2]


def _peak(work) -> int:
    """Bytes of Python's objects at most while it was done."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_large_file_that_is_cut_off_is_refused_unread(tmp_path, monkeypatch):
    """At 16 MiB; the refusal names the place where the file ends in the middle of an entry."""
    monkeypatch.setattr(json_lists, "LARGE_BYTES", 2**20)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 2**16)
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4], "x": "x" * 1000}
        for n in range(16_000)
    ]
    whole = json.dumps(coco([{"id": 1, "file_name": "a.png", "width": 7, "height": 5}], boxes))
    cut = whole[: whole.rindex(', "bbox"')]
    start, last = cut.index('[{"id": 0'), cut.rindex("{")
    write(tmp_path, "annotations.json", cut)
    write(tmp_path, "rows.json", cut[start:])
    shelf, store = source(tmp_path), new_store(tmp_path)
    found: list = []

    def read_both() -> None:
        found.extend(list_entries(files_of(shelf, store), "rows.json", "rows"))
        for piece in pieces_of(shelf, files_of(shelf, store), tmp_path):
            found.extend(piece)

    read_both()  # what is imported by the way is no memory of reading
    found.clear()
    assert _peak(read_both) < 4 * 2**20
    assert [(row.origin.source_file, row.reason) for row in found] == [
        ("rows.json", "broken_json"),
        ("annotations.json", "broken_json"),
    ]
    assert f"no end of [15999] at byte {last - start}" in found[0].detail
    assert f"no end of annotations[15999] at byte {last}" in found[1].detail


def test_a_large_list_is_never_in_memory_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "LARGE_BYTES", 2**20)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 2**16)
    write(tmp_path, "rows.json", json.dumps([{"id": n, "text": "x" * 1000} for n in range(16 * 1024)]))
    files = files_of(source(tmp_path, "table"), new_store(tmp_path))
    n_rows = []
    peak = _peak(lambda: n_rows.append(sum(1 for _ in list_entries(files, "rows.json", "rows"))))
    assert n_rows == [16 * 1024]
    assert peak < 2**20
