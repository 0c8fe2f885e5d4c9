"""The same room on an S3 root: a real server on loopback, the real client libraries, DuckDB's own S3 reader."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from storage import catalog, lineage
from storage.catalog import CatalogError, build, connect, query
from storage.lineage import Ledger, LineageError, unbroken
from storage.objects import Store, StoreError, sha256_folder
from storage.rows import rows_from_paths, rows_of_split
from tests.s3_server import clients_of, s3_server
from tests.storage.small_world import SmallWorld


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def root(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    keys = {"AWS_ACCESS_KEY_ID": "it's a key", "AWS_SECRET_ACCESS_KEY": "it's a secret"}
    with clients_of(endpoint, tmp_path, monkeypatch, **keys):
        bucket = tmp_path.name.replace("_", "-")
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}/some/prefix"


@pytest.fixture
def s3_store(root: str, tmp_path: Path) -> Store:
    return Store(root, cache_dir=tmp_path / "cache")


@pytest.fixture
def s3_world(root: str, tmp_path: Path) -> SmallWorld:
    return SmallWorld(Ledger(Store(root)), tmp_path / "scratch")


def test_bytes_and_folders(s3_store: Store, root: str, tmp_path: Path):
    assert s3_store.list() == [] and not s3_store.exists("a.txt")
    s3_store.write_bytes("a.txt", b"one")
    assert s3_store.exists("a.txt")  # seen at once, although it was looked for before
    s3_store.write_bytes("b/2.txt", b"two")
    assert s3_store.list() == ["a.txt", "b/2.txt"] and s3_store.list("b") == ["b/2.txt"]
    assert s3_store.list("a.txt") == ["a.txt"] and s3_store.list("nothing") == []
    assert s3_store.read_bytes("b/2.txt") == b"two"
    assert s3_store.url("b") == f"{root}/b"
    s3_store.delete("b")
    s3_store.delete("b")
    assert s3_store.list() == ["a.txt"]
    # Another machine's write is seen too, in a folder that was listed before.
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/c.txt", Body=b"theirs")
    assert s3_store.list() == ["a.txt", "c.txt"] and s3_store.exists("c.txt")
    with pytest.raises(StoreError, match=r"b/2\.txt: cannot be read"):
        s3_store.read_bytes("b/2.txt")
    with pytest.raises(StoreError, match="not there"):
        s3_store.fetch("b")
    folder = tmp_path / "policy"
    for name in ("w.bin", "sub/c.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    s3_store.put_folder(folder, "p/x")
    assert s3_store.list("p") == ["p/x/sub/c.json", "p/x/w.bin"]
    assert sha256_folder(s3_store.fetch("p/x")) == sha256_folder(folder)
    (folder / "w.bin").unlink()
    s3_store.put_folder(folder, "p/x")
    assert s3_store.list("p") == ["p/x/sub/c.json"]


def test_a_fetched_copy_follows_the_object(s3_store: Store, tmp_path: Path):
    s3_store.write_bytes("a.txt", b"one")
    first = s3_store.fetch("a.txt")
    assert first == s3_store.fetch("a.txt") and first.name == "a.txt"
    s3_store.write_bytes("a.txt", b"two")
    assert s3_store.fetch("a.txt").read_bytes() == b"two"
    assert first.read_bytes() == b"one"  # whoever has it open keeps it
    assert not list((tmp_path / "cache").rglob("*.part"))
    (tmp_path / "local.txt").write_bytes(b"three")
    s3_store.put_file(tmp_path / "local.txt", "a.txt")
    assert s3_store.fetch("a.txt").read_bytes() == b"three"


def test_ledger_rows_catalogue_and_why(s3_world: SmallWorld, capsys: pytest.CaptureFixture[str]):
    ledger, root = s3_world.ledger, s3_world.ledger.store.root
    assert unbroken(ledger) == []
    data = {name: [s3_world.data["scenes"][name]] for name in ("examples", "boxes", "images")}
    e2, e3 = rows_of_split(ledger, **data, splits=s3_world.splits, split="test")
    assert (e2.image_bytes, len(e2.boxes), e3.boxes) == (b"picture b", 2, ())
    paths = {name: [ledger.store.url(artifacts[0].uri)] for name, artifacts in data.items()}
    paths["splits"] = [ledger.store.url(s3_world.splits.uri)]
    assert rows_from_paths(paths, "test") == [e2, e3]

    assert build(ledger) == f"{root}/catalog.duckdb"
    assert query(root, "accuracy_by_kind").column("accuracy").to_pylist() == [0.5, 1.0]
    assert query(root, "SELECT count(*) AS n FROM images").to_pylist() == [{"n": 2}]
    assert catalog.problems(ledger) == []
    with connect(root) as old:
        ledger.forget("evidence/predictions", "base")
        ledger.forget("evidence/saliency_maps", "base")
        build(ledger)
        assert old.execute("SELECT count(*) FROM predictions").fetchall() == [(4,)]
        assert query(root, "SELECT count(*) AS n FROM predictions").to_pylist() == [{"n": 2}]

    assert lineage.main(["--root", root, "why", s3_world.map_id("saliency_r1")]) == 0
    assert "raw file annotations.json, row 17" in capsys.readouterr().out


def test_an_altered_object_is_found(s3_world: SmallWorld):
    ledger, artifact = s3_world.ledger, s3_world.splits
    assert ledger.read_table(artifact).num_rows == 3
    ledger.store.write_bytes(artifact.uri, b"forged")
    with pytest.raises(LineageError, match="content was altered"):
        ledger.read_table(artifact)
    assert [problem for problem in unbroken(ledger) if "splits" in problem and "altered" in problem]
    with pytest.raises(CatalogError, match="cannot be built") as caught:
        build(ledger)
    assert "it's a secret" not in str(caught.value)


def test_without_credentials_the_error_says_what_to_set(root: str, monkeypatch: pytest.MonkeyPatch):
    Store(root).write_bytes("catalog.duckdb", b"")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(CatalogError, match="set AWS_ACCESS_KEY_ID"):
        connect(root)
