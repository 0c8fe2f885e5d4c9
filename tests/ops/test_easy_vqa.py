import json
from pathlib import Path

import easy_vqa
import numpy as np
import pytest

from ops.easy_vqa import drawings, generate, question_kind, shape_box
from ops.normalise import normalise
from ops.sources import Source, deliver
from storage.objects import Store, sha256_folder
from tests.ops.delivery import encoded


def test_the_box_is_the_exact_extent_of_what_is_not_background():
    # 9 x 6 px; drawn: column 3 to 6, row 1 to 3. So x 3, y 1, width 4, height 3.
    rgb = np.full((6, 9, 3), 250, np.uint8)
    rgb[1, 3], rgb[2, 4:6], rgb[3, 6] = (250, 250, 249), (0, 0, 255), (0, 9, 9)
    assert shape_box(encoded(rgb), "x") == ((9, 6), [3, 1, 4, 3])


def test_a_background_that_is_not_plain_is_an_error():
    rgb = np.full((6, 9, 3), 250, np.uint8)
    with pytest.raises(ValueError, match=r"x\.png: background not plain"):
        shape_box(encoded(rgb), "x.png")
    rgb[5, 8] = 0  # one corner of four; too little to tell by its area
    with pytest.raises(ValueError, match="background not plain"):
        shape_box(encoded(rgb), "x.png")


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("what color is the shape?", "colour"),
        ("what is the color of the triangle?", "colour"),
        ("what is the blue shape?", "shape"),
        ("what shape does the image contain?", "shape"),
        ("is there not a red shape?", "presence"),
        ("does the image contain a circle?", "presence"),
    ],
)
def test_the_kind_of_a_question_is_its_form(question, kind):
    assert question_kind(question) == kind


def test_what_the_package_tells_of_a_picture():
    # Picture 0 of the package: "what is the blue shape?" rectangle; "what color is the shape?" blue.
    drawn = drawings()[0]
    assert (drawn.shape, drawn.colour) == ("rectangle", "blue")
    assert ("is there a triangle in the image?", "no") in drawn.asked
    answers = set(easy_vqa.get_answers())
    assert all({each.shape, each.colour} <= answers for each in drawings().values())


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        generate({"n_pictures": 4, "seed": seed}, tmp_path / name)
    hashes = [sha256_folder(tmp_path / name) for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(list((tmp_path / "a/images").iterdir())) == 4


@pytest.mark.parametrize("n_pictures", [0, 100_000])
def test_a_number_that_the_package_cannot_give_is_named(n_pictures, tmp_path):
    with pytest.raises(ValueError, match=f"n_pictures={n_pictures}"):
        generate({"n_pictures": n_pictures}, tmp_path)


def test_what_is_written_is_read_back_without_a_refusal(tmp_path):
    options = {"generator": "easy_vqa", "n_pictures": 20, "seed": 3}
    easy = Source("easy", "coco", "generated/easy", "annotations.json", "questions.jsonl", options)
    store = Store(str(tmp_path))
    deliver(easy, store)
    tables = normalise(easy, store)
    assert tables.counts["quarantined"] == 0
    assert tables.images.num_rows == 20
    shipped = easy_vqa.get_train_image_paths()
    for row in tables.images.to_pylist():
        number = int(Path(row["file_name"]).stem)
        assert row["bytes"] == Path(shipped[number]).read_bytes()
    colours = {row["answer"] for row in tables.examples.to_pylist() if row["question_kind"] == "colour"}
    rows = [json.loads(line) for line in store.read_bytes("generated/easy/questions.jsonl").splitlines()]
    assert {row["answer_type"] for row in rows if row["question_kind"] == "presence"} == {"yes_no"}
    for row in rows:
        words = row["reasoning"].removeprefix("The shape is a ").removesuffix(".").split()
        if row["question_kind"] == "colour":
            assert words[0] == row["answer"]
            assert words[0] in colours
        if row["question_kind"] == "shape":
            assert words[1] == row["answer"]
