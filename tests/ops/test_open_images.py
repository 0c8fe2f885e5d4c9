"""Open Images: both x before both y, groups not counted, labels by name; a changed file of names is noticed.

The picture is 60 x 40 px. XMin 0.25, XMax 0.75 and YMin 0.25, YMax 0.5 of it: 15, 10, 45, 20 px.
"""

import pytest

from ops.normalise import NothingLeft, normalise
from ops.sources import fingerprint
from tests.ops.delivery import encoded, new_store, pixels, refused, source, write

OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)


def _delivered(tmp_path, lines, **options):
    write(tmp_path, "shelf/pictures/ab12.png", encoded(pixels((60, 40))))
    write(tmp_path, "shelf/boxes.csv", OPEN_IMAGES + "".join(f"{line}\n" for line in lines))
    told = {"images": "pictures", "suffix": ".png"} | options
    return source(tmp_path / "shelf", "open_images", annotations="boxes.csv", options=told)


def _open_images(tmp_path, lines, **options):
    return normalise(_delivered(tmp_path, lines, **options), new_store(tmp_path))


def test_open_images_has_both_x_before_both_y(tmp_path):
    write(tmp_path, "shelf/names.csv", "/m/cup,Cup\n/m/hat,Hat\n")
    lines = [
        "ab12,xclick,/m/cup,1,0.25,0.75,0.25,0.5,0,0,0,0,0",
        "ab12,xclick,/m/hat,1,0,1,0.5,1,0,0,1,0,0",
        "ab12,xclick,/m/hat,1,0,0.5,0.5,1,0,0,0,0,0",
        "ab12,xclick,/m/rat,1,0,0.5,0.5,1,0,0,0,0,0",
        "ab12,xclick,/m/cat,1,0,,0.5,1,0,0,0,0,0",
        "zz99,xclick,/m/cup,1,0.25,0.75,0.25,0.5,0,0,0,0,0",
    ]
    tables = _open_images(tmp_path, lines, label_names="names.csv")
    edges = ("x1_px", "y1_px", "x2_px", "y2_px")
    assert [[row[edge] for edge in edges] for row in tables.boxes.to_pylist()] == [[15, 10, 45, 20]] * 2
    assert tables.boxes["label"].to_pylist() == ["Cup", "Cup"]
    # The middle is 30, 15 px: in the middle third of 60 and of 40.
    assert tables.examples["answer"].to_pylist() == ["1", "middle centre"]
    assert sorted(refused(tables)) == [
        ("boxes.csv", 1, "unsupported"),  # a group: nothing about hats
        ("boxes.csv", 3, "missing_field"),  # no name
        ("boxes.csv", 4, "bad_box_format"),  # the box
        ("boxes.csv", 4, "bad_box_format"),  # and the question about it
        ("boxes.csv", 5, "missing_file"),  # how many
        ("boxes.csv", 5, "missing_file"),  # where
    ]


@pytest.mark.parametrize("group", ["1", "-1"])
def test_open_images_groups_are_not_counted(group, tmp_path):
    line = f"ab12,x,/m/cup,1,0.25,0.75,0.25,0.5,0,0,{group},0,0"
    with pytest.raises(NothingLeft) as caught:
        _open_images(tmp_path, [line])
    assert refused(caught.value.tables) == [("boxes.csv", 0, "unsupported")]


def test_a_file_of_names_that_is_none_is_one_refusal(tmp_path):
    write(tmp_path, "shelf/names.csv", "/m/cup,Cup\n/m/hat\n")
    with pytest.raises(NothingLeft) as caught:
        _open_images(tmp_path, ["ab12,x,/m/cup,1,0.25,0.75,0.25,0.5,0,0,0,0,0"], label_names="names.csv")
    assert refused(caught.value.tables) == [
        ("names.csv", 1, "broken_file"),
        ("boxes.csv", 0, "missing_field"),
    ]


def test_a_changed_file_of_names_changes_the_fingerprint(tmp_path):
    line = "ab12,x,/m/cup,1,0.25,0.75,0.25,0.5,0,0,0,0,0"
    prints = []
    for name in ("Cup", "Mug"):
        write(tmp_path, "shelf/names.csv", f"/m/cup,{name}\n")
        told = _delivered(tmp_path, [line], label_names="names.csv")
        prints.append(fingerprint(told, new_store(tmp_path)))
    assert prints[0]["annotation_files"] == ["boxes.csv", "names.csv"]
    assert [file["path"] for file in prints[0]["files"]] == ["boxes.csv", "names.csv", "pictures/ab12.png"]
    assert prints[0] != prints[1]
