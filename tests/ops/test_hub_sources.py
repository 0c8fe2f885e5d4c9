"""Sources at hf:// addresses, from a hub on loopback: read like the folder that was put there."""

import zipfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.normalise import normalise
from ops.sources import SourceError, fingerprint, load_sources
from storage.rows import pictures_by_sha256
from tests.hub_server import REPOSITORY, asked_by, hub_server
from tests.ops.delivery import new_store, write
from tests.ops.rosetta_answers import SETS, are_the_examples, are_the_pictures
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import DETECTIONS, WHOLE_DETECTIONS

PLACE = f"hf://datasets/{REPOSITORY}"


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub_server() as served, asked_by(served, tmp_path, monkeypatch):
        yield served


@pytest.mark.parametrize("name", ["voc", "yolo box", "table parquet xywh_px"])
@pytest.mark.parametrize("place", [PLACE, f"{PLACE}@v1.0", f"{PLACE}/deep/er", f"{PLACE}/set.zip"])
def test_the_rosetta_set_on_a_hub_gives_the_same_tables(name, place, served, tmp_path):
    pictures, areas = SETS["whole"]
    folder = tmp_path / "shelf"
    put_pictures(folder, pictures)
    here = (DETECTIONS | WHOLE_DETECTIONS)[name](folder, pictures)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    if place.endswith(".zip"):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file, data in files.items():
                archive.writestr(file, data)
        files = {"set.zip": (tmp_path / "set.zip").read_bytes()}
    start = "deep/er/" if place.endswith("deep/er") else ""
    served.files = {"main": {}, "v1.0": {}}
    served.files["v1.0" if "@" in place else "main"] = {
        f"{start}{file}": data for file, data in files.items()
    }
    there = replace(here, location=place)
    tables = normalise(there, new_store(tmp_path))
    are_the_pictures(tables, pictures)
    are_the_examples(tables, pictures, areas)
    between = "!" if place.endswith(".zip") else ""
    uris = tables.images["uri"].to_pylist()
    assert uris == [f"{place}{between}/images/{picture.file}" for picture in pictures]
    assert fingerprint(there, new_store(tmp_path)) == fingerprint(here, new_store(tmp_path))
    if name == "voc":  # by reference; the pictures of Parquet lie inside its rows
        column = tables.images.schema.get_field_index("bytes")
        nothing = pa.nulls(tables.images.num_rows, pa.binary())
        pq.write_table(tables.images.set_column(column, "bytes", nothing), tmp_path / "images.parquet")
        wanted = tables.images["image_sha256"].to_pylist()
        found = pictures_by_sha256([str(tmp_path / "images.parquet")], wanted)
        assert [found[each] for each in wanted] == [picture.data for picture in pictures]


def test_addresses_of_hubs_in_the_list_of_sources(tmp_path):
    def listed(location):
        lines = [
            "sources:",
            "  - name: shelf",
            "    format: voc",
            f"    location: {location}",
            "    annotations: a.xml",
        ]
        write(tmp_path, "sources.yaml", "\n".join(lines))
        return load_sources(tmp_path / "sources.yaml", "var")[0].location

    for good in (PLACE, f"{PLACE}@v1.0", f"{PLACE}@v1.0/deep/er", f"{PLACE}/set.zip"):
        assert listed(good) == good
    for bad in (
        "hf://datasets/shelves",
        "hf://models/a/b",
        "hf://a/b",
        "hf://datasets/a b/c",
        "hf://datasets//c/d",
    ):
        with pytest.raises(
            SourceError, match="wanted a folder or s3://bucket/prefix or hf://datasets/OWNER/NAME"
        ):
            listed(bad)
