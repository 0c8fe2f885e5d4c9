import json
from pathlib import Path

import pytest
import yaml

from ops.normalise import normalise
from ops.sources import MARKER, Source, SourceError, deliver, files_of, fingerprint, load_sources, pieces_of
from storage.objects import Store, sha256_bytes
from tests.ops.delivery import coco, encoded, json_lines, pixels, question, source, write

GOOD = {"name": "shelf", "format": "coco", "location": "data", "annotations": "annotations.json"}


def _list(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump({"sources": list(entries)}))
    return path


def test_the_embedded_sources():
    scenes, easy = load_sources(None, "var")
    assert (scenes.name, scenes.format, scenes.location) == ("scenes", "coco", "generated/scenes")
    assert scenes.options == {"generator": "scenes", "n_pictures": 900, "n_conflict_pairs": 100, "seed": 11}
    assert (easy.questions, easy.licence, easy.generator) == ("questions.jsonl", "MIT", "easy_vqa")


def test_a_folder_is_found_beside_the_list(tmp_path):
    entries = [
        GOOD,
        GOOD | {"name": "far", "location": "/data/far/"},
        GOOD | {"name": "s3", "location": "s3://b/p"},
    ]
    found = load_sources(_list(tmp_path, *entries), "var")
    assert [each.location for each in found] == [str(tmp_path / "data"), "/data/far", "s3://b/p"]
    assert found[0].questions is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "Shelf One"}, "name='Shelf One': wanted small letters"),
        ({"name": None}, "name is missing"),
        ({"format": "polaroid"}, "format='polaroid': allowed are coco, "),
        ({"location": 5}, "location=5: wanted text"),
        ({"location": "ftp://x"}, "location='ftp://x': wanted a folder or s3://"),
        ({"location": "generated/../.."}, "only generated/NAME"),
        (
            {"annotations": "../annotations.json"},
            "annotations: '../annotations.json': wanted a path relative",
        ),
        ({"annotations": "/etc/passwd"}, "annotations: '/etc/passwd'"),
        ({"question": "q.jsonl"}, "question: no such setting; allowed are name,"),
        ({"format": "visual_cot", "questions": "q.jsonl"}, "format visual_cot has no questions file"),
        ({"options": [1]}, "options=[1]: wanted a mapping"),
        (
            {"options": {"max_pixel": 5}},
            "options.max_pixel=5: no such option; allowed are generator, max_pixels",
        ),
        ({"options": {"max_pixels": 0}}, "options.max_pixels=0: wanted a whole number from 1"),
        ({"options": {"max_pixels": True}}, "options.max_pixels=True: wanted a whole number"),
        ({"options": {"clip_boxes": "yes please"}}, "options.clip_boxes='yes please': wanted true or false"),
        ({"options": {"annotated_size": "guess"}}, "wanted one of must_agree, ignore"),
        ({"options": {"generator": "movies"}}, "options.generator='movies': allowed are scenes, easy_vqa"),
        ({"options": {"generator": "easy_vqa"}}, "a generator writes to generated/NAME only"),
        (
            {"location": "generated/x", "options": {"generator": "scenes", "n_pictures": -5}},
            "options.n_pictures=-5: wanted a whole number from 1",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(change, said, tmp_path):
    with pytest.raises(SourceError) as caught:
        load_sources(_list(tmp_path, GOOD | change), "var")
    assert said in str(caught.value)


def test_all_wrong_settings_are_told_at_once(tmp_path):
    entries = [GOOD | {"format": "polaroid"}, GOOD | {"annotations": None}, "shelf"]
    with pytest.raises(SourceError) as caught:
        load_sources(_list(tmp_path, *entries), "var")
    for said in (
        "format='polaroid'",
        "sources[1]: annotations is missing",
        "sources[2]='shelf'",
        "more than once",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "sources: []", "- a", "sources: {a: 1}", "sources: [", "\x00", "a: !!python/x 1"]
)
def test_a_list_that_is_none_is_said(content, tmp_path):
    path = tmp_path / "sources.yaml"
    path.write_text(content)
    with pytest.raises(SourceError, match=r"sources\.yaml"):
        load_sources(path, "var")
    with pytest.raises(SourceError, match="cannot be read"):
        load_sources(tmp_path / "nowhere.yaml", "var")


def _shelf(tmp_path) -> Source:
    write(tmp_path, "cup.png", encoded(pixels()))
    images = [
        {"id": 1, "file_name": "cup.png"},
        {"id": 2, "file_name": "../out.png"},
        {"id": 3, "file_name": "no.png"},
    ]
    images.append({"id": 4, "file_name": "unasked.png"})
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]} for n in (1, 2, 3, 4)]
    write(tmp_path, "annotations.json", coco(images, boxes))
    write(tmp_path, "questions.jsonl", json_lines([question(n, [n]) for n in (1, 2, 3)]))
    return source(tmp_path, questions="questions.jsonl")


def test_a_fingerprint_lists_what_is_asked_about_by_content(tmp_path):
    shelf, store = _shelf(tmp_path / "shelf"), Store(str(tmp_path / "root"))
    seen = fingerprint(shelf, store)
    files = {entry["path"]: entry for entry in seen["files"]}
    assert list(files) == ["../out.png", "annotations.json", "cup.png", "no.png", "questions.jsonl"]
    picture = encoded(pixels())
    assert files["cup.png"] == {"path": "cup.png", "n_bytes": len(picture), "sha256": sha256_bytes(picture)}
    assert files["no.png"]["problem"] == "missing_file"
    assert files["../out.png"]["problem"] == "unsafe_path"
    assert fingerprint(shelf, store) == seen
    json.dumps(seen)
    write(tmp_path / "shelf", "cup.png", encoded(pixels(seed=1)))
    assert fingerprint(shelf, store) != seen


def _easy(**options: int) -> Source:
    settings = {"generator": "easy_vqa", "n_pictures": 3, "seed": 1} | options
    return Source("easy", "coco", "generated/easy", "annotations.json", "questions.jsonl", settings)


def test_a_generated_source_is_written_once_for_its_settings(tmp_path):
    store = Store(str(tmp_path))
    assert deliver(_easy(), store)
    before = fingerprint(_easy(), store)
    assert not deliver(_easy(), store)
    assert deliver(_easy(seed=2), store)
    assert fingerprint(_easy(), store) != before
    assert deliver(_easy(), store)
    assert fingerprint(_easy(), store) == before
    # An option of the reading side changes nothing that was written.
    assert not deliver(_easy(max_pixels=5000), store)


def test_a_generator_that_was_killed_runs_again(tmp_path):
    store = Store(str(tmp_path))
    deliver(_easy(), store)
    before = fingerprint(_easy(), store)
    store.delete(f"generated/easy/{MARKER}")
    store.write_bytes("generated/easy/questions.jsonl", b'{"half')
    assert deliver(_easy(), store)
    assert fingerprint(_easy(), store) == before


def test_a_source_of_ones_own_is_not_written(tmp_path):
    assert not deliver(_shelf(tmp_path / "shelf"), Store(str(tmp_path / "root")))


def test_generated_pictures_are_named_relative_to_the_root(tmp_path):
    store = Store(str(tmp_path))
    deliver(_easy(), store)
    assert all(
        uri.startswith("generated/easy/images/")
        for uri in normalise(_easy(), store).images["uri"].to_pylist()
    )
    pieces = pieces_of(_easy(), files_of(_easy(), store), tmp_path)
    assert all(row.picture.file_name.startswith("images/") for rows in pieces for row in rows)
