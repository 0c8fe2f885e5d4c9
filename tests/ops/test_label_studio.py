"""Label Studio: one export written by hand on one 60 x 40 px picture, its several annotators, and its bad rows."""

import json

import pytest

from ops.normalise import NothingLeft, normalise
from ops.readers.label_studio import picture_of
from ops.readers.rows import FieldError
from tests.ops.delivery import conserved, new_store, refused, source, write
from tests.ops.detection_samples import CUPS, PICTURE, PLATE, boxes_of

SIZE = {"original_width": 60, "original_height": 40, "image_rotation": 0}


def _rectangle(label, x, y, width, height, rotation: object = 0, **more) -> dict:
    value = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "rotation": rotation,
        "rectanglelabels": [label],
    }
    return {"id": "r", "type": "rectanglelabels", "value": value} | SIZE | more


def _polygon(label, *points) -> dict:
    value = {"points": [list(point) for point in points], "polygonlabels": [label]}
    return {"id": "p", "type": "polygonlabels", "value": value} | SIZE


# In percent of 60 x 40: the first cup is 0..50, 0..50, drawn as 20 x 30 px (33.333 %, 75 %) and turned by 90
# degrees clockwise about its upper left corner at 30, 0 px (50 %, 0 %): its width then points down, its height
# to the left, so it covers 0..30, 0..20 px. The second is 25..75, 25..75; the plate 70..100, 80..100.
RESULTS = [
    _rectangle("cup", 50, 0, 100 / 3, 75, 90),
    _polygon("cup", (25, 50), (50, 25), (75, 50), (50, 75)),
    _rectangle("plate", 70, 80, 30, 20.0),
]


def _task(results=RESULTS, image="/data/upload/1/ab-cup.png", **fields) -> dict:
    return {
        "id": 7,
        "data": {"image": image},
        "annotations": [{"completed_by": 1, "result": results}],
    } | fields


def _tables(tmp_path, tasks, **options):
    write(tmp_path, "shelf/images/ab-cup.png", PICTURE)
    write(tmp_path, "shelf/export.json", tasks)
    shelf = source(tmp_path / "shelf", "label_studio", annotations="export.json", options=options)
    try:
        tables = normalise(shelf, new_store(tmp_path))
    except NothingLeft as nothing:
        tables = nothing.tables
    conserved(tables)
    return tables


def _refused(tables) -> list[tuple]:
    return [found[1:] for found in refused(tables)]


def test_label_studio(tmp_path):
    tables = _tables(tmp_path, [_task()])
    assert boxes_of(tables) == [*CUPS, PLATE]
    # Row 0 is the task, 1 to 3 are its results.
    rows = tables.examples.to_pylist()
    assert [(row["question_kind"], row["answer"], row["source_row"]) for row in rows] == [
        ("count", "2", 1),
        ("count", "1", 3),
        ("where", "bottom right", 3),
    ]
    assert tables.quarantine.num_rows == 0
    assert tables.images["file_name"].to_pylist() == ["images/ab-cup.png"]


def _one(x, who=1, **fields) -> dict:
    """An annotation of one plate, x percent from the left, 10 % wide."""
    return {"completed_by": who, "result": [_rectangle("plate", x, 0, 10, 50)], **fields}


@pytest.mark.parametrize(
    ("annotations", "annotator", "left_px"),
    [
        # x 0, 10, 20 percent of 60 px are 0, 6, 12 px.
        ([_one(0), _one(10)], "first", 0.0),
        ([_one(0), _one(10)], "latest", 6.0),
        ([_one(0, 3), _one(10, {"id": 4, "email": "a@b.c"})], "4", 6.0),
        ([_one(0, 3), _one(10, {"id": 4, "email": "a@b.c"})], "a@b.c", 6.0),
        ([_one(0), _one(10, ground_truth=True), _one(20)], None, 6.0),
        ([_one(0, was_cancelled=True), _one(10)], None, 6.0),
    ],
)
def test_one_of_several_annotations_counts(annotations, annotator, left_px, tmp_path):
    options = {} if annotator is None else {"annotator": annotator}
    tables = _tables(tmp_path, [_task(annotations=annotations)], **options)
    assert boxes_of(tables) == [("plate", left_px, 0.0, left_px + 6, 20.0)]
    assert tables.quarantine.num_rows == 0


def test_predictions_count_only_if_told(tmp_path):
    tasks = [_task(RESULTS[:1], predictions=[_one(10, model_version="m")])]
    assert boxes_of(_tables(tmp_path, tasks)) == CUPS[:1]
    assert boxes_of(_tables(tmp_path, tasks, take="predictions")) == [("plate", 6.0, 0.0, 12.0, 20.0)]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("task", "broken_json"),
        ({"id": 1, "data": {"image": "ab-cup.png"}}, "missing_field"),
        (_task(annotations=[{"result": None}]), "missing_field"),
        (_task(annotations=["x"]), "broken_json"),
        (_task(annotations=[]), "no_boxes"),
        (_task(annotations=[_one(0, was_cancelled=True)]), "no_boxes"),
        (_task([]), "no_boxes"),
        (_task(annotations=[_one(0), _one(10)]), "unsupported"),
        (_task(data=None), "missing_field"),
        (_task(data={"a": "x.png", "b": "y.png"}), "missing_field"),
        (_task(image=["x.png"]), "missing_field"),
        (_task(image="http://[x"), "unsupported"),
        (_task(image="data:image/png;base64,AAAA"), "unsupported"),
        (_task(image="/data/local-files/"), "missing_field"),
    ],
)
def test_a_bad_task_costs_its_row(task, reason, tmp_path):
    tables = _tables(tmp_path, [_task(), task])
    # The first task is row 0 and its results are rows 1 to 3.
    assert _refused(tables) == [(4, reason)]
    assert boxes_of(tables) == [*CUPS, PLATE]


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (_rectangle("plate", "1", 1, 9, 9), [(3, "bad_box_format"), (4, "bad_box_format")]),
        (_rectangle("plate", None, 1, 9, 9), [(3, "bad_box_format"), (4, "bad_box_format")]),
        (_rectangle("plate", True, 1, 9, 9), [(3, "bad_box_format"), (4, "bad_box_format")]),
        (_rectangle("plate", 10**400, 1, 9, 9), [(3, "bad_box_format"), (4, "bad_box_format")]),
        (_rectangle("plate", float("nan"), 1, 9, 9), [(3, "nan_box"), (4, "nan_box")]),
        (_rectangle("plate", 1, 1, 9, 9, float("inf")), [(3, "nan_box"), (4, "nan_box")]),
        (_rectangle("plate", 1, 1, -9, 9), [(3, "swapped_corners"), (4, "swapped_corners")]),
        (_rectangle("plate", 1, 1, 0, 9), [(3, "zero_area_box"), (4, "zero_area_box")]),
        (_rectangle("plate", 95, 1, 9, 9), [(3, "box_outside_picture"), (4, "box_outside_picture")]),
        (_rectangle("plate", 1, 1, 9, 9, image_rotation=90), [(3, "unsupported"), (4, "unsupported")]),
        (
            _rectangle("plate", 50, 50, 9, 9, 45, original_width=None),
            [(3, "missing_field"), (4, "missing_field")],
        ),
        (_polygon("plate", (1, 1), (9, 9)), [(3, "bad_box_format"), (4, "bad_box_format")]),
        (
            {"type": "brushlabels", "value": {"brushlabels": ["plate"], "rle": [1]}},
            [(3, "unsupported"), (4, "unsupported")],
        ),
        (_rectangle("  ", 1, 1, 9, 9), [(4, "missing_field")]),
        ({"type": "choices", "value": {"choices": ["indoors"]}}, [(4, "unsupported")]),
        ({"type": "rectangle", "value": {"x": 1}}, [(4, "unsupported")]),
        ({"type": "rectanglelabels", "value": {"rectanglelabels": ["a", "b"]}}, [(4, "unsupported")]),
        ({"type": ["x"]}, [(4, "unsupported")]),
        ("box", [(4, "broken_json")]),
    ],
)
def test_a_bad_result_costs_its_row_and_the_question(result, found, tmp_path):
    tables = _tables(tmp_path, [_task([*RESULTS, result])])
    assert _refused(tables) == found
    assert boxes_of(tables)[:2] == CUPS


@pytest.mark.parametrize("content", ["", "[{", "{}", "[" * 100_000, json.dumps([_task()]).encode("utf-16")])
def test_a_file_that_is_no_export_costs_one_row(content, tmp_path):
    assert _refused(_tables(tmp_path, content)) == [(None, "broken_json")]


def test_a_picture_of_another_size_is_refused(tmp_path):
    result = RESULTS[2] | {"original_width": 40, "original_height": 60}
    assert _refused(_tables(tmp_path, [_task([result])])) == [(1, "unsupported")] * 2


@pytest.mark.parametrize(
    ("address", "images", "name"),
    [
        ("/data/upload/1/ab-cup.png", None, "images/ab-cup.png"),
        ("/data/upload/1/ab%20cup.png", "photos", "photos/ab cup.png"),
        ("/data/local-files/?d=desk/cup%20one.png", None, "desk/cup one.png"),
        ("/data/local-files/?d=desk/cup.png", "photos", "photos/desk/cup.png"),
        ("https://a.b/c/cup.png?X-Key=1#x", None, "images/cup.png"),
        ("s3://bucket/c/cup.png", "photos", "photos/cup.png"),
        ("desk/cup.png", None, "desk/cup.png"),
    ],
)
def test_addresses_become_names_below_the_source(address, images, name):
    assert picture_of({"image": address, "id": "4"}, None, images) == name
    assert picture_of({"photo": address, "image": "no.png"}, "photo", images) == name
    assert picture_of({"photo": address, "n": 4}, None, images) == name


@pytest.mark.parametrize(
    "address",
    [
        "../secret.png",
        "/etc/secret.png",
        "/data/local-files/?d=../secret.png",
        "/data/local-files/?d=%2Fetc%2Fsecret.png",
        "/data/upload/1/..%5C..%5Csecret.png",
        "https://a.b/..",
    ],
)
def test_addresses_cannot_lead_out_of_the_source(address, tmp_path):
    write(tmp_path, "secret.png", PICTURE)
    tables = _tables(tmp_path, [_task(RESULTS[2:], image=address)])
    assert {reason for _, reason in _refused(tables)} == {"unsafe_path"}


def test_an_address_that_cannot_be_split_is_refused():
    with pytest.raises(FieldError, match="no address"):
        picture_of({"image": "http://[x"}, None, None)
