"""Tables, records, handles and the catalogue on an S3 that fails: never a record of what is not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage.catalog import CatalogError, build, query
from storage.lineage import Work, unbroken
from storage.objects import StoreUnreachableError
from storage.tables import from_rows
from tests.faults.faulty_s3 import ENDLESS

pytestmark = pytest.mark.timeout(20)

TOP = Path(__file__).resolve().parents[2]
ROWS = [
    {"example_id": f"e{n}", "image_sha256": f"{n:064d}", "split": "test", "split_rule": "content_hash"}
    | {"group_sha256": None}
    for n in range(3)
]
WORK = Work(producer="ops.split", config={"test": 0.2}, outputs=("splits",))


def put(ledger):
    artifact = ledger.put_table(WORK, "splits", "splits", from_rows("splits", ROWS))
    ledger.point("data/splits", "", artifact)
    return artifact


def is_right(ledger, behind):
    """One table, one record, one handle, each of three rows, whatever went on before."""
    names = behind.names()
    (artifact,) = ledger.everything()
    assert [name.split("/")[0] for name in names] == ["handles", "lineage", "tables"]
    assert ledger.read_table(artifact).to_pylist() == ROWS
    assert ledger.current("data/splits").sha256 == artifact.sha256
    return True


@pytest.mark.parametrize(
    ("place", "fault"), [("tables/", "cut_upload"), ("lineage/", "lost_answer"), ("handles/", "503")]
)
def test_a_table_is_kept_once_despite_one_fault(s3, ledger, behind, place, fault):
    spoilt = s3.fail_attempt("PUT", fault, below=place)
    put(ledger)
    assert s3.struck() == spoilt
    assert is_right(ledger, behind)


@pytest.mark.parametrize(
    ("place", "fault", "left"),
    [
        ("tables/", "cut_upload", []),
        ("lineage/", "500", ["tables"]),
        ("handles/", "reset", ["lineage", "tables"]),
    ],
)
def test_a_writer_that_gives_up_leaves_no_record_of_absent_content(s3, ledger, behind, place, fault, left):
    s3.fail("PUT", fault, times=ENDLESS, below=place)
    with pytest.raises(StoreUnreachableError, match="cannot be written"):
        put(ledger)
    assert [name.split("/")[0] for name in behind.names()] == left
    assert unbroken(ledger) == []
    s3.heal()
    assert (ledger.find(WORK) is not None) == ("lineage" in left)
    put(ledger)
    assert is_right(ledger, behind)


def test_a_folder_that_was_half_brought_has_no_record(s3, ledger, behind, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(name.encode())
    s3.fail("PUT", "reset", times=ENDLESS, below="b.bin")
    work = Work(producer="training.sft", name="base")
    with pytest.raises(StoreUnreachableError, match=r"b\.bin: cannot be written"):
        ledger.put_folder(work, "policy", "policy", folder)
    assert [name.rsplit("/")[-1] for name in behind.names()] == ["a.bin"]
    assert ledger.everything() == [] and ledger.find(work) is None
    s3.heal()
    ledger.put_folder(work, "policy", "policy", folder)
    assert set(ledger.find(work)) == {"policy"}


def test_a_failing_server_is_not_taken_for_missing_content(s3, ledger):
    artifact = put(ledger)
    s3.fail("LIST", "503", times=ENDLESS, below="tables")
    with pytest.raises(StoreUnreachableError, match="cannot be listed"):
        ledger.content_problem(artifact)
    with pytest.raises(StoreUnreachableError):
        ledger.find(WORK)


def test_the_catalogue_is_built_despite_a_fault_in_each_of_its_requests(s3, world):
    """Records and handles are read by s3fs, the tables by DuckDB, and the file is put by s3fs."""
    for kind, below in (
        ("GET", "lineage/"),
        ("HEAD", "tables/"),
        ("GET", "tables/"),
        ("PUT", "catalog.duckdb"),
    ):
        s3.fail(kind, "503", below=below)
    build(world.ledger)
    assert s3.struck() == [(kind, "503") for kind in ("GET", "HEAD", "GET", "PUT")]
    assert query(world.ledger.store.root, "SELECT count(*) AS n FROM boxes").to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    ("kind", "below", "error"),
    [
        ("PUT", "catalog.duckdb", StoreUnreachableError),
        ("GET", "tables/", CatalogError),
    ],
)
def test_a_build_that_gives_up_leaves_the_old_catalogue(s3, world, kind, below, error):
    root = world.ledger.store.root
    build(world.ledger)
    world.ledger.forget("evidence/predictions", "base")
    world.ledger.forget("evidence/saliency_maps", "base")
    s3.fail(kind, "500", times=ENDLESS, below=below)
    with pytest.raises(error, match="cannot be"):
        build(world.ledger)
    s3.heal()
    count = "SELECT count(*) AS n FROM predictions"
    assert query(root, count).to_pylist() == [{"n": 4}]
    build(world.ledger)
    assert query(root, count).to_pylist() == [{"n": 2}]


def test_two_writers_of_one_table_end_with_one(s3, ledger, behind):
    """Two processes at once, each of them stopped in its way by a fault; they start when both are loaded."""
    for first in (1, 2, 4):
        s3.fail("PUT", "lost_answer", first=first)
    code = (
        "import sys\n"
        "from storage.lineage import Ledger\nfrom storage.objects import Store\n"
        "from tests.faults.test_ledger_faults import put\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "put(Ledger(Store(sys.argv[1])))\n"
    )
    command = [sys.executable, "-c", code, ledger.store.root]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen(command, cwd=TOP, text=True, **pipes) for _ in range(2)]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ends = [(writer.communicate()[1], writer.returncode) for writer in writers]
    assert [code for _, code in ends] == [0, 0], ends
    assert len(s3.struck()) == 3
    assert is_right(ledger, behind) and unbroken(ledger) == []
    build(ledger)
    assert query(ledger.store.root, "SELECT count(*) AS n FROM splits").to_pylist() == [{"n": 3}]
    artifacts = query(ledger.store.root, "SELECT summary, is_current FROM artifacts").to_pylist()
    assert artifacts == [{"summary": json.dumps({}), "is_current": True}]
