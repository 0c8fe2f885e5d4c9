"""Tables with named columns: every form of box gives the same table, every bad row costs its row.

The picture is 60 x 40 px. The box is 15, 10, 45, 20 px: x 15/60 = 0.25 to 45/60 = 0.75, y 10/40 = 0.25 to
20/40 = 0.5; width 30 px = 0.5, height 10 px = 0.25; its middle is 30, 15 px = 0.5, 0.375; 300 of 2400 px.
"""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import SourceError, load_sources
from tests.ops.delivery import encoded, json_lines, new_store, pixels, refused, source, write

BOX = (15.0, 10.0, 45.0, 20.0)
BESIDE = (0.0, 20.0, 60.0, 40.0)
SIDES = ("x1_px", "y1_px", "x2_px", "y2_px")


def _row(boxes, **fields):
    return {"image": "good.png", "question": "What?", "answer": "cup", "bbox": boxes} | fields


def _normalised(tmp_path, name, content, kind="table", **options):
    write(tmp_path, "shelf/good.png", encoded(pixels((60, 40))))
    if name is not None:
        write(tmp_path, f"shelf/{name}", content)
    told = source(tmp_path / "shelf", kind, annotations=name or "data", options=options)
    return normalise(told, new_store(tmp_path))


def _edges(tables):
    return [tuple(row[side] for side in SIDES) for row in tables.boxes.to_pylist()]


def _parquet(rows):
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=2)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("convention", "value"),
    [
        ("xyxy_px", [15, 10, 45, 20]),
        ("xyxy_px", "[15, 10, 45, 20]"),
        ("xyxy_px", "15 10 45 20"),
        ("xyxy_px", "(15, 10, 45, 20)"),
        ("xyxy_px", "[15. 10. 45. 20.]"),
        ("xyxy_px", ["15", "10", "45", "20"]),
        ("xyxy_px", [[15, 10, 45, 20]]),
        ("xyxy_px", "[[15, 10, 45, 20]]"),
        ("xyxy_px", {"x1": 15, "y1": 10, "x2": 45, "y2": 20}),
        ("xyxy_px", {"ymin": 10, "xmin": 15, "ymax": 20, "xmax": 45}),
        ("xyxy_px", "{'x1': 15, 'y1': 10, 'x2': 45, 'y2': 20}"),
        ("xyxy_px", {"left": 15, "top": 10, "right": 45, "bottom": 20}),
        ("xywh_px", {"left": 15, "top": 10, "width": 30, "height": 10}),
        ("xywh_px", [{"x": 15, "y": 10, "w": 30, "h": 10}]),
        ("xywh_px", {"x": [15], "y": [10], "width": [30], "height": [10]}),
        ("cxcywh_px", {"cx": 30, "cy": 15, "w": 30, "h": 10}),
        ("xyxy_px_from_1", [16, 11, 45, 20]),
        ("xyxy_normalised", "0.25,0.25,0.75,0.5"),
        ("xywh_normalised", [0.25, 0.25, 0.5, 0.25]),
        ("cxcywh_normalised", "[0.5, 0.375, 0.5, 0.25]"),
        ("xyxy_percent", [25, 25, 75, 50]),
        ("cxcywh_percent", [50, 37.5, 50, 25]),
        ("xywh_permille", [250, 250, 500, 250]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_every_form_of_box_is_the_same_box(kind, convention, value, tmp_path):
    content = _parquet([_row(value)]) if kind == "parquet" else json_lines([_row(value)])
    tables = _normalised(tmp_path, f"rows.{kind}", content, box_convention=convention)
    assert refused(tables) == []
    assert _edges(tables) == [BOX]
    assert tables.examples["evidence_area_frac"].to_pylist() == [0.125]  # 300 / 2400


def test_a_csv_with_marks_quotes_and_line_ends_of_another_system(tmp_path):
    text = (
        "\ufefffile_name;question;answer;bbox\r\n"
        'good.png;"What; or ""who""?";cup;"[15, 10, 45, 20]"\r\n'
        "\r\n"
        'good.png;"Two\r\nlines";two;"[[15, 10, 45, 20], [0, 20, 60, 40]]"\r\n'
    )
    tables = _normalised(tmp_path, "rows.csv", text.encode(), box_convention="xyxy_px", delimiter="semicolon")
    assert refused(tables) == []
    assert tables.examples["question"].to_pylist() == ['What; or "who"?', "Two\r\nlines"]
    assert _edges(tables) == [BOX, BOX, BESIDE]


def test_columns_by_other_names_and_inside_structs(tmp_path):
    rows = [
        {
            "pic": {"bytes": encoded(pixels((60, 40))), "path": None},
            "q": "What?",
            "a": ["cup", "mug"],
            "objects": {"where": [[15.0, 10.0, 45.0, 20.0], list(BESIDE)], "what": ["cup", "table"]},
        }
    ]
    columns = {"image": "pic", "question": "q", "answer": "a"}
    columns |= {"boxes": "objects.where", "label": "objects.what"}
    tables = _normalised(tmp_path, "rows.parquet", _parquet(rows), columns=columns, box_convention="xyxy_px")
    assert refused(tables) == []
    assert tables.examples["accepted_answers"].to_pylist() == [["mug"]]
    assert [(row["label"], row["box_index"]) for row in tables.boxes.to_pylist()] == [
        ("cup", 0),
        ("table", 1),
    ]
    assert _edges(tables) == [BOX, BESIDE]


@pytest.mark.parametrize("objects", ["struct of lists", "list of structs"])
def test_objects_of_a_row_in_either_nesting(objects, tmp_path):
    boxes, labels = [[15, 10, 45, 20], [0, 20, 60, 40]], ["cup", "table"]
    value = {"bbox": boxes, "category": labels}
    if objects == "list of structs":
        value = [{"bbox": box, "category": label} for box, label in zip(boxes, labels, strict=True)]
    row = {"image": "good.png", "question": "What?", "answer": "cup", "objects": value}
    tables = _normalised(tmp_path, "rows.parquet", _parquet([row]), box_convention="xyxy_px")
    assert _edges(tables) == [BOX, BESIDE]
    assert tables.boxes["label"].to_pylist() == ["cup", "table"]


def test_pictures_as_plain_bytes_and_in_a_folder(tmp_path):
    inside = _parquet([_row(list(BOX), image=encoded(pixels((60, 40), seed=3)))])
    tables = _normalised(tmp_path, "rows.parquet", inside, box_convention="xyxy_px")
    assert tables.images["file_name"].to_pylist() == ["rows.parquet#0"]
    write(tmp_path, "shelf/pictures/other.png", encoded(pixels((60, 40))))
    rows = json_lines([_row(list(BOX), image="other.png")])
    tables = _normalised(tmp_path, "rows.jsonl", rows, box_convention="xyxy_px", images="pictures")
    assert tables.images["file_name"].to_pylist() == ["pictures/other.png"]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("xmin,ymin,xmax,ymax", None),
        ("a,b,c,d", {"x1": "a", "y1": "b", "x2": "c", "y2": "d"}),
    ],
)
def test_four_columns_are_a_box(header, columns, tmp_path):
    text = f"image,question,answer,{header}\ngood.png,What?,cup,15,10,45,20\ngood.png,Who?,cup,,,,\n"
    options = {"box_convention": "xyxy_px"} | ({"columns": columns} if columns else {})
    tables = _normalised(tmp_path, "rows.csv", text, **options)
    assert refused(tables) == [("rows.csv", 1, "no_boxes")]
    assert _edges(tables) == [BOX]


def test_a_folder_of_shards_is_one_source(tmp_path):
    write(tmp_path, "shelf/data/b.parquet", _parquet([_row(list(BESIDE))]))
    write(tmp_path, "shelf/data/a.parquet", _parquet([_row(list(BOX)), _row(None)]))
    write(tmp_path, "shelf/data/c.parquet", _parquet([_row(list(BOX))])[:-9])
    write(tmp_path, "shelf/data/README.md", "not rows")
    tables = _normalised(tmp_path, None, None, box_convention="xyxy_px")
    assert refused(tables) == [
        ("data/a.parquet", 1, "no_boxes"),
        ("data/c.parquet", None, "unreadable_file"),
    ]
    assert _edges(tables) == [BOX, BESIDE]
    assert tables.examples["source_file"].to_pylist() == ["data/a.parquet", "data/b.parquet"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_row([]), "no_boxes"),
        (_row(" "), "no_boxes"),
        (_row([[15, 10, 45, 20], None]), "no_boxes"),
        (_row([[15, 10, 45, 20], [1, 2, 3]]), "bad_box_format"),
        (_row([15, 10, 45]), "bad_box_format"),
        (_row([15, 10, True, 20]), "bad_box_format"),
        (_row("15 10 45"), "bad_box_format"),
        (_row("[15, 10, 45, 20"), "bad_box_format"),
        (_row("__import__('os')"), "bad_box_format"),
        (_row("[" * 100_000), "bad_box_format"),
        (_row(str([list(BESIDE)] * 6000)), "bad_box_format"),  # 6000 times 24 characters
        (_row(json.loads("[" * 500 + "15, 10, 45, 20" + "]" * 500)), "bad_box_format"),
        (_row({"x1": 15, "y1": 10}), "bad_box_format"),
        (_row({"x": 15, "y": 10, "w": 30, "h": 10}), "unsupported"),
        (_row({"x": 1, "y": 1, "w": 3, "h": 1, "width": 60, "height": 40}), "bad_box_format"),
        (_row(7), "bad_box_format"),
        (_row([15, math.nan, 45, 20]), "nan_box"),
        (_row("[15, nan, 45, 20]"), "nan_box"),
        (_row([15, 10, 61, 20]), "box_outside_picture"),
        (_row([45, 10, 15, 20]), "swapped_corners"),
        (_row([15, 10, 15, 20]), "zero_area_box"),
        (_row(list(BOX), label=["cup", "mug"]), "bad_box_format"),
        (_row(list(BOX), question=" "), "no_question"),
        (_row(list(BOX), answer=None), "no_answer"),
        (_row(list(BOX), answer_type="song"), "unsupported"),
        (_row(list(BOX), accepted_answers="[1,"), "unsupported"),
        (_row(list(BOX), image="../good.png"), "unsafe_path"),
        (_row(list(BOX), image={"bytes": None, "path": None}), "missing_field"),
        ({"question": "What?", "answer": "cup", "bbox": list(BOX)}, "missing_field"),
        ({"question": "What?", "answer": "cup", "image": "good.png"}, "missing_field"),
        (_row(list(BOX)), "duplicate_example"),
        (_row(list(BOX), image_width=61, image_height=40), "unsupported"),
        ("row", "broken_json"),
    ],
)
def test_a_bad_row_costs_its_row(row, reason, tmp_path):
    content = json_lines([_row(list(BOX)), json.dumps(row), _row(list(BESIDE))])
    tables = _normalised(tmp_path, "rows.jsonl", content, box_convention="xyxy_px")
    assert refused(tables) == [("rows.jsonl", 1, reason)]
    assert _edges(tables) == [BOX, BESIDE]


def test_boxes_of_mixed_forms_in_one_row_are_all_taken(tmp_path):
    mixed = [[15, 10, 45, 20], "0 20 60 40", {"x1": 1, "y1": 2, "x2": 3, "y2": 4}]
    tables = _normalised(tmp_path, "rows.jsonl", json_lines([_row(mixed)]), box_convention="xyxy_px")
    assert _edges(tables) == [BOX, BESIDE, (1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        # 0.5 + 0.75 > 1 as a width, 0.25 - 0.75/2 < 0 as a middle: only corners.
        ([0.5, 0.25, 0.75, 0.9], "xyxy_normalised"),
        # As corners x2 < x1; over 100, so no percent; x from 400 to 700, y from 300 to 800, or y from 300 - 250 = 50.
        ([400, 300, 300, 500], "xywh_px, cxcywh_px, xywh_permille, cxcywh_permille"),
        ({"x1": 400, "y1": 200, "x2": 500, "y2": 300}, "xyxy_px, xyxy_px_from_1, xyxy_permille"),
        ([-5, -5, -1, -1], "none of"),
    ],
)
def test_a_convention_is_never_guessed_but_what_fits_is_named(value, fits, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        _normalised(tmp_path, "rows.jsonl", json_lines([_row(value)]))
    assert refused(caught.value.tables) == [("rows.jsonl", 0, "unsupported")]
    (detail,) = caught.value.tables.quarantine["detail"].to_pylist()
    assert "box_convention" in detail
    assert detail.partition("fit: ")[2].startswith(fits)
    if fits != "none of":
        assert detail.endswith(f"fit: {fits}")


def test_a_csv_line_that_is_broken_costs_its_line(tmp_path):
    good, beside = '"15 10 45 20"', '"0 20 60 40"'
    lines = [
        b"image,question,answer,bbox",
        f"good.png,What?,cup,{good}".encode(),
        b"good.png,What?,cup",
        f"good.png,What?,cup,{good},more".encode(),
        f'good.png,"What"?,cup,{good}'.encode(),
        f"good.png,Wh\xe4t?,cup,{good}".encode("latin-1"),
        b"good.png," + b"x" * 200_000 + b",cup," + good.encode(),
        f"good.png,What?,cup,{beside}".encode(),
        f'good.png,"What?,cup,{beside}'.encode(),
    ]
    tables = _normalised(tmp_path, "rows.csv", b"\n".join(lines), box_convention="xyxy_px")
    assert refused(tables) == [
        ("rows.csv", 1, "missing_field"),
        ("rows.csv", 2, "broken_file"),
        ("rows.csv", 3, "broken_file"),
        ("rows.csv", 4, "broken_file"),
        ("rows.csv", 5, "broken_file"),
        ("rows.csv", 7, "broken_file"),
    ]
    assert _edges(tables) == [BOX, BESIDE]


@pytest.mark.parametrize(
    ("name", "content", "reason", "said"),
    [
        ("rows.csv", "image;question;answer;bbox\n", "broken_file", "semicolon"),
        ("rows.csv", "image,bbox,bbox\n", "broken_file", "more than once"),
        ("rows.csv", "\n1,2\n", "broken_file", "name the columns"),
        ("rows.csv", "image,question\n".encode("utf-16"), "broken_file", "UTF-8"),
        ("rows.csv", "", "broken_file", "empty"),
        ("rows.csv", "image," + "x" * 200_000, "broken_file", "field limit"),
        ("rows.xlsx", "PK", "unsupported", ".parquet"),
        ("rows.parquet", b"PAR1 but not really PAR1", "unreadable_file", "after 0 rows"),
        ("rows.jsonl", '"' + "x" * 2**24 + '"', "unsupported", "are allowed"),
        ("rows.json", {"rows": []}, "broken_json", "a list"),
    ],
)
def test_a_file_that_is_no_table_is_one_refusal(name, content, reason, said, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        _normalised(tmp_path, name, content, box_convention="xyxy_px")
    ((_, _, seen),) = refused(caught.value.tables)
    assert seen == reason
    assert said in caught.value.tables.quarantine["detail"][0].as_py()


def test_a_column_that_is_told_and_not_there_is_named(tmp_path):
    rows = [_row(list(BOX)), _row(list(BESIDE))]
    with pytest.raises(NothingLeft) as caught:
        _normalised(
            tmp_path,
            "rows.parquet",
            _parquet(rows),
            columns={"boxes": "regions"},
            box_convention="xyxy_px",
        )
    assert refused(caught.value.tables) == [("rows.parquet", n, "missing_field") for n in (0, 1)]
    detail = caught.value.tables.quarantine["detail"][0].as_py()
    assert detail == "columns.boxes: there is no 'regions' in image, question, answer, bbox"


def test_a_parquet_text_that_is_not_utf8_costs_its_row(tmp_path):
    texts = pa.array([b"What?", b"Wh\xe4t?", b"Who?"], pa.binary()).cast(pa.large_binary())
    table = pa.table({"image": ["good.png"] * 3, "answer": ["cup"] * 3, "bbox": [list(BOX)] * 3})
    stream = pa.BufferOutputStream()
    questions = pa.Array.from_buffers(pa.large_string(), 3, texts.buffers())
    pq.write_table(table.append_column("question", questions), stream)
    tables = _normalised(tmp_path, "rows.parquet", stream.getvalue().to_pybytes(), box_convention="xyxy_px")
    assert refused(tables) == [("rows.parquet", 1, "broken_file")]
    assert tables.examples["question"].to_pylist() == ["What?", "Who?"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("columns: {picture: p}", "wanted a mapping to texts of image, "),
        ("columns: {image: 3}", "wanted a mapping to texts of image, "),
        ("columns: [image]", "wanted a mapping to texts of image, "),
        ("box_convention: xyxy", "wanted one of xywh_px, xyxy_px, "),
        ("delimiter: ';'", "wanted one of comma, semicolon, tab, pipe"),
    ],
)
def test_a_wrong_option_stops_the_list_of_sources(option, said, tmp_path):
    entry = f"{{name: a, format: table, location: a, annotations: a.csv, options: {{{option}}}}}"
    write(tmp_path, "sources.yaml", f"sources: [{entry}]")
    with pytest.raises(SourceError, match=said):
        load_sources(tmp_path / "sources.yaml", "root")


def _asked(tables):
    return [(row["question_kind"], row["answer"], row["n_boxes"]) for row in tables.examples.to_pylist()]


def test_rows_with_labels_and_no_questions_are_detections(tmp_path):
    text = (
        "filename,label,xmin,ymin,xmax,ymax\n"
        "good.png,cup,15,10,45,20\n"
        "good.png,table,0,20,60,40\n"
        "good.png,cup,1,2,3,4\n"
        "good.png,hat,1,2,3\n"
        "good.png,hat,1,2,3,hat\n"
        "good.png,,1,2,3,4\n"
        ",cup,1,2,3,4\n"
    )
    tables = _normalised(tmp_path, "rows.csv", text, box_convention="xyxy_px")
    # Two cups, so no question where; one table, its middle at 30, 30 px: below, in the centre column. The hat costs
    # its row and the question how many hats.
    assert _asked(tables) == [("count", "2", 2), ("count", "1", 1), ("where", "bottom centre", 1)]
    assert sorted(refused(tables)) == [
        ("rows.csv", 3, "missing_field"),
        ("rows.csv", 4, "bad_box_format"),
        ("rows.csv", 4, "bad_box_format"),
        ("rows.csv", 5, "missing_field"),
        ("rows.csv", 6, "missing_field"),
    ]


def test_detections_of_a_hugging_face_table_with_numbers_for_labels(tmp_path):
    picture = {"bytes": encoded(pixels((60, 40))), "path": None}
    objects = {"bbox": [[15.0, 10.0, 30.0, 10.0], [0.0, 20.0, 60.0, 20.0]], "category": [7, 0]}
    rows = [{"image": picture, "objects": objects}]
    rows.append({"image": picture, "objects": {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [8]}})
    write(tmp_path, "shelf/names.csv", '7,cup\n0,"table, round"\n')
    tables = _normalised(
        tmp_path, "rows.parquet", _parquet(rows), box_convention="xywh_px", label_names="names.csv"
    )
    assert refused(tables) == [("rows.parquet", 1, "missing_field")]
    assert {row["label"] for row in tables.boxes.to_pylist()} == {"cup", "table, round"}
    # The cup's middle is 30, 15 px: the middle third of both sides.
    expected = [("count", "1", 1), ("where", "middle centre", 1)]
    assert _asked(tables) == [*expected, ("count", "1", 1), ("where", "bottom centre", 1)]
    with pytest.raises(NothingLeft, match="label_names"):
        _normalised(tmp_path, "rows.parquet", _parquet(rows), box_convention="xywh_px")
