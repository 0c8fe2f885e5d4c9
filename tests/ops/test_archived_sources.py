"""Sources whose location is a zip or tar archive, on disk and in a bucket: read as the folder that was packed."""

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import Source, fingerprint, load_sources
from storage.objects import Store
from storage.rows import RowsError, pictures_by_sha256
from tests.ops.delivery import coco, encoded, json_lines, new_store, pixels, question, refused, source, write
from tests.ops.rosetta_answers import SETS, are_the_examples, are_the_pictures
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import DETECTIONS, WHOLE_DETECTIONS
from tests.s3_server import clients_of, s3_server

KINDS = (".zip", ".tar", ".tar.gz", ".tgz")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as endpoint, clients_of(endpoint, tmp_path, monkeypatch):
        boto3.client("s3").create_bucket(Bucket="shelves")
        yield "s3://shelves"


def _packed(folder: Path, kind: str) -> Path:
    path = folder.with_name(f"{folder.name}{kind}")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if kind == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(folder))
    else:
        with tarfile.open(path, "w" if kind == ".tar" else "w:gz") as archive:
            archive.add(folder, ".")
    return path


def _shelf(tmp_path: Path, name: str = "voc") -> Source:
    folder = tmp_path / "shelf"
    put_pictures(folder, SETS["whole"][0])
    return (DETECTIONS | WHOLE_DETECTIONS)[name](folder, SETS["whole"][0])


def _without_bytes(images: pa.Table, path: Path) -> str:
    place = images.schema.get_field_index("bytes")
    pq.write_table(images.set_column(place, "bytes", pa.nulls(images.num_rows, pa.binary())), path)
    return str(path)


def _is_the_set(here: Source, tmp_path: Path, start: str) -> None:
    """The tables of the set; and its pictures are found again by their addresses alone."""
    pictures, areas = SETS["whole"]
    tables = normalise(here, new_store(tmp_path))
    are_the_pictures(tables, pictures)
    are_the_examples(tables, pictures, areas)
    uris = tables.images["uri"].to_pylist()
    assert uris == [f"{start}!/images/{picture.file}" for picture in pictures]
    by_reference = _without_bytes(tables.images, tmp_path / "images.parquet")
    wanted = tables.images["image_sha256"].to_pylist()
    found = pictures_by_sha256([by_reference], wanted)
    assert [found[sha256] for sha256 in wanted] == [picture.data for picture in pictures]


@pytest.mark.parametrize("name", ["voc", "yolo box", "coco bbox", "table folder", "labelme polygon"])
def test_the_rosetta_set_in_a_zip(name, tmp_path):
    here = _shelf(tmp_path, name)
    path = _packed(tmp_path / "shelf", ".zip")
    _is_the_set(replace(here, location=str(path)), tmp_path, str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_every_kind_here_and_in_a_bucket(kind, bucket, tmp_path):
    here = _shelf(tmp_path)
    path = _packed(tmp_path / "shelf", kind)
    _is_the_set(replace(here, location=str(path)), tmp_path, str(path))
    Store(f"{bucket}/data").put_file(path, f"set{kind}")
    address = f"{bucket}/data/set{kind}"
    _is_the_set(replace(here, location=address), tmp_path, address)


def test_a_picture_that_changed_in_its_archive_is_not_taken_for_the_one_that_was(tmp_path):
    here = _shelf(tmp_path)
    path = _packed(tmp_path / "shelf", ".tar")
    tables = normalise(replace(here, location=str(path)), new_store(tmp_path))
    by_reference = _without_bytes(tables.images, tmp_path / "images.parquet")
    write(tmp_path / "shelf", "images/24.jpg", encoded(pixels((60, 40), 99), "JPEG"))
    _packed(tmp_path / "shelf", ".tar")
    with pytest.raises(RowsError, match=r"shelf\.tar!/images/24\.jpg: sha256 is"):
        pictures_by_sha256([by_reference], tables.images["image_sha256"].to_pylist())


def test_the_fingerprint_is_that_of_the_folder_and_notices_a_change(tmp_path, bucket):
    here = _shelf(tmp_path)
    store = new_store(tmp_path)
    path = _packed(tmp_path / "shelf", ".zip")
    Store(bucket).put_file(path, "set.zip")
    in_bucket = replace(here, location=f"{bucket}/set.zip")
    of_folder = fingerprint(here, store)
    assert fingerprint(replace(here, location=str(path)), store) == of_folder
    assert fingerprint(in_bucket, store) == of_folder
    write(tmp_path / "shelf", "images/24.jpg", encoded(pixels((60, 40), 99), "JPEG"))
    path = _packed(tmp_path / "shelf", ".zip")
    Store(bucket).put_file(path, "set.zip")
    changed = fingerprint(replace(here, location=str(path)), store)
    assert changed == fingerprint(here, store) != of_folder
    assert fingerprint(in_bucket, store) == changed


def _hostile(tmp_path: Path) -> Source:
    """A good picture, and rows that name a link to a file outside, a device, a name that comes twice, and '..'."""
    names = ["cup.png", "link.png", "null.png", "twice.png", "../out.png"]
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]} for n in range(len(names))]
    folder = tmp_path / "shelf"
    write(folder, "annotations.json", coco(images, boxes))
    write(folder, "questions.jsonl", json_lines([question(n, [n]) for n in range(len(names))]))
    write(folder, "cup.png", encoded(pixels()))
    write(tmp_path, "out.png", encoded(pixels(seed=5)))
    path = _packed(folder, ".tar")
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (
            ("link.png", tarfile.SYMTYPE, str(tmp_path / "out.png")),
            ("null.png", tarfile.CHRTYPE, ""),
            ("../out.png", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for seed in (1, 2):
            write(tmp_path, "twice.png", encoded(pixels(seed=seed)))
            archive.add(tmp_path / "twice.png", "twice.png")
    return replace(source(folder), location=str(path), questions="questions.jsonl")


def test_hostile_members_cost_the_rows_that_name_them(tmp_path):
    here = _hostile(tmp_path)
    tables = normalise(here, new_store(tmp_path))
    assert refused(tables) == [
        ("questions.jsonl", 1, "unsafe_path"),
        ("questions.jsonl", 2, "unreadable_file"),
        ("questions.jsonl", 3, "unreadable_file"),
        ("questions.jsonl", 4, "unsafe_path"),
    ]
    details = tables.quarantine["detail"].to_pylist()
    assert "link.png: a link to" in details[0] and "which is no file of the archive" in details[0]
    assert details[1:3] == [
        "null.png: not a regular file",
        "twice.png: the archive holds this name more than once",
    ]
    told = fingerprint(here, new_store(tmp_path))
    assert set(told["refused_members"]) == {"link.png", "null.png", "twice.png", "../out.png"}
    assert {file["path"]: file.get("problem") for file in told["files"]} == {
        "../out.png": "unsafe_path",
        "annotations.json": None,
        "cup.png": None,
        "link.png": "unsafe_path",
        "null.png": "unreadable_file",
        "questions.jsonl": None,
        "twice.png": "unreadable_file",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_is_refused_whole_leaves_one_row_that_says_so(tmp_path, monkeypatch, kind):
    here = _shelf(tmp_path)
    path = _packed(tmp_path / "shelf", kind)
    of_archive = replace(here, location=str(path))
    monkeypatch.setenv("SALIENCY_R1_ARCHIVE_MEMBERS", "3")
    with pytest.raises(NothingLeft, match=r"more than 3 members \(SALIENCY_R1_ARCHIVE_MEMBERS\)") as raised:
        normalise(of_archive, new_store(tmp_path))
    assert refused(raised.value.tables) == [("Annotations", None, "unreadable_file")]
    monkeypatch.delenv("SALIENCY_R1_ARCHIVE_MEMBERS")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(NothingLeft, match="broken or cut off"):
        normalise(of_archive, new_store(tmp_path))
    path.unlink()
    with pytest.raises(NothingLeft, match="missing_file 1"):
        normalise(of_archive, new_store(tmp_path))


def test_an_archive_in_a_list_of_sources(tmp_path):
    lines = [
        "sources:",
        "  - name: shelf",
        "    format: voc",
        "    location: shelf.tar.gz",
        "    annotations: Annotations",
    ]
    (tmp_path / "sources.yaml").write_text("\n".join(lines) + "\n")
    here = _shelf(tmp_path)
    _packed(tmp_path / "shelf", ".tar.gz")
    [told] = load_sources(tmp_path / "sources.yaml", "var")
    tables = normalise(replace(told, options=here.options), new_store(tmp_path))
    assert tables.images.num_rows == 2
