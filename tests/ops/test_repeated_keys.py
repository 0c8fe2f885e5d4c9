"""JSON objects in which a key comes more than once: no reader keeps one of the values and loses the others."""

import json

import pytest

from ops.normalise import NothingLeft
from ops.readers.json_files import decoded
from ops.readers.rows import Repeated
from tests.ops.cup_and_plate import CUP, CUP_XYXY, PLATE, PLATE_XYXY, said, tables_of
from tests.ops.delivery import coco, encoded, pixels, refused, write

GQA = {"annotations": "questions.json", "options": {"scene_graphs": "graphs.json"}}


def _pairs(*pairs: tuple[str, object]) -> str:
    """A JSON object with just these keys in this order; texts of objects are taken as they are."""
    inside = (
        f"{json.dumps(key)}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in pairs
    )
    return "{" + ", ".join(inside) + "}"


def _thing(name, box):
    return {"name": name, **dict(zip("xywh", box, strict=True))}


def _asked(question, answer, thing):
    named = {"question": {"2": thing}, "answer": {}, "fullAnswer": {}}
    return {"imageId": "24", "question": question, "answer": answer, "annotations": named}


def _gqa(folder, questions, graphs):
    write(folder, "images/24.jpg", encoded(pixels((60, 40))))
    write(folder, "questions.json", questions)
    write(folder, "graphs.json", graphs)
    return tables_of(folder, "gqa", **GQA)


GRAPH = {"width": 60, "height": 40, "objects": {"101": _thing("cup", CUP), "102": _thing("plate", PLATE)}}


def test_questions_with_one_id_are_one_question_and_refusals(tmp_path):
    first, second = _asked("What is it?", "cup", "101"), _asked("What is that?", "plate", "102")
    questions = _pairs(("7", first), ("7", second), ("8", second), ("7", first))
    tables = _gqa(tmp_path, questions, {"24": GRAPH})
    assert said(tables) == [("What is it?", "cup", [CUP_XYXY]), ("What is that?", "plate", [PLATE_XYXY])]
    assert refused(tables) == [
        ("questions.json", 1, "duplicate_example"),
        ("questions.json", 3, "duplicate_example"),
    ]
    assert tables.examples["source_row"].to_pylist() == [0, 2]
    assert json.loads(tables.quarantine["raw"][0].as_py()) == {"7": second}


def test_scene_graphs_and_objects_with_one_id(tmp_path):
    objects = _pairs(
        ("101", _thing("cup", CUP)), ("102", _thing("plate", PLATE)), ("101", _thing("fork", PLATE))
    )
    graph = _pairs(("width", 60), ("height", 40), ("objects", objects))
    tables = _gqa(tmp_path, {"7": _asked("What is it?", "cup", "101")}, _pairs(("24", graph), ("24", GRAPH)))
    assert said(tables) == [("What is it?", "cup", [CUP_XYXY])]
    assert refused(tables) == [
        ("graphs.json", 0, "duplicate_example"),
        ("graphs.json", 1, "duplicate_example"),
    ]
    assert tables.quarantine["detail"].to_pylist() == [
        'object "101" is taken by an earlier entry',
        'imageId "24" is taken by an earlier entry',
    ]


def test_evidence_that_would_be_lost_costs_the_question(tmp_path):
    named = _pairs(("question", _pairs(("2", '"101"'), ("2", '"102"'))), ("answer", {}), ("fullAnswer", {}))
    twice = _pairs(("imageId", '"24"'), ("question", '"What?"'), ("answer", '"cup"'), ("annotations", named))
    tables = _gqa(tmp_path, _pairs(("7", _asked("What is it?", "cup", "101")), ("8", twice)), {"24": GRAPH})
    assert refused(tables) == [("questions.json", 1, "broken_json")]
    assert tables.quarantine["detail"].to_pylist() == ['"2" more than once in one object']


def test_regions_of_questions_of_visual_genome(tmp_path):
    write(tmp_path, "VG_100K/1.jpg", encoded(pixels((60, 40))))
    write(tmp_path, "image_data.json", [{"image_id": 1, "url": "https://x/VG_100K/1.jpg"}])
    boxes = [dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in (CUP, PLATE)]
    regions = [{"region_id": n, "phrase": "a thing", **box} for n, box in enumerate(boxes)]
    write(tmp_path, "regions.json", [{"id": 1, "regions": regions}])
    write(tmp_path, "qas.json", [{"id": 1, "qas": [{"qa_id": 5, "question": "What?", "answer": "cup"}]}])
    write(tmp_path, "map.json", _pairs(("5", 0), ("5", 1)))
    options = {"part": "qas", "regions": "regions.json", "qa_to_region": "map.json"}
    tables = tables_of(tmp_path, "visual_genome", annotations="qas.json", options=options)
    assert said(tables) == [("What?", "cup", [CUP_XYXY])]
    assert refused(tables) == [("map.json", 1, "duplicate_example")]


def _coco(folder, text):
    write(folder, "cup.png", encoded(pixels((60, 40))))
    write(folder, "annotations.json", text)
    return tables_of(folder, "coco")


BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": list(CUP)}


def test_a_coco_file_with_two_lists_of_one_name_is_refused_whole(tmp_path):
    whole = coco([{"id": 1, "file_name": "cup.png"}], [BOX])
    doubled = _pairs(*whole.items(), ("annotations", [BOX | {"id": 2, "bbox": list(PLATE)}]))
    with pytest.raises(
        NothingLeft, match="annotations more than once in the file: merge the lists"
    ) as caught:
        _coco(tmp_path, doubled)
    assert refused(caught.value.tables) == [("annotations.json", None, "broken_json")]


@pytest.mark.parametrize("again", [("bbox", list(PLATE)), ("category_id", 1), ("image_id", 1), ("id", 3)])
def test_an_entry_of_coco_with_two_values_is_refused(tmp_path, again):
    two = _pairs(("id", 2), ("image_id", 1), ("category_id", 2), ("bbox", list(CUP)), again)
    entries = f"[{json.dumps(BOX)}, {two}]"
    whole = coco([{"id": 1, "file_name": "cup.png"}], [])
    tables = _coco(tmp_path, _pairs(*(whole | {"annotations": entries}).items()))
    assert set(tables.boxes["label"].to_pylist()) == {"cup"}
    assert [row[1:] for row in refused(tables)] == [(1, "broken_json")]


LABEL_TWICE = (("image", '"cup.png"'), ("label", '"cup"'), ("label", '"plate"'), ("bbox", list(CUP)))
SIDE_TWICE = (
    ("image", '"cup.png"'),
    ("label", '"cup"'),
    ("bbox", _pairs(*zip("xywh", CUP, strict=True), ("x", 9))),
)


# What would be asked of the label "cup" is refused too where the label is known: how many, and where.
@pytest.mark.parametrize(("row", "n_refusals"), [(LABEL_TWICE, 1), (SIDE_TWICE, 2)])
def test_a_row_of_json_lines_with_two_values_is_refused(tmp_path, row, n_refusals):
    write(tmp_path, "cup.png", encoded(pixels((60, 40))))
    good = json.dumps({"image": "cup.png", "label": "plate", "bbox": list(PLATE)})
    write(tmp_path, "rows.jsonl", f"{good}\n{_pairs(*row)}\n")
    tables = tables_of(tmp_path, "table", annotations="rows.jsonl", options={"box_convention": "xywh_px"})
    assert [found[1:] for found in refused(tables)] == [(1, "broken_json")] * n_refusals
    assert set(tables.boxes["label"].to_pylist()) == {"plate"}


def test_an_object_without_a_repeated_key_is_a_plain_one():
    assert type(decoded(b'{"a": {"b": 1}, "c": 2}')) is dict
    found = decoded(b'{"a": {"b": 1, "b": 2, "c": 3}}')
    assert isinstance(found["a"], Repeated) and found == {"a": {"b": 1, "c": 3}}
    assert found["a"].keys_again == ["b"] and found["a"].pairs == [("b", 1), ("b", 2), ("c", 3)]
