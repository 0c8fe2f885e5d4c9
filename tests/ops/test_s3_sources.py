"""A source in a bucket, and a generated source below a root in a bucket, against a real server on loopback."""

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from ops import source_files
from ops.normalise import normalise
from ops.readers.coco_scan import DetectionPiece
from ops.sources import Source, deliver, files_of, fingerprint, pieces_of
from storage.objects import Store, StoreError
from tests.ops.delivery import coco, encoded, json_lines, new_store, pixels, question
from tests.ops.rosetta_answers import SETS, are_the_examples, are_the_pictures
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import DETECTIONS, WHOLE_DETECTIONS
from tests.s3_server import clients_of, s3_server


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as endpoint, clients_of(endpoint, tmp_path, monkeypatch):
        boto3.client("s3").create_bucket(Bucket="shelves")
        yield "s3://shelves"


def test_a_source_in_a_bucket_is_read_like_a_folder(bucket, tmp_path):
    shelf = Store(f"{bucket}/shelf")
    images = [{"id": n, "file_name": name} for n, name in enumerate(("cup.png", "no.png", "../out.png"))]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]} for n in range(3)]
    shelf.write_bytes("cup.png", encoded(pixels()))
    Store(bucket).write_bytes("out.png", encoded(pixels()))
    shelf.write_bytes("annotations.json", json_lines([coco(images, boxes)]).encode())
    shelf.write_bytes("questions.jsonl", json_lines([question(n, [n]) for n in range(3)]).encode())
    source = Source("shelf", "coco", f"{bucket}/shelf", "annotations.json", "questions.jsonl")
    root = Store(str(tmp_path))
    tables = normalise(source, root)
    assert tables.quarantine["reason"].to_pylist() == ["missing_file", "unsafe_path"]
    assert tables.images["uri"].to_pylist() == ["s3://shelves/shelf/cup.png"]
    assert [entry.get("problem") for entry in fingerprint(source, root)["files"]] == [
        "unsafe_path",
        None,
        None,
        "missing_file",
        None,
    ]


def test_a_generated_source_below_a_root_in_a_bucket(bucket):
    settings = {"generator": "easy_vqa", "n_pictures": 2, "seed": 1}
    easy = Source("easy", "coco", "generated/easy", "annotations.json", "questions.jsonl", settings)
    store = Store(f"{bucket}/root")
    assert deliver(easy, store)
    assert not deliver(easy, store)
    assert normalise(easy, store).images.num_rows == 2


@pytest.mark.parametrize(
    "name", ["voc", "yolo box", "labelme polygon", "table folder", "table parquet xywh_px"]
)
def test_the_rosetta_set_in_a_bucket_gives_the_same_tables(name, bucket, tmp_path):
    pictures, areas = SETS["whole"]
    folder = tmp_path / "shelf"
    put_pictures(folder, pictures)
    here = (DETECTIONS | WHOLE_DETECTIONS)[name](folder, pictures)
    shelf = Store(f"{bucket}/shelf")
    for path in folder.rglob("*"):
        if path.is_file():
            shelf.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())
    tables = normalise(replace(here, location=f"{bucket}/shelf"), new_store(tmp_path))
    are_the_pictures(tables, pictures)
    are_the_examples(tables, pictures, areas)
    assert all(uri.startswith("s3://shelves/shelf/") for uri in tables.images["uri"].to_pylist())


def _deliver(where: str, text: str) -> None:
    """A COCO file in a folder, or as the one member of an archive."""
    folder, _, name = where.rpartition("/")
    if not name.endswith(".zip"):
        Store(where).write_bytes("annotations.json", text.encode())
        return
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("annotations.json", text)
    Store(folder).write_bytes(name, packed.getvalue())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.timeout(60)
def test_a_piece_of_a_coco_file_is_read_on_a_machine_that_has_no_copy_of_it(
    packed, bucket, tmp_path, monkeypatch
):
    images = [{"id": n, "file_name": f"{n}.png", "width": 7, "height": 5} for n in (3, 4)]
    boxes = [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    boxes.append({"id": 2, "image_id": 4, "category_id": 1, "bbox": [1, 1]})
    text = json.dumps(coco([*images, {"id": 3}], boxes))
    where = f"{bucket}/shelf.zip" if packed else f"{bucket}/shelf"
    _deliver(where, text)
    shelf = Source("shelf", "coco", where, "annotations.json")
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(tmp_path / "here"))
    aside = tmp_path / "aside"
    aside.mkdir()
    piece, _ = pieces_of(shelf, files_of(shelf, new_store(tmp_path)), aside)
    assert isinstance(piece, DetectionPiece)
    here = list(piece.rows([0, 1]))
    shutil.rmtree(aside)
    shutil.rmtree(tmp_path / "here", ignore_errors=True)
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(tmp_path / "there"))
    sent = pickle.dumps(piece)
    there = pickle.loads(sent)
    assert [row.origin for row in there.rows([0, 1])] == [row.origin for row in here]
    assert len(here) == 6  # two questions of the first picture, the second has none; two boxes to be judged
    assert b"missing_field" not in sent  # what was refused of the file does not go with each of its pieces
    _deliver(where, text + " ")
    source_files._FETCHED.clear()
    shutil.rmtree(tmp_path / "there", ignore_errors=True)
    with pytest.raises(StoreError, match="changed while it was read"):
        list(pickle.loads(sent).rows([0]))
