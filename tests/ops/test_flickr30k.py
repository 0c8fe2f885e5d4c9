"""Flickr30k Entities: phrases of captions become questions, their entity's boxes the evidence.

The picture is 60 x 40 px. xmin 16, ymin 11, xmax 45, ymax 20, pixels from 1 and the last included, are the edges 15,
10, 45, 20: the middle is 30, 15 px. xmin 1, ymin 21, xmax 20, ymax 40 are 0, 20, 20, 40: 10, 30 px, bottom left.
"""

import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import fingerprint
from tests.ops.delivery import encoded, new_store, pixels, refused, source, write

CUP = "<bndbox><xmin>16</xmin><ymin>11</ymin><xmax>45</xmax><ymax>20</ymax></bndbox>"
HAT = "<bndbox><xmin>1</xmin><ymin>21</ymin><xmax>20</xmax><ymax>40</ymax></bndbox>"
FLAT = "<bndbox><xmin>5</xmin><ymin>21</ymin><xmax>4</xmax><ymax>40</ymax></bndbox>"


def _thing(names, where):
    return f"<object>{''.join(f'<name>{name}</name>' for name in names)}{where}</object>"


def _xml(*things, size="<width>60</width><height>40</height><depth>3</depth>"):
    return f"<annotation><filename>7.png</filename><size>{size}</size>{''.join(things)}</annotation>"


def _source(tmp_path, xml, sentences):
    write(tmp_path, "shelf/pictures/7.png", encoded(pixels((60, 40))))
    if xml is not None:
        write(tmp_path, "shelf/Annotations/7.xml", xml)
    if sentences is not None:
        write(tmp_path, "shelf/Sentences/7.txt", sentences)
    return source(tmp_path / "shelf", "flickr30k", annotations="Annotations", options={"images": "pictures"})


def _normalised(tmp_path, xml, sentences):
    return normalise(_source(tmp_path, xml, sentences), new_store(tmp_path))


def test_phrases_ask_for_the_boxes_of_their_entity(tmp_path):
    xml = _xml(_thing([11, 12], CUP), _thing([12], HAT))
    text = "[/EN#11/other A red cup] beside [/EN#12/other/clothing a hat and a cup] .\n"
    tables = _normalised(tmp_path, xml, text)
    assert refused(tables) == []
    assert tables.examples["question"].to_pylist() == [
        "In which part of the picture is this: A red cup?",
        "In which part of the picture is this: a hat and a cup?",
    ]
    # The box around both is 0, 10, 45, 40: its middle is 22.5, 25 px, the middle third of 60 and of 40.
    assert tables.examples["answer"].to_pylist() == ["middle centre", "middle centre"]
    assert [tuple(row.values())[1:] for row in tables.boxes.to_pylist()] == [
        (0, 15.0, 10.0, 45.0, 20.0, "A red cup"),
        (0, 15.0, 10.0, 45.0, 20.0, "a hat and a cup"),
        (1, 0.0, 20.0, 20.0, 40.0, "a hat and a cup"),
    ]


@pytest.mark.parametrize(
    ("phrase", "reason", "said"),
    [
        ("[/EN#21/scene the kitchen]", "no_boxes", "whole scene"),
        ("[/EN#22/people someone]", "no_boxes", "not to be seen"),
        ("[/EN#0/notvisual it]", "no_boxes", "has no box"),
        ("[/EN#11/other A CUP]", "duplicate_example", None),
        ("[/EN#11/other   ]", "broken_file", "wanted [/EN#ID/TYPE words]"),
        ("[/EN#11 a cup]", "broken_file", "wanted [/EN#ID/TYPE words]"),
        ("[/EN#11/other a cup", "broken_file", "wanted [/EN#ID/TYPE words]"),
        ("[/EN#12/other a cup]", "unsupported", "name 2 entities of the picture: 11, 12"),
    ],
)
def test_a_phrase_that_cannot_be_asked_costs_its_row(phrase, reason, said, tmp_path):
    nowhere = "<{0}>1</{0}><nobndbox>{1}</nobndbox>"
    xml = _xml(
        _thing([11], CUP),
        _thing([12], HAT),
        _thing([21], nowhere.format("scene", 1)),
        _thing([22], "<scene>0</scene><nobndbox>1</nobndbox>"),
    )
    first = "a cup" if reason == "unsupported" else "A CUP"
    text = f"[/EN#12/other a hat] and [/EN#11/other {first}]\nand {phrase}\n"
    tables = _normalised(tmp_path, xml, text)
    seen = [row for row in refused(tables) if row[1] == 1]
    assert seen == [("Sentences/7.txt", 1, reason)]
    if said is not None:
        assert said in tables.quarantine["detail"].to_pylist()[-1]
    assert "a hat" in tables.boxes["label"].to_pylist()


def test_a_bad_box_costs_its_row_once_and_every_phrase_that_needs_it(tmp_path):
    xml = _xml(_thing([11], CUP), _thing([13], FLAT), _thing([14], "<bndbox><xmin>5</xmin></bndbox>"))
    text = "[/EN#11/other a cup]\n[/EN#13/other a line]\n[/EN#13/other the line]\n"
    tables = _normalised(tmp_path, xml, text)
    # xmin 5 to xmax 4 is the edge 4 to the edge 4: no area.
    assert refused(tables) == [
        ("Sentences/7.txt", 1, "zero_area_box"),
        ("Sentences/7.txt", 2, "zero_area_box"),
        ("Annotations/7.xml", 1, "zero_area_box"),
        ("Annotations/7.xml", 2, "bad_box_format"),
    ]


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("xml", "text", "expected"),
    [
        (
            ENTITY + _xml(_thing([1], CUP)),
            "[/EN#1/other a]",
            [("xml", None, "unsupported"), ("txt", 0, "no_boxes")],
        ),
        (
            _xml(_thing([1], CUP))[:-5],
            "[/EN#1/other a]",
            [("xml", None, "broken_file"), ("txt", 0, "no_boxes")],
        ),
        (None, "[/EN#1/other a]", [("txt", 0, "no_boxes")]),
        (_xml(_thing([1], CUP)), None, [("xml", None, "no_question")]),
        (_xml(_thing([1], CUP)), "A cup.\n", [("txt", None, "no_question")]),
        (_xml(_thing([1], CUP)), b"[/EN#1/other caf\xe9]", [("txt", 0, "broken_file")]),
        (
            _xml(_thing([1], CUP), size="<width>40</width><height>60</height>"),
            "[/EN#1/other a]",
            [("txt", 0, "unsupported")],
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(xml, text, expected, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        _normalised(tmp_path, xml, text)
    folders = {"xml": "Annotations", "txt": "Sentences"}
    named = [(f"{folders[kind]}/7.{kind}", row, reason) for kind, row, reason in expected]
    got = refused(caught.value.tables)
    assert [row for row in got if "/" in row[0]] == named  # a folder that is not there is a row too


def test_every_file_of_both_folders_is_fingerprinted(tmp_path):
    told = _source(tmp_path, _xml(_thing([11], CUP)), "[/EN#11/other a cup]\n")
    seen = fingerprint(told, new_store(tmp_path))
    assert seen["annotation_files"] == ["Annotations/7.xml"]
    paths = ["Annotations/7.xml", "Sentences/7.txt", "pictures/7.png"]
    assert [file["path"] for file in seen["files"]] == paths
