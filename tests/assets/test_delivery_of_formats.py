"""The Rosetta set in every format: the check of the delivery counts its two pictures, and a change is noticed."""

from pathlib import Path

import pytest

from assets.checks_data import delivered
from ops.sources import fingerprint
from tests.ops.delivery import encoded, new_store, pixels
from tests.ops.rosetta_answers import SETS
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import DETECTIONS, QUESTIONS, WHOLE_DETECTIONS, WHOLE_QUESTIONS

FORMATS = DETECTIONS | WHOLE_DETECTIONS | QUESTIONS | WHOLE_QUESTIONS
# Visual Genome's files are written all, and read by part.
UNREAD = {
    "visual_genome objects": {"map.json", "qas.json", "regions.json"},
    "visual_genome regions": {"map.json", "qas.json", "objects.json"},
    "visual_genome qas": {"objects.json"},
}


def _names(folder: Path, name: str) -> list[str]:
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [file for file in found if file not in UNREAD.get(name, ())]


@pytest.mark.parametrize("name", FORMATS)
def test_two_pictures_are_counted_and_every_file_is_listed(name, tmp_path):
    pictures, folder = SETS["whole"][0], tmp_path / "shelf"
    put_pictures(folder, pictures)
    told = FORMATS[name](folder, pictures)
    manifest = fingerprint(told, new_store(tmp_path))
    check = delivered(manifest, told)
    assert check.passed
    assert (check.metadata["n_pictures"].value, check.metadata["n_missing"].value) == (2, 0)
    inside = "parquet" in name
    assert manifest["n_pictures_in_rows"] == (2 if inside else 0)
    assert manifest["pictures"] == ([] if inside else ["images/24.jpg", "images/25.jpg"])
    listed = [file["path"] for file in manifest["files"]]
    assert listed == [each for each in _names(folder, name) if not (inside and each.endswith(".jpg"))]


@pytest.mark.parametrize("name", [name for name in FORMATS if "parquet" not in name])
def test_a_lost_picture_and_a_changed_file_are_noticed(name, tmp_path):
    pictures, folder = SETS["whole"][0], tmp_path / "shelf"
    put_pictures(folder, pictures)
    told = FORMATS[name](folder, pictures)
    before = fingerprint(told, new_store(tmp_path))
    for file in _names(folder, name):
        content = (folder / file).read_bytes()
        if file.endswith(".jpg"):
            (folder / file).write_bytes(encoded(pixels((60, 40), 99), "JPEG"))
        else:
            (folder / file).write_bytes(content + b" ")
        assert fingerprint(told, new_store(tmp_path)) != before, file
        (folder / file).write_bytes(content)
    (folder / "images/24.jpg").unlink()
    check = delivered(fingerprint(told, new_store(tmp_path)), told)
    assert check.passed  # it costs the rows that need it
    missing = [] if name.startswith("yolo") else ["images/24.jpg"]  # where nothing but the picture names it
    assert (check.metadata["n_pictures"].value, check.metadata["missing"].value) == (1, missing)
