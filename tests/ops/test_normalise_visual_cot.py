"""Bad Visual-CoT rows: each costs one row of the quarantine with its reason and place, and nothing else."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ops.normalise import NothingLeft, normalise
from tests.ops.delivery import (
    encoded,
    new_store,
    pixels,
    refused,
    source,
    write,
)


def _cot(bbox="[0.1, 0.2, 0.5, 0.9]", **fields):
    return {"image": "good.png", "problem": "What?", "solution": "cup", "bbox": bbox} | fields


def _visual_cot(tmp_path, name, content):
    write(tmp_path, "shelf/good.png", encoded(pixels()))
    write(tmp_path, f"shelf/{name}", content)
    return normalise(source(tmp_path / "shelf", "visual_cot", annotations=name), new_store(tmp_path))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (_cot("[1.064,0.48,1.334,0.749]"), "box_outside_picture"),
        (_cot("[0.1,0.2,0.5,1.0051]"), "box_outside_picture"),
        (_cot("[0.5,0.2,0.1,0.9]"), "swapped_corners"),
        (_cot("[0.1,0.2,0.1,0.9]"), "zero_area_box"),
        (_cot("[0.1,nan,0.5,0.9]"), "nan_box"),
        (_cot(""), "bad_box_format"),
        (_cot([["0.1", 0.2, 0.5, 0.9]]), "bad_box_format"),
        (_cot(None), "no_boxes"),
        (_cot(image="../good.png"), "unsafe_path"),
        (_cot(image=None), "missing_field"),
        (_cot(image={"bytes": None, "path": None}), "missing_field"),
        (_cot(problem=""), "no_question"),
        (_cot(solution=" "), "no_answer"),
        (_cot(), "duplicate_example"),
        ("row", "broken_json"),
    ],
)
def test_a_bad_visual_cot_row_costs_its_row(row, reason, tmp_path):
    tables = _visual_cot(tmp_path, "rows.json", [_cot(), row, _cot("[0,0,1.005,1]")])
    assert refused(tables) == [("rows.json", 1, reason)]
    assert tables.boxes["x2_px"].to_pylist() == [3.5, 7.0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.json", {"rows": []}, "broken_json"),
        ("rows.json", "[]", None),
        ("rows.jsonl", "", "broken_json"),
        ("rows.parquet", b"PAR1 but not really PAR1", "unreadable_file"),
        ("rows.csv", "image,problem", "unsupported"),
    ],
)
def test_a_visual_cot_file_that_is_none_leaves_nothing(name, content, reason, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        _visual_cot(tmp_path, name, content)
    assert refused(caught.value.tables) == ([(name, None, reason)] if reason else [])


def test_pictures_inside_parquet_rows(tmp_path):
    good, twin = encoded(pixels()), encoded(pixels(seed=8))
    pictures = [
        {"bytes": good, "path": None},
        {"bytes": twin, "path": "x.png"},
        {"bytes": b"no", "path": "y"},
    ]
    pictures.append({"bytes": None, "path": "good.png"})
    rows = [_cot(image=picture) for picture in pictures]
    stream = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    tables = _visual_cot(tmp_path, "rows.parquet", stream.getvalue().to_pybytes())
    assert tables.images["file_name"].to_pylist() == ["rows.parquet#0", "x.png"]
    # Row 3 names the same bytes by their file: the same example as row 0.
    assert refused(tables) == [
        ("rows.parquet", 2, "undecodable_picture"),
        ("rows.parquet", 3, "duplicate_example"),
    ]
    assert "2 bytes" in tables.quarantine["raw"][0].as_py()
