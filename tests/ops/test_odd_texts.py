"""Texts that cannot be stored, settings that are none, files and columns that are there twice: nothing is lost."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.checks_data import delivered
from ops.normalise import NothingLeft, normalise
from ops.sources import SourceError, fingerprint, load_sources
from tests.ops.delivery import conserved, encoded, new_store, pixels, refused, source, write

HALF = "\ud83d"


def _normalised(told, folder):
    try:
        tables = normalise(told, new_store(folder))
    except NothingLeft as error:
        tables = error.tables
    conserved(tables)
    return tables


def _studio(label: str, **more) -> str:
    value = {"x": 10, "y": 10, "width": 50, "height": 40, "rectanglelabels": [label]} | more.pop("value", {})
    result = {"type": "rectanglelabels", "value": value, "from_name": "l", "to_name": "i"} | more
    return json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [result]}]}])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_studio(HALF), "broken_json"),
        (_studio("n" * 100_001), "unsupported"),
        (
            _studio("cup", original_width=10**400, original_height=5, value={"rotation": 30}),
            "missing_field",
        ),
    ],
)
def test_a_label_or_a_size_that_is_none_costs_its_rows(content, reason, tmp_path):
    write(tmp_path, "a.png", encoded(pixels((7, 5))))
    write(tmp_path, "tasks.json", content)
    tables = _normalised(source(tmp_path, "label_studio", annotations="tasks.json"), tmp_path)
    assert {row[2] for row in refused(tables)} == {reason}
    assert tables.counts["rows_out"] == 0 < tables.counts["quarantined"]


def test_a_yolo_name_that_is_half_a_letter_costs_its_rows(tmp_path):
    write(tmp_path, "images/a.png", encoded(pixels((7, 5))))
    write(tmp_path, "labels/a.txt", "0 0.5 0.5 0.4 0.4\n1 0.5 0.5 0.4 0.4\n")
    write(
        tmp_path, "data.yaml", f'names: ["{HALF}", cup]\ntrain: images\n'.encode("ascii", "backslashreplace")
    )
    tables = _normalised(source(tmp_path, "yolo", annotations="data.yaml"), tmp_path)
    assert set(tables.boxes["label"].to_pylist()) == {"cup"}
    assert {row[2] for row in refused(tables)} == {"broken_json"}


def test_two_files_of_one_picture_are_one_and_a_refusal(tmp_path):
    write(tmp_path, "7.jpg", encoded(pixels((7, 5)), "JPEG"))
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox>"
    tree = f"<annotation><filename>7.jpg</filename><object><name>1</name>{box}</object></annotation>"
    for name in ("Annotations/x/7.xml", "Annotations/y/7.xml"):
        write(tmp_path, name, tree)
    write(tmp_path, "Sentences/7.txt", "[/EN#1/other A cup] .\n")
    tables = _normalised(source(tmp_path, "flickr30k", annotations="Annotations"), tmp_path)
    assert tables.counts == {"rows_in": 2, "rows_out": 1, "quarantined": 1}
    assert refused(tables) == [("Annotations/y/7.xml", None, "duplicate_example")]


def test_a_column_that_is_there_twice_refuses_the_file(tmp_path):
    columns = [pa.array(["a.png"]), pa.array(["What?"]), pa.array(["cup"]), pa.array(["plate"])]
    table = pa.table(columns, names=["image", "question", "answer", "answer"])
    pq.write_table(table, tmp_path / "rows.parquet")
    told = source(tmp_path, "table", annotations="rows.parquet", options={"box_convention": "xywh_px"})
    tables = _normalised(told, tmp_path)
    assert refused(tables) == [("rows.parquet", None, "broken_file")]
    assert tables.quarantine["detail"].to_pylist() == [
        'rows.parquet: "answer" is the name of more than one column'
    ]


def test_a_file_name_that_is_no_text_ends_nothing(tmp_path):
    write(tmp_path, "a.png", encoded(pixels((7, 5))))
    shape = {"label": "cup", "points": [[1, 1], [3, 3]], "shape_type": "rectangle"}
    content = json.dumps({"imagePath": "../a.png", "shapes": [shape]})
    write(tmp_path, "d/a.json", content)
    (tmp_path / os.fsdecode(b"d/\xe9.json")).write_text(content)
    told = source(tmp_path, "labelme", annotations="d")
    assert _normalised(told, tmp_path).counts["rows_out"] > 0
    manifest = fingerprint(told, new_store(tmp_path))
    assert manifest["unnameable_files"] == ["d/\\udce9.json"]
    found = delivered(manifest, told)
    assert found.passed and found.metadata["unnameable"].value == ["d/\\udce9.json"]
    assert found.description is not None and "1 files passed over" in found.description


ENTRY = "name: a, format: coco, annotations: a.json, location: {}"


@pytest.mark.parametrize(
    "text",
    [
        "sources: 2020-13-45",
        "sources: " + "[" * 3000,
        "sources: [{" + ENTRY.format("~nosuchuser/x") + "}]",
        "sources: [{" + ENTRY.format('"a\\0b"') + "}]",
        "sources: [{" + ENTRY.format('"a\\ud83d"') + "}]",
        "sources: [{" + ENTRY.format("generated/a") + ", options: {generator: [a]}}]",
        "sources: [{" + ENTRY.format("generated/a") + ", options: {generator: {a: b}}}]",
    ],
)
def test_a_list_of_sources_that_is_none_is_one_clear_error(text, tmp_path):
    write(tmp_path, "sources.yaml", text)
    with pytest.raises(SourceError, match=r"sources.yaml"):
        load_sources(tmp_path / "sources.yaml", str(tmp_path))


@pytest.mark.parametrize("part", ["regions", "objects"])
@pytest.mark.parametrize("pictures", [[], [{"image_id": 1}]])
def test_rows_about_pictures_that_nobody_lists_are_refused_one_by_one(pictures, part, tmp_path):
    write(tmp_path, "image_data.json", json.dumps(pictures))
    write(tmp_path, "rows.json", json.dumps([{"id": n, "image_id": n, part: []} for n in (1, 2)]))
    told = source(tmp_path, "visual_genome", annotations="rows.json", options={"part": part})
    tables = _normalised(told, tmp_path)
    assert tables.counts == {"rows_in": 2 + len(pictures), "rows_out": 0, "quarantined": 2 + len(pictures)}
    assert [row[2] for row in refused(tables)][:2] == ["unknown_image"] * 2


@pytest.mark.parametrize(
    ("names", "counts"),
    [
        ("7,cup\n8,\n", {"rows_in": 3, "rows_out": 2, "quarantined": 1}),  # the plate cannot be asked about
        ("7,cup\n8,plate\n7,mug\n", {"rows_in": 3, "rows_out": 0, "quarantined": 3}),
        ("7,cup\n8,plate\n7,cup\n", {"rows_in": 4, "rows_out": 4, "quarantined": 0}),
    ],
)
def test_a_code_with_no_name_or_two_names_makes_no_question_of_it(names, counts, tmp_path):
    write(tmp_path, "a.png", encoded(pixels((7, 5))))
    write(tmp_path, "names.csv", names)
    write(tmp_path, "rows.csv", "image,label,x,y,width,height\na.png,7,1,1,2,2\na.png,8,3,1,2,2\n")
    options = {"box_convention": "xywh_px", "label_names": "names.csv"}
    tables = _normalised(source(tmp_path, "table", annotations="rows.csv", options=options), tmp_path)
    assert tables.counts == counts
    assert not any("the ?" in text or "the  " in text for text in tables.examples["question"].to_pylist())
