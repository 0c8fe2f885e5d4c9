"""Bytes and folders under a local root: whole or not at all, and nothing outside the root."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.objects import Store, StoreError, sha256_bytes, sha256_file, sha256_folder

REPO = Path(__file__).parents[2]
# The kernel kills the writer in the middle of the write, at 3 of 8 MB: no timing involved.
KILLED_WRITER = """
import resource, signal, sys
from storage.objects import Store
store = Store(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
{write}
print("finished")
"""
# The writer dies by itself when all bytes are on disk but before the rename.
DIED_BEFORE_RENAME = """
import os, pathlib, sys
from storage.objects import Store
store = Store(sys.argv[1])
pathlib.Path.replace = pathlib.Path.rename = lambda *_: os._exit(9)
{write}
print("finished")
"""
WRITE_FILE = "store.write_bytes('deep/big.bin', b'n' * 8_000_000)"
COPY_FILE = "store.put_file(sys.argv[2] + '/2.bin', 'deep/big.bin')"
WRITE_FOLDER = "store.put_folder(sys.argv[2], 'deep/folder')"


def run_writer(script: str, write: str, root: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script.format(write=write), root, *arguments],
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert done.returncode != 0, done.stderr
    assert "finished" not in done.stdout


@pytest.fixture
def big_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "1.txt").write_bytes(b"small")
    (folder / "2.bin").write_bytes(b"n" * 8_000_000)
    return folder


@pytest.mark.parametrize("script", [KILLED_WRITER, DIED_BEFORE_RENAME])
@pytest.mark.parametrize("write", [WRITE_FILE, COPY_FILE])
def test_a_killed_writer_leaves_the_old_file_whole(store: Store, big_folder: Path, script: str, write: str):
    store.write_bytes("deep/big.bin", b"old")
    run_writer(script, write, store.root, str(big_folder))
    assert store.read_bytes("deep/big.bin") == b"old"
    assert store.list() == ["deep/big.bin"]
    assert (
        len(list(Path(store.root, "deep").iterdir())) == 2
    )  # its remains are there, under a name nobody reads
    store.write_bytes("deep/big.bin", b"new")
    assert store.read_bytes("deep/big.bin") == b"new"


@pytest.mark.parametrize("script", [KILLED_WRITER, DIED_BEFORE_RENAME])
def test_a_killed_writer_leaves_no_folder_that_looks_stored(store: Store, big_folder: Path, script: str):
    run_writer(script, WRITE_FOLDER, store.root, str(big_folder))
    assert not store.exists("deep/folder")
    assert store.list("deep") == []
    with pytest.raises(StoreError, match="not there"):
        store.fetch("deep/folder")
    store.put_folder(big_folder, "deep/folder")
    assert store.list("deep") == ["deep/folder/1.txt", "deep/folder/2.bin"]


def test_a_failing_write_cleans_up_after_itself(store: Store, big_folder: Path):
    # With the signal ignored, as Python does, the same limit is an OSError, like a full disk.
    script = KILLED_WRITER.replace("SIG_DFL", "SIG_IGN")
    run_writer(script, WRITE_FILE, store.root)
    run_writer(script, COPY_FILE, store.root, str(big_folder))
    run_writer(script, WRITE_FOLDER, store.root, str(big_folder))
    assert list(Path(store.root, "deep").rglob("*")) == []


def test_readers_see_whole_files_while_writers_replace_them(store: Store):
    size, seen = 500_000, []

    def write(letter: bytes) -> None:
        for _ in range(10):
            store.write_bytes("shared.bin", letter * size)

    store.write_bytes("shared.bin", b"a" * size)
    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.append(store.read_bytes("shared.bin"))
    assert {(len(data), len(set(data))) for data in seen} <= {(size, 1)}
    assert store.list() == ["shared.bin"]


@pytest.mark.parametrize(
    "relative", ["/etc/passwd", "../up", "a/../b", "a/./b", "a//b", "", "a/", "a\\b", "a\0b", "./a"]
)
def test_paths_that_could_leave_the_root_are_refused(store: Store, relative: str):
    for refused in (store.url, store.read_bytes, store.exists, store.fetch, store.delete):
        with pytest.raises(StoreError, match="relative to the root"):
            refused(relative)
    with pytest.raises(StoreError, match="relative to the root"):
        store.write_bytes(relative, b"x")


def test_write_list_exists_delete(store: Store):
    store.write_bytes("b/2.txt", b"two")
    store.write_bytes("a.txt", b"one")
    store.write_bytes("b/1.txt", b"three")
    assert store.list() == ["a.txt", "b/1.txt", "b/2.txt"]
    assert store.list("b") == store.list("b/") == ["b/1.txt", "b/2.txt"]
    assert store.list("a.txt") == ["a.txt"]
    assert store.list("nothing") == []
    assert store.exists("b") and store.exists("a.txt") and not store.exists("c")
    assert store.fetch("a.txt") == Path(store.url("a.txt"))
    store.delete("b")
    store.delete("b")
    store.delete("a.txt")
    assert store.list() == []
    with pytest.raises(StoreError, match=r"a\.txt: cannot be read"):
        store.read_bytes("a.txt")


def test_a_replaced_folder_keeps_nothing_of_the_old_one(store: Store, tmp_path: Path):
    for name in ("old", "new"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / f"{name}.txt").write_text(name)
        store.put_folder(tmp_path / name, "policies/p")
    assert store.list() == ["policies/p/sub/new.txt"]
    assert len(list(Path(store.root, "policies").iterdir())) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty"):
        store.put_folder(tmp_path / "empty", "policies/q")


def test_hash_of_a_folder_is_over_sorted_paths_and_file_hashes(tmp_path: Path):
    (tmp_path / "f" / "sub").mkdir(parents=True)
    (tmp_path / "f" / "z.txt").write_bytes(b"last")
    (tmp_path / "f" / "sub" / "a.txt").write_bytes(b"first")
    lines = "".join(
        f"{name}\0{hashlib.sha256(data).hexdigest()}\n"
        for name, data in (("sub/a.txt", b"first"), ("z.txt", b"last"))
    )
    first = sha256_folder(tmp_path / "f")
    assert first == hashlib.sha256(lines.encode()).hexdigest()
    assert sha256_file(tmp_path / "f" / "z.txt") == sha256_bytes(b"last")
    (tmp_path / "f" / "z.txt").rename(tmp_path / "f" / "y.txt")
    assert sha256_folder(tmp_path / "f") != first
    with pytest.raises(StoreError, match="wanted a folder"):
        sha256_folder(tmp_path / "nowhere")
