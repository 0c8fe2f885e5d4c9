"""Pictures inside the rows of an annotation file: how many of them are held at once."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ops import lanes
from ops.engines import LocalEngine
from ops.normalise import TABLES, normalise
from ops.readers.rows import RawExample
from tests.ops.delivery import conserved, encoded, new_store, source, write

N_ROWS = 40


class _Watching(LocalEngine):
    """Notes of every part how many bytes of pictures each of its rows holds."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[list[int]] = []

    def run(self, work: Callable[[Any], Iterable[Any]], items: Iterable[Any]) -> Iterator[Any]:
        return super().run(work, map(self._noted, items))

    def _noted(self, part: Any) -> Any:
        rows = [each for each in part if isinstance(each, RawExample)]
        self.parts.append([len(each.picture.data or b"") for each in rows])
        return part


def _noise(number: int) -> bytes:
    """A PNG of 3 bytes a pixel and a few more, 20 pixels wide and up to 59 high."""
    draw = np.random.default_rng(number)
    return encoded(draw.integers(0, 256, (20 + number, 20, 3), dtype=np.uint8))


def _deliver(folder) -> None:
    pictures = [{"bytes": _noise(number), "path": None} for number in range(N_ROWS)]
    rows = {
        "image": pictures,
        "question": [f"What is {number}?" for number in range(N_ROWS)],
        "answer": ["cup"] * N_ROWS,
        "bbox": [[1.0, 2.0, 3.0, 4.0]] * N_ROWS,
    }
    stream = io.BytesIO()
    pq.write_table(pa.table(rows), stream)
    write(folder, "rows.parquet", stream.getvalue())


def test_a_part_ends_when_its_pictures_are_many_bytes(tmp_path, monkeypatch):
    _deliver(tmp_path / "shelf")
    told = {"box_convention": "xyxy_px"}
    shelf = source(tmp_path / "shelf", "table", annotations="rows.parquet", options=told)
    whole, cut = _Watching(), _Watching()
    at_once = normalise(shelf, new_store(tmp_path), whole)
    (sizes,) = whole.parts
    assert len(sizes) == N_ROWS and sum(sizes) > 40_000
    monkeypatch.setattr(lanes, "BYTES_AT_ONCE", 10_000)
    in_parts = normalise(shelf, new_store(tmp_path), cut)
    conserved(in_parts)
    assert [size for part in cut.parts for size in part] == sizes
    for part in cut.parts[:-1]:
        assert sum(part[:-1]) < 10_000 <= sum(part)
    assert sum(cut.parts[-1][:-1]) < 10_000
    for name in TABLES:
        assert getattr(in_parts, name).equals(getattr(at_once, name)), name
