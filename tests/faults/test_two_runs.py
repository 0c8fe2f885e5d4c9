"""Two runs over the same source at once, each a process of its own: one right result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from storage.catalog import build, problems
from storage.lineage import Ledger
from storage.objects import Store
from tests.ops.rosetta_answers import SETS
from tests.ops.rosetta_set import put_pictures
from tests.ops.rosetta_writers import DETECTIONS
from tests.s3_server import clients_of

TOP = Path(__file__).resolve().parents[2]
# Nine questions about two pictures, six boxes; of the cups of the first picture two are one answer's evidence.
ROWS = {"images": 2, "examples": 9, "boxes": 10, "quarantine": 0}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def root(tmp_path) -> str:
    return str(tmp_path / "root")


@pytest.fixture
def sources(tmp_path) -> Path:
    folder = tmp_path / "shelf"
    put_pictures(folder, SETS["whole"][0])
    told = DETECTIONS["coco bbox"](folder, SETS["whole"][0])
    entry = {"name": "shelf", "format": "coco", "location": str(folder), "annotations": told.annotations}
    path = tmp_path / "sources.yaml"
    path.write_text(json.dumps({"sources": [entry | {"options": dict(told.options)}]}))
    return path


def _at_once(commands: list[list[str]], environment: dict[str, str]) -> list[tuple[int, str]]:
    """Exit code and what was said of processes that run at the same time."""
    started = [
        subprocess.Popen(
            command,
            cwd=TOP,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def _is_right(root: str, tmp_path: Path) -> None:
    """One current artifact for each table, with the rows of the set; nothing else of its kind; a sound catalogue."""
    ledger = Ledger(Store(root, cache_dir=tmp_path / "cache"))
    for table, n_rows in ROWS.items():
        [artifact] = ledger.current_all(f"data/{table}").values()
        assert ledger.content_problem(artifact) is None
        assert (ledger.read_table(artifact).num_rows, artifact.n_rows) == (n_rows, n_rows)
        assert len(ledger.store.list(f"tables/{table}")) == 1
    made = [(each.work_key, each.output) for each in ledger.everything()]
    assert len(made) == len(set(made))
    assert not any("superseded" in name for name in ledger.store.list("lineage"))


STORING = """
import sys, time
from pathlib import Path
from assets.data import normalising, store_normalised
from ops.sources import fingerprint, load_sources
from storage.lineage import Ledger, Work
from storage.objects import Store
root, listed, ready, other, cache = sys.argv[1:]
ledger = Ledger(Store(root, cache_dir=cache))
[source] = load_sources(listed, root)
manifest = fingerprint(source, ledger.store)
raw = Work(producer="ops.sources", name=source.name, config=manifest, outputs=("files",))
files = ledger.put_bytes(raw, "files", "raw_files", b"{}", ".json")
work = normalising(source, files)
Path(ready).touch()
while not Path(other).exists():
    time.sleep(0.001)
for _ in range(5):
    for name, artifact in store_normalised(ledger, work, source).items():
        ledger.point(f"data/{name}", source.name, artifact)
        assert ledger.content_problem(artifact) is None, name
"""


def test_two_processes_store_the_same_tables_in_step(root, sources, tmp_path):
    """Both wait for each other and then write the same five times over, so that writes do meet."""

    def command(own: str, other: str) -> list[str]:
        places = [str(tmp_path / f"{name}.ready") for name in (own, other)]
        return [sys.executable, "-c", STORING, root, str(sources), *places, str(tmp_path / f"cache-{own}")]

    for code, said in _at_once([command("one", "two"), command("two", "one")], {}):
        assert code == 0, said
    _is_right(root, tmp_path)
    ledger = Ledger(Store(root, cache_dir=tmp_path / "cache"))
    build(ledger)
    assert problems(ledger) == []


def _one_in_a_bucket(sound_s3: str, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """A new bucket's root, and the environment of processes of which each finds the server, with one home."""
    bucket = tmp_path.name.replace("_", "-")
    boto3.client("s3", endpoint_url=sound_s3).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/root", {"SALIENCY_R1_CACHE": str(tmp_path / "cache")}


def test_two_processes_store_the_same_tables_in_a_bucket(sound_s3, sources, tmp_path, monkeypatch):
    with clients_of(sound_s3, tmp_path, monkeypatch):
        bucket, _ = _one_in_a_bucket(sound_s3, tmp_path)
        test_two_processes_store_the_same_tables_in_step(bucket, sources, tmp_path)


RUN = [sys.executable, "-m", "pipelines.run", "prepare_data"]


def test_two_runners_on_one_root_both_end_with_one_right_result(root, sources, tmp_path):
    told = {"SALIENCY_R1_ROOT": root, "SALIENCY_R1_SOURCES": str(sources)}
    for code, said in _at_once([RUN, RUN], told):
        assert code == 0, said
    _is_right(root, tmp_path)
    assert problems(Ledger(Store(root, cache_dir=tmp_path / "cache"))) == []


def test_two_runners_on_one_bucket_both_end_with_one_right_result(sound_s3, sources, tmp_path, monkeypatch):
    """Each has the local folder of the bucket's root, and so the pools, in common."""
    with clients_of(sound_s3, tmp_path, monkeypatch):
        bucket, told = _one_in_a_bucket(sound_s3, tmp_path)
        told |= {"SALIENCY_R1_ROOT": bucket, "SALIENCY_R1_SOURCES": str(sources)}
        for code, said in _at_once([RUN, RUN], told):
            assert code == 0, said
        _is_right(bucket, tmp_path)
        assert problems(Ledger(Store(bucket, cache_dir=tmp_path / "cache"))) == []
