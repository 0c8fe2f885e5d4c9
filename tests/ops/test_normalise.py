"""Bad input: each bad row costs one row of the quarantine with its reason and place, and nothing else."""

import json
import os

import numpy as np
import pytest

from ops.normalise import NothingLeft, normalise
from storage.tables import encode_table
from tests.ops.delivery import (
    coco,
    conserved,
    encoded,
    json_lines,
    new_store,
    pixels,
    question,
    refused,
    source,
    turned,
    write,
)

GOOD = {"id": 1, "file_name": "good.png", "width": 7, "height": 5}
GOOD_BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2]}


def _asked(tmp_path, questions, images=(), boxes=(), options=None):
    """Normalise questions about a good picture and whatever else is given."""
    write(tmp_path, "shelf/good.png", encoded(pixels()))
    write(tmp_path, "shelf/annotations.json", coco([GOOD, *images], [GOOD_BOX, *boxes]))
    content = questions if isinstance(questions, bytes) else json_lines(questions).encode()
    write(tmp_path, "shelf/questions.jsonl", content)
    shelf = source(tmp_path / "shelf", questions="questions.jsonl", options=options or {})
    return normalise(shelf, new_store(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image_id": 1, "question": "What', "broken_json"),
        ("[1, 2]", "broken_json"),
        ("7", "broken_json"),
        ("[" * 100_000, "broken_json"),
        ('{"image_id": ' + "9" * 5000 + "}", "missing_field"),
        (question(9), "unknown_image"),
        (question("1"), "unknown_image"),
        (question(True), "missing_field"),
        (question(None), "missing_field"),
        (question(1.0), "missing_field"),
        ({"image_id": 1, "answer": "cup", "annotation_ids": [1]}, "no_question"),
        (question(question="  "), "no_question"),
        (question(question=["What?"]), "no_question"),
        ({"image_id": 1, "question": "What?", "annotation_ids": [1]}, "no_answer"),
        (question(answer=None), "no_answer"),
        (question(answer=""), "no_answer"),
        (question(answer=False), "no_answer"),
        (question(answer={"text": "cup"}), "no_answer"),
        (question(answer=float("nan")), "no_answer"),
        (question(annotation_ids=[]), "no_boxes"),
        (question(annotation_ids=[8]), "no_boxes"),
        (question(annotation_ids=[True]), "missing_field"),
        (question(annotation_ids="1"), "missing_field"),
        ({"image_id": 1, "question": "What?", "answer": "cup"}, "missing_field"),
        (question(answer_type="essay"), "unsupported"),
        (question(condition="odd"), "unsupported"),
        (question(reasoning=["so"]), "unsupported"),
        (question(accepted_answers="mug"), "unsupported"),
        (question(question="half \ud83d"), "broken_json"),
        (question(answer="cup", reasoning="other words"), "duplicate_example"),
    ],
)
def test_a_bad_question_costs_its_row(line, reason, tmp_path):
    tables = _asked(tmp_path, [question(), "", line, question(answer="mug")])
    # The blank line is no row, but counts as a line: the bad one is line 2, the last good one line 3.
    assert refused(tables) == [("questions.jsonl", 2, reason)]
    assert tables.examples["source_row"].to_pylist() == [0, 3]
    assert tables.counts["rows_in"] == 3


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([6, 1, 2, 2], "box_outside_picture"),
        ([4, 1, -2, 2], "swapped_corners"),
        ([4, 1, 0, 2], "zero_area_box"),
        ([4, float("nan"), 2, 2], "nan_box"),
        ([4, 1, 1e999, 2], "nan_box"),
        ([4, 1, 10**400, 2], "bad_box_format"),
        (["4", "1", "2", "2"], "bad_box_format"),
        ([True, True, True, True], "bad_box_format"),
        ("[4, 1, 2, 2]", "bad_box_format"),
        (None, "bad_box_format"),
    ],
)
def test_a_bad_box_costs_its_row_once_and_every_question_that_needs_it(bbox, reason, tmp_path):
    bad = {"id": 2, "image_id": 1, "category_id": 1, "bbox": bbox}
    rows = [question(), question(1, [1, 2], answer="two"), question(1, [2], answer="one")]
    tables = _asked(tmp_path, rows, boxes=[bad])
    assert refused(tables) == [
        ("questions.jsonl", 1, reason),
        ("questions.jsonl", 2, reason),
        ("annotations.json", 1, reason),
    ]
    assert tables.counts == {"rows_in": 4, "rows_out": 1, "quarantined": 3}
    assert "annotations[1]" in tables.quarantine["detail"][0].as_py()
    assert json.loads(tables.quarantine["raw"][2].as_py())["id"] == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": 2, "image_id": 9, "bbox": [1, 1, 2, 2]}, "unknown_image"),
        ({"id": 2, "bbox": [1, 1, 2, 2]}, "missing_field"),
        ({"id": [2], "image_id": 1, "bbox": [1, 1, 2, 2]}, "missing_field"),
        ("box", "broken_json"),
    ],
)
def test_a_bad_annotation_entry_costs_its_row(entry, reason, tmp_path):
    tables = _asked(tmp_path, [question()], boxes=[entry])
    assert refused(tables) == [("annotations.json", 1, reason)]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"id": 2}, "missing_field"),
        ({"id": 2, "file_name": ""}, "missing_field"),
        ({"id": 2, "file_name": 5}, "missing_field"),
        ({"file_name": "good.png"}, "missing_field"),
        ({"id": 1, "file_name": "good.png"}, "duplicate_example"),
        (None, "broken_json"),
    ],
)
def test_a_bad_image_entry_costs_its_row(entry, reason, tmp_path):
    tables = _asked(tmp_path, [question()], images=[entry])
    assert refused(tables) == [("annotations.json", 1, reason)]


def test_an_annotation_id_that_two_boxes_share_answers_no_question(tmp_path):
    twin = GOOD_BOX | {"bbox": [0, 0, 1, 1]}
    third = GOOD_BOX | {"id": 3}
    tables = _asked(tmp_path, [question(), question(1, [3])], boxes=[twin, third])
    assert refused(tables) == [("questions.jsonl", 0, "no_boxes")]


def test_evidence_on_another_picture_isrefused(tmp_path):
    other = {"id": 2, "file_name": "good.png"}
    tables = _asked(tmp_path, [question(), question(2, [1])], images=[other])
    assert refused(tables) == [("questions.jsonl", 1, "no_boxes")]


def _bad_pictures() -> dict[str, bytes]:
    jpeg = encoded(pixels((70, 50)), "JPEG")
    return {
        "text.png": b"<html>not found</html>",
        "empty.png": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "large.png": encoded(np.zeros((50, 60, 3), np.uint8)),
    }


@pytest.mark.parametrize(
    ("file_name", "reason"),
    [
        ("nowhere.png", "missing_file"),
        ("folder", "unreadable_file"),
        ("pipe", "unreadable_file"),
        ("text.png", "undecodable_picture"),
        ("empty.png", "undecodable_picture"),
        ("truncated.jpg", "undecodable_picture"),
        ("large.png", "picture_too_large"),
        ("../secret.png", "unsafe_path"),
        ("images/../../secret.png", "unsafe_path"),
        ("/etc/hostname", "unsafe_path"),
        ("link.png", "unsafe_path"),
        ("linked/secret.png", "unsafe_path"),
        ("a\\b.png", "unsafe_path"),
        ("nul\0.png", "unsafe_path"),
        ("x" * 5000, "unreadable_file"),
        ("loop.png", "unreadable_file"),
    ],
)
def test_a_picture_that_cannot_be_had_costs_its_questions(file_name, reason, tmp_path):
    for name, data in _bad_pictures().items():
        write(tmp_path, f"shelf/{name}", data)
    write(tmp_path, "secret.png", encoded(pixels()))
    (tmp_path / "shelf/folder").mkdir()
    os.mkfifo(tmp_path / "shelf/pipe")
    (tmp_path / "shelf/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "shelf/linked").symlink_to(tmp_path)
    (tmp_path / "shelf/loop.png").symlink_to(tmp_path / "shelf/loop.png")
    bad = {"id": 2, "file_name": file_name}
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}
    rows = [question(), question(2, [2]), question(2, [2], answer="mug")]
    tables = _asked(tmp_path, rows, images=[bad], boxes=[box], options={"max_pixels": 50 * 60 - 1})
    assert refused(tables) == [("questions.jsonl", 1, reason), ("questions.jsonl", 2, reason)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_picture_without_permission_is_unreadable(tmp_path):
    write(tmp_path, "shelf/locked.png", encoded(pixels()))
    (tmp_path / "shelf/locked.png").chmod(0)
    bad = {"id": 2, "file_name": "locked.png"}
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}
    tables = _asked(tmp_path, [question(), question(2, [2])], images=[bad], boxes=[box])
    assert refused(tables) == [("questions.jsonl", 1, "unreadable_file")]


def test_a_link_inside_the_folder_is_followed(tmp_path):
    write(tmp_path, "shelf/real/cup.png", encoded(pixels(seed=1)))
    (tmp_path / "shelf/cup.png").symlink_to("real/cup.png")
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}
    tables = _asked(tmp_path, [question(2, [2])], images=[{"id": 2, "file_name": "cup.png"}], boxes=[box])
    assert refused(tables) == []


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    lines = [json.dumps(question()), json.dumps(question(answer="tasse à café"), ensure_ascii=False)]
    tables = _asked(tmp_path, b"\xef\xbb\xbf" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    assert refused(tables) == []
    assert tables.examples["answer"].to_pylist() == ["cup", "tasse à café"]


def test_a_line_that_is_not_utf8_costs_that_line(tmp_path):
    good = json.dumps(question()).encode()
    tables = _asked(tmp_path, b'{"question": "\xff"}\n' + good)
    assert refused(tables) == [("questions.jsonl", 0, "broken_json")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing_file"),
        (b"", "broken_json"),
        (b" \n", "broken_json"),
        (b"{", "broken_json"),
        (b"\xff\xfe{}", "broken_json"),
        (b"[]", "broken_json"),
        (b"null", "broken_json"),
        (b'{"images": 5, "annotations": []}', "missing_field"),
        (b'{"images": []}', "missing_field"),
        (b'{"images": [], "annotations": []}', None),
    ],
)
def test_a_source_with_nothing_left_says_so_once(content, reason, tmp_path):
    (tmp_path / "shelf").mkdir()
    if content is not None:
        write(tmp_path, "shelf/annotations.json", content)
    with pytest.raises(NothingLeft) as caught:
        normalise(source(tmp_path / "shelf"), new_store(tmp_path))
    tables = caught.value.tables
    assert set(tables.quarantine["reason"].to_pylist()) == ({reason} if reason else set())
    assert (reason or "no rows at all") in str(caught.value)
    assert "'shelf'" in str(caught.value)
    conserved(tables)


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(NothingLeft, match="missing_file 1"):
        normalise(source(tmp_path / "nowhere"), new_store(tmp_path))
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_questions_file_is_one_row(tmp_path):
    write(tmp_path, "shelf/good.png", encoded(pixels()))
    write(tmp_path, "shelf/annotations.json", coco([GOOD], [GOOD_BOX]))
    with pytest.raises(NothingLeft) as caught:
        normalise(source(tmp_path / "shelf", questions="questions.jsonl"), new_store(tmp_path))
    assert refused(caught.value.tables) == [("questions.jsonl", None, "missing_file")]


def test_the_size_is_the_pictures_own_and_another_annotated_size_isrefused(tmp_path):
    # Stored 7 wide and 5 high, turned by EXIF to 5 wide and 7 high.
    write(tmp_path, "shelf/turned.png", turned(pixels(seed=2), 6))
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 5, 5, 2]}  # fits 5 x 7 only
    named = {"id": 2, "file_name": "turned.png"}
    rows = [question(), question(2, [2])]
    for size in ({"width": 5, "height": 7}, {}, {"width": "7", "height": True}, {"width": 0, "height": 0}):
        tables = _asked(tmp_path, rows, images=[named | size], boxes=[box])
        assert refused(tables) == []
        assert tables.images.to_pylist()[1]["width_px"] == 5
        assert tables.images.to_pylist()[1]["height_px"] == 7
    stored = named | {"width": 7, "height": 5}
    tables = _asked(tmp_path, rows, images=[stored], boxes=[box])
    assert refused(tables) == [("questions.jsonl", 1, "unsupported")]
    detail = tables.quarantine["detail"][0].as_py()
    assert "annotated as 7 x 5 px, but upright it is 5 x 7 px (stored 7 x 5, turned by EXIF)" in detail
    tables = _asked(tmp_path, rows, images=[stored], boxes=[box], options={"annotated_size": "ignore"})
    assert refused(tables) == []


def test_boxes_are_clipped_only_when_asked_for(tmp_path):
    wide = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [5, 3, 9, 9]}
    tables = _asked(tmp_path, [question(1, [2])], boxes=[wide], options={"clip_boxes": True})
    assert refused(tables) == []
    assert tables.boxes.to_pylist()[0]["x2_px"] == 7.0
    assert tables.examples["evidence_area_frac"][0].as_py() == pytest.approx(2 * 2 / 35)


def test_a_picture_whose_first_question_is_refused_is_stored_with_the_second(tmp_path):
    flat = {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 2]}
    bad = [question(1, [2], answer=f"{number}") for number in range(30)]  # more than are opened ahead
    tables = _asked(tmp_path, [*bad, question()], boxes=[flat])
    assert tables.images["bytes"].to_pylist() == [encoded(pixels())]
    assert tables.examples["source_row"].to_pylist() == [30]


def test_what_comes_again_takes_its_own_boxes_along(tmp_path):
    more = {"id": 2, "image_id": 1, "category_id": 2, "bbox": [3, 1, 2, 2]}
    rows = [
        question(1, [1, 2], answer="both"),
        question(),
        question(1, [1, 2], answer="both"),
        question(1, [2]),
    ]
    tables = _asked(tmp_path, [*rows, question(9), question()], boxes=[more])
    assert refused(tables) == [
        ("questions.jsonl", 2, "duplicate_example"),
        ("questions.jsonl", 4, "unknown_image"),
        ("questions.jsonl", 5, "duplicate_example"),
    ]
    of_example = dict(zip(tables.examples["example_id"].to_pylist(), (0, 1, 3), strict=True))
    found = [
        (of_example[row["example_id"]], row["box_index"], row["label"]) for row in tables.boxes.to_pylist()
    ]
    assert found == [(0, 0, "cup"), (0, 1, "plate"), (1, 0, "cup"), (3, 0, "plate")]


def test_one_picture_under_two_names_is_one_row(tmp_path):
    write(tmp_path, "shelf/copy.png", encoded(pixels()))
    box = {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}
    tables = _asked(
        tmp_path, [question(), question(2, [2])], images=[{"id": 2, "file_name": "copy.png"}], boxes=[box]
    )
    assert tables.images["file_name"].to_pylist() == ["good.png"]
    assert tables.examples.num_rows == 2


def test_example_ids_do_not_depend_on_the_place_in_the_file(tmp_path):
    rows = [question(answer=answer) for answer in ("cup", "mug", "bowl")]
    first = {row["answer"]: row["example_id"] for row in _asked(tmp_path, rows).examples.to_pylist()}
    more = [question(answer="jar"), *reversed(rows)]
    second = {row["answer"]: row["example_id"] for row in _asked(tmp_path, more).examples.to_pylist()}
    assert first.items() < second.items()


def test_the_same_delivery_gives_the_same_bytes(tmp_path):
    tables = [_asked(tmp_path, [question(), question(9), question(answer="")]) for _ in range(2)]
    for name in ("images", "examples", "boxes", "quarantine"):
        assert encode_table(name, getattr(tables[0], name)) == encode_table(name, getattr(tables[1], name))


def _detected(tmp_path, images, boxes):
    write(tmp_path, "shelf/good.png", encoded(pixels()))
    write(tmp_path, "shelf/annotations.json", coco([GOOD, *images], [GOOD_BOX, *boxes]))
    return normalise(source(tmp_path / "shelf"), new_store(tmp_path))


def test_detections_of_every_bad_kind_areconserved(tmp_path):
    write(tmp_path, "shelf/two.png", encoded(pixels(seed=5)))
    images = [
        {"id": 2, "file_name": "two.png"},
        {"id": 3, "file_name": "nowhere.png"},
        {"id": 4, "file_name": "two.png"},
        {"id": 5},
    ]
    boxes = [
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 1]},  # 1: outside
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]},  # 2: good, its count needs 1
        {"image_id": 2, "category_id": 2, "bbox": [2, 2, 1, 1]},  # 3: good
        {"image_id": 2, "category_id": 7, "bbox": [2, 2, 1, 1]},  # 4: category without a name
        {"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1]},  # 5: picture missing
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 1, 1]},  # 6: image refused
        {"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1], "iscrowd": 1},  # 7: crowd
    ]
    tables = _detected(tmp_path, images, boxes)
    assert refused(tables) == [
        ("annotations.json", 7, "unsupported"),
        ("annotations.json", 1, "box_outside_picture"),  # the question how many cups
        ("annotations.json", 4, "missing_field"),
        ("annotations.json", 5, "missing_file"),  # how many
        ("annotations.json", 5, "missing_file"),  # where
        ("annotations.json", 3, "no_boxes"),  # images[3] has no annotation
        ("annotations.json", 1, "box_outside_picture"),  # the annotation itself, with its picture
        ("annotations.json", 4, "missing_field"),  # images[4]
        ("annotations.json", 6, "unknown_image"),
    ]
    assert [(row["question_kind"], row["source_row"]) for row in tables.examples.to_pylist()] == [
        ("count", 0),
        ("where", 0),
        ("count", 3),
        ("where", 3),
    ]


def test_the_raw_row_is_cut(tmp_path):
    tables = _asked(tmp_path, [question(), question(9, question="long " * 1000)])
    assert len(tables.quarantine["raw"][0].as_py()) == 2000
