"""Right conventions give no warning, wrong ones name the right one: real files through the real reader.

Which pairs cannot be told apart, and why, is held too: nothing is said there.
"""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from ops.boxes import CONVENTIONS
from ops.convention_check import corners, evidence, signs, told_convention
from ops.convention_check import written as written_by
from ops.readers import coco, flickr30k, gqa, label_studio, open_images, visual_cot, visual_genome, yolo
from ops.source_profile import PlacedBoxes
from ops.source_warnings import advice, hint, warnings_of
from ops.sources import Source
from storage.tables import empty, from_rows
from tests.ops.delivery import coco as coco_file
from tests.ops.delivery import encoded, new_store, write
from tests.ops.wrong_conventions import WRITERS, deliver, normalised, random_boxes, told, written

N = 90


def tables_of(tables):
    return {name: getattr(tables, name) for name in ("images", "examples", "boxes", "quarantine")}


def warned(folder, store, convention, **options):
    source = told(folder, convention, **options)
    return warnings_of(source, tables_of(normalised(source, store))).to_pylist()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """The same 90 boxes in a file for each convention that could have written them."""
    folder = tmp_path_factory.mktemp("shelf")
    for true in CONVENTIONS:
        deliver(folder, true, random_boxes(N, 7), f"{true}.jsonl")
    return folder


def kinds_of(rows):
    return [row["kind"] for row in rows]


@pytest.mark.parametrize("true", CONVENTIONS)
def test_the_right_convention_gives_no_warning(shelf, tmp_path, true):
    source = told(shelf, true, f"{true}.jsonl")
    tables = normalised(source, new_store(tmp_path))
    assert tables.counts == {"rows_in": N, "rows_out": N, "quarantined": 0}
    assert warnings_of(source, tables_of(tables)).to_pylist() == []


@pytest.mark.parametrize("true", CONVENTIONS)
def test_each_of_the_twelve_wrong_ones_names_the_right_one(shelf, tmp_path, true):
    """Where 1 is counted from 0 or from 1 is one pixel: the two may be named together, the right one among them."""
    store = new_store(tmp_path)
    for wrong in CONVENTIONS:
        if wrong == true:
            continue
        source = told(shelf, wrong, f"{true}.jsonl")
        rows = warnings_of(source, tables_of(normalised(source, store))).to_pylist()
        assert kinds_of(rows)[:1] == ["another_convention_fits"], (true, wrong)
        assert true in rows[0]["fits"], (true, wrong, rows[0])
        assert set(rows[0]["fits"]) <= {true, "xyxy_px", "xyxy_px_from_1"}, (true, wrong, rows[0])
        assert (rows[0]["source"], rows[0]["told"]) == ("shelf", wrong)


def test_the_warning_says_what_was_seen_and_what_to_change(shelf, tmp_path):
    source = told(shelf, "xyxy_px", "xywh_px.jsonl")
    tables = normalised(source, new_store(tmp_path))
    swapped = tables.refused_by_reason["swapped_corners"]
    rows = warnings_of(source, tables_of(tables)).to_pylist()
    assert kinds_of(rows) == ["another_convention_fits", "swapped_corners"]
    lost = f"{(N - tables.examples.num_rows) / N:.1%}"
    assert rows[0]["detail"] == (
        f"source shelf: {N} different boxes: read as xyxy_px, {lost} have swapped corners or leave their picture; "
        "read as xywh_px, they lie evenly and none has swapped corners or a part outside; "
        "xywh_px fits: set box_convention: xywh_px"
    )
    assert (
        f"{swapped} of {N} boxes have their right or lower edge before the left or upper one"
        in rows[1]["detail"]
    )
    assert rows[1]["share"] == pytest.approx(swapped / N)


def test_where_no_row_is_left_the_refused_numbers_still_tell(shelf, tmp_path):
    source = told(shelf, "xyxy_normalised", "xyxy_permille.jsonl")
    tables = normalised(source, new_store(tmp_path))
    assert tables.examples.num_rows == 0
    assert hint(source, tables.quarantine).endswith("xyxy_permille fits: set box_convention: xyxy_permille")
    right = told(shelf, "xyxy_permille", "xyxy_permille.jsonl")
    assert hint(right, normalised(right, new_store(tmp_path)).quarantine) == ""


@pytest.mark.parametrize(
    ("true", "wrong", "sizes", "inside_px", "why"),
    [
        ("xyxy_px_from_1", "xyxy_px", ((320, 240),), 2, "one pixel, seen only where boxes touch an edge"),
        ("xyxy_px", "xyxy_px_from_1", ((320, 240),), 2, "the same"),
        ("xyxy_permille", "xyxy_px", ((1000, 996),), 6, "a thousandth of the side is a pixel"),
        ("xyxy_px", "xyxy_permille", ((1000, 996),), 6, "the same"),
        ("xywh_percent", "xywh_px", ((100, 99),), 2, "a hundredth of the side is a pixel"),
    ],
)
def test_pairs_that_cannot_be_told_apart_are_left_alone(tmp_path, true, wrong, sizes, inside_px, why):
    boxes = random_boxes(N, 3, sizes, inside_px=inside_px)
    deliver(tmp_path / "shelf", true, boxes)
    told_wrong = warned(tmp_path / "shelf", new_store(tmp_path), wrong)
    assert [row for row in told_wrong if row["kind"] == "another_convention_fits"] == [], why


def test_few_boxes_say_nothing(tmp_path):
    deliver(tmp_path / "shelf", "xywh_px", random_boxes(6, 1))
    assert warned(tmp_path / "shelf", new_store(tmp_path), "xyxy_px") == []


def test_cut_boxes_pile_up_at_the_right_and_lower_edge(shelf, tmp_path):
    """x2 read as a width and cut at the edge: nothing is refused, but the boxes end where their pictures do."""
    source = told(shelf, "xywh_px", "xyxy_px.jsonl", clip_boxes=True)
    tables = normalised(source, new_store(tmp_path))
    assert tables.quarantine.num_rows == 0
    (row,) = warnings_of(source, tables_of(tables)).to_pylist()
    assert (row["kind"], row["fits"]) == ("boxes_at_right_or_lower_edge", ["xyxy_px"])
    assert row["share"] > 0.6
    right = told(shelf, "xyxy_px", "xyxy_px.jsonl", clip_boxes=True)
    assert warnings_of(right, tables_of(normalised(right, new_store(tmp_path)))).num_rows == 0


def test_broken_boxes_that_no_convention_explains_are_told_without_advice(tmp_path):
    """Of 90 good boxes every fifth has its corners exchanged by hand, as a careless tool would."""
    boxes = random_boxes(N, 5)
    swapped = [
        ((x2, y2, x1, y1), size) if i % 5 == 0 else ((x1, y1, x2, y2), size)
        for i, ((x1, y1, x2, y2), size) in enumerate(boxes)
    ]
    deliver(tmp_path / "shelf", "xyxy_px", swapped)
    (row,) = warned(tmp_path / "shelf", new_store(tmp_path), "xyxy_px")
    assert (row["kind"], row["fits"], row["n"]) == ("swapped_corners", [], N)
    assert row["share"] == pytest.approx(18 / 90)
    assert "18 of 90 boxes" in row["detail"] and "no other convention fits" in row["detail"]


def test_a_few_boxes_over_the_edge_are_no_other_convention(tmp_path):
    """Five of 90 right edges lie 3 % beyond: refused, and fewer than is worth a word."""
    deliver(
        tmp_path / "shelf", "xyxy_normalised", random_boxes(N - 4, 5) + [((10, 10, 330, 100), (320, 240))] * 4
    )
    assert warned(tmp_path / "shelf", new_store(tmp_path), "xyxy_normalised") == []


def test_boxes_that_keep_to_one_half_of_right_pictures_are_left_alone(tmp_path):
    """Things at the bottom only, as on a street; left and right they lie evenly."""
    boxes = [b for b in random_boxes(4 * N, 11) if b[0][1] > 0.4 * b[1][1]]
    assert len(boxes) > N
    for convention in CONVENTIONS:
        deliver(tmp_path / "shelf", convention, boxes)
        assert warned(tmp_path / "shelf", new_store(tmp_path), convention) == [], convention


def test_other_formats_are_advised_in_their_own_words(shelf, tmp_path):
    voc = Source("v", "voc", str(shelf), "Annotations")
    assert advice(voc, ("xyxy_px",)) == "xyxy_px fits: set from_zero: true"
    coco_source = Source("c", "coco", str(shelf), "annotations.json")
    assert advice(coco_source, ("xyxy_px",)) == (
        "xyxy_px fits, but format coco reads x, y, width, height in pixels; or the extent of the segmentation: "
        "mend the export, or read it as format table with box_convention: xyxy_px"
    )


def test_formats_are_told_as_their_readers_convert_them():
    for module, name in (
        (coco, "coco"),
        (flickr30k, "flickr30k"),
        (gqa, "gqa"),
        (label_studio, "label_studio"),
        (open_images, "open_images"),
        (visual_cot, "visual_cot"),
        (visual_genome, "visual_genome"),
        (yolo, "yolo"),
    ):
        assert told_convention(name, {}) == module.CONVENTION
    assert told_convention("cvat", {}) == told_convention("labelme", {}) == "xyxy_px"
    assert told_convention("voc", {}) == "xyxy_px_from_1"
    assert told_convention("voc", {"from_zero": True}) == "xyxy_px"
    assert told_convention("table", {"box_convention": "cxcywh_permille"}) == "cxcywh_permille"


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_numbers_are_converted_and_undone_as_the_door_does(convention):
    """The columns against ops.boxes, box by box: 40, 30 to 100, 90 on a picture of 160 x 120 px."""
    size, box = np.array([[160.0, 120.0]]), np.array([[40.0, 30.0, 100.0, 90.0]])
    raw = written(convention, (40, 30, 100, 90), (160, 120))
    assert written_by(convention, box, size)[0].tolist() == pytest.approx(raw)
    assert corners(convention, np.array([raw]), size)[0].tolist() == pytest.approx([40, 30, 100, 90])
    assert CONVENTIONS[convention](raw, (160, 120)).xyxy == pytest.approx((40, 30, 100, 90))


def test_writers_cover_every_pixel_convention():
    assert set(WRITERS) == {name for name in CONVENTIONS if "px" in name}


def test_coco_with_corners_is_told_and_questions_that_need_a_lost_box_do_not_count(tmp_path):
    """Right and lower edges in the place of width and height: a box that leaves its picture costs one row itself, and
    each of the questions made of it another; 60 boxes are 60.
    """
    boxes, folder = random_boxes(60, 4), tmp_path / "shelf"
    images, annotations = [], []
    for number, (box, (width, height)) in enumerate(boxes):
        name = f"{number}.png"
        write(folder, name, encoded(np.full((height, width, 3), 120, np.uint8)))
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": list(box)})
    write(folder, "annotations.json", coco_file(images, annotations))
    source = Source("shelf", "coco", str(folder), "annotations.json")
    tables = normalised(source, new_store(tmp_path))
    lost = sum(x1 + x2 > w or y1 + y2 > h for (x1, y1, x2, y2), (w, h) in boxes)
    assert tables.refused_by_reason == {"box_outside_picture": 3 * lost}
    first, second = warnings_of(source, tables_of(tables)).to_pylist()
    assert (first["kind"], first["fits"], first["n"]) == ("another_convention_fits", ["xyxy_px"], 60)
    assert first["share"] == pytest.approx(lost / 60)
    assert f"{lost} of {lost + tables.boxes.num_rows} boxes leave their picture" in second["detail"]


def test_lines_of_text_over_the_whole_width_do_not_pile_up():
    """They touch the right edge and the left one alike: 40 lines on a page of 300 x 400 px."""
    lines = np.array([[0.0, 10.0 * n, 300.0, 10.0 * n + 8] for n in range(40)])
    pages = np.tile([300.0, 400.0], (40, 1))
    assert signs("xyxy_px", [(lines, pages)], empty("quarantine")) == []
    (sign,) = signs("xyxy_px", [(lines + np.array([20.0, 0.0, 0.0, 0.0]), pages)], empty("quarantine"))
    assert (sign.kind, sign.share) == ("boxes_at_right_or_lower_edge", 1.0)


def test_without_the_sizes_of_pictures_no_unit_is_named():
    """60 middles and sizes read as corners, of which nobody kept the picture: that they are swapped is all."""
    rows = [
        {
            "source": "s",
            "stage": "box",
            "reason": "swapped_corners",
            "detail": f"{written('cxcywh_px', box, size)}: right or bottom edge lies before left or top",
            "raw": "{}",
        }
        for box, size in random_boxes(60, 9)
    ]
    (sign,) = signs("xyxy_px", [], from_rows("quarantine", rows))
    assert (sign.kind, sign.n, sign.fits) == ("swapped_corners", 60, ())


def test_signs_of_nothing_are_none():
    assert signs("xyxy_px", [], empty("quarantine")) == []


def test_boxes_are_placed_on_their_own_pictures(shelf, tmp_path):
    """Each box with the size of its own picture, in the order of the boxes."""
    tables = normalised(told(shelf, "xyxy_px", "xyxy_px.jsonl"), new_store(tmp_path))
    ((boxes, size_wh),) = PlacedBoxes(tables_of(tables))
    wanted = random_boxes(N, 7)
    assert boxes.tolist() == [list(map(float, box)) for box, _ in wanted]
    assert size_wh.tolist() == [[float(w), float(h)] for _, (w, h) in wanted]


def test_the_sample_of_many_boxes_is_the_same_in_pieces():
    """50,000 boxes and 10,000 refused ones: every third is looked at, wherever the pieces end."""
    rng = np.random.default_rng(5)
    boxes, sizes = rng.uniform(0, 50, (50_000, 4)), rng.integers(100, 200, (50_000, 2)).astype(float)
    details = [f"[{n}, 30, 10, 20]: right or bottom edge lies before left or top" for n in range(10_000)]
    refused = pa.table({"reason": ["swapped_corners"] * 10_000, "detail": details})
    whole = evidence("xyxy_px", [(boxes, sizes)], refused)
    assert (whole.n_boxes, whole.n_refused, len(whole.raw)) == (50_000, 10_000, 16_667 + 3_334)
    ends = [0, 1, 8, 20_000, 20_000, 50_000]
    pieces = [(boxes[a:b], sizes[a:b]) for a, b in itertools.pairwise(ends)]
    parted = pa.concat_tables([refused.slice(0, 7), refused.slice(7, 0), refused.slice(7)])
    found = evidence("xyxy_px", pieces, parted)
    assert np.array_equal(found.raw, whole.raw)
    assert np.array_equal(found.size_wh, whole.size_wh, equal_nan=True)
