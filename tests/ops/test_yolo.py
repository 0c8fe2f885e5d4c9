"""YOLO by a sample written by hand on one 60 x 40 px picture, its ways to name folders, and its bad rows."""

import pytest

from tests.ops.delivery import refused, write
from tests.ops.detection_samples import (
    CANONICAL,
    CUPS,
    PICTURE,
    boxes_of,
    is_canonical,
    only_refused,
    tables_of,
)

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
    tables = tables_of(tmp_path, "yolo", "data.yaml", split="train")
    is_canonical(tables)
    assert set(tables.examples["source_file"].to_pylist()) == {"labels/train/cup.txt"}
    # The same picture, asked the same, in both splits: three questions once more.
    assert refused(tables_of(tmp_path, "yolo", "data.yaml")) == [
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
    is_canonical(tables_of(tmp_path, "yolo", "data.yaml", **options))


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
    tables = tables_of(tmp_path, "yolo", "data.yaml", split="train")
    assert refused(tables) == [("labels/train/cup.txt", row, reason) for row, reason in found]
    assert boxes_of(tables)[:2] == CUPS


def test_four_corners_are_a_polygon_if_the_user_says_so(tmp_path):
    _yolo(tmp_path, YOLO_CUPS + "1 0.7 0.8 1 0.8 1 1 0.7 1")
    is_canonical(tables_of(tmp_path, "yolo", "data.yaml", split="train", four_corners="polygon"))


def test_yolo_backgrounds_strays_and_unreadable_labels_are_counted(tmp_path):
    _yolo(tmp_path)
    for name in ("none", "empty", "wide"):
        write(tmp_path, f"shelf/images/train/{name}.png", PICTURE)
    write(tmp_path, "shelf/labels/train/empty.txt", "\r\n")
    write(tmp_path, "shelf/labels/train/wide.txt", YOLO.encode("utf-16"))
    write(tmp_path, "shelf/labels/train/deep/stray.txt", YOLO)
    assert refused(tables_of(tmp_path, "yolo", "data.yaml", split="train")) == [
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
    tables = tables_of(tmp_path, "yolo", "data.yaml")
    assert boxes_of(tables) == CANONICAL
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
    assert only_refused(tmp_path, "yolo", "data.yaml") == [("data.yaml", None, reason)]


def test_a_yolo_list_cannot_lead_out_of_the_source(tmp_path):
    _yolo(tmp_path, data_yaml="train: list.txt\nnames: [cup]")
    write(tmp_path, "secret.png", PICTURE)
    write(tmp_path, "shelf/list.txt", "../secret.png\n/etc/secret.png\n")
    refusals = only_refused(tmp_path, "yolo", "data.yaml")
    assert [reason for _, _, reason in refusals] == ["unsafe_path", "unsafe_path"]


def test_a_class_without_name_is_told_by_its_number(tmp_path):
    _yolo(tmp_path, YOLO + "7 0.5 0.5 0.1 0.1")
    (refusal,) = tables_of(tmp_path, "yolo", "data.yaml", split="train").quarantine.to_pylist()
    assert "class 7 has no name in 'names' (2 names, 0 to 1)" in refusal["detail"]
