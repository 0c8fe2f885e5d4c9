"""Data sources in a bucket whose server fails: read again, and a failing server never makes a row's quarantine."""

import threading
import zipfile

import pytest

from ops.normalise import normalise
from ops.source_files import FileProblem, SourceFiles
from ops.sources import Source
from storage.lineage import Work, unbroken
from storage.objects import Store, StoreUnreachableError
from tests.faults.faulty_s3 import ENDLESS
from tests.ops.delivery import coco, encoded, json_lines, pixels, question

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def shelf(s3, behind):
    address = f"s3://{behind.bucket}/shelf"
    files = Store(address)
    files.write_bytes("cup.png", encoded(pixels()))
    images = [{"id": n, "file_name": name} for n, name in enumerate(("cup.png", "no.png"))]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]} for n in range(2)]
    files.write_bytes("annotations.json", json_lines([coco(images, boxes)]).encode())
    files.write_bytes("questions.jsonl", json_lines([question(n, [n]) for n in range(2)]).encode())
    s3.heal()
    return Source("shelf", "coco", address, "annotations.json", "questions.jsonl")


@pytest.mark.parametrize("fault", ["503", "reset", "stall", "cut_answer"])
def test_files_are_read_and_listed_despite_one_fault(s3, shelf, store, fault):
    files = SourceFiles(shelf.location, store)
    spoilt = s3.fail_attempt("GET", fault)
    assert files.read("cup.png") == encoded(pixels())
    spoilt += s3.fail_attempt("LIST", fault)
    assert files.names() == ["annotations.json", "cup.png", "questions.jsonl"]
    assert s3.struck() == spoilt


def test_a_failing_server_is_an_error_and_an_absent_file_a_reason(s3, shelf, store):
    files = SourceFiles(shelf.location, store)
    s3.fail("HEAD", "503", times=ENDLESS)
    s3.fail("LIST", "503", times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match=r"cup\.png: cannot be read"):
        files.read("cup.png")
    with pytest.raises(StoreUnreachableError, match="shelf: cannot be listed"):
        files.names()
    s3.heal()
    problem = files.read("no.png")
    assert isinstance(problem, FileProblem) and problem.reason == "missing_file"


def test_an_archive_behind_a_failing_server_is_an_error_and_is_fetched_again(
    s3, shelf, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "inside")
    Store(shelf.location).put_file(tmp_path / "a.zip", "a.zip")
    s3.heal()
    s3.fail("GET", "503", times=ENDLESS, below="a.zip")
    with pytest.raises(StoreUnreachableError, match=r"a\.zip: cannot be read"):
        SourceFiles(f"{shelf.location}/a.zip", store).read("a.txt")
    s3.heal()
    spoilt = s3.fail_attempt("GET", "cut_answer")
    assert SourceFiles(f"{shelf.location}/a.zip", store).read("a.txt") == b"inside"
    assert s3.struck() == spoilt


def test_no_row_is_refused_because_of_the_server(s3, shelf, store):
    s3.fail("GET", "503", below="cup.png")
    tables = normalise(shelf, store)
    assert s3.struck() == [("GET", "503")]
    assert tables.quarantine["reason"].to_pylist() == ["missing_file"]
    assert (tables.images.num_rows, tables.examples.num_rows) == (1, 1)
    s3.heal()
    s3.fail("GET", "503", times=ENDLESS, below="cup.png")
    with pytest.raises(StoreUnreachableError, match=r"cup\.png: cannot be read"):
        normalise(shelf, store)


def test_two_runs_over_one_source_end_with_one_result(s3, shelf, ledger, behind):
    """At once, up to the handles, with faults in the way of either."""
    work = Work(producer="ops.normalise", name="shelf", outputs=("images", "examples", "quarantine"))
    both, ends = threading.Barrier(2), []

    def run():
        both.wait()
        tables = normalise(shelf, ledger.store)
        for name in work.outputs:
            artifact = ledger.put_table(work, name, name, getattr(tables, name))
            ledger.point(f"data/{name}", "shelf", artifact)
        ends.append("done")

    for kind, first in (("GET", 2), ("PUT", 1), ("PUT", 3), ("PUT", 6)):
        s3.fail(kind, "lost_answer", first=first)
    writers = [threading.Thread(target=run) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert ends == ["done", "done"] and len(s3.struck()) == 4
    kinds = [name.split("/")[0] for name in behind.names()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"handles": 3, "lineage": 3, "tables": 3}
    assert unbroken(ledger) == []
    assert [ledger.current(f"data/{name}", "shelf").n_rows for name in work.outputs] == [1, 1, 1]
