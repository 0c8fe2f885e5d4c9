"""Questions to tables larger than memory: the same answers from files, from pieces and from a plain loop."""

from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from storage import asking
from storage.tables import TableError, encode_table, from_rows

WORDS = ["a", "b", "ä", "Z", None, "zz", "a", "b", "a", "ä", None, "Z", "b"]


def in_pieces(table: pa.Table, *ends: int) -> pa.Table:
    starts = [0, *ends]
    return pa.concat_tables(
        [
            table.slice(first, last - first)
            for first, last in zip(starts, [*ends, table.num_rows], strict=True)
        ]
    )


@pytest.fixture(params=["memory", "pieces", "files"])
def boxes(request: pytest.FixtureRequest, tmp_path: Path) -> asking.Rows:
    """13 boxes with the labels WORDS, of examples 4, 3, 2, 1, 0, 4, 3, ..."""
    told = {"box_index": 0, "x1_px": 0.0, "y1_px": 0.0, "x2_px": 1.0}
    rows = [
        {"example_id": str(4 - n % 5), "y2_px": n + 1.0, "label": word, **told}
        for n, word in enumerate(WORDS)
    ]
    table = from_rows("boxes", rows)
    if request.param == "memory":
        return table
    if request.param == "pieces":
        return in_pieces(table, 1, 1, 6)
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path, part in zip(paths, (table.slice(0, 5), table.slice(5)), strict=True):
        path.write_bytes(encode_table("boxes", part))
    return paths


def test_rows_come_in_order_whatever_holds_them(boxes: asking.Rows) -> None:
    assert asking.n_rows(boxes) == 13
    assert [word for part in asking.parts(boxes, ["label"]) for word in part["label"].to_pylist()] == WORDS
    assert asking.column(boxes, "y2_px").to_pylist() == [n + 1.0 for n in range(13)]


def test_the_most_frequent_with_ties_by_the_alphabet_and_nulls_apart(boxes: asking.Rows) -> None:
    """a and b three times; of ä and Z, twice each, Z comes first."""
    assert asking.most_frequent(boxes, "label", 3) == (5, [("a", 3), ("b", 3), ("Z", 2)])
    assert asking.n_different(boxes, "label") == 5
    of_four = [word for n, word in enumerate(WORDS) if n % 5 == 0 and word]
    n, counts = asking.most_frequent(boxes, "label", 9, ("example_id", "4"))
    assert (n, dict(counts)) == (len(set(of_four)), Counter(of_four))
    assert asking.most_frequent(boxes, "label", 9, ("example_id", "x' OR 1=1 --")) == (0, [])


def test_first_rows_and_rows_by_number_and_by_value(boxes: asking.Rows) -> None:
    assert asking.first_rows(boxes, "example_id").to_pylist() == [0, 1, 2, 3, 4]
    some = asking.taken(boxes, np.array([0, 4, 5, 12]), ["label", "y2_px"])
    assert some.to_pydict() == {"label": ["a", None, "zz", "b"], "y2_px": [1.0, 5.0, 6.0, 13.0]}
    assert asking.having(boxes, "label", ["Z", "zz"], ["label", "y2_px"])["y2_px"].to_pylist() == [
        4.0,
        6.0,
        12.0,
    ]


def test_values_that_others_do_not_have_are_counted(boxes: asking.Rows) -> None:
    known = pa.table({"example_id": ["4", "0", "7"]})
    assert asking.n_outside(boxes, "example_id", known) == sum(4 - n % 5 not in (4, 0) for n in range(13))
    assert asking.n_outside(known, "example_id", boxes) == 1


@pytest.mark.parametrize("start", [0, 150, 299])
def test_rows_are_found_from_anywhere_and_a_stretch_at_a_time(
    monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    """300 names in stretches of 20; 40 values at random, some of them in no row."""
    monkeypatch.setattr(asking, "_LEAST_STRETCH", 20)
    rng = np.random.default_rng(0)
    names = [f"n{k}" for k in rng.permutation(300)]
    for values in ([f"n{k}" for k in rng.integers(0, 330, 40)], names[150:190], ["n0"], []):
        found = asking.rows_of(pa.chunked_array([values], pa.string()), pa.array(names), start)
        assert found.tolist() == [names.index(value) if value in names else -1 for value in values]


def test_a_question_that_needs_more_memory_is_asked_again_with_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """One MiB is too little to group 200,000 texts, even with a disk to go to."""
    asked, once = [], asking._asked
    monkeypatch.setattr(asking, "_asked", lambda *given: asked.append(given[-1]) or once(*given))
    monkeypatch.setattr(asking, "MOST_MEMORY_MIB", 1)
    many = pa.table({"text": [f"text number {n % 150_000}" for n in range(200_000)]})
    assert asking.n_different(many, "text") == 150_000
    assert asked == [1 << n for n in range(len(asked))] and len(asked) > 1


def test_no_question_has_more_memory_than_most_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, once = [], asking._asked
    monkeypatch.setattr(asking, "_asked", lambda *given: asked.append(given[-1]) or once(*given))
    monkeypatch.setattr(asking, "MOST_MEMORY_MIB", 1)
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    physical_mib = int(told["MemTotal"].split()[0]) >> 10
    assert physical_mib // 2 < asking.most_possible_mib() < physical_mib * 4 // 5
    monkeypatch.setattr(asking, "_SHARE_OF_MEMORY", 3.5 / physical_mib)
    text = pa.table({"text": [f"text number {n % 150_000}" for n in range(200_000)]})
    with pytest.raises(duckdb.OutOfMemoryException):
        asking.n_different(text, "text")
    assert asked == [1, 2, 3]


def test_pictures_that_no_table_holds_are_on_no_two_sides() -> None:
    """a and c are held; x and y are not, each on a side of its own."""
    sides = {"a": "train", "x": "train", "y": "test", "c": "test"}
    splits = pa.table({"image_sha256": list(sides), "split": list(sides.values())})
    images = pa.table({"image_sha256": ["a", "c"], "pixels_sha256": ["p", None]})
    assert asking.pixels_on_sides(splits, images, ["train", "test"]) == (2, 0, None)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"label": ["a"]}), tmp_path / "old.parquet")
    with pytest.raises(TableError, match="schema version none"):
        list(asking.parts([tmp_path / "old.parquet"], ["label"]))
    with pytest.raises(TableError, match="schema version none"):
        asking.n_different([tmp_path / "old.parquet"], "label")
