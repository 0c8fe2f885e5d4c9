"""Files and folders on an S3 that fails: one fault is got over, endless ones end in one clear error."""

import pytest

from storage.objects import StoreError, StoreUnreachableError, sha256_folder
from tests.faults.faulty_s3 import ENDLESS

pytestmark = pytest.mark.timeout(20)  # "in bounded time": two attempts of a second each, and the wait between

SPOILT_WRITE = ("500", "503", "reset", "stall", "cut_upload", "lost_answer")
SPOILT_READ = ("500", "503", "reset", "stall", "cut_answer")
# 11 MiB in parts of 5: three parts, the last of one; no two bytes in a row are alike in all of them.
LARGE = bytes(range(251)) * (11 * 2**20 // 251)


def tried_enough(s3, kind, fault):
    """Two attempts; the HTTP library below repeats each once at most, where a kept connection was reset."""
    return set(s3.struck()) == {(kind, fault)} and 2 <= len(s3.struck()) <= 4


@pytest.mark.parametrize("fault", SPOILT_WRITE)
def test_one_spoilt_write_leaves_one_right_object(s3, store, behind, fault):
    data = b"content " * 40_000
    spoilt = s3.fail_attempt("PUT", fault)
    store.write_bytes("a/x.bin", data)
    assert s3.struck() == spoilt
    assert behind.names() == ["a/x.bin"] and behind.read("a/x.bin") == data


@pytest.mark.parametrize("fault", ["503", "stall", "cut_upload", "lost_answer"])
def test_endless_spoilt_writes_end_in_an_error_and_the_old_object_stands(s3, store, behind, fault):
    store.write_bytes("x.bin", b"old")
    s3.fail("PUT", fault, times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match=r"root/x\.bin: cannot be written"):
        store.write_bytes("x.bin", b"new" * 100_000)
    assert tried_enough(s3, "PUT", fault)
    # What was done and not answered is whole all the same.
    assert behind.read("x.bin") == (b"new" * 100_000 if fault == "lost_answer" else b"old")
    s3.heal()
    store.write_bytes("x.bin", b"newest")
    assert behind.names() == ["x.bin"] and behind.read("x.bin") == b"newest"


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("START", "503"),
        ("PART", "cut_upload"),
        ("PART", "stall"),
        ("PART", "lost_answer"),
        ("COMPLETE", "500"),
        ("COMPLETE", "lost_answer"),
    ],
)
def test_an_upload_in_parts_survives_one_fault(s3, store, behind, tmp_path, kind, fault):
    (tmp_path / "large.bin").write_bytes(LARGE)
    # Parts go at the same time: both faults of a broken connection must meet the same one.
    spoilt = s3.fail_attempt(kind, fault, below="partNumber=2" if kind == "PART" else "")
    store.put_file(tmp_path / "large.bin", "large.bin")
    assert s3.struck() == spoilt
    assert behind.names() == ["large.bin"] and behind.read("large.bin") == LARGE


@pytest.mark.parametrize("kind", ["PART", "COMPLETE"])
def test_an_upload_in_parts_that_never_ends_is_absent(s3, store, behind, kind):
    s3.fail(kind, "reset", times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match=r"large\.bin: cannot be written"):
        store.write_bytes("large.bin", LARGE)
    assert behind.names() == []
    s3.heal()
    store.write_bytes("large.bin", LARGE)
    assert behind.read("large.bin") == LARGE


@pytest.mark.parametrize("fault", SPOILT_READ)
def test_one_spoilt_read_is_read_again(s3, store, tmp_path, fault):
    store.write_bytes("a/x.bin", LARGE[:300_000])
    spoilt = s3.fail_attempt("GET", fault)
    assert store.read_bytes("a/x.bin") == LARGE[:300_000]
    spoilt += s3.fail_attempt("GET", fault)
    assert store.fetch("a/x.bin").read_bytes() == LARGE[:300_000]
    spoilt += s3.fail_attempt("GET", fault)
    assert store.read_all("a") == {"a/x.bin": LARGE[:300_000]}
    assert s3.struck() == spoilt
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.mark.parametrize("fault", ["500", "stall", "cut_answer"])
def test_endless_spoilt_reads_end_in_an_error_and_nothing_is_cached(s3, store, tmp_path, fault):
    store.write_bytes("x.bin", LARGE[:300_000])
    s3.fail("GET", fault, times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match=r"x\.bin: cannot be read"):
        store.fetch("x.bin")
    assert tried_enough(s3, "GET", fault)
    assert [place for place in (tmp_path / "cache").rglob("*") if place.is_file()] == []
    s3.heal()
    assert store.fetch("x.bin").read_bytes() == LARGE[:300_000]


@pytest.mark.parametrize("fault", ["503", "stall"])
def test_looking_and_listing_ask_again_and_never_take_silence_for_absence(s3, store, fault):
    store.write_bytes("a/x.txt", b"x")
    s3.fail("HEAD", fault)
    s3.fail("LIST", fault)
    assert store.exists("a/x.txt") and store.list("a") == ["a/x.txt"]
    assert s3.struck() == [("HEAD", fault), ("LIST", fault)]
    s3.fail("HEAD", fault, times=ENDLESS)
    s3.fail("LIST", fault, times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match="cannot be looked for"):
        store.exists("a/x.txt")
    with pytest.raises(StoreUnreachableError, match="cannot be listed"):
        store.list("a")
    s3.heal()
    with pytest.raises(StoreError) as caught:
        store.read_bytes("a/y.txt")
    assert not isinstance(caught.value, StoreUnreachableError)  # this one is known to be absent


@pytest.mark.parametrize("fault", ["503", "cut_upload"])
def test_a_folder_is_whole_after_a_fault_and_after_a_second_start(s3, store, behind, tmp_path, fault):
    folder = tmp_path / "policy"
    for name in ("a.bin", "sub/b.json", "w.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 1000)
    store.write_bytes("p/x/stale.bin", b"stale")
    s3.heal()
    spoilt = s3.fail_attempt("PUT", fault, first=2)
    store.put_folder(folder, "p/x")
    assert s3.struck() == spoilt
    assert behind.names() == ["p/x/a.bin", "p/x/sub/b.json", "p/x/w.bin"]
    s3.fail("PUT", fault, times=ENDLESS, below="w.bin")
    with pytest.raises(StoreUnreachableError, match=r"w\.bin: cannot be written"):
        store.put_folder(folder, "p/x")
    # Another writer's copy of the same was whole before and is so still.
    assert behind.names() == ["p/x/a.bin", "p/x/sub/b.json", "p/x/w.bin"]
    s3.heal()
    store.put_folder(folder, "p/x")
    assert sha256_folder(store.fetch("p/x")) == sha256_folder(folder)


def test_a_deletion_asks_again_and_reports_what_stayed(s3, store, behind):
    store.write_bytes("d/1", b"1")
    store.write_bytes("d/2", b"2")
    s3.fail("DELETE", "503", below="d/2")
    store.delete("d")
    assert behind.names() == [] and s3.struck() == [("DELETE", "503")]
    store.write_bytes("d/2", b"2")
    s3.fail("DELETE", "500", times=ENDLESS)
    with pytest.raises(StoreUnreachableError, match="d/2: cannot be deleted"):
        store.delete("d")
    assert behind.names() == ["d/2"]
