"""Rows picture after picture: the same rows as whole splits give, few pictures at a time."""

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.picture_rows import PictureRows, RowsByPicture
from storage.rows import RowsError, left_out, rows_from_paths
from storage.tables import encode_table, from_rows, read_table
from tests.training.odd_rows import Given, good, png, write

SPLITS = ("train", "val", "test")


def rows_of_two_sources(folder: Path) -> dict[str, list[str]]:
    """Source one: 5 rows on 4 pictures; source two: 3 rows, one about a picture of the first. Boxes: 1, 0, 3, ..."""
    box = (1.0, 2.0, 5.5, 9.0)
    three = (box, (0.0, 0.0, 3.0, 4.0), (7.0, 1.0, 8.0, 2.0))
    shared = good(1)
    one = [
        good(0, "val"),
        shared,
        good(2, boxes=()),
        good(3, "test", boxes=three),
        Given("a9", shared.data, shared.size_wh, "train", question="Again?", reasoning=None),
    ]
    two = [good(5), good(6, "test"), Given("b1", shared.data, shared.size_wh, "train", boxes=(box, box))]
    parts = [write(folder / name, rows) for name, rows in (("one", one), ("two", two))]
    return {table: parts[0][table] + parts[1][table] for table in parts[0]}


def flat(pictures: list[PictureRows]) -> dict[str, list]:
    found: dict[str, list] = {split: [] for split in SPLITS}
    for seen in pictures:
        for row, split in zip(seen.rows, seen.splits, strict=True):
            found[split].append(row)
    return {split: sorted(rows, key=lambda row: row.example_id) for split, rows in found.items()}


def test_every_row_is_met_once_with_its_picture_its_boxes_and_its_side(tmp_path: Path) -> None:
    tables = rows_of_two_sources(tmp_path)
    source = RowsByPicture(tables, SPLITS)
    pictures = list(source.after())
    assert (source.n_rows, source.n_pictures, len(pictures)) == (8, 6, 6)
    assert flat(pictures) == {split: rows_from_paths(tables, split) for split in SPLITS}
    assert [[row.example_id for row in seen.rows] for seen in pictures] == [
        ["e00"],
        ["a9", "b1", "e01"],  # of both sources, where the picture comes first
        ["e02"],
        ["e03"],
        ["e05"],
        ["e06"],
    ]


def test_rows_of_other_sides_stay_out(tmp_path: Path) -> None:
    source = RowsByPicture(rows_of_two_sources(tmp_path), ["test"])
    assert [[row.example_id for row in seen.rows] for seen in source.after()] == [["e03"], ["e06"]]


def test_the_first_pictures_can_be_skipped_without_being_read(tmp_path: Path) -> None:
    lost = [good(i, uri=str(tmp_path / "nowhere.png")) for i in range(3)]
    source = RowsByPicture(write(tmp_path, [*lost, good(3)]), SPLITS)
    seen = list(source.after(2))
    assert [each.rows[0].example_id for each in seen] == ["e02", "e03"]
    assert seen[0].problem is not None and "nowhere.png" in seen[0].problem
    assert (seen[0].rows[0].image_bytes, seen[1].problem) == (b"", None)


def test_a_picture_kept_by_reference_is_held_against_its_hash(tmp_path: Path) -> None:
    rows = [good(i, uri=f"{i}.png") for i in range(2)]
    (tmp_path / "0.png").write_bytes(rows[0].data)
    (tmp_path / "1.png").write_bytes(png((84, 112), 77))
    tables = write(tmp_path, rows)
    first, second = RowsByPicture(tables, SPLITS, root=str(tmp_path)).after()
    assert (first.problem, first.rows[0].image_bytes) == (None, rows[0].data)
    assert second.problem is not None and second.problem.startswith("picture 1.png: sha256 is ")
    with pytest.raises(RowsError, match=r"picture 1\.png"):
        rows_from_paths(tables, "train", root=str(tmp_path))
    unreadable: dict[str, str] = {}
    found = rows_from_paths(tables, "train", root=str(tmp_path), unreadable=unreadable)
    assert [(row.example_id, row.image_bytes) for row in found] == [("e00", rows[0].data), ("e01", b"")]
    assert list(unreadable.values()) == [second.problem]


def rewritten(tables: dict[str, list[str]], name: str, keep: slice) -> dict[str, list[str]]:
    path = Path(tables[name][0])
    path.write_bytes(encode_table(name, from_rows(name, read_table(path).to_pylist()[keep])))
    return tables


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images", "1 pictures are in no images table, such as .* of example e00"),
        ("boxes", "1 examples have another number of boxes than they say, such as e00"),
        ("examples", "1 of 3 examples with a place are in no examples table"),
    ],
)
def test_tables_that_do_not_fit_together_are_said(tmp_path: Path, name: str, said: str) -> None:
    tables = rewritten(write(tmp_path, [good(i) for i in range(3)]), name, slice(1, None))
    with pytest.raises(RowsError, match=said):
        list(RowsByPicture(tables, SPLITS).after())


def test_few_pictures_are_held_at_once(tmp_path: Path) -> None:
    # 200 pictures of 120 kB in one row group: 24 MB as a whole.
    rows = [Given(f"p{i:03d}", png((200, 200), i), (200, 200)) for i in range(200)]
    tables = write(tmp_path, rows)
    assert pq.ParquetFile(tables["images"][0]).num_row_groups == 1
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    source, most, most_arrow = RowsByPicture(tables, SPLITS), 0, 0
    for seen in source.after():
        most = max(most, tracemalloc.get_traced_memory()[0])
        most_arrow = max(most_arrow, pa.total_allocated_bytes() - before)
        assert len(seen.rows) == 1
    tracemalloc.stop()
    assert most < 6e6  # 16 pictures at once, twice while they change hands
    assert most_arrow < 12e6


def test_rows_are_left_out_by_name_without_their_pictures_being_read(tmp_path: Path) -> None:
    rows = [good(0), good(1, uri=str(tmp_path / "nowhere.png")), good(2)]
    tables = write(tmp_path, rows)
    assert left_out(tables, "train") == {}
    found = rows_from_paths(tables, "train", without={"e01"})
    assert [row.example_id for row in found] == ["e00", "e02"]
    with pytest.raises(RowsError, match="all of its 3 examples are left out"):
        rows_from_paths(tables, "train", without={"e00", "e01", "e02", "unknown"})


def test_what_is_left_out_is_of_the_split_and_carries_its_reason(tmp_path: Path) -> None:
    shared = {"policy_id": "base@0", "image_sha256": "s"}
    rows = [
        {
            **shared,
            "example_id": "b",
            "split": "train",
            "fits": False,
            "reason": "prompt_too_long",
            "detail": "x",
        },
        {**shared, "example_id": "c", "split": "train", "fits": True},
        {
            **shared,
            "example_id": "d",
            "split": "val",
            "fits": False,
            "reason": "processor_refused",
            "detail": "x",
        },
        {
            **shared,
            "example_id": "a",
            "split": "train",
            "fits": False,
            "reason": "picture_too_small",
            "detail": "x",
        },
    ]
    path = tmp_path / "processed_rows.parquet"
    path.write_bytes(encode_table("processed_rows", from_rows("processed_rows", rows)))
    found = left_out({"processed_rows": [str(path)]}, "train")
    assert list(found.items()) == [("a", "picture_too_small"), ("b", "prompt_too_long")]
