"""The same rows from threads here and from a Ray of two workers on this machine."""

import threading
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from ops import lanes
from ops.engines import EngineError, LocalEngine, RayEngine, engine_of
from ops.normalise import TABLES, normalise_into
from ops.picture_rows import PictureRows
from ops.readers import coco_scan
from tests.ops.delivery import coco, encoded, json_lines, new_store, pixels, question, source, write

SIZES = [(7, 5), (40, 31), (30, 64), (9, 12)]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[RayEngine]:
    ray = pytest.importorskip("ray", reason="ray, the engine of this test, is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield RayEngine()
    ray.shutdown()


def _annotated(n_pictures: int) -> tuple[list, list]:
    """Pictures, some of them missing or the same, with boxes, some of which stick out or stand twice."""
    images, boxes = [], []
    for number in range(n_pictures):
        width, height = SIZES[number % 4]
        name = "0.png" if number % 9 == 8 else f"{number}.png"
        told = SIZES[0] if name == "0.png" else (width, height)
        images.append({"id": number, "file_name": name, "width": told[0], "height": told[1]})
        for each in range(number % 4):
            size = [2, 3] if number % 7 else [width + 1, 2]
            box = {"id": 10 * number + each, "image_id": number, "category_id": 1 + each % 2}
            boxes.append(box | {"bbox": [0.5 * each, 1, *size]})
    return images, boxes


def _deliver(folder, n_pictures: int = 40) -> None:
    images, boxes = _annotated(n_pictures)
    for number in range(n_pictures):
        if number % 11 != 5:
            write(folder, f"{number}.png", encoded(pixels(SIZES[number % 4], number)))
    write(folder, "annotations.json", coco(images, boxes))
    asked = [question(box["image_id"], [box["id"]], answer=f"{box['id'] % 5}") for box in boxes]
    write(folder, "questions.jsonl", json_lines([*asked, *asked[:9], "no row"]))


OPTIONS = {
    "detections": ({}, None),
    "unread": ({"pictures": "unread"}, None),
    "referenced": ({"pictures": "referenced", "clip_boxes": True}, None),
    "places": ({"templates": ["what", "count"]}, None),
    "questions": ({}, "questions.jsonl"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_ray_gives_row_for_row_what_threads_give(name, two_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(coco_scan, "PIECE_BYTES", 900)
    monkeypatch.setattr(coco_scan, "_PER_BATCH", 4)
    _deliver(tmp_path / "shelf")
    options, questions = OPTIONS[name]
    shelf = source(tmp_path / "shelf", options=options, questions=questions)
    written = []
    for place, engine in (("local", LocalEngine()), ("ray", two_workers)):
        (tmp_path / place).mkdir()
        written.append(normalise_into(shelf, new_store(tmp_path), tmp_path / place, engine))
    local, ray = written
    assert local.counts == ray.counts and local.counts["quarantined"] > 0 and local.counts["rows_out"] > 20
    for table in TABLES:
        ours, theirs = (pq.read_table(each.path(table)) for each in (local, ray))
        assert ours.equals(theirs), table
        assert local.path(table).read_bytes() == ray.path(table).read_bytes(), table


def test_what_fails_on_a_worker_fails_here(two_workers):
    def work(item: int) -> list[int]:  # inside, so that workers get it by value: they do not know this file
        if item == 77:
            raise ValueError("no row of seven")
        return [item, item]

    assert list(two_workers.run(work, range(30))) == [n for each in range(30) for n in (each, each)]
    with pytest.raises(Exception, match="no row of seven"):
        list(two_workers.run(work, range(70, 80)))


def _twice(item: int) -> list[int]:
    return [item, item]


def test_threads_keep_the_order_and_take_items_as_they_are_needed():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    found = LocalEngine(2).run(_twice, items())
    assert [next(found), next(found), next(found)] == [0, 0, 1]
    assert len(taken) <= 4
    assert list(found) == [1, *(n for each in range(2, 10) for n in (each, each))]


def test_another_engine_is_refused():
    with pytest.raises(EngineError, match="'spark': wanted one of local, ray"):
        engine_of("spark")


def test_pictures_that_threads_share_are_remembered_by_one_of_them(tmp_path, monkeypatch):
    """Rows are made on demand, where they are taken: what is known of a picture is written in one thread."""
    monkeypatch.setattr(lanes, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(coco_scan, "PIECE_BYTES", 900)
    monkeypatch.setattr(coco_scan, "_PER_BATCH", 4)
    _deliver(tmp_path / "shelf")
    threads = set()
    remember = PictureRows._remember

    def seen(self, *told):
        threads.add(threading.get_ident())
        remember(self, *told)

    monkeypatch.setattr(PictureRows, "_remember", seen)
    for questions in (None, "questions.jsonl"):
        shelf = source(tmp_path / "shelf", questions=questions)
        (tmp_path / f"out-{questions}").mkdir()
        normalise_into(shelf, new_store(tmp_path), tmp_path / f"out-{questions}", LocalEngine(2))
    assert threads == {threading.get_ident()}
