"""Archives of every attack, built for real: refused by the member or whole, and nothing is written outside."""

import gzip
import io
import os
import resource
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from storage.objects import StoreError
from storage.reading import read_address
from storage.unpack import UnpackError, inside, is_archive, unpacked


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SALIENCY_R1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unpacked"


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    yield folder
    outside = {path.name for path in tmp_path.iterdir()} - {"cache", "shelf"}
    assert not outside  # nothing was ever written outside


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _entry(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def _zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], **options) -> Path:
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def _packed(path: Path, names: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        return _zip(path, *names.items())
    return _tar(path, *(_entry(name, data) for name, data in names.items()))


def _files(found) -> dict[str, bytes]:
    return {
        path.relative_to(found.folder).as_posix(): path.read_bytes()
        for path in sorted(found.folder.rglob("*"))
        if path.is_file()
    }


KINDS = ("a.zip", "a.tar", "a.tar.gz", "a.tgz", "A.ZIP")


@pytest.mark.parametrize("name", KINDS)
def test_the_files_of_an_archive(shelf, name):
    wanted = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)) * 9, "empty": b""}
    path = _packed(shelf / "x.zip" if name.lower().endswith("zip") else shelf / name, wanted)
    path = path.rename(shelf / name)
    found = unpacked(str(path))
    assert (_files(found), found.refused, found.n_members, found.n_bytes) == (wanted, {}, 3, 3 + 2304)
    assert read_address(f"{path}!/deep/er/b.bin") == wanted["deep/er/b.bin"]
    with pytest.raises(StoreError, match="cannot be read"):
        read_address(f"{path}!/none")
    with pytest.raises(StoreError, match="wanted a path relative"):
        read_address(f"{path}!/../contents.json")


def test_a_leading_dot_and_folders_are_no_matter(shelf):
    path = _tar(shelf / "a.tar", _entry("./"), _entry("./d", type=tarfile.DIRTYPE), _entry("./d/a.txt", b"x"))
    assert _files(unpacked(str(path))) == {"d/a.txt": b"x"}


def test_a_folder_with_an_archives_name_is_a_folder(shelf):
    (shelf / "a.zip").mkdir()
    assert not is_archive(str(shelf / "a.zip")) and is_archive("s3://b/a.zip") and not is_archive("/x/a.png")
    assert inside("s3://b/a.tar.gz!/c/d.zip!/e") == ("s3://b/a.tar.gz", "c/d.zip!/e")
    assert inside("/x/a.png!/b") is None


EVIL = ["../out.txt", "d/../../../out.txt", "..", "a//b", "C:\\out.txt", "d\\..\\..\\out.txt"]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_names_that_lead_out_are_refused_and_the_rest_is_there(shelf, tmp_path, kind):
    evil = [*EVIL, str(tmp_path / "out.txt")]
    found = unpacked(str(_packed(shelf / kind, dict.fromkeys(evil, b"evil") | {"a.txt": b"good"})))
    assert _files(found) == {"a.txt": b"good"}
    assert {name: reason for name, (reason, _) in found.refused.items()} == dict.fromkeys(evil, "unsafe_path")


def test_links_give_what_is_in_the_archive_and_nothing_else(shelf, tmp_path):
    secret = tmp_path / "cache"  # outside the shelf
    secret.mkdir(exist_ok=True)
    (secret / "secret").write_bytes(b"secret")
    links = {
        "s_abs": ("/etc/passwd", "2"), "s_up": ("../../secret", "2"), "d/s_in": ("../a.txt", "2"),
        "h_in": ("a.txt", "1"), "h_abs": (str(secret / "secret"), "1"), "h_up": ("../../secret", "1"),
        "s_self": ("s_self", "2"), "folder": (str(tmp_path), "2"), "s_dot": (".", "2"),
    }  # fmt: skip
    entries = [_entry(name, type=kind.encode(), linkname=target) for name, (target, kind) in links.items()]
    through = _entry("folder/out.txt", b"through a link")  # written through folder where links are made
    found = unpacked(str(_tar(shelf / "a.tar", _entry("a.txt", b"good"), *entries, through)))
    inside_ = {"a.txt": b"good", "d/s_in": b"good", "h_in": b"good"}
    assert _files(found) == inside_ | {"folder/out.txt": b"through a link"}
    assert not any(path.is_symlink() for path in found.folder.rglob("*"))
    assert {name: reason for name, (reason, _) in found.refused.items()} == dict.fromkeys(
        sorted(set(links) - set(inside_)), "unsafe_path"
    )


def test_links_in_a_zip(shelf):
    infos = []
    for name in ("out", "in"):
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        infos.append(info)
    path = _zip(shelf / "a.zip", ("a.txt", b"good"), (infos[0], b"/etc/passwd"), (infos[1], b"a.txt"))
    found = unpacked(str(path))
    assert _files(found) == {"a.txt": b"good", "in": b"good"}
    assert found.refused["out"] == (
        "unsafe_path",
        "out: a link to '/etc/passwd', which is no file of the archive",
    )


def test_devices_and_pipes_are_refused(shelf):
    kinds = {"null": tarfile.CHRTYPE, "disk": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE}
    entries = [_entry(name, type=kind, devmajor=1, devminor=3) for name, kind in kinds.items()]
    found = unpacked(str(_tar(shelf / "a.tar", *entries, _entry("a.txt", b"x"))))
    assert _files(found) == {"a.txt": b"x"}
    assert set(found.refused) == set(kinds)
    assert found.refused["pipe"] == ("unreadable_file", "pipe: not a regular file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_a_name_that_comes_twice_is_neither(shelf, kind):
    path, members = shelf / kind, [("b.txt", b"1"), ("a.txt", b"x"), ("b.txt", b"2"), ("b.txt", b"3")]
    if kind == "a.zip":
        _zip(path, *members)
    else:
        _tar(path, *(_entry(*member) for member in members), _entry("./a.txt", b"y"))
    found = unpacked(str(path))
    assert found.refused["b.txt"] == ("unreadable_file", "b.txt: the archive holds this name more than once")
    assert _files(found) == ({"a.txt": b"x"} if kind == "a.zip" else {})


def test_a_file_where_a_folder_is_and_names_too_long(shelf):
    names = {"a": b"1", "a/b": b"2", "c/d": b"3", "c": b"4", "n" * 300: b"5", "good": b"6"}
    found = unpacked(str(_packed(shelf / "a.tar", names)))
    assert _files(found) == {"a": b"1", "c/d": b"3", "good": b"6"}
    assert set(found.refused) == {"a/b", "c", "n" * 300}


def _encrypted(path: Path) -> Path:
    """A zip whose second member says that it is encrypted, in both of its headers."""
    _zip(path, ("a.txt", b"good"), ("b.txt", b"secret"), compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    local, central = data.rindex(b"PK\3\4"), data.rindex(b"PK\1\2")
    data[local + 6] |= 1
    data[central + 8] |= 1
    path.write_bytes(data)
    return path


def test_encrypted_and_broken_members_of_a_zip_cost_themselves(shelf):
    found = unpacked(str(_encrypted(shelf / "a.zip")))
    assert _files(found) == {"a.txt": b"good"}
    assert found.refused["b.txt"][1] == "b.txt: encrypted; archives are read without passwords"
    path = _zip(
        shelf / "b.zip", ("a.txt", b"good"), ("b.txt", b"spoilt" * 50), compression=zipfile.ZIP_STORED
    )
    path.write_bytes(path.read_bytes().replace(b"spoiltspoilt", b"spoiltSPOILT", 1))
    found = unpacked(str(path))
    assert _files(found) == {"a.txt": b"good"}
    assert "b.txt: broken in the archive (BadZipFile: Bad CRC-32" in found.refused["b.txt"][1]
    found = unpacked(str(_zip(shelf / "c.zip", ("a.txt", b"good"), compression=zipfile.ZIP_LZMA)))
    assert found.refused["a.txt"][1] == "a.txt: compressed by method 14; stored and deflated are read"


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_an_archive_that_is_cut_off_anywhere_is_refused_whole(shelf, cache, kind):
    rng = os.urandom
    path = _packed(shelf / kind, {f"{n}.bin": rng(700) for n in range(3)})
    data = path.read_bytes()
    wanted = _files(unpacked(str(path)))
    # A tar holds 3 * (512 + 1024) bytes, then the mark of its end and padding to 10,240, which says nothing.
    end = 3 * 1536 + 512 if kind == "a.tar" else len(data)
    for length in [*range(0, end, 97), *range(1536, end, 1536), end - 1]:
        cut = shelf / f"cut{length}{path.suffix}"
        cut.write_bytes(data[:length])
        with pytest.raises(UnpackError, match=f"cut{length}.*broken or cut off"):
            unpacked(str(cut))
        cut.unlink()
    assert [each.name for each in cache.iterdir() if each.is_dir()] == [
        unpacked(str(path)).folder.parent.name
    ]
    assert len(wanted) == 3


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_what_is_no_archive_is_refused(shelf, kind):
    for content in (
        b"",
        b"not an archive",
        b"\xff" * 5000,
        b"\x1f\x8b" + bytes(100),
        b"PK\5\6" + b"\xff" * 18,
    ):
        (shelf / kind).write_bytes(content)
        with pytest.raises(UnpackError, match="broken or cut off"):
            unpacked(str(shelf / kind))
    with pytest.raises(StoreError, match="cannot be read"):
        unpacked(str(shelf / f"none_{kind}"))
    os.mkfifo(shelf / f"pipe_{kind}")
    with pytest.raises(StoreError, match="not a regular file"):
        unpacked(str(shelf / f"pipe_{kind}"))


def test_a_broken_header_in_the_middle_is_no_end(shelf):
    path = _packed(shelf / "a.tar", {"a": b"x", "b": b"y"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0xFF  # in the checksum of the second header
    path.write_bytes(data)
    with pytest.raises(UnpackError, match="the mark of the archive's end is missing"):
        unpacked(str(path))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_too_many_members(shelf, monkeypatch, kind):
    path = _packed(shelf / kind, {f"{n}": b"" for n in range(7)})
    assert unpacked(str(path)).n_members == 7
    monkeypatch.setenv("SALIENCY_R1_ARCHIVE_MEMBERS", "6")  # also of what is in the cache by now
    with pytest.raises(UnpackError, match=r"more than 6 members \(SALIENCY_R1_ARCHIVE_MEMBERS\)"):
        unpacked(str(path))


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_too_many_bytes(shelf, cache, monkeypatch, kind):
    monkeypatch.setenv("SALIENCY_R1_ARCHIVE_MIB", "1")
    path = _packed(shelf / kind, {"a": bytes(2**20)})
    assert unpacked(str(path)).n_bytes == 2**20
    path = _packed(shelf / kind, {"a": bytes(2**20), "b": b"!"})
    with pytest.raises(
        UnpackError, match=r"unpacks to more than 1048576 bytes; 1 MiB and 200 times its own size"
    ):
        unpacked(str(path))


@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
def test_a_bomb_is_refused_by_its_ratio_early(shelf, cache, kind):
    """70 MiB of zeros in 70 kB: 1,000 to 1. Refused before, or as soon as, 64 MiB are written; nothing stays."""
    path = _packed(shelf / kind, {f"{n}": bytes(10 * 2**20) for n in range(7)})
    assert path.stat().st_size < 80_000
    with pytest.raises(UnpackError, match=r"unpacks to more than 67108864 bytes.* 200 times its own size"):
        unpacked(str(path))
    assert [each for each in cache.rglob("*") if each.is_file()] == []


def test_a_zip_that_lies_about_its_sizes(shelf, monkeypatch):
    """The list claims one byte of a member that unpacks to 3 MiB: no more than is claimed is ever unpacked."""
    path = _zip(shelf / "a.zip", ("a", bytes(3 * 2**20)))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"PK\1\2") + 24, 1)
    path.write_bytes(data)
    monkeypatch.setenv("SALIENCY_R1_ARCHIVE_MIB", "1")
    found = unpacked(str(path))
    assert _files(found) == {} and "Bad CRC-32" in found.refused["a"][1]


def _in_little_memory(path: Path, megabytes: int) -> str:
    """What unpacking says in a process that may have so much more memory than it has when it starts."""
    code = f"""
    import resource
    from storage.unpack import unpacked
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {megabytes} * 2**20,) * 2)
    try:
        print(unpacked({str(path)!r}))
    except Exception as error:
        print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_headers_that_claim_gigabytes_take_no_memory(shelf):
    assert resource.getpagesize()
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2**31
    with gzip.open(shelf / "a.tgz", "wb", compresslevel=1) as stream:
        stream.write(long_name.tobuf())
        for _ in range(300):
            stream.write(bytes(2**20))
    assert "a header claims 2147483648 bytes" in _in_little_memory(shelf / "a.tgz", 150)


def test_headers_inside_headers(shelf):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XGLTYPE, 13
    block = header.tobuf() + b"13 comment=x\n".ljust(512, b"\0")
    (shelf / "a.tar").write_bytes(block * 5000 + bytes(1024))
    with pytest.raises(UnpackError, match="RecursionError"):
        unpacked(str(shelf / "a.tar"))


def test_a_file_that_is_settled_is_not_read_again(shelf, cache, monkeypatch):
    one, two = _packed(shelf / "a.tar", {"a": b"one"}), _packed(shelf / "b.tar", {"a": b"two"})
    other = unpacked(str(two)).folder.parent.name
    for settled_s, wanted in ((-1.0, b"two"), (60.0, b"one")):
        monkeypatch.setattr("storage.unpack._SETTLED_S", settled_s)
        unpacked(str(one))
        [note] = [each for each in cache.glob("*.sha256") if each.read_text() != other]
        note.write_text(other)  # so that what is answered shows whether the note was asked, or the file
        assert _files(unpacked(str(one))) == {"a": wanted}
        note.unlink(missing_ok=True)


@pytest.mark.parametrize("settled_s", [-1.0, 60.0])
def test_what_is_unpacked_is_kept_by_content_and_a_change_is_noticed(shelf, cache, monkeypatch, settled_s):
    monkeypatch.setattr("storage.unpack._SETTLED_S", settled_s)
    path = _packed(shelf / "a.tar", {"a": b"one"})
    first = unpacked(str(path))
    written = (first.folder / "a").stat().st_ctime_ns
    other = _packed(shelf / "b.tar", {"a": b"one"})
    if other.read_bytes() == path.read_bytes():  # the same second
        assert unpacked(str(other)).folder == first.folder
    os.utime(path, (1, 1))
    assert unpacked(str(path)).folder == first.folder
    assert (first.folder / "a").stat().st_ctime_ns == written  # not unpacked again
    before = path.stat()
    data = path.read_bytes().replace(b"one", b"two")  # as long, and as old to all who look at times
    time.sleep(0.05)  # the grain of the file system's clock
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _files(unpacked(str(path))) == {"a": b"two"}
    assert _files(first) == {"a": b"one"}


def test_a_broken_note_or_folder_of_the_cache_is_made_again(shelf, cache):
    path = _packed(shelf / "a.tar", {"a": b"one"})
    found = unpacked(str(path))
    (found.folder.parent / "contents.json").write_text("{")
    assert _files(unpacked(str(path))) == {"a": b"one"}
