"""Labels as integers, whose names the `datasets` library itself wrote into the Parquet file."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.normalise import normalise
from ops.readers.class_labels import classes_of
from tests.ops.delivery import encoded, new_store, pixels, refused, source, write

NAMES = ["plate", "cup", "fork"]
CLASS = datasets.ClassLabel(names=NAMES)
BOX = datasets.List(datasets.Value("float64"), length=4)
PICTURE = {"bytes": encoded(pixels((60, 40))), "path": "one.png"}
# On 60 x 40 px, x, y, width, height: cup 3, 2 to 18, 12; fork 20, 10 to 40, 26; plate 44, 32 to 60, 40.
THINGS = [(1, [3.0, 2, 15, 10]), (2, [20.0, 10, 20, 16]), (0, [44.0, 32, 16, 8])]
LABELLED = [("cup", 3, 2, 18, 12), ("fork", 20, 10, 40, 26), ("plate", 44, 32, 60, 40)]
SHAPES = {
    "list of structs": datasets.List({"bbox": BOX, "category": CLASS}),
    "struct of lists": {"bbox": datasets.List(BOX), "category": datasets.List(CLASS)},
    "sequence": datasets.Sequence({"bbox": BOX, "category": CLASS}),
}


def _written(tmp_path, rows, features):
    (tmp_path / "shelf").mkdir(exist_ok=True)
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    made.to_parquet(str(tmp_path / "shelf" / "rows.parquet"))


def _objects(shape, things=THINGS):
    if shape == "list of structs":
        return [{"bbox": box, "category": code} for code, box in things]
    return {"bbox": [box for _, box in things], "category": [code for code, _ in things]}


def _normalised(tmp_path, **options):
    told = source(
        tmp_path / "shelf",
        "table",
        annotations="rows.parquet",
        options={"box_convention": "xywh_px"} | options,
    )
    return normalise(told, new_store(tmp_path))


def _labelled(tables):
    found = {
        (row["label"], row["x1_px"], row["y1_px"], row["x2_px"], row["y2_px"])
        for row in tables.boxes.to_pylist()
    }
    return sorted(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_objects_of_every_shape_have_their_names(tmp_path, shape):
    _written(
        tmp_path,
        [{"image": PICTURE, "objects": _objects(shape)}],
        {"image": datasets.Image(), "objects": SHAPES[shape]},
    )
    tables = _normalised(tmp_path)
    assert refused(tables) == []
    assert _labelled(tables) == LABELLED
    assert "In which part of the picture is the fork?" in tables.examples["question"].to_pylist()


def test_a_label_for_each_row_and_answers_that_are_classes(tmp_path):
    rows = [{"image": PICTURE, "bbox": box, "label": code} for code, box in THINGS]
    _written(tmp_path, rows, {"image": datasets.Image(), "bbox": BOX, "label": CLASS})
    assert _labelled(_normalised(tmp_path)) == LABELLED
    asked = [
        {"image": PICTURE, "bbox": box, "question": f"What is {code}?", "answer": code}
        for code, box in THINGS
    ]
    features = {"image": datasets.Image(), "bbox": BOX, "question": datasets.Value("string"), "answer": CLASS}
    _written(tmp_path, asked, features)
    assert _normalised(tmp_path).examples["answer"].to_pylist() == ["cup", "fork", "plate"]


def test_the_option_wins_over_the_file(tmp_path):
    write(tmp_path, "shelf/names.csv", "0,dish\n1,mug\n2,trident\n")
    features = {"image": datasets.Image(), "objects": SHAPES["list of structs"]}
    _written(tmp_path, [{"image": PICTURE, "objects": _objects("list of structs")}], features)
    tables = _normalised(tmp_path, label_names="names.csv")
    assert [label for label, *_ in _labelled(tables)] == ["dish", "mug", "trident"]


def test_codes_outside_the_names_cost_their_row(tmp_path):
    """`datasets` writes -1 for what is not labelled, and checks no more than that; an edited file can hold any."""
    rows = [{"image": PICTURE, "bbox": box, "label": code} for code, box in THINGS]
    _written(tmp_path, rows, {"image": datasets.Image(), "bbox": BOX, "label": CLASS})
    path = tmp_path / "shelf" / "rows.parquet"
    table = pq.read_table(path)
    codes = pa.array([1, -1, 3], pa.int64())
    pq.write_table(
        table.set_column(table.schema.get_field_index("label"), table.schema.field("label"), codes), path
    )
    tables = _normalised(tmp_path)
    assert refused(tables) == [("rows.parquet", 1, "missing_field"), ("rows.parquet", 2, "missing_field")]
    details = tables.quarantine["detail"].to_pylist()
    assert details[1].startswith(
        "label 3 is none of the 3 classes that the file names; the option label_names"
    )
    assert json.loads(tables.quarantine["raw"].to_pylist()[0])["label"] == -1
    assert _labelled(tables) == [LABELLED[0]]


def test_what_older_releases_write_and_what_nobody_should():
    def classes(features):
        return classes_of({b"huggingface": json.dumps({"info": {"features": features}}).encode()})

    label = {"num_classes": 3, "names": NAMES, "id": None, "_type": "ClassLabel"}
    box = {"dtype": "float32", "_type": "Value"}
    wanted = {"objects": {"category": tuple(NAMES)}}
    for objects in (
        {"feature": {"bbox": box, "category": label}, "length": -1, "id": None, "_type": "Sequence"},
        [{"bbox": box, "category": label}],
    ):
        assert classes({"image": {"_type": "Image"}, "objects": objects}) == wanted
    for nothing in (
        None,
        [],
        {},
        {"label": {"_type": "ClassLabel"}},
        {"label": {"names": [1], "_type": "ClassLabel"}},
    ):
        assert classes(nothing) is None
    deep = '{"info": {"features": ' + '{"a": ' * 100_000 + "}" * 100_002
    for broken in (b"", b"{", b"[]", b"null", b"\xff", deep.encode()):
        assert classes_of({b"huggingface": broken}) is None
    assert classes_of(None) is None and classes_of({b"pandas": b"{}"}) is None
