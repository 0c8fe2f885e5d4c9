"""Detection formats beside COCO: each by a sample written by hand on one 60 x 40 px picture, and its bad rows.

Every sample holds the boxes of CANONICAL, or those that its comment works out. Answers: two cups are asked how
many; the one plate is asked how many and where.
"""

import json

import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import fingerprint
from tests.ops.delivery import conserved, encoded, new_store, pixels, refused, source, write

# label, x1, y1, x2, y2 in pixels of a 60 x 40 px picture.
CUPS = [("cup", 0.0, 0.0, 30.0, 20.0), ("cup", 15.0, 10.0, 45.0, 30.0)]
# Its middle is at x 51 of 60 (right third) and y 36 of 40 (bottom third).
PLATE = ("plate", 42.0, 32.0, 60.0, 40.0)
CANONICAL = [*CUPS, PLATE]
PICTURE = encoded(pixels((60, 40)))


def _tables(tmp_path, kind, annotations, **options):
    """Normalise what lies in the shelf; nothing is lost on the way."""
    shelf = source(tmp_path / "shelf", kind, annotations=annotations, options=options)
    tables = normalise(shelf, new_store(tmp_path))
    conserved(tables)
    return tables


def _only_refused(tmp_path, kind, annotations, **options):
    """File, row and reason of each refused row of a shelf that gives no example."""
    shelf = source(tmp_path / "shelf", kind, annotations=annotations, options=options)
    with pytest.raises(NothingLeft) as caught:
        normalise(shelf, new_store(tmp_path))
    return refused(caught.value.tables)


def _boxes(tables) -> list[tuple]:
    """Label and edges of each distinct box, rounded to a millionth of a pixel, in order."""
    rows = tables.boxes.to_pylist()
    edges = ("x1_px", "y1_px", "x2_px", "y2_px")
    return list(dict.fromkeys((row["label"], *(round(row[edge], 6) for edge in edges)) for row in rows))


def _asked(tables) -> list[tuple]:
    return [(row["question_kind"], row["answer"], row["source_row"]) for row in tables.examples.to_pylist()]


def _is_canonical(tables) -> None:
    assert _boxes(tables) == CANONICAL
    # The plate is the third entry, row 2.
    assert _asked(tables) == [("count", "2", 0), ("count", "1", 2), ("where", "bottom right", 2)]
    assert tables.quarantine.num_rows == 0


# Pascal VOC: from 1, last pixel included, so xmin = x1 + 1, ymin = y1 + 1, xmax = x2, ymax = y2.
VOC_EDGES = [("cup", 1, 1, 30, 20), ("cup", 16, 11, 45, 30), ("plate", 43, 33, 60, 40)]


def _object(name, xmin, ymin, xmax, ymax, more="") -> str:
    edges = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{edges}</bndbox></object>"


def _voc(objects="", head="<filename>cup.png</filename>", size_wh=(60, 40)) -> str:
    size = f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height><depth>3</depth></size>"
    return f"<annotation>{head}{size}{objects}</annotation>"


GOOD_VOC = _voc("".join(_object(*edges) for edges in VOC_EDGES))


def test_voc(tmp_path):
    write(tmp_path, "shelf/JPEGImages/cup.png", PICTURE)
    write(tmp_path, "shelf/Annotations/cup.xml", GOOD_VOC)
    tables = _tables(tmp_path, "voc", "Annotations")
    _is_canonical(tables)
    assert tables.images["file_name"].to_pylist() == ["JPEGImages/cup.png"]
    assert set(tables.examples["source_file"].to_pylist()) == {"Annotations/cup.xml"}
    _is_canonical(_tables(tmp_path, "voc", "Annotations/cup.xml"))


def test_voc_pictures_lie_where_the_option_says_or_beside_their_file(tmp_path):
    write(tmp_path, "shelf/marked/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.xml", GOOD_VOC)
    write(tmp_path, "shelf/elsewhere/cup.png", PICTURE)
    assert _tables(tmp_path, "voc", "marked").images["file_name"].to_pylist() == ["marked/cup.png"]
    told = _tables(tmp_path, "voc", "marked", images="elsewhere")
    assert told.images["file_name"].to_pylist() == ["elsewhere/cup.png"]


def test_voc_edges_from_zero_and_difficult_things(tmp_path):
    write(tmp_path, "shelf/cup.png", PICTURE)
    things = _object("cup", 0, 0, 30, 20, "<difficult>1</difficult>") + _object("plate", 42, 32, 60, 40)
    write(tmp_path, "shelf/xml/cup.xml", _voc(things))
    tables = _tables(tmp_path, "voc", "xml", images=".", from_zero=True)
    assert _boxes(tables) == [CUPS[0], PLATE]
    tables = _tables(tmp_path, "voc", "xml", images=".", from_zero=True, difficult="refuse")
    assert _boxes(tables) == [PLATE]
    assert refused(tables) == [("xml/cup.xml", 0, "unsupported")]


BAD_VOC = {
    "cut": (GOOD_VOC[:-30], "broken_file"),
    "empty": ("", "broken_file"),
    "blank": (" \r\n", "broken_file"),
    "latin without saying so": (
        _voc(head="<filename>tass\u00e9.png</filename>").encode("latin-1"),
        "broken_file",
    ),
    "unknown encoding": ("<?xml version='1.0' encoding='klingon'?>" + GOOD_VOC, "broken_file"),
    "two roots": (GOOD_VOC + GOOD_VOC, "broken_file"),
    "another root": ("<annotations/>", "unsupported"),
    "doctype": ("<!DOCTYPE annotation SYSTEM 'file:///etc/hostname'>" + GOOD_VOC, "unsupported"),
    "entities": (
        '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]>'
        + _voc(head="<filename>&c;</filename>"),
        "unsupported",
    ),
    "deep": ("<annotation>" * 100_000, "unsupported"),
    "no filename": (_voc(head=""), "missing_field"),
    "no object": (_voc(), "no_boxes"),
    "no picture": (_voc(_object("cup", 1, 1, 30, 20), "<filename>no.png</filename>"), "missing_file"),
    "out of the folder": (
        _voc(_object("cup", 1, 1, 9, 9), "<filename>../../x.png</filename>"),
        "unsafe_path",
    ),
    "absolute": (_voc(_object("cup", 1, 1, 9, 9), "<filename>/etc/x.png</filename>"), "unsafe_path"),
    "other size": (_voc(_object("cup", 1, 1, 9, 9), size_wh=(40, 60)), "unsupported"),
}


@pytest.mark.parametrize("case", BAD_VOC)
def test_a_bad_voc_file_costs_one_row(case, tmp_path):
    content, reason = BAD_VOC[case]
    write(tmp_path, "shelf/all/cup.png", PICTURE)
    write(tmp_path, "shelf/all/a.xml", GOOD_VOC)
    write(tmp_path, "shelf/all/b.xml", content)
    tables = _tables(tmp_path, "voc", "all")
    assert [(file, reason) for file, _, reason in dict.fromkeys(refused(tables))] == [("all/b.xml", reason)]
    assert _boxes(tables) == CANONICAL


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (_object("cup", "x", 1, 9, 9), "bad_box_format"),
        (_object("cup", "1_0", 1, 20, 9), "bad_box_format"),
        (_object("cup", "", 1, 9, 9), "bad_box_format"),
        (_object("cup", "nan", 1, 9, 9), "nan_box"),
        (_object("cup", 9, 1, 3, 9), "swapped_corners"),
        (_object("cup", 1, 1, 61, 9), "box_outside_picture"),
        ("<object><name>cup</name><robndbox><cx>9</cx></robndbox></object>", "missing_field"),
    ],
)
def test_a_bad_voc_box_costs_its_row_and_the_question(thing, reason, tmp_path):
    write(tmp_path, "shelf/all/cup.png", PICTURE)
    write(tmp_path, "shelf/all/a.xml", _voc(_object(*VOC_EDGES[2]) + _object(*VOC_EDGES[0]) + thing))
    tables = _tables(tmp_path, "voc", "all")
    # How many cups there are is asked at row 1; the bad box is row 2.
    assert refused(tables) == [("all/a.xml", 1, reason), ("all/a.xml", 2, reason)]
    assert _boxes(tables) == [PLATE]


def test_xml_in_any_encoding_and_with_any_line_ends(tmp_path):
    write(tmp_path, "shelf/all/cup.png", PICTURE)
    text = GOOD_VOC.replace("<object>", "\r\n  <object>\r\n").replace("plate", "tass\u00e9")
    for name, data in {
        "bom.xml": b"\xef\xbb\xbf" + text.encode(),
        "latin.xml": b"<?xml version='1.0' encoding='latin-1'?>" + text.encode("latin-1"),
        "wide.xml": text.encode("utf-16"),
    }.items():
        write(tmp_path, f"shelf/all/{name}", data)
        tables = _tables(tmp_path, "voc", f"all/{name}")
        assert _boxes(tables) == [*CUPS, ("tass\u00e9", *PLATE[1:])]


def test_a_folder_of_annotations_is_fingerprinted_file_by_file(tmp_path):
    write(tmp_path, "shelf/all/cup.png", PICTURE)
    write(tmp_path, "shelf/all/a.xml", GOOD_VOC)
    write(tmp_path, "shelf/all/b.xml", _voc())
    shelf, store = source(tmp_path / "shelf", "voc", annotations="all"), new_store(tmp_path)
    seen = fingerprint(shelf, store)
    assert seen["annotation_files"] == ["all/a.xml", "all/b.xml"]
    assert [entry["path"] for entry in seen["files"]] == ["all/a.xml", "all/b.xml", "all/cup.png"]
    write(tmp_path, "shelf/all/b.xml", _voc(size_wh=(1, 1)))
    assert fingerprint(shelf, store) != seen
    assert fingerprint(source(tmp_path, "voc", annotations="none"), store)["files"][0]["problem"]


# YOLO, as shares: middle x / 60, y / 40, width / 60, height / 40. The first cup: 15/60, 10/40, 30/60, 20/40; the
# second: 30/60, 20/40, 30/60, 20/40; the plate as a polygon around 42..60, 32..40: x 0.7 to 1, y 0.8 to 1.
YOLO_CUPS = "0 0.25 0.25 0.5 0.5\n0 0.5 0.5 0.5 0.5\n"
YOLO = YOLO_CUPS + "1 0.7 0.9 0.85 0.8 1 0.9 0.9 1 0.85 1\n"
DATA_YAML = "path: ../datasets/shelf\ntrain: images/train\nval: images/val\nnames: [cup, plate]\n"


def _yolo(tmp_path, labels=YOLO, data_yaml=DATA_YAML) -> None:
    write(tmp_path, "shelf/data.yaml", data_yaml)
    write(tmp_path, "shelf/images/train/cup.png", PICTURE)
    write(tmp_path, "shelf/labels/train/cup.txt", labels)


def test_yolo(tmp_path):
    _yolo(tmp_path)
    write(tmp_path, "shelf/images/val/cup.png", PICTURE)
    write(tmp_path, "shelf/labels/val/cup.txt", YOLO)
    tables = _tables(tmp_path, "yolo", "data.yaml", split="train")
    _is_canonical(tables)
    assert set(tables.examples["source_file"].to_pylist()) == {"labels/train/cup.txt"}
    # The same picture, asked the same, in both splits: three questions once more.
    assert refused(_tables(tmp_path, "yolo", "data.yaml")) == [
        ("labels/val/cup.txt", 0, "duplicate_example"),
        ("labels/val/cup.txt", 2, "duplicate_example"),
        ("labels/val/cup.txt", 2, "duplicate_example"),
    ]


@pytest.mark.parametrize(
    ("data_yaml", "options"),
    [
        ("train: ../images/train\nnames: {0: cup, 1: plate}\n", {}),
        ("train: [images/train/, ./images/train]\nnames: [cup, plate]\n", {}),
        ("path: images\ntrain: train\nnames: [cup, plate]\n", {}),
        ("train: images/list.txt\nnames: [cup, plate]\n", {}),
        ("train: /mnt/nowhere\nnames: [cup, plate]\n", {"images": "images/"}),
        ("names: [cup, plate]\n", {"images": "."}),
        ("\ufeffnames:\r\n- cup\r\n- plate\r\ntest: images\r\n", {"split": "test"}),
    ],
)
def test_yolo_pictures_are_found_however_their_folder_is_written(data_yaml, options, tmp_path):
    _yolo(tmp_path, "\ufeff" + YOLO.replace("\n", "\r\n") + "\r\n", data_yaml)
    write(tmp_path, "shelf/images/list.txt", "./train/cup.png\r\n\r\n")
    _is_canonical(_tables(tmp_path, "yolo", "data.yaml", **options))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        # A count of class 1 needs the plate at line 2 and the bad line 3, so line 2 is refused with it.
        ("1 0.5 0.5 0.1", [(2, "bad_box_format"), (3, "bad_box_format")]),
        ("1 0.5 0.5 0.1 0.1 0.9", [(2, "bad_box_format"), (3, "bad_box_format")]),
        ("1 0.5 0.5 x 0.1", [(2, "bad_box_format"), (3, "bad_box_format")]),
        ("1 nan 0.5 0.1 0.1", [(2, "nan_box"), (3, "nan_box")]),
        ("1 0.5 0.5 0 0.1", [(2, "zero_area_box"), (3, "zero_area_box")]),
        ("1 0.9 0.5 0.4 0.1", [(2, "box_outside_picture"), (3, "box_outside_picture")]),
        ("1 30 20 10 10", [(2, "box_outside_picture"), (3, "box_outside_picture")]),
        ("1 0.1 0.1 nan 0.1 0.2 0.2", [(2, "nan_box"), (3, "nan_box")]),
        ("1 0.1 0.1 x 0.1 0.2 0.2", [(2, "bad_box_format"), (3, "bad_box_format")]),
        ("1 .1 .1 .2 .1 .2 .2 .1 .2", [(2, "unsupported"), (3, "unsupported")]),
        ("7 0.5 0.5 0.1 0.1", [(3, "missing_field")]),
        ("-1 0.5 0.5 0.1 0.1", [(3, "missing_field")]),
        ("cup 0.5 0.5 0.1 0.1", [(3, "missing_field")]),
        ("1.5 0.5 0.5 0.1 0.1", [(3, "missing_field")]),
    ],
)
def test_a_bad_yolo_line_costs_its_row_and_the_question(line, found, tmp_path):
    _yolo(tmp_path, YOLO + line)
    tables = _tables(tmp_path, "yolo", "data.yaml", split="train")
    assert refused(tables) == [("labels/train/cup.txt", row, reason) for row, reason in found]
    assert _boxes(tables)[:2] == CUPS


def test_four_corners_are_a_polygon_if_the_user_says_so(tmp_path):
    _yolo(tmp_path, YOLO_CUPS + "1 0.7 0.8 1 0.8 1 1 0.7 1")
    _is_canonical(_tables(tmp_path, "yolo", "data.yaml", split="train", four_corners="polygon"))


def test_yolo_backgrounds_strays_and_unreadable_labels_are_counted(tmp_path):
    _yolo(tmp_path)
    for name in ("none", "empty", "wide"):
        write(tmp_path, f"shelf/images/train/{name}.png", PICTURE)
    write(tmp_path, "shelf/labels/train/empty.txt", "\r\n")
    write(tmp_path, "shelf/labels/train/wide.txt", YOLO.encode("utf-16"))
    write(tmp_path, "shelf/labels/train/deep/stray.txt", YOLO)
    assert refused(_tables(tmp_path, "yolo", "data.yaml", split="train")) == [
        ("labels/train/empty.txt", None, "no_boxes"),
        ("images/train/none.png", None, "no_boxes"),
        ("labels/train/wide.txt", None, "broken_file"),
        ("labels/train/deep/stray.txt", None, "unknown_image"),
    ]


def test_yolo_labels_may_lie_beside_the_pictures(tmp_path):
    write(tmp_path, "shelf/data.yaml", "train: flat\nnames: [cup, plate]\n")
    write(tmp_path, "shelf/flat/cup.png", PICTURE)
    write(tmp_path, "shelf/flat/cup.txt", YOLO)
    write(tmp_path, "shelf/flat/classes.txt", "cup\nplate\n")
    write(tmp_path, "shelf/flat/stray.txt", YOLO)
    tables = _tables(tmp_path, "yolo", "data.yaml")
    assert _boxes(tables) == CANONICAL
    assert refused(tables) == [("flat/stray.txt", None, "unknown_image")]


@pytest.mark.parametrize(
    ("data_yaml", "reason"),
    [
        ("", "broken_file"),
        ("names: [cup", "broken_file"),
        ("cup", "broken_file"),
        ("names: !!python/object/apply:os.getcwd []", "broken_file"),
        ("train: images/train", "missing_field"),
        ("train: images/train\nnames: {cup: 0}", "missing_field"),
        ("names: [cup]", "missing_field"),
        ("train: {a: 1}\nnames: [cup]", "missing_field"),
        ("train: images/nowhere\nnames: [cup]", "missing_file"),
        ("train: list.txt\nnames: [cup]", "missing_file"),
        ("train: /etc\nnames: [cup]", "unsafe_path"),
        ("a: &a [cup]\nnames: *a\ntrain: images/train", "unsupported"),
        ("train: images/train\nnames: [cup]\nkpt_shape: [17, 3]", "unsupported"),
    ],
)
def test_a_data_yaml_that_cannot_be_used_says_why(data_yaml, reason, tmp_path):
    _yolo(tmp_path, data_yaml=data_yaml)
    assert _only_refused(tmp_path, "yolo", "data.yaml") == [("data.yaml", None, reason)]


def test_a_yolo_list_cannot_lead_out_of_the_source(tmp_path):
    _yolo(tmp_path, data_yaml="train: list.txt\nnames: [cup]")
    write(tmp_path, "secret.png", PICTURE)
    write(tmp_path, "shelf/list.txt", "../secret.png\n/etc/secret.png\n")
    refusals = _only_refused(tmp_path, "yolo", "data.yaml")
    assert [reason for _, _, reason in refusals] == ["unsafe_path", "unsafe_path"]


def _shape(label, kind, *points, **more) -> dict:
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points]} | more


# The first cup by its upper right and lower left corner; the second by a polygon; the plate by four corners.
SHAPES = [
    _shape("cup", "rectangle", (30, 0), (0, 20), group_id=None),
    _shape("cup", "polygon", (15, 20), (30, 10), (45, 20), (30, 30)),
    _shape("plate", "rectangle", (42, 32), (60, 32), (60, 40), (42, 40)),
]


def _labelme(shapes, **fields) -> dict:
    head = {"imagePath": "../photos/cup.png", "imageWidth": 60, "imageHeight": 40, "imageData": None}
    return head | {"shapes": shapes} | fields


def test_labelme(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.json", _labelme(SHAPES, imagePath="..\\photos\\cup.png"))
    tables = _tables(tmp_path, "labelme", "marked")
    _is_canonical(tables)
    assert tables.images["file_name"].to_pylist() == ["photos/cup.png"]
    write(tmp_path, "shelf/marked/cup.json", _labelme(SHAPES, imagePath="C:\\mine\\cup.png"))
    _is_canonical(_tables(tmp_path, "labelme", "marked/cup.json", images="photos"))


def test_a_labelme_circle_is_the_box_around_it(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    # The middle at 20, 15; the point 3 to the right and 4 below lies 5 away: 15..25, 10..20.
    write(tmp_path, "shelf/marked/cup.json", _labelme([_shape("cup", "circle", (20, 15), (23, 19))]))
    assert _boxes(_tables(tmp_path, "labelme", "marked")) == [("cup", 15.0, 10.0, 25.0, 20.0)]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (_shape("plate", "line", (1, 1), (9, 9)), [(2, "unsupported"), (3, "unsupported")]),
        (_shape("plate", ["box"], (1, 1), (9, 9)), [(2, "unsupported"), (3, "unsupported")]),
        (_shape("plate", "polygon", (1, 1), (9, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "circle", (20, 15)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "circle", (20, 15), (float("nan"), 9)), [(2, "nan_box"), (3, "nan_box")]),
        (_shape("plate", "rectangle", (1, 1), (1, 9)), [(2, "zero_area_box"), (3, "zero_area_box")]),
        (_shape("plate", "rectangle", (1, 1), ("9", 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1), (True, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1), (10**400, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("plate", "rectangle", (1, 1, 2), (9, 9)), [(2, "bad_box_format"), (3, "bad_box_format")]),
        (
            _shape("plate", "rectangle", (1, 1), (70, 9)),
            [(2, "box_outside_picture"), (3, "box_outside_picture")],
        ),
        ({"label": "plate", "points": None}, [(2, "bad_box_format"), (3, "bad_box_format")]),
        (_shape("  ", "rectangle", (1, 1), (9, 9)), [(3, "missing_field")]),
        (_shape({"a": 1}, "rectangle", (1, 1), (9, 9), group_id=1), [(3, "missing_field")]),
        ("plate", [(3, "broken_json")]),
    ],
)
def test_a_bad_labelme_shape_costs_its_row_and_the_question(shape, found, tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.json", _labelme([*SHAPES, shape]))
    tables = _tables(tmp_path, "labelme", "marked")
    assert sorted(refused(tables)) == [("marked/cup.json", row, reason) for row, reason in found]
    assert _boxes(tables)[:2] == CUPS


def test_labelme_parts_of_one_thing_are_not_counted(tmp_path):
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    parts = [SHAPES[0] | {"group_id": 4}, SHAPES[1] | {"group_id": 4}, SHAPES[2] | {"group_id": 4}]
    write(tmp_path, "shelf/marked/cup.json", _labelme(parts))
    tables = _tables(tmp_path, "labelme", "marked")
    assert refused(tables) == [("marked/cup.json", 0, "unsupported")]
    assert _boxes(tables) == [PLATE]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"shapes": [', "broken_json"),
        ("", "broken_json"),
        ([1], "broken_json"),
        ("[" * 100_000, "broken_json"),
        (json.dumps(_labelme(SHAPES)).encode("utf-16"), "broken_json"),
        (_labelme(SHAPES, imagePath=None), "missing_field"),
        (_labelme(None), "missing_field"),
        (_labelme([]), "no_boxes"),
        (_labelme(SHAPES[2:], imagePath="no.png"), "missing_file"),
        (_labelme(SHAPES[2:], imagePath="../../secret.png"), "unsafe_path"),
        (_labelme(SHAPES[2:], imagePath="/etc/secret.png"), "unsafe_path"),
        (_labelme(SHAPES[2:], imageWidth=40, imageHeight=60), "unsupported"),
    ],
)
def test_a_bad_labelme_file_costs_its_row(content, reason, tmp_path):
    write(tmp_path, "secret.png", PICTURE)
    write(tmp_path, "shelf/photos/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/a.json", b"\xef\xbb\xbf" + json.dumps(_labelme(SHAPES)).encode())
    write(tmp_path, "shelf/marked/b.json", content)
    tables = _tables(tmp_path, "labelme", "marked")
    assert {(file, reason) for file, _, reason in refused(tables)} == {("marked/b.json", reason)}
    assert _boxes(tables) == CANONICAL


# The first cup stands on its side: 20 x 30 px about 15, 10 (5..25, -5..25), turned by 90 degrees to 30 x 20 px.
CVAT_SHAPES = """
<box label="cup" xtl="5" ytl="-5" xbr="25" ybr="25" rotation="90.0" occluded="0" z_order="0"/>
<polygon label="cup" points="15,20;30.0,10;45,20;30,30" occluded="0"/>
<box label="plate" xtl="42.00" ytl="32.00" xbr="60.00" ybr="40.00" occluded="1"/>
"""


def _cvat(shapes=CVAT_SHAPES, name='name="desk/cup.png"', more="") -> str:
    image = f'<image id="0" {name} width="60" height="40">{shapes}</image>'
    return f"<?xml version='1.0'?>\r\n<annotations><version>1.1</version><meta/>{image}{more}</annotations>"


def test_cvat(tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    write(tmp_path, "shelf/annotations.xml", _cvat())
    tables = _tables(tmp_path, "cvat", "annotations.xml")
    assert _boxes(tables) == CANONICAL
    # Row 0 is the picture, 1 to 3 are its shapes.
    assert _asked(tables) == [("count", "2", 1), ("count", "1", 3), ("where", "bottom right", 3)]
    assert tables.quarantine.num_rows == 0
    assert tables.images["file_name"].to_pylist() == ["images/desk/cup.png"]
    write(tmp_path, "shelf/desk/cup.png", PICTURE)
    told = _tables(tmp_path, "cvat", "annotations.xml", images=".")
    assert told.images["file_name"].to_pylist() == ["desk/cup.png"]


def test_a_turned_cvat_box_is_the_upright_box_around_it(tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    # 10 x 5 about 30, 20, turned by the angle of sine 0.6 and cosine 0.8: 10 * 0.8 + 5 * 0.6 = 11 wide,
    # 10 * 0.6 + 5 * 0.8 = 10 high: 24.5..35.5, 15..25.
    box = '<box label="cup" xtl="25" ytl="17.5" xbr="35" ybr="22.5" rotation="36.86989764584402"/>'
    write(tmp_path, "shelf/annotations.xml", _cvat(box))
    assert _boxes(_tables(tmp_path, "cvat", "annotations.xml")) == [("cup", 24.5, 15.0, 35.5, 25.0)]


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (
            '<box label="plate" xtl="x" ytl="1" xbr="9" ybr="9"/>',
            [(3, "bad_box_format"), (4, "bad_box_format")],
        ),
        ('<box label="plate" ytl="1" xbr="9" ybr="9"/>', [(3, "bad_box_format"), (4, "bad_box_format")]),
        (
            '<box label="plate" xtl="9" ytl="1" xbr="3" ybr="9"/>',
            [(3, "swapped_corners"), (4, "swapped_corners")],
        ),
        ('<box label="plate" xtl="nan" ytl="1" xbr="3" ybr="9"/>', [(3, "nan_box"), (4, "nan_box")]),
        (
            '<box label="plate" xtl="1" ytl="1" xbr="3" ybr="9" rotation="x"/>',
            [(3, "bad_box_format"), (4, "bad_box_format")],
        ),
        ('<polygon label="plate" points="1,1;2"/>', [(3, "bad_box_format"), (4, "bad_box_format")]),
        ('<polygon label="plate"/>', [(3, "bad_box_format"), (4, "bad_box_format")]),
        ('<polyline label="plate" points="1,1;2,2;3,1"/>', [(3, "unsupported"), (4, "unsupported")]),
        ('<mask label="plate" rle="1, 2"/>', [(3, "unsupported"), (4, "unsupported")]),
        ('<tag label="plate"/>', [(4, "unsupported")]),
        ('<box xtl="1" ytl="1" xbr="3" ybr="9"/>', [(4, "missing_field")]),
    ],
)
def test_a_bad_cvat_shape_costs_its_row_and_the_question(shape, found, tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    write(tmp_path, "shelf/annotations.xml", _cvat(CVAT_SHAPES + shape))
    tables = _tables(tmp_path, "cvat", "annotations.xml")
    assert refused(tables) == [("annotations.xml", row, reason) for row, reason in found]
    assert _boxes(tables)[:2] == CUPS


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ('<track id="0" label="cup"><box frame="0"/></track>', (4, "unsupported")),
        ("<note/>", (4, "unsupported")),
        ('<image id="1" width="60" height="40"/>', (4, "missing_field")),
        ('<image id="1" name="b.png" width="60" height="40"/>', (4, "no_boxes")),
    ],
)
def test_a_bad_cvat_element_costs_its_row(more, found, tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    write(tmp_path, "shelf/annotations.xml", _cvat(more=more))
    tables = _tables(tmp_path, "cvat", "annotations.xml")
    assert refused(tables) == [("annotations.xml", *found)]
    assert _boxes(tables) == CANONICAL


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_cvat()[:-9], "broken_file"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>", "unsupported"),
        ("<annotation/>", "unsupported"),
        (
            _cvat(CVAT_SHAPES[:1] + "<box label='a' xtl='1' ytl='1' xbr='2' ybr='2'/>", 'name="../../x.png"'),
            "unsafe_path",
        ),
    ],
)
def test_a_cvat_file_that_cannot_be_used_says_why(content, reason, tmp_path):
    write(tmp_path, "shelf/annotations.xml", content)
    assert {found[2] for found in _only_refused(tmp_path, "cvat", "annotations.xml")} == {reason}
