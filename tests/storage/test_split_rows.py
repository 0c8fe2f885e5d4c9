"""One split's rows, joined from four tables."""

from dataclasses import replace
from pathlib import Path

import pytest

from storage.lineage import LineageError
from storage.objects import sha256_bytes
from storage.rows import RowsError, pictures_by_sha256, rows_from_paths, rows_of_split
from storage.tables import encode_table, from_rows
from tests.storage import small_world
from tests.storage.small_world import SmallWorld


def given(world: SmallWorld) -> dict:
    return {
        name: [world.data[s][name] for s in ("more", "scenes")] for name in ("examples", "boxes", "images")
    }


def written(tmp_path: Path, **tables: list[dict]) -> dict[str, list[str]]:
    side = [
        {
            "example_id": row["example_id"],
            "image_sha256": row["image_sha256"],
            "split": "test",
            "split_rule": "r",
        }
        for row in small_world.examples()
    ]
    content = {
        "examples": small_world.examples(),
        "boxes": small_world.boxes(),
        "images": [small_world.image(name, "scenes") for name in small_world.PICTURES],
        "splits": side,
        **tables,
    }
    for name, rows in content.items():
        (tmp_path / f"{name}.parquet").write_bytes(encode_table(name, from_rows(name, rows)))
    return {name: [str(tmp_path / f"{name}.parquet")] for name in content}


def test_the_rows_of_a_split_in_order(world: SmallWorld):
    e2, e3 = rows_of_split(world.ledger, **given(world), splits=world.splits, split="test")
    assert (e2.example_id, e3.example_id) == ("e2", "e3")
    assert (e2.image_bytes, e2.width_px, e2.height_px) == (b"picture b", 9, 4)
    assert e2.boxes == ((1.0, 0.0, 2.0, 4.0), (4.0, 1.0, 9.0, 2.5))  # by box_index, not by place in the file
    assert e3.boxes == ()
    assert (e2.question, e2.answer, e2.accepted_answers) == ("What colour is it in e2?", "blue", ("azure",))
    assert (e2.slice, e2.condition, e2.reasoning, e2.source) == ("prior_conflict", "conflict", None, "scenes")
    (e1,) = rows_of_split(world.ledger, **given(world), splits=world.splits)
    assert (e1.example_id, e1.image_bytes, e1.width_px, e1.height_px) == ("e1", b"picture a", 7, 5)


def test_altered_tables_are_not_read(world: SmallWorld):
    place = Path(world.ledger.store.url(world.data["scenes"]["boxes"].uri))
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(LineageError, match="content was altered"):
        rows_of_split(world.ledger, **given(world), splits=world.splits)


def test_a_split_without_examples_says_what_there_is(tmp_path):
    with pytest.raises(RowsError, match=r"split 'val' has no example; the splits table has \{'test': 3\}"):
        rows_from_paths(written(tmp_path), "val")
    with pytest.raises(RowsError, match=r"tables \['boxes', 'splits'\]: no file given"):
        rows_from_paths({"examples": ["x"], "images": ["y"], "boxes": []}, "test")


def test_tables_that_do_not_fit_together_are_refused_with_all_that_is_missing(tmp_path):
    rows = small_world.examples()
    paths = written(
        tmp_path,
        images=[small_world.image("b.png", "scenes")],
        boxes=small_world.boxes()[:-1],
        examples=[row for row in rows if row["example_id"] != "e3"],
    )
    with pytest.raises(RowsError) as caught:
        rows_from_paths(paths, "test")
    assert "1 examples of the split are in no examples table, such as e3" in str(caught.value)
    assert f"example e1: no picture {rows[0]['image_sha256'][:12]}" in str(caught.value)
    assert "example e2: 1 boxes, wanted 2" in str(caught.value)


def test_pictures_kept_by_reference_are_read_and_held_against_their_hash(tmp_path):
    def by_reference(name: str) -> dict:
        return {**small_world.image(name, "scenes"), "bytes": None, "uri": str(tmp_path / name)}

    for name, (data, _, _) in small_world.PICTURES.items():
        (tmp_path / name).write_bytes(data)
    paths = written(tmp_path, images=[by_reference(name) for name in small_world.PICTURES])
    assert [row.image_bytes for row in rows_from_paths(paths, "test")] == [
        b"picture a",
        b"picture b",
        b"picture b",
    ]
    (tmp_path / "a.png").write_bytes(b"another")
    (tmp_path / "b.png").unlink()
    with pytest.raises(RowsError) as caught:
        rows_from_paths(paths, "test")
    assert "a.png: sha256 is" in str(caught.value) and "b.png: cannot be read" in str(caught.value)


def test_pictures_kept_under_the_root_need_the_root(tmp_path):
    (tmp_path / "root" / "generated").mkdir(parents=True)
    images = []
    for name, (data, _, _) in small_world.PICTURES.items():
        (tmp_path / "root" / "generated" / name).write_bytes(data)
        images.append({**small_world.image(name, "scenes"), "bytes": None, "uri": f"generated/{name}"})
    paths = written(tmp_path, images=images)
    rows = rows_from_paths(paths, "test", root=str(tmp_path / "root"))
    assert [row.image_bytes for row in rows] == [b"picture a", b"picture b", b"picture b"]
    with pytest.raises(
        RowsError, match=r"generated/a\.png: kept relative to the root, and no root was given"
    ):
        rows_from_paths(paths, "test")


def test_pictures_by_hash(world: SmallWorld):
    paths = [str(world.ledger.path(artifact)) for artifact in given(world)["images"]]
    wanted = sha256_bytes(b"picture a")
    assert pictures_by_sha256(paths, [wanted, "0" * 64]) == {wanted: b"picture a"}


def test_rows_cannot_be_changed(world: SmallWorld):
    (row,) = rows_of_split(world.ledger, **given(world), splits=world.splits)
    with pytest.raises(AttributeError):
        row.answer = "other"  # type: ignore[misc]
    assert replace(row, answer="other").answer == "other"
