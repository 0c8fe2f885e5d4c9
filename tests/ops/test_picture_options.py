"""Pictures kept, by reference, or never read: what the tables hold of them, and what is refused."""

import hashlib

import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import fingerprint
from storage.rows import RowsError, pictures_by_sha256
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
    write,
)

CUP = {"id": 1, "file_name": "in/cup.png", "width": 7, "height": 5}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 2]}


def _shelf(tmp_path, how: str, images=(CUP,), boxes=(BOX,), **fields):
    write(tmp_path, "shelf/annotations.json", coco(list(images), list(boxes)))
    write(tmp_path, "shelf/questions.jsonl", json_lines([question(1, [1], answer="a cup")]))
    return source(tmp_path / "shelf", options={"pictures": how}, **fields)


@pytest.mark.parametrize("questions", [None, "questions.jsonl"])
def test_a_picture_by_reference_is_known_but_not_stored(questions, tmp_path):
    data = encoded(pixels((7, 5)))
    write(tmp_path, "shelf/in/cup.png", data)
    tables = normalise(_shelf(tmp_path, "referenced", questions=questions), new_store(tmp_path))
    conserved(tables)
    (image,) = tables.images.to_pylist()
    assert image["bytes"] is None and image["n_bytes"] == len(data)
    assert image["image_sha256"] == hashlib.sha256(data).hexdigest()
    assert image["pixels_sha256"] and len(image["thumb"]) == 768
    path = tmp_path / "images.parquet"
    path.write_bytes(encode_table("images", tables.images))
    assert pictures_by_sha256([str(path)], [image["image_sha256"]]) == {image["image_sha256"]: data}


@pytest.mark.parametrize("questions", [None, "questions.jsonl"])
def test_a_picture_that_is_never_read_is_as_annotated(questions, tmp_path):
    shelf = _shelf(tmp_path, "unread", questions=questions)
    tables = normalise(shelf, new_store(tmp_path))
    conserved(tables)
    (image,) = tables.images.to_pylist()
    assert (image["width_px"], image["height_px"]) == (7, 5)
    assert image["image_sha256"] == hashlib.sha256(image["uri"].encode()).hexdigest()
    assert [image[name] for name in ("pixels_sha256", "thumb", "phash", "format", "n_bytes", "bytes")] == [
        None
    ] * 6
    assert set(tables.examples["evidence_area_frac"].to_pylist()) == {6 / 35}
    files = [entry["path"] for entry in fingerprint(shelf, new_store(tmp_path))["files"]]
    assert "annotations.json" in files and "in/cup.png" not in files
    path = tmp_path / "images.parquet"
    path.write_bytes(encode_table("images", tables.images))
    with pytest.raises(RowsError, match=r"cup\.png"):  # nobody can train on what is not there
        pictures_by_sha256([str(path)], [image["image_sha256"]])


def test_an_unread_picture_needs_a_size_and_a_name_that_stays_inside(tmp_path):
    images = [CUP, CUP | {"id": 2, "width": None}, CUP | {"id": 3, "file_name": "../cup.png"}]
    images += [CUP | {"id": 4, "file_name": "a/./cup.png"}, CUP | {"id": 5, "file_name": "/cup.png"}]
    boxes = [BOX | {"id": n, "image_id": n} for n in range(1, 6)]
    tables = normalise(_shelf(tmp_path, "unread", images, boxes), new_store(tmp_path))
    assert tables.examples["source_row"].to_pylist() == [0, 0]
    assert {(row, reason) for _, row, reason in refused(tables)} == {
        (1, "missing_field"),
        (2, "unsafe_path"),
        (3, "unsafe_path"),
        (4, "unsafe_path"),
    }


def test_a_box_outside_the_annotated_size_is_refused_unread(tmp_path):
    with pytest.raises(NothingLeft, match="box_outside_picture"):
        normalise(_shelf(tmp_path, "unread", boxes=[BOX | {"bbox": [5, 1, 3, 1]}]), new_store(tmp_path))
