"""Detection formats beside COCO: each by a sample written by hand on one 60 x 40 px picture, and its bad rows.

Every sample holds the boxes of CANONICAL, or those that its comment works out. Answers: two cups are asked how
many; the one plate is asked how many and where.
"""

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
