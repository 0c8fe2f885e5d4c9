"""RefCOCO on a 60 x 40 px picture: questions, evidence, what is refused, and that no pickle is opened."""

import pickle

import pytest

from ops.normalise import NothingLeft
from tests.ops.cup_and_plate import CUP, CUP_XYXY, PLATE, PLATE_XYXY, details, said, tables_of, where
from tests.ops.delivery import coco, encoded, pixels, refused, write


def _refcoco(folder, refs, name="refs.json"):
    write(folder, "train2014/shelf.png", encoded(pixels((60, 40))))
    images = [
        {"id": 7, "file_name": "shelf.png", "width": 60, "height": 40},
        {"id": 8, "file_name": "no.png"},
    ]
    boxes = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": CUP},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": PLATE},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [50, 30, 20, 5]},  # ends at x 70 of 60
    ]
    write(folder, "instances.json", coco(images, boxes))
    write(folder, name, refs)
    options = {"images": "train2014"}
    return {"annotations": "instances.json", "questions": name, "options": options}


def _ref(ann_id=1, *sentences, **fields):
    sents = [{"sent": sentence} for sentence in sentences or ("the small cup",)]
    return {"ref_id": 9, "image_id": 7, "ann_id": ann_id, "split": "val", "sentences": sents} | fields


def test_a_sentence_of_refcoco_asks_for_the_place_of_its_box(tmp_path):
    refs = [_ref(1, "the small cup", "cup {place}"), _ref(2, sentences=["plate on the right"])]
    tables = tables_of(tmp_path, "refcoco", **_refcoco(tmp_path, refs))
    assert said(tables) == [
        (where("the small cup"), "top left", [CUP_XYXY]),
        (where("cup {place}"), "top left", [CUP_XYXY]),
        (where("plate on the right"), "bottom right", [PLATE_XYXY]),
    ]
    assert tables.boxes["label"].to_pylist()[0] == "the small cup"
    assert tables.examples["source_row"].to_pylist() == [0, 0, 1]
    # The third annotation sticks out of the picture, though no ref names it.
    assert refused(tables) == [("instances.json", 2, "box_outside_picture")]


def test_refs_that_cannot_be_used_are_refused(tmp_path):
    refs = [
        _ref(),
        _ref(99),  # no such annotation
        _ref(3),  # sticks out
        _ref(1, "", "the cup"),  # one empty sentence of two
        _ref(sentences=[]),
        _ref(image_id=6),
        _ref(image_id=8),  # the annotation stands on another picture
        "ref",
        _ref(),  # again
    ]
    tables = tables_of(tmp_path, "refcoco", **_refcoco(tmp_path, refs))
    assert [answer for _, answer, _ in said(tables)] == ["top left", "top left"]
    assert refused(tables) == [
        ("refs.json", 1, "no_boxes"),
        ("refs.json", 2, "box_outside_picture"),
        ("refs.json", 3, "no_question"),
        ("refs.json", 4, "no_question"),
        ("refs.json", 5, "unknown_image"),
        ("refs.json", 6, "no_boxes"),
        ("refs.json", 7, "broken_json"),
        ("instances.json", 2, "box_outside_picture"),
        ("refs.json", 8, "duplicate_example"),
    ]


class _Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(("name", "protocol"), [("refs(unc).p", 0), ("refs(umd).P", 2), ("refs.json", 2)])
def test_a_pickle_is_not_opened(name, protocol, tmp_path):
    fields = _refcoco(tmp_path, pickle.dumps(_Bomb(tmp_path / "ran"), protocol), name)
    with pytest.raises(NothingLeft) as caught:
        tables_of(tmp_path, "refcoco", **fields)
    assert refused(caught.value.tables) == [(name, None, "unsupported")]
    assert "json.dump(pickle.load(" in details(caught.value.tables)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", ["{", {"refs": []}, ""])
def test_refs_that_are_no_list_cost_the_file(content, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        tables_of(tmp_path, "refcoco", **_refcoco(tmp_path, content))
    assert refused(caught.value.tables) == [("refs.json", None, "broken_json")]
    with pytest.raises(NothingLeft, match="wanted the file of refs under 'questions'"):
        tables_of(tmp_path, "refcoco", annotations="instances.json")
