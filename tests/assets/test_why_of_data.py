"""From rows of a catalogue that the real assets made back to the delivered files, worked out by hand from these."""

import json

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import lineage
from storage.catalog import query
from storage.objects import sha256_bytes, sha256_file
from storage.settings import Settings
from tests.assets.small_world import NORMALISED, SmallWorld


@pytest.fixture
def root(world: SmallWorld, instance: dg.DagsterInstance) -> str:
    """30 pictures with a question each: the third lost its answer, the box of the fifth lies outside its picture."""
    questions = world.blocks / "questions.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[2]["answer"] = ""
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    annotations = world.blocks / "annotations.json"
    coco = json.loads(annotations.read_text())
    coco["annotations"][4]["bbox"] = [500, 500, 24, 20]
    annotations.write_text(json.dumps(coco))
    world.prepare(instance)
    assert world.run(instance, "prepare_data", "data/profile", partition="blocks").success
    assert world.run(instance, "prepare_data", "data/catalog").success
    return world.settings.root


def why(root: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert lineage.main(["--root", root, "why", *words]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_rows_lead_to_the_lines_that_were_delivered(world: SmallWorld, root: str, capsys) -> None:
    """The example about picture 007 stands in line 8, which is row 7; its box is the one with id 7."""
    found = query(
        root,
        "SELECT e.example_id, e.image_sha256 FROM examples e JOIN images i USING (image_sha256) "
        "WHERE i.file_name = 'images/007.png' AND e.source = 'blocks'",
    ).to_pylist()
    (row,) = found
    of_row = "raw file questions.jsonl, row 7 (0-based)"
    of_file = f"bytes, sha256 {sha256_file(world.blocks / 'questions.jsonl')}"
    picture = world.blocks / "images" / "007.png"
    for words in (("examples",), ("boxes", "box_index=0"), ("splits",)):
        out = why(root, capsys, words[0], f"example_id={row['example_id']}", *words[1:])
        assert of_row in out and of_file in out
        assert f"{picture.stat().st_size} bytes, sha256 {sha256_file(picture)}" in out
    out = why(root, capsys, "images", f"image_sha256={row['image_sha256']}")
    assert out.splitlines()[-2].strip() == "<- raw picture images/007.png"


def test_refused_rows_lead_to_what_was_refused(world: SmallWorld, root: str, capsys) -> None:
    out = why(root, capsys, "quarantine", "reason=no_answer")
    assert "raw file questions.jsonl, row 2 (0-based)" in out
    out = why(root, capsys, "quarantine", "reason=box_outside_picture", "source_file=annotations.json")
    assert out.splitlines()[-2].strip() == "<- raw file annotations.json, row 4 (0-based)"
    assert f"sha256 {sha256_file(world.blocks / 'annotations.json')}" in out


def test_a_figure_leads_to_the_annotation_files(world: SmallWorld, root: str, capsys) -> None:
    out = why(root, capsys, "source_profiles", "measure=rows_refused", "bucket=no_answer")
    for name in ("annotations.json", "questions.jsonl"):
        place = world.blocks / name
        assert f"raw file {name}, {place.stat().st_size} bytes, sha256 {sha256_file(place)}" in out
    assert "and 29 files more" in out  # a picture for each question that has an answer


def test_a_file_that_was_never_there_is_named(
    world: SmallWorld, instance: dg.DagsterInstance, capsys
) -> None:
    (world.more / "images" / "001.png").unlink()
    assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="more").success
    out = why(str(world.settings.root), capsys, "quarantine", "source=more")
    assert "refused at picture: missing_file" in out and "row 1 (0-based)" in out


@pytest.mark.parametrize(
    ("ending", "path", "second_held_by"),
    [
        ("parquet", None, "data/1.parquet, row 0 (0-based)"),
        ("PARQUET", None, "data/1.PARQUET, row 0 (0-based)"),
        ("parquet", "second.png", "one of 2 files in data/"),
    ],
)
def test_a_picture_inside_a_folder_of_parquet_is_no_problem(
    ending: str,
    path: str | None,
    second_held_by: str,
    world: SmallWorld,
    instance: dg.DagsterInstance,
    capsys,
) -> None:
    shards, pictures = world.folder / "shards", sorted((world.blocks / "images").iterdir())
    (shards / "data").mkdir(parents=True)
    for number, picture in enumerate(pictures[:2]):
        held = {"bytes": picture.read_bytes(), "path": path if number else None}
        row = {"image": held, "question": "Which colour?", "answer": "red", "bbox": [1.0, 2.0, 9.0, 8.0]}
        pq.write_table(pa.Table.from_pylist([row]), shards / "data" / f"{number}.{ending}")
    told = {"name": "shards", "format": "table", "location": str(shards), "annotations": "data"}
    listed = world.folder / "shards.yaml"
    listed.write_text(json.dumps({"sources": [told | {"options": {"box_convention": "xyxy_px"}}]}))
    world.settings = Settings(root=world.settings.root, sources_file=str(listed), profile="tiny")
    instance.add_dynamic_partitions("source", ["shards"])
    assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="shards").success
    wanted = sha256_bytes(pictures[1].read_bytes())
    out = why(world.settings.root, capsys, "images", f"image_sha256={wanted}")
    assert out.splitlines()[-2].strip() == f"<- raw picture inside {second_held_by}"
    assert out.splitlines()[-1].strip() == f"sha256 {wanted}"
    out = why(world.settings.root, capsys, "examples", f"image_sha256={wanted}")
    assert f"raw file data/1.{ending}, row 0 (0-based)" in out
