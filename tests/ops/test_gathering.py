"""Rows of any number: detections gathered on disk give what they give in memory, files are read as streams."""

import json
import random
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.normalise import NothingLeft, normalise
from ops.readers import gathering, json_files, row_files
from ops.sources import files_of, pieces_of
from tests.ops.delivery import conserved, encoded, json_lines, new_store, pixels, refused, source, write

SIZES = {"a.png": (7, 5), "b.png": (40, 31), "c.png": (30, 64)}
HEADER = "image,label,x,y,width,height\n"


def _detections(folder: Path, n: int) -> None:
    draw = random.Random(3)
    lines = []
    for number in range(n):
        name = draw.choice([*SIZES, "no.png"])
        width = "wide" if number % 17 == 5 else f"{1 + number % 6}"
        lines.append(f"{name},{draw.choice(['cup', 'plate', ''])},{number % 3},1,{width},2.5")
    write(folder, "rows.csv", HEADER + "\n".join(lines) + "\nhalf a row\n")
    for seed, (name, size_wh) in enumerate(SIZES.items()):
        write(folder, name, encoded(pixels(size_wh, seed)))


def _tables(folder: Path):
    options = {"box_convention": "xywh_px"}
    tables = normalise(source(folder, "table", annotations="rows.csv", options=options), new_store(folder))
    conserved(tables)
    return tables


@pytest.mark.parametrize("most", [0, 3000, 20_000, 200_000])
@pytest.mark.parametrize("per_file", [1, 2, 3])
def test_detections_gathered_on_disk_are_those_gathered_in_memory(most, per_file, tmp_path, monkeypatch):
    """Also their order, by which new pictures come after all that were there before."""
    _detections(tmp_path, 39)
    memory = _tables(tmp_path)
    seen = []
    folder = gathering.temporary_folder

    @contextmanager
    def seen_folder(name):
        with folder(name) as made:
            seen.append(made)
            yield made

    monkeypatch.setattr(gathering, "MOST_BYTES", most)
    monkeypatch.setattr(gathering, "PER_FILE", per_file)
    monkeypatch.setattr(gathering, "temporary_folder", seen_folder)
    disk = _tables(tmp_path)
    assert len(seen) == (most < 200_000)
    assert not any(each.exists() for each in seen)
    assert disk.counts == memory.counts and memory.counts["quarantined"] > 5 < memory.counts["rows_out"]
    for name in ("images", "examples", "boxes", "quarantine"):
        assert getattr(disk, name).equals(getattr(memory, name)), name


def test_what_a_row_holds_beside_its_box_takes_no_memory_and_no_depth(tmp_path, monkeypatch):
    """Fifty rows with a megabyte each that nobody asked for, one nested deeper than can be pickled."""
    box = {"image": "a.png", "label": "cup", "bbox": [1, 1, 2, 2]}
    write(tmp_path, "a.png", encoded(pixels(SIZES["a.png"])))
    rows = "\n".join(f'{{"mask": "{"m" * 2**20}", {json.dumps(box)[1:]}' for _ in range(50))
    deep = f'{{"deep": {"[" * 900}{"]" * 900}, {json.dumps(box | {"bbox": [1, 1, -2, 2]})[1:]}'
    write(tmp_path, "rows.jsonl", f"{rows}\n{deep}\n")
    monkeypatch.setattr(gathering, "MOST_BYTES", 20_000)
    told = source(tmp_path, "table", annotations="rows.jsonl", options={"box_convention": "xywh_px"})
    rows_read = pieces_of(told, files_of(told, new_store(tmp_path)), tmp_path)
    tracemalloc.start()
    try:
        n_rows = sum(1 for piece in rows_read for _ in piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_rows > 51 and peak < 12 * 2**20  # a line is there in four forms at most
    with pytest.raises(NothingLeft) as caught:
        normalise(told, new_store(tmp_path))
    assert caught.value.tables.quarantine["raw"].to_pylist()[-1].startswith('{"deep": [[[')


def _question(number: int, **more) -> dict:
    asked = {"image": "a.png", "question": f"What is {number}?", "answer": "cup", "bbox": [1, 1, 3, 2]}
    return asked | more


@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
def test_a_long_line_costs_itself_wherever_it_is_cut(end, tmp_path, monkeypatch):
    text = json_lines([_question(0), _question(1, note="x" * 300), _question(2)]).rstrip("\n")
    longest = max(map(len, text.split("\n")))
    write(tmp_path, "rows.jsonl", "\ufeff" + text + end)
    write(tmp_path, "a.png", encoded(pixels(SIZES["a.png"])))
    told = source(tmp_path, "table", annotations="rows.jsonl", options={"box_convention": "xywh_px"})
    monkeypatch.setattr(json_files, "MAX_LINE_BYTES", longest)
    assert normalise(told, new_store(tmp_path)).examples["source_row"].to_pylist() == [0, 1, 2]
    for most in (longest - 1, 200, longest // 2):
        monkeypatch.setattr(json_files, "MAX_LINE_BYTES", most)
        tables = normalise(told, new_store(tmp_path))
        assert tables.examples["source_row"].to_pylist() == [0, 2]
        assert refused(tables) == [("rows.jsonl", 1, "unsupported")]
        assert tables.quarantine["detail"].to_pylist() == [f"a line of {longest} bytes; {most} are allowed"]


def test_a_long_line_of_csv_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_LINE_CHARACTERS", 60)
    good = "a.png,cup,1,1,3,2\n"
    write(
        tmp_path,
        "rows.csv",
        HEADER + good + f"a.png,{'p' * 60},1,1,3,2\n" + good.replace("cup", "\u00e9" * 30)[:-1],
    )
    write(tmp_path, "a.png", encoded(pixels(SIZES["a.png"])))
    tables = _tables(tmp_path)
    assert set(tables.boxes["label"].to_pylist()) == {"cup", "\u00e9" * 30}
    assert refused(tables) == [("rows.csv", 1, "broken_file")]
    assert tables.quarantine["detail"].to_pylist() == ["not CSV: a line of more than 60 characters"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("n_lines", [1, 8 * 1024])
def test_a_file_of_rows_is_never_in_memory_whole(n_lines, name, tmp_path, monkeypatch):
    """8 MiB of rows that are refused one by one, or of one row; an eighth of that is held at once at most."""
    monkeypatch.setattr(json_files, "MAX_LINE_BYTES", 5000)
    monkeypatch.setattr(row_files, "MAX_LINE_CHARACTERS", 5000)
    line = b"x" * (8 * 2**20 // n_lines - 1) + b"\n"
    write(tmp_path, name, b"image\n" + n_lines * line)
    files = files_of(source(tmp_path, "table"), new_store(tmp_path))
    tracemalloc.start()
    try:
        n_rows = sum(1 for _ in row_files.rows_of(files, name, (".jsonl", ".csv")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_rows == n_lines + (name == "rows.jsonl")
    assert peak < 2**20
