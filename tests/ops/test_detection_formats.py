"""Pascal VOC and CVAT: each by a sample written by hand on one 60 x 40 px picture, and its bad rows."""

import pytest

from ops.sources import fingerprint
from tests.ops.delivery import new_store, refused, source, write
from tests.ops.detection_samples import (
    CANONICAL,
    CUPS,
    PICTURE,
    PLATE,
    asked,
    boxes_of,
    is_canonical,
    only_refused,
    tables_of,
)

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
    tables = tables_of(tmp_path, "voc", "Annotations")
    is_canonical(tables)
    assert tables.images["file_name"].to_pylist() == ["JPEGImages/cup.png"]
    assert set(tables.examples["source_file"].to_pylist()) == {"Annotations/cup.xml"}
    is_canonical(tables_of(tmp_path, "voc", "Annotations/cup.xml"))


def test_voc_pictures_lie_where_the_option_says_or_beside_their_file(tmp_path):
    write(tmp_path, "shelf/marked/cup.png", PICTURE)
    write(tmp_path, "shelf/marked/cup.xml", GOOD_VOC)
    write(tmp_path, "shelf/elsewhere/cup.png", PICTURE)
    assert tables_of(tmp_path, "voc", "marked").images["file_name"].to_pylist() == ["marked/cup.png"]
    told = tables_of(tmp_path, "voc", "marked", images="elsewhere")
    assert told.images["file_name"].to_pylist() == ["elsewhere/cup.png"]


def test_voc_edges_from_zero_and_difficult_things(tmp_path):
    write(tmp_path, "shelf/cup.png", PICTURE)
    things = _object("cup", 0, 0, 30, 20, "<difficult>1</difficult>") + _object("plate", 42, 32, 60, 40)
    write(tmp_path, "shelf/xml/cup.xml", _voc(things))
    tables = tables_of(tmp_path, "voc", "xml", images=".", from_zero=True)
    assert boxes_of(tables) == [CUPS[0], PLATE]
    tables = tables_of(tmp_path, "voc", "xml", images=".", from_zero=True, difficult="refuse")
    assert boxes_of(tables) == [PLATE]
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
    tables = tables_of(tmp_path, "voc", "all")
    assert [(file, reason) for file, _, reason in dict.fromkeys(refused(tables))] == [("all/b.xml", reason)]
    assert boxes_of(tables) == CANONICAL


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
    tables = tables_of(tmp_path, "voc", "all")
    # How many cups there are is asked at row 1; the bad box is row 2.
    assert refused(tables) == [("all/a.xml", 1, reason), ("all/a.xml", 2, reason)]
    assert boxes_of(tables) == [PLATE]


def test_xml_in_any_encoding_and_with_any_line_ends(tmp_path):
    write(tmp_path, "shelf/all/cup.png", PICTURE)
    text = GOOD_VOC.replace("<object>", "\r\n  <object>\r\n").replace("plate", "tass\u00e9")
    for name, data in {
        "bom.xml": b"\xef\xbb\xbf" + text.encode(),
        "latin.xml": b"<?xml version='1.0' encoding='latin-1'?>" + text.encode("latin-1"),
        "wide.xml": text.encode("utf-16"),
    }.items():
        write(tmp_path, f"shelf/all/{name}", data)
        tables = tables_of(tmp_path, "voc", f"all/{name}")
        assert boxes_of(tables) == [*CUPS, ("tass\u00e9", *PLATE[1:])]


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
    tables = tables_of(tmp_path, "cvat", "annotations.xml")
    assert boxes_of(tables) == CANONICAL
    # Row 0 is the picture, 1 to 3 are its shapes.
    assert asked(tables) == [("count", "2", 1), ("count", "1", 3), ("where", "bottom right", 3)]
    assert tables.quarantine.num_rows == 0
    assert tables.images["file_name"].to_pylist() == ["images/desk/cup.png"]
    write(tmp_path, "shelf/desk/cup.png", PICTURE)
    told = tables_of(tmp_path, "cvat", "annotations.xml", images=".")
    assert told.images["file_name"].to_pylist() == ["desk/cup.png"]


def test_a_turned_cvat_box_is_the_upright_box_around_it(tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    # 10 x 5 about 30, 20, turned by the angle of sine 0.6 and cosine 0.8: 10 * 0.8 + 5 * 0.6 = 11 wide,
    # 10 * 0.6 + 5 * 0.8 = 10 high: 24.5..35.5, 15..25.
    box = '<box label="cup" xtl="25" ytl="17.5" xbr="35" ybr="22.5" rotation="36.86989764584402"/>'
    write(tmp_path, "shelf/annotations.xml", _cvat(box))
    assert boxes_of(tables_of(tmp_path, "cvat", "annotations.xml")) == [("cup", 24.5, 15.0, 35.5, 25.0)]


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
        (
            '<box label="plate" xtl="9" ytl="1" xbr="3" ybr="9" rotation="10"/>',
            [(3, "swapped_corners"), (4, "swapped_corners")],
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
    tables = tables_of(tmp_path, "cvat", "annotations.xml")
    assert refused(tables) == [("annotations.xml", row, reason) for row, reason in found]
    assert boxes_of(tables)[:2] == CUPS


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
    tables = tables_of(tmp_path, "cvat", "annotations.xml")
    assert refused(tables) == [("annotations.xml", *found)]
    assert boxes_of(tables) == CANONICAL


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
    assert {found[2] for found in only_refused(tmp_path, "cvat", "annotations.xml")} == {reason}


def test_a_track_is_told_how_to_be_exported(tmp_path):
    write(tmp_path, "shelf/images/desk/cup.png", PICTURE)
    write(tmp_path, "shelf/annotations.xml", _cvat(more='<track id="0" label="cup"/>'))
    (refusal,) = tables_of(tmp_path, "cvat", "annotations.xml").quarantine.to_pylist()
    assert "CVAT for images" in refusal["detail"]
