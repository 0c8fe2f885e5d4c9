"""Pictures kept, by reference, or never read: what the tables hold of them, and what is refused."""

import gc
import hashlib
import tracemalloc

import pytest

from ops import picture_rows
from ops.normalise import NothingLeft, normalise
from ops.picture_rows import PictureRows
from ops.readers.rows import PictureRef
from ops.sources import files_of, fingerprint
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
    turned,
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


def _asked_again(folder, how: str):
    """Ten pictures, the odd ones turned by EXIF and the last annotated as it is stored, asked about in three rounds."""
    images, boxes = [], []
    for number in range(10):
        rgb = pixels((7 + number, 5), number)
        write(folder, f"{number}.png", turned(rgb, 6) if number % 2 else encoded(rgb))
        size = (7 + number, 5) if number % 2 == 0 or number == 9 else (5, 7 + number)
        images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 3, 2]})
    boxes.append(boxes[4] | {"id": 10, "bbox": [1, 2, 30, 2]})  # all that the first round asks of picture 4
    asked = [question(n, [n], question=f"{again}?") for again in range(3) for n in range(10)]
    asked[4]["annotation_ids"] = [10]
    write(folder, "annotations.json", coco(images, boxes))
    write(folder, "questions.jsonl", json_lines(asked))
    return source(folder, questions="questions.jsonl", options={"pictures": how})


@pytest.mark.parametrize("how", ["kept", "referenced"])
@pytest.mark.parametrize("n_remembered", [2, 8, 100])
def test_a_picture_that_is_asked_about_again_is_the_same(how, n_remembered, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_rows, "_REMEMBERED", n_remembered)
    tables = normalise(_asked_again(tmp_path, how), new_store(tmp_path))
    lies_outside = [
        ("questions.jsonl", 4, "box_outside_picture"),
        ("annotations.json", 10, "box_outside_picture"),
    ]
    turned_the_other_way = [("questions.jsonl", n, "unsupported") for n in (9, 19, 29)]
    assert sorted(refused(tables)) == sorted(lies_outside + turned_the_other_way)
    said = "annotated as 16 x 5 px, but upright it is 5 x 16 px (stored 16 x 5, turned by EXIF)"
    details = tables.quarantine["detail"].to_pylist()
    assert sum(detail.startswith(said) for detail in details) == 3
    names, hashes = (tables.images[name].to_pylist() for name in ("file_name", "image_sha256"))
    assert sorted(names) == [f"{number}.png" for number in range(9)]
    in_order = [hashes[names.index(f"{number}.png")] for number in range(9)]
    assert tables.examples["image_sha256"].to_pylist() == in_order[:4] + in_order[5:] + in_order * 2
    assert tables.images["thumb"].null_count == 0
    assert (tables.images["bytes"].null_count == 0) == (how == "kept")
    # 3 x 2 px on pictures of 7 x 5, 5 x 8, 9 x 5, ...
    shares = [6 / (5 * (7 + number)) for number in range(9)]
    wanted = shares[:4] + shares[5:] + shares * 2
    assert tables.examples["evidence_area_frac"].to_pylist() == pytest.approx(wanted)


def test_little_is_remembered_of_a_picture(tmp_path):
    """Bytes that stay allocated after the rows of many pictures were let go of: some 450, names and all."""
    shelf, data, n_pictures = source(tmp_path), encoded(pixels()), 1300
    names = [f"pictures/{number:012d}.png" for number in range(n_pictures)]
    for name in names:
        write(tmp_path, name, data)
    rows = PictureRows(shelf, files_of(shelf, new_store(tmp_path)))

    def take(some: list[str]) -> None:
        for reference, opened in rows.of([PictureRef(str(name)) for name in some], lambda each: each):
            assert rows.row_of(reference, opened)

    take(names[:100])
    names = [name.encode() for name in names]  # so that the texts that stay are counted
    gc.collect()
    tracemalloc.start()
    take([name.decode() for name in names[100:]])
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown / (n_pictures - 100) < 600
