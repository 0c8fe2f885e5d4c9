"""Files, rows, fields, boxes and texts beyond what is allowed: each a refusal that names the limit, none a crash."""

import json
import time
from dataclasses import replace

import boto3
import pytest

from ops.normalise import NothingLeft, normalise
from ops.readers.row_files import MAX_COLUMNS
from ops.readers.rows import MAX_ANSWERS, MAX_TEXT
from ops.sources import SourceError, load_sources
from storage.objects import Store
from tests.ops.cup_and_plate import CUP, PLATE
from tests.ops.delivery import coco, encoded, json_lines, new_store, pixels, refused, source, write
from tests.s3_server import clients_of, s3_server

MIB = 2**20


def _table(tmp_path, name, content, **options):
    write(tmp_path, "shelf/cup.png", encoded(pixels((60, 40))))
    write(tmp_path, f"shelf/{name}", content)
    told = {"box_convention": "xywh_px"} | options
    return normalise(source(tmp_path / "shelf", "table", annotations=name, options=told), new_store(tmp_path))


def _row(**fields):
    return {"image": "cup.png", "question": "What?", "answer": "cup", "bbox": list(CUP)} | fields


def _padded(rows: list[object], n_bytes: int) -> str:
    """JSON of the rows, as long as told by blanks, which are no part of any row."""
    text = json.dumps(rows)
    return text + " " * (n_bytes - len(text))


def test_a_file_that_is_read_whole_has_a_limit(tmp_path):
    assert _table(tmp_path, "rows.json", _padded([_row()], MIB), max_file_mib=1).examples.num_rows == 1
    with pytest.raises(NothingLeft) as caught:
        _table(tmp_path, "rows.json", _padded([_row()], MIB + 1), max_file_mib=1)
    assert refused(caught.value.tables) == [("rows.json", None, "unsupported")]
    said = (
        "rows.json has 1048577 bytes and is read into memory whole; at most 1 MiB are (option max_file_mib)"
    )
    assert caught.value.tables.quarantine["detail"].to_pylist() == [said]
    assert _table(tmp_path, "rows.json", _padded([_row()], MIB + 1), max_file_mib=2).examples.num_rows == 1


@pytest.mark.parametrize(
    "kind", ["gqa", "visual_genome", "labelme", "label_studio", "refcoco", "voc", "cvat"]
)
def test_every_reader_of_whole_files_keeps_to_it(tmp_path, kind):
    write(tmp_path, "a.json", " " * (MIB + 1))
    options = {"max_file_mib": 1} | ({"scene_graphs": "a.json"} if kind == "gqa" else {})
    questions = {"questions": "a.json"} if kind == "refcoco" else {}
    if kind in ("voc", "cvat"):
        write(tmp_path, "a.xml", " " * (MIB + 1))
    if kind == "visual_genome":
        options["image_data"] = "a.json"
    name = "a.xml" if kind in ("voc", "cvat") else "a.json"
    with pytest.raises(NothingLeft, match="option max_file_mib"):
        normalise(source(tmp_path, kind, annotations=name, options=options, **questions), new_store(tmp_path))


def test_a_large_file_in_a_bucket_is_not_fetched(tmp_path, monkeypatch):
    write(tmp_path, "shelf/rows.json", _padded([_row()], MIB + 1))
    with s3_server() as endpoint, clients_of(endpoint, tmp_path, monkeypatch):
        boto3.client("s3").create_bucket(Bucket="shelves")
        Store("s3://shelves").put_file(tmp_path / "shelf/rows.json", "rows.json")
        told = source(tmp_path, "table", annotations="rows.json", options={"max_file_mib": 1})
        with pytest.raises(NothingLeft, match=r"1048577 bytes.*option max_file_mib"):
            normalise(replace(told, location="s3://shelves"), new_store(tmp_path))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json"])
def test_rows_have_a_limit(tmp_path, name):
    def content(n: int) -> str:
        rows = [_row(question=f"What is {place}?") for place in range(n)]
        if name == "rows.csv":
            lines = [f"cup.png,What is {place}?,cup,5,4,10,8" for place in range(n)]
            return "\n".join(["image,question,answer,x,y,w,h", *lines]) + "\n"
        return json.dumps(rows) if name == "rows.json" else json_lines(list(rows))

    assert _table(tmp_path, name, content(3), max_rows=3).examples.num_rows == 3
    tables = _table(tmp_path, name, content(9), max_rows=3)
    assert tables.examples.num_rows == 3
    assert refused(tables) == [(name, None, "unsupported")]
    said = "more than 3 rows; the others are not read (option max_rows)"
    assert tables.quarantine["detail"].to_pylist() == [said]
    assert _table(tmp_path, name, content(9)).examples.num_rows == 9


def test_rows_of_all_files_of_a_folder_are_counted_together(tmp_path):
    for part in range(3):
        write(
            tmp_path,
            f"shelf/rows/{part}.jsonl",
            json_lines([_row(question=f"What is {part} {n}?") for n in (1, 2)]),
        )
    tables = _table(tmp_path, "rows/3.jsonl", json_lines([_row(question="What is last?")]), max_rows=5)
    assert tables.examples.num_rows == 1
    write(tmp_path, "shelf/cup.png", encoded(pixels((60, 40))))
    told = {"box_convention": "xywh_px", "max_rows": 5}
    tables = normalise(
        source(tmp_path / "shelf", "table", annotations="rows", options=told), new_store(tmp_path)
    )
    assert (tables.examples.num_rows, refused(tables)) == (5, [("rows/2.jsonl", None, "unsupported")])


def test_columns_and_fields_of_csv_have_limits(tmp_path):
    many = ",".join(f"c{n}" for n in range(300_000))
    started = time.monotonic()
    with pytest.raises(NothingLeft, match=f"names 300000 columns; {MAX_COLUMNS} are allowed"):
        _table(tmp_path, "rows.csv", f"{many}\n")
    assert time.monotonic() - started < 10
    head, good = "image,question,answer,x,y,w,h", "cup.png,What?,cup,5,4,10,8"
    long = f"cup.png,{'a' * 131_073},cup,5,4,10,8"
    tables = _table(tmp_path, "rows.csv", f"{head}\n{long}\n{good}\n")
    assert refused(tables) == [("rows.csv", 0, "broken_file")]
    assert "field larger than field limit (131072)" in tables.quarantine["detail"].to_pylist()[0]


def test_texts_have_a_limit(tmp_path):
    fits, long = "a" * MAX_TEXT, "b" * (MAX_TEXT + 1)
    rows = [_row(question=fits), *(_row(**{key: long}) for key in ("question", "answer", "reasoning"))]
    rows += [_row(question="2", accepted_answers=[long]), _row(question="3", label=[long])]
    rows += [_row(question="4", accepted_answers=["x"] * (MAX_ANSWERS + 1))]
    tables = _table(tmp_path, "rows.jsonl", json_lines(list(rows)))
    assert tables.examples["question"].to_pylist() == [fits]
    assert [(row, reason) for _, row, reason in refused(tables)] == [(n, "unsupported") for n in range(1, 7)]
    details = tables.quarantine["detail"].to_pylist()
    assert details[0] == "'question' is a text of 100001 characters; 100000 are allowed"
    assert details[5] == "1001 answers; 1000 are allowed"


def test_boxes_of_one_question_have_a_limit(tmp_path):
    rows = [
        _row(bbox=[[n, 4, 10, 8] for n in range(count)], question=f"What are {count}?") for count in (3, 4)
    ]
    tables = _table(tmp_path, "rows.jsonl", json_lines(list(rows)), max_boxes=3)
    assert tables.examples["question"].to_pylist() == ["What are 3?"]
    assert refused(tables) == [("rows.jsonl", 1, "unsupported")]
    said = "4 boxes of evidence; at most 3 are taken (option max_boxes)"
    assert tables.quarantine["detail"].to_pylist() == [said]


@pytest.mark.parametrize("pictures", ["kept", "unread"])
def test_boxes_of_one_kind_on_a_picture_of_coco_have_the_same_limit(tmp_path, pictures):
    """Four cups on the first picture, three on the second: as columns or row by row, the four are one refusal."""
    write(tmp_path, "a.png", encoded(pixels((60, 40))))
    write(tmp_path, "b.png", encoded(pixels((60, 40), 2)))
    images = [{"id": n, "file_name": f"{'ab'[n]}.png", "width": 60, "height": 40} for n in (0, 1)]
    boxes = [{"id": n, "image_id": n // 4, "category_id": 1, "bbox": [n, 4, 10, 8]} for n in range(7)]
    boxes.append({"id": 7, "image_id": 0, "category_id": 2, "bbox": list(PLATE)})
    write(tmp_path, "annotations.json", coco(images, boxes))
    tables = normalise(source(tmp_path, options={"max_boxes": 3, "pictures": pictures}), new_store(tmp_path))
    # How many plates, where is the plate, how many cups on b.png; not: how many cups on a.png.
    assert tables.examples["answer"].to_pylist() == ["1", "bottom right", "3"]
    assert refused(tables) == [("annotations.json", 0, "unsupported")]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_what_is_nested_100_000_deep_costs_its_row(tmp_path, name):
    for deep in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000):
        good = json.dumps(_row())
        content = f"[{good}, {deep}]" if name == "rows.json" else f"{good}\n{deep}\n"
        if name == "rows.json":  # one value, and so one row
            with pytest.raises(NothingLeft, match="broken_json 1"):
                _table(tmp_path, name, content)
        else:
            tables = _table(tmp_path, name, content)
            assert (tables.examples.num_rows, refused(tables)) == (1, [(name, 1, "broken_json")])


def test_limits_of_a_source_are_whole_numbers_above_zero(tmp_path):
    for name in ("max_file_mib", "max_rows", "max_boxes"):
        lines = [
            "sources:",
            "- {name: a, format: coco, location: x, annotations: a.json, options: {NAME: 0}}",
        ]
        write(tmp_path, "sources.yaml", "\n".join(lines).replace("NAME", name))
        with pytest.raises(SourceError, match=f"options.{name}=0: wanted a whole number from 1"):
            load_sources(tmp_path / "sources.yaml", "var")
