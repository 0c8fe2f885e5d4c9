"""Which pictures are on a contact sheet, where the boxes are drawn, and that it stays small whatever comes.

One picture alone is 184 x 138 px at most, its place starts 12 px from the left and the top; below are two lines.
"""

import io
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ops.contact_sheet import KEPT, REFUSED, Candidate, Shown, candidates, chosen, draw, refused
from ops.normalise import normalise
from ops.source_sheet import sheet_of
from ops.sources import Source
from storage.tables import encode_table, from_rows
from tests.ops.delivery import encoded, json_lines, new_store, write
from tests.ops.wrong_conventions import deliver, normalised, random_boxes, told

GREY = (120, 120, 120)


def drawn(shown, data, **options):
    sheet = draw(shown, data, **{"max_pixels": 10**7} | options)
    return Image.open(io.BytesIO(sheet)).convert("RGB")


def plain(width, height):
    return encoded(np.full((height, width, 3), GREY, np.uint8))


def near(pixel, colour, by=60):
    """Within what WebP changes."""
    return all(abs(a - b) <= by for a, b in zip(pixel, colour, strict=True))


def shown(*boxes, **other):
    return Shown("sha", "a.png", boxes, **{"title": "cup", "text": "plate"} | other)


def test_a_box_is_drawn_where_it_is():
    """368 x 184 px is shown half as large, 184 x 92, at the bottom of its place: y from 12 + 138 - 92 = 58.

    The box 100, 40 to 300, 140 becomes 50, 20 to 150, 70: on the sheet x 62 to 162, y 78 to 128.
    """
    sheet = drawn([shown((100, 40, 300, 140))], [plain(368, 184)])
    bright = [
        (x, y) for x in range(12, 196) for y in range(58, 150) if near(sheet.getpixel((x, y)), KEPT, 90)
    ]
    xs, ys = [x for x, _ in bright], [y for _, y in bright]
    assert (min(xs), max(xs)) == (pytest.approx(62, abs=2), pytest.approx(161, abs=2))
    assert (min(ys), max(ys)) == (pytest.approx(78, abs=2), pytest.approx(127, abs=2))
    assert near(sheet.getpixel((112, 103)), GREY, 15)


def test_a_refused_box_is_red_and_stands_below_under_its_heading():
    sheet = drawn([shown((0, 0, 1, 1)), shown((20, 20, 160, 110), refused=True)], [plain(184, 138)] * 2)
    assert sheet.height > 12 + 2 * 186
    top = 12 + 186 + 30
    red = [y for y in range(sheet.height) if near(sheet.getpixel((100, y)), REFUSED, 70)]
    assert red
    assert min(red) == pytest.approx(top + 20, abs=3)


def test_a_speck_and_a_box_outside_the_picture_are_still_to_be_seen():
    sheet = drawn(
        [shown((90.0, 60.0, 90.4, 60.4)), shown((900, 900, 950, 950), refused=True)], [plain(184, 138)] * 2
    )
    assert any(near(sheet.getpixel((x, 12 + 60)), KEPT, 90) for x in range(95, 110))


def test_what_cannot_be_read_leaves_its_place_empty():
    sheet = drawn([shown(), shown()], [None, b"no picture"])
    assert near(sheet.getpixel((100, 120)), (233, 230, 223), 12)


def test_a_picture_over_the_limit_is_not_decoded():
    sheet = drawn([shown()], [plain(200, 150)], max_pixels=100)
    assert near(sheet.getpixel((100, 120)), (233, 230, 223), 12)


def test_the_sheet_keeps_within_its_bytes_and_is_the_same_each_time():
    """24 pictures of noise, which compress badly: 24 x 184 x 138 px."""
    rng = np.random.default_rng(0)
    noise = [encoded(rng.integers(0, 256, (138, 184, 3), dtype=np.uint8)) for _ in range(24)]
    sheets = [draw([shown()] * 24, noise, max_pixels=10**6, most_bytes=60_000) for _ in range(2)]
    assert len(sheets[0]) <= 60_000
    assert sheets[0] == sheets[1]


def test_texts_of_any_kind_are_drawn_in_one_line():
    """Line breaks, very long, right to left, and letters that the font lacks: the file's name stands for these."""
    texts = ["a\nb\x00c", "W" * 10_000, "\u202eevil", "北京 " * 50, ""]
    sheet = drawn([shown(title=text, text=text) for text in texts], [plain(184, 138)] * 5)
    assert sheet.size == (12 + 5 * 196, 12 + 186)
    same = (
        drawn([shown(title="北京", text="x")], [plain(184, 138)]),
        drawn([shown(title="a.png", text="x")], [plain(184, 138)]),
    )
    assert same[0].tobytes() == same[1].tobytes()


def test_an_empty_source_gives_a_sheet_of_nothing():
    assert drawn([], []).width > 0


def source_of(n_pictures, questions_each):
    images = [
        {**dict.fromkeys(("pixels_sha256", "source", "source_file", "uri", "format"), "x"), "thumb": b"", "n_bytes": 1,
         "image_sha256": f"i{n}", "file_name": f"{n}.png", "width_px": 40, "height_px": 30}
        for n in range(n_pictures)
    ]  # fmt: skip
    examples = [
        {"example_id": f"{n}-{k}", "image_sha256": f"i{n}", "question": f"q{k}", "answer": f"a{k}"}
        for n in range(n_pictures)
        for k in range(questions_each)
    ]
    boxes = [
        {"example_id": e["example_id"], "box_index": b, "x1_px": 1.0, "y1_px": 2.0, "x2_px": 9.0, "y2_px": 8.0 + b,
         "label": "cup"}
        for e in examples
        for b in range(2)
    ]  # fmt: skip
    whole = {"source": "s", "source_file": "f", "source_row": 0, "accepted_answers": [], "answer_type": "word",
             "n_boxes": 2, "evidence_area_frac": 0.1}  # fmt: skip
    return {
        "images": from_rows("images", images),
        "examples": from_rows("examples", [e | whole for e in examples]),
        "boxes": from_rows("boxes", boxes),
    }


def test_the_choice_is_spread_evenly_over_the_source_each_picture_once():
    """100 pictures, 24 places: the first and the last, and every 4th or 5th between. Each with its first question."""
    found = chosen(source_of(100, 3))
    numbers = [int(each.file_name.removesuffix(".png")) for each in found]
    assert len(set(numbers)) == 24
    assert (numbers[0], numbers[-1]) == (0, 99)
    assert {b - a for a, b in itertools.pairwise(numbers)} <= {4, 5}
    assert {each.title for each in found} == {"a0"}
    assert found[0].boxes == ((1.0, 2.0, 9.0, 8.0), (1.0, 2.0, 9.0, 9.0))
    assert found[0].text == "cup"


def test_few_pictures_are_all_shown_and_none_twice():
    assert [each.file_name for each in chosen(source_of(3, 2))] == ["0.png", "1.png", "2.png"]


def test_refused_rows_are_found_with_numbers_and_picture(tmp_path):
    """True x, y, width, height read as corners: half of the boxes are refused, all 3 pictures are known by name."""
    deliver(tmp_path / "shelf", "xywh_px", random_boxes(40, 2))
    tables = normalised(told(tmp_path / "shelf", "xyxy_px"), new_store(tmp_path))
    found = candidates(tables.quarantine)
    assert len(found) == sum(row["reason"] == "swapped_corners" for row in tables.quarantine.to_pylist()) > 5
    quarantine = tables.quarantine
    assert candidates(pa.concat_tables([quarantine.slice(0, 4), quarantine.slice(4)]), most=3) == candidates(
        quarantine, most=3
    )
    first = tables.quarantine.to_pylist()[0]
    assert found[0].names == (first["raw"].split('"image": "')[1].split('"')[0],)
    assert f"[{', '.join(str(number) for number in found[0].numbers)}]" in first["detail"]


def test_a_refused_box_is_shown_as_it_was_read():
    """x 70, y 10, width 30, height 20 read as corners: from 30, 10 to 70, 20 when put in order."""
    candidate = Candidate(("a.png",), (70.0, 10.0, 30.0, 20.0), "swapped_corners")
    each = refused(candidate, "xyxy_px", "a.png", (160, 120))
    assert (each.boxes, each.title, each.text) == (((30, 10, 70, 20),), "swapped corners", "[70, 10, 30, 20]")
    shares = Candidate(("a.png",), (0.5, 0.25, 2.0, 0.5), "box_outside_picture")
    assert refused(shares, "xyxy_normalised", "a.png", (160, 120)).boxes == ((80, 30, 320, 60),)


def images_file(tmp_path, tables):
    path = tmp_path / "images.parquet"
    path.write_bytes(encode_table("images", tables.images))
    return [str(path)]


def test_the_sheet_of_a_wrong_source_has_a_strip_of_refused_boxes(tmp_path):
    deliver(tmp_path / "shelf", "xywh_px", random_boxes(40, 2))
    heights = {}
    for convention in ("xywh_px", "xyxy_px"):
        source = told(tmp_path / "shelf", convention)
        tables = normalised(source, new_store(tmp_path))
        found = {name: getattr(tables, name) for name in ("images", "examples", "boxes", "quarantine")}
        data = sheet_of(source, found, images_file(tmp_path, tables), new_store(tmp_path))
        heights[convention] = Image.open(io.BytesIO(data)).height
    assert heights["xyxy_px"] == heights["xywh_px"] + 30 + 186


@pytest.mark.parametrize("first", ["images", "annotations"])
def test_refused_boxes_of_coco_are_shown_in_the_pictures_that_their_file_names(tmp_path, first):
    """An annotation tells the number of its picture, and no name. Three stick out of the second picture, a blue one."""
    for name, colour in (("a.png", (200, 20, 20)), ("b.png", (20, 20, 200))):
        write(tmp_path, f"shelf/pictures/{name}", encoded(np.full((40, 60, 3), colour, np.uint8)))
    boxes = [(7, [5 + n, 5, 10, 10]) for n in range(9)] + [(9, [5 + n, 5, 90, 10]) for n in range(3)]
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": 1, "bbox": box}
            for n, (image, box) in enumerate(boxes)
        ],
    }
    write(tmp_path, "shelf/annotations.json", json.dumps({first: content[first], **content}).encode())
    source = Source("s", "coco", str(tmp_path / "shelf"), "annotations.json", options={"images": "pictures"})
    tables = normalise(source, new_store(tmp_path))
    found = {name: getattr(tables, name) for name in ("images", "examples", "boxes", "quarantine")}
    data = sheet_of(source, found, images_file(tmp_path, tables), new_store(tmp_path))
    sheet = Image.open(io.BytesIO(data)).convert("RGB")
    assert sheet.size == (12 + 3 * 196, 12 + 186 + 30 + 186)
    shown = [sheet.getpixel((12 + 196 * place + 100, 12 + 186 + 30 + 120)) for place in range(3)]
    assert all(near(colour, (20, 20, 200), 40) for colour in shown), shown


def test_pictures_kept_by_reference_are_read_and_one_that_is_gone_costs_itself(tmp_path):
    deliver(tmp_path / "shelf", "xyxy_px", random_boxes(30, 2))
    source = told(tmp_path / "shelf", "xyxy_px")
    tables = normalised(source, new_store(tmp_path))
    rows = [{**row, "bytes": None} for row in tables.images.to_pylist()]
    by_reference = from_rows("images", rows)
    found = {name: getattr(tables, name) for name in ("examples", "boxes", "quarantine")} | {
        "images": by_reference
    }
    path = tmp_path / "images.parquet"
    path.write_bytes(encode_table("images", by_reference))
    whole = sheet_of(source, found, [str(path)], new_store(tmp_path))
    inside = sheet_of(source, found, images_file(tmp_path, tables), new_store(tmp_path))
    assert whole == inside
    path.write_bytes(encode_table("images", by_reference))
    (tmp_path / "shelf" / "320x240.png").unlink()
    sheet = Image.open(io.BytesIO(sheet_of(source, found, [str(path)], new_store(tmp_path)))).convert("RGB")
    empty = [near(sheet.getpixel((12 + 196 * place + 90, 130)), (233, 230, 223), 6) for place in range(3)]
    assert empty == [True, False, False]


def test_a_name_that_leads_out_of_the_source_is_not_followed(tmp_path):
    write(tmp_path, "secret.png", plain(60, 40))
    row = {"image": "../secret.png", "question": "What?", "answer": "cup", "bbox": [50, 30, 10, 10]}
    good = {"image": "good.png", "question": "What?", "answer": "cup", "bbox": [5, 5, 10, 10]}
    write(tmp_path, "shelf/good.png", plain(60, 40))
    write(tmp_path, "shelf/rows.jsonl", json_lines([good, row]))
    source = told(tmp_path / "shelf", "xyxy_px")
    tables = normalised(source, new_store(tmp_path))
    refusal = {"source": "shelf", "source_file": "rows.jsonl", "source_row": 1, "stage": "box",
               "reason": "swapped_corners", "raw": '{"image": "../secret.png"}',
               "detail": "[50, 30, 10, 10]: right or bottom edge lies before left or top"}  # fmt: skip
    found = {name: getattr(tables, name) for name in ("images", "examples", "boxes")}
    found["quarantine"] = from_rows("quarantine", [refusal])
    assert candidates(found["quarantine"])[0].names == ("../secret.png",)
    data = sheet_of(source, found, images_file(tmp_path, tables), new_store(tmp_path))
    assert Image.open(io.BytesIO(data)).height == 12 + 186
