"""Large lists of JSON, entry by entry, against the same lists read whole."""

import json
import tracemalloc

import pytest

from ops.readers import json_arrays, json_lists
from ops.readers.json_lists import list_entries
from ops.readers.rows import Refusal
from ops.sources import files_of
from tests.ops.delivery import new_store, source, write

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
    if name in LISTS:  # nothing of it may be read whole then
        monkeypatch.setattr(json_lists, "whole_list", None)
    large = _read(tmp_path, content)
    assert repr(large) == repr(small)
    assert [isinstance(row, Refusal) for row in large] == [True] * len(
        BROKEN.keys() & {name}
    ) or name in LISTS


def test_a_large_list_is_never_in_memory_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lists, "LARGE_BYTES", 2**20)
    monkeypatch.setattr(json_arrays, "BLOCK_BYTES", 2**16)
    write(tmp_path, "rows.json", json.dumps([{"id": n, "text": "x" * 1000} for n in range(16 * 1024)]))
    files = files_of(source(tmp_path, "table"), new_store(tmp_path))
    tracemalloc.start()
    try:
        n_rows = sum(1 for _ in list_entries(files, "rows.json", "rows"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_rows == 16 * 1024
    assert peak < 2**20
