"""Tables written piece by piece: the same bytes as at once, whole or refused, little held in memory."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import tables
from storage.lineage import Ledger, Work
from storage.objects import Store
from storage.tables import (
    TableError,
    TableWriter,
    batches,
    digest_bytes,
    digests,
    encode_table,
    from_rows,
    n_rows_of,
)


def _boxes(n: int) -> pa.Table:
    edges = ("x1_px", "y1_px", "x2_px", "y2_px")
    return from_rows(
        "boxes",
        [
            {"example_id": f"{row // 3:024x}", "box_index": row % 3, "label": None if row % 5 else "cup"}
            | dict(zip(edges, (row, 0.5, row + 2.25, 7), strict=True))
            for row in range(n)
        ],
    )


def _images(sizes: list[int | None]) -> pa.Table:
    words = dict.fromkeys(("source", "source_file", "file_name", "uri"), "x")
    return from_rows(
        "images",
        [
            {**words, "image_sha256": f"{row:064x}", "width_px": 4, "height_px": 3}
            | {"bytes": None if size is None else bytes([row % 251]) * size}
            for row, size in enumerate(sizes)
        ],
    )


def _written(name: str, table: pa.Table, step: int) -> bytes:
    stream = io.BytesIO()
    with TableWriter(name, stream) as writer:
        for start in range(0, table.num_rows, step):
            writer.write(table.slice(start, step))
    assert writer.n_rows == table.num_rows
    return stream.getvalue()


@pytest.mark.parametrize("n", [0, 6, 7, 8, 20])
def test_rows_in_any_pieces_give_the_bytes_of_all_at_once(n, monkeypatch):
    monkeypatch.setattr(tables, "_DEFAULT_ROWS_PER_GROUP", 7)
    table = _boxes(n)
    whole = encode_table("boxes", table)
    assert all(_written("boxes", table, step) == whole for step in (1, 3, 7, 100))
    groups = pq.ParquetFile(io.BytesIO(whole)).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == {
        0: [0],
        6: [6],
        7: [7],
        8: [7, 1],
        20: [7, 7, 6],
    }[n]


def test_groups_of_pictures_end_by_their_bytes_too(monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_PER_GROUP", {"images": 4})
    monkeypatch.setattr(tables, "_BYTES_PER_GROUP", 100)
    table = _images([60, 50, 10, None, 120, 1, 1, 1, 1, 30])
    whole = encode_table("images", table)
    assert all(_written("images", table, step) == whole for step in (1, 2, 9))
    groups = pq.ParquetFile(io.BytesIO(whole)).metadata
    # 60 + 50; 10 + nothing + 120; four rows; the rest
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [2, 3, 4, 1]


PEAK = """
import sys, pyarrow as pa
from storage import tables
from storage.tables import TableWriter
from tests.storage.test_table_writer import _images

tables._BYTES_PER_GROUP = 4 * 2**20
with TableWriter("images", sys.argv[1]) as writer:
    for _ in range(int(sys.argv[2])):
        writer.write(_images([2**20]))
print(pa.default_memory_pool().max_memory())
"""


def test_what_is_held_does_not_grow_with_what_is_written(tmp_path):
    """Bytes that Arrow holds at most while pictures of 1 MiB are written in groups of 4 MiB, each in a new process."""
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, str(tmp_path / f"{n}.parquet"), str(n)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for n in (12, 96)
    )
    assert few > 4 * 2**20  # it did see the writing
    assert many < 1.2 * few


def test_rows_that_do_not_fit_are_refused_and_the_others_kept():
    stream, good = io.BytesIO(), _boxes(2)
    with TableWriter("boxes", stream) as writer:
        writer.write(good)
        with pytest.raises(TableError, match="column label: missing"):
            writer.write(good.drop_columns(["label"]))
    assert pq.read_table(io.BytesIO(stream.getvalue())).num_rows == 2


def test_a_writer_that_is_left_by_an_exception_ends_no_file(tmp_path: Path):
    path = tmp_path / "boxes.parquet"
    with pytest.raises(ZeroDivisionError), TableWriter("boxes", path) as writer:
        writer.write(_boxes(3))
        raise ZeroDivisionError
    assert pq.read_table(path).num_rows == 0  # what waited was not written


def test_a_file_is_stored_like_the_table_in_it(tmp_path: Path):
    table, ledger = _boxes(5), Ledger(Store(str(tmp_path / "root")))
    work = Work(producer="tests", name="shelf", outputs=("boxes",))
    (tmp_path / "boxes.parquet").write_bytes(encode_table("boxes", table))
    stored = ledger.put_table_file(work, "boxes", "boxes", tmp_path / "boxes.parquet", {"rows_in": 7})
    assert (stored.n_rows, stored.summary) == (5, {"rows_in": 7})
    assert stored.sha256 == hashlib.sha256(encode_table("boxes", table)).hexdigest()
    assert ledger.read_table(stored).equals(table)
    again = ledger.put_table(work, "boxes", "boxes", table, {"rows_in": 7})
    assert (again.uri, again.record) == (stored.uri, stored.record)
    with pytest.raises(TableError, match="holds table 'boxes', wanted 'images'"):
        ledger.put_table_file(work, "images", "images", tmp_path / "boxes.parquet")


def test_groups_come_one_by_one_with_the_wanted_columns(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tables, "_DEFAULT_ROWS_PER_GROUP", 4)
    path = tmp_path / "boxes.parquet"
    path.write_bytes(encode_table("boxes", _boxes(9)))
    found = list(batches(path, ["box_index", "label"], name="boxes"))
    assert [group.num_rows for group in found] == [4, 4, 1]
    assert found[0].column_names == ["box_index", "label"]
    assert n_rows_of(path, "boxes") == 9


def test_hashes_as_bytes_and_as_texts():
    data = bytes(range(36))
    texts = digests(data, 24)
    assert texts.to_pylist() == [data[start : start + 12].hex() for start in (0, 12, 24)]
    assert (
        digest_bytes(pa.chunked_array([texts.slice(1, 2), texts.slice(0, 0), texts.slice(0, 1)]))
        == data[12:] + data[:12]
    )
    assert digests(b"", 24).to_pylist() == []
