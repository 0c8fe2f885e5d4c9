"""Questions by templates: what each asks, which boxes are its evidence, and that labels stay plain text."""

import re

import pytest

from ops.boxes import Box
from ops.normalise import normalise
from ops.questions import OF_DETECTIONS, TEMPLATES, UnaskableError, ask
from ops.sources import SourceError, load_sources
from tests.ops.delivery import coco, encoded, new_store, pixels, refused, source, write

SIZE_WH = (60, 40)
# Ninths of 60 x 40 px: columns end at 20, 40, 60; rows at 13.3, 26.7, 40.
LEFT, RIGHT = Box(2, 16, 12, 24), Box(45, 14, 55, 26)  # middles (7, 20) and (50, 20)


def _tables(folder, boxes, names=("cup", "plate"), **options):
    write(folder, "shelf.png", encoded(pixels(SIZE_WH)))
    entries = [
        {
            "id": n,
            "image_id": 1,
            "category_id": category,
            "bbox": [box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1],
        }
        for n, (category, box) in enumerate(boxes)
    ]
    content = coco([{"id": 1, "file_name": "shelf.png"}], entries)
    content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    write(folder, "annotations.json", content)
    return normalise(source(folder, options=options), new_store(folder))


def _said(tables):
    """Kind, answer and evidence boxes of each question."""
    rows = tables.boxes.to_pylist()
    keys = ("x1_px", "y1_px", "x2_px", "y2_px")
    return [
        (
            row["question_kind"],
            row["answer"],
            [Box(*(box[key] for key in keys)) for box in rows if box["example_id"] == row["example_id"]],
        )
        for row in tables.examples.to_pylist()
    ]


def test_each_template_has_its_own_evidence(tmp_path):
    second_plate = Box(25, 30, 35, 38)  # middle (30, 34): bottom centre
    boxes = [(1, LEFT), (2, RIGHT), (2, second_plate), (3, Box(46, 30, 56, 38))]  # the knife: bottom right
    tables = _tables(
        tmp_path, boxes, ("cup", "plate", "knife"), templates=["count", "where", "what", "relation"]
    )
    # One cup, two plates, one knife; the cup is alone with the knife, but across a corner: 46 > 12 and 30 > 24.
    assert _said(tables) == [
        ("count", "1", [LEFT]),
        ("where", "middle left", [LEFT]),
        ("what", "cup", [LEFT]),
        ("count", "2", [RIGHT, second_plate]),
        ("what", "plate", [RIGHT]),
        ("what", "plate", [second_plate]),
        ("count", "1", [boxes[3][1]]),
        ("where", "bottom right", [boxes[3][1]]),
        ("what", "knife", [boxes[3][1]]),
    ]
    assert refused(tables) == [("annotations.json", 0, "unsupported")]
    assert "both left and above" in tables.quarantine["detail"][0].as_py()


def test_count_and_where_are_asked_unless_told_otherwise(tmp_path):
    assert [kind for kind, *_ in _said(_tables(tmp_path, [(1, LEFT)]))] == ["count", "where"]
    assert [kind for kind, *_ in _said(_tables(tmp_path, [(1, LEFT)], templates=["where"]))] == ["where"]


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        (LEFT, RIGHT, "left of"),
        (RIGHT, LEFT, "right of"),
        (Box(20, 2, 40, 8), Box(25, 8, 30, 38), "above"),  # they touch at y 8
        (Box(25, 9, 30, 38), Box(20, 2, 40, 8), "below"),
    ],
)
def test_a_relation_has_both_boxes_and_is_that_of_the_first_to_the_second(one, other, answer, tmp_path):
    tables = _tables(tmp_path, [(1, one), (2, other)], templates=["relation"])
    assert _said(tables) == [("relation", answer, [one, other])]
    (row,) = tables.examples.to_pylist()
    assert row["question"] == "Is the cup left of, right of, above or below the plate?"
    assert row["reasoning"] == f"The cup is {answer} the plate."


def test_things_that_overlap_or_are_not_alone_have_no_relation(tmp_path):
    boxes = [(1, LEFT), (2, Box(10, 20, 30, 30)), (3, Box(45, 20, 50, 25))]
    overlapping = _tables(tmp_path / "a", boxes, ("a", "b", "c"), templates=["relation"])
    assert [answer for _, answer, _ in _said(overlapping)] == ["left of"]
    assert refused(overlapping) == [("annotations.json", 0, "unsupported")]
    twice = [(1, LEFT), (1, Box(2, 2, 5, 5)), (2, RIGHT)]
    told = _tables(tmp_path / "b", twice, templates=["relation", "where"])
    assert [kind for kind, *_ in _said(told)] == ["where"]


def test_what_is_refused_where_two_things_share_a_place(tmp_path):
    near = Box(4, 15, 10, 20)  # middle (7, 17.5): middle left, as the first
    tables = _tables(tmp_path, [(1, LEFT), (2, near), (2, RIGHT)], templates=["what"])
    assert _said(tables) == [("what", "plate", [RIGHT])]
    assert refused(tables) == [("annotations.json", n, "unsupported") for n in (0, 1)]
    assert "2 things have their middle at the middle left" in tables.quarantine["detail"][0].as_py()


def test_what_needs_every_box_of_the_picture(tmp_path):
    tables = _tables(
        tmp_path,
        [(1, LEFT), (2, Box(50, 30, 70, 38)), (3, RIGHT)],
        ("a", "b", "c"),
        templates=["count", "what"],
    )
    # The second sticks out of the picture: its own row, its count, and all three questions about a place.
    assert [kind for kind, *_ in _said(tables)] == ["count", "count"]
    assert [row for _, row, _ in refused(tables)] == [0, 1, 1, 2, 1]


@pytest.mark.parametrize(
    "label",
    ["{place}", "{0.__class__}", "{}", "{label}{label}", "a } b {", r"\g<0>", "'; DROP TABLE x; --", "%s"],
)
def test_a_label_is_plain_text(label, tmp_path):
    tables = _tables(tmp_path, [(1, LEFT), (2, RIGHT)], (label, "{relation}"), templates=list(OF_DETECTIONS))
    rows = tables.examples.to_pylist()
    assert [row["answer"] for row in rows if row["question_kind"] == "what"] == [label, "{relation}"]
    assert rows[0]["question"] == f"How many things of the kind '{label}' are in the picture?"
    (related,) = [row for row in rows if row["question_kind"] == "relation"]
    assert related["question"] == f"Is the {label} left of, right of, above or below the {{relation}}?"
    refused(tables)


def test_other_wordings_of_an_answer_are_accepted():
    asked = ask("where", ["cup"], [Box(25, 16, 35, 24)], SIZE_WH)
    assert (asked.answer, asked.accepted_answers) == ("middle centre", ("middle center",))
    related = ask("relation", ["cup", "plate"], [LEFT, RIGHT], SIZE_WH)
    assert related.accepted_answers == ("left", "to the left", "to the left of")
    assert ask("count", ["cup"], [LEFT, RIGHT], SIZE_WH).accepted_answers == ()


def test_a_template_with_another_number_of_boxes_is_an_error():
    with pytest.raises(ValueError, match="'relation' with two boxes"):
        ask("relation", ["cup"], [LEFT], SIZE_WH)
    with pytest.raises(ValueError, match="template 'why' with 1 boxes"):
        ask("why", ["cup"], [LEFT], SIZE_WH)
    with pytest.raises(UnaskableError):
        ask("what", ["cup"], [LEFT], SIZE_WH, [LEFT])


def test_every_template_says_only_words_that_it_has():
    known = {"all": {"label", "count"}, "pair": {"label", "other", "relation"}}
    for name, template in TEMPLATES.items():
        assert set(template) == {"about", "question", "answer", "answer_type", "reasoning"}, name
        texts = template["question"] + template["answer"] + template["reasoning"]
        words = set(re.findall(r"\{(\w+)\}", texts))
        assert words <= known.get(template["about"], {"label", "place"}), name


@pytest.mark.parametrize("value", [[], "count", ["count", "count"], ["why"], ["phrase"], [["count"]], [5]])
def test_templates_that_are_none_are_told_at_load(value, tmp_path):
    entry = f"{{name: a, format: coco, location: x, annotations: a.json, options: {{templates: {value!r}}}}}"
    (tmp_path / "sources.yaml").write_text(f"sources: [{entry}]")
    with pytest.raises(SourceError, match="wanted a list, each once, of count, where, what, relation"):
        load_sources(tmp_path / "sources.yaml", "var")
