"""The files inside a zip or tar archive of nobody's vouching, written out below one folder and nowhere else.

Only regular files are written, by our own copying, and no link is ever made that leads anywhere. Not here: where
archives lie and where their files are kept (`unpack`).
"""

import errno
import gzip
import io
import os
import posixpath
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from storage.objects import StoreError, checked_relative
from storage.settings import ArchiveLimits

KINDS = (".zip", ".tar", ".tar.gz", ".tgz")
"""Endings of the archives that are read."""

MAX_REFUSED = 10_000
"""Members of an archive that may be refused one by one; more of them refuse the archive."""

FREE_BYTES = 64 * 2**20
"""Unpacked bytes below which no ratio is looked at: a small file of zeros is no attack."""

_CHUNK = 2**20
_MAX_READ = 16 * 2**20  # of one header; tarfile and zipfile would take any size that a header claims
_MAX_NAME = 4096
_BLOCK = 512


class UnpackError(StoreError):
    """An archive that cannot be used as a whole; the message names what was seen and the limit."""


@dataclass
class Contents:
    """What was written and what was not: `refused` maps a member's name to a reason of the quarantine and a detail."""

    n_members: int = 0
    n_bytes: int = 0
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """One entry: `link_to` of a link, `problem` of what is not to be read at all."""

    name: str
    n_bytes: int
    content: IO[bytes] | None = None
    link_to: str | None = None
    problem: str | None = None


def unpack(archive: Path, name: str, folder: Path, limits: ArchiveLimits) -> Contents:
    """Write the files of an archive below a new folder; `name` (its ending) tells of which kind it is.

    A member that cannot be had is refused by itself: an unsafe name, a name that comes twice, a link to what is no
    file of the archive, a device, an encrypted or broken file. Raises UnpackError for what is no archive or is cut
    off, for more members, bytes or bytes to each byte of the archive than the limits allow, and StoreError for a disk
    that takes no more.
    """
    is_zip = name.lower().endswith(".zip")
    work = _Unpacking(folder, limits, archive.stat().st_size, not is_zip)
    folder.mkdir(parents=True)
    try:
        if is_zip:
            _from_zip(archive, work)
        else:
            _from_tar(archive, name, work)
    except UnpackError as error:
        raise UnpackError(f"{name}: {error}") from error
    except StoreError:
        raise
    except Exception as error:  # hostile bytes make the libraries raise nearly anything, RecursionError too
        raise UnpackError(f"{name}: broken or cut off ({type(error).__name__}: {error})"[:500]) from error
    work.link()
    return work.contents


class _BrokenError(Exception):
    """The content of one member cannot be read."""


class _Unpacking:
    """The members of one archive while they are written, and the counting.

    `one_stream`: behind a broken member nothing can be read, as in a tar archive.
    """

    def __init__(self, folder: Path, limits: ArchiveLimits, packed_bytes: int, one_stream: bool) -> None:
        self.limits, self.contents = limits, Contents()
        self._folder, self._one_stream = folder, one_stream
        self._seen: set[str] = set()
        self._links: dict[str, str] = {}
        self._claimed = 0
        self.most_bytes = most_bytes(limits, packed_bytes)

    def take(self, member: _Member) -> None:
        """Write a member, or note why not. Raises UnpackError beyond a limit."""
        self.contents.n_members += 1
        if self.contents.n_members > self.limits.members:
            raise UnpackError(f"more than {self.limits.members} members (SALIENCY_R1_ARCHIVE_MEMBERS)")
        self._claimed += member.n_bytes
        self.check_bytes(self._claimed)
        name = member.name
        while name.startswith("./"):
            name = name[2:]
        if name in self._seen:
            self._forget(name)
            self._links.pop(name, None)
            self.refuse(name, "unreadable_file", "the archive holds this name more than once")
            return
        unsafe = _unsafe(name)
        if unsafe:
            self.refuse(name, "unsafe_path", unsafe)
            return
        self._seen.add(name)
        if member.problem:
            self.refuse(name, "unreadable_file", member.problem)
        elif member.link_to is not None:
            self._links[name] = member.link_to
        elif member.content is not None:
            self._write(name, member.content)

    def check_bytes(self, n_bytes: int) -> None:
        """Raises UnpackError if so many unpacked bytes are too many."""
        if n_bytes > self.most_bytes:
            limits = f"{self.limits.mib} MiB and {self.limits.ratio} times its own size are allowed"
            raise UnpackError(
                f"unpacks to more than {self.most_bytes} bytes; {limits} (SALIENCY_R1_ARCHIVE_MIB, _RATIO)"
            )

    def refuse(self, name: str, reason: str, detail: str) -> None:
        """Note that a member is not to be had."""
        shown = name.encode("utf-8", "backslashreplace").decode()[:_MAX_NAME]
        self.contents.refused.setdefault(shown, (reason, f"{shown[:200]}: {detail}"[:500]))
        if len(self.contents.refused) > MAX_REFUSED:
            raise UnpackError(
                f"more than {MAX_REFUSED} members cannot be used; the last: {shown[:200]}: {detail}"
            )

    def link(self) -> None:
        """Give links to files of the archive these files' content."""
        for name, target in self._links.items():
            place = self._folder / name
            try:
                if _unsafe(target) or not (self._folder / target).is_file():
                    raise FileNotFoundError
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._folder / target, place)
            except OSError:
                self.refuse(
                    name, "unsafe_path", f"a link to {target[:200]!r}, which is no file of the archive"
                )

    def _write(self, name: str, content: IO[bytes]) -> None:
        place = self._folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as stream:
                for piece in _pieces(content):
                    self.contents.n_bytes += len(piece)
                    self.check_bytes(self.contents.n_bytes)
                    stream.write(piece)
        except _BrokenError as error:
            if self._one_stream:
                raise
            self._forget(name)
            self.refuse(name, "unreadable_file", f"broken in the archive ({error})")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise StoreError(f"{self._folder}: {name} cannot be unpacked ({error})") from error
            self.refuse(name, "unreadable_file", f"cannot be a file beside the others ({error.strerror})")

    def _forget(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / name).unlink()


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while True:
        try:
            piece = content.read(_CHUNK)
        except Exception as error:
            raise _BrokenError(f"{type(error).__name__}: {error}"[:300]) from error
        if not piece:
            return
        yield piece


def most_bytes(limits: ArchiveLimits, packed_bytes: int) -> int:
    """Bytes that an archive of so many bytes may unpack to."""
    return min(limits.mib << 20, max(FREE_BYTES, limits.ratio * packed_bytes))


def _unsafe(name: str) -> str | None:
    """Why a name may not be used, or None."""
    try:
        checked_relative(name)
        name.encode()
    except UnicodeEncodeError:
        return "the name is not UTF-8"
    except StoreError as error:
        return str(error)[:400]
    return f"a name of {len(name)} characters" if len(name) > _MAX_NAME else None


class _Bounded(io.RawIOBase):
    """A stream of which no single read may be large, whatever a header claims; with `work` no place may be far."""

    def __init__(self, inner: IO[bytes], most_read: int, work: _Unpacking | None = None) -> None:
        super().__init__()
        self._inner, self._most_read, self._work = inner, most_read, work
        self.last = b""

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes. Raises UnpackError if that is above what any header needs."""
        wanted = self._most_read + 1 if size is None or size < 0 else size
        self.last = self._inner.read(min(wanted, self._most_read + 1))
        if len(self.last) > self._most_read:
            raise UnpackError(f"a header claims {wanted} bytes; {self._most_read} are allowed")
        self._check(self.tell())
        return self.last

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place. Raises UnpackError if too much would have to be unpacked to get there."""
        if whence == 0:
            self._check(place)
        return self._inner.seek(place, whence)

    def _check(self, place: int) -> None:
        if self._work is not None:  # headers lie between the files, and do not count
            self._work.check_bytes(max(0, place - FREE_BYTES - 2 * _BLOCK * self._work.contents.n_members))

    def tell(self) -> int:
        """The place."""
        return self._inner.tell()

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True


def _from_zip(archive: Path, work: _Unpacking) -> None:
    with archive.open("rb") as stream:
        # zipfile takes the whole list of members in one read; 256 bytes are enough for each.
        bounded = _Bounded(stream, max(_MAX_READ, 256 * work.limits.members))
        with zipfile.ZipFile(bounded) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    work.take(_zip_member(opened, info))


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if info.flag_bits & 0x1:
        return _Member(name, 0, problem="encrypted; archives are read without passwords")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return _Member(
            name, 0, problem=f"compressed by method {info.compress_type}; stored and deflated are read"
        )
    try:
        content = opened.open(info)
        if kind == stat.S_IFLNK:
            return _Member(name, 0, link_to=_beside(name, content.read(_MAX_NAME).decode("utf-8", "replace")))
    except Exception as error:
        return _Member(name, 0, problem=f"broken in the archive ({error})")
    if kind not in (0, stat.S_IFREG):
        return _Member(name, 0, problem="not a regular file")
    return _Member(name, info.file_size, content)


def _from_tar(archive: Path, name: str, work: _Unpacking) -> None:
    is_plain = name.lower().endswith(".tar")
    with archive.open("rb") if is_plain else gzip.open(archive, "rb") as stream:
        bounded = _Bounded(stream, _MAX_READ, work)  # type: ignore[arg-type]
        with tarfile.open(fileobj=bounded, mode="r:", errorlevel=2) as opened:
            for member in _tar_members(opened):
                work.take(member)
        # A list that ends otherwise was cut off, or goes on after a broken header; tarfile takes both for the end.
        if bounded.last != bytes(_BLOCK):
            raise tarfile.ReadError("the mark of the archive's end is missing")
        unread = 0
        while piece := stream.read(_CHUNK):  # to the checksum of the packing
            unread += len(piece)
            work.check_bytes(unread)


def _tar_members(opened: tarfile.TarFile) -> Iterator[_Member]:
    while (member := opened.next()) is not None:
        opened.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all
        if member.isdir():
            continue
        if member.issym():
            yield _Member(member.name, 0, link_to=_beside(member.name, member.linkname))
        elif member.islnk():
            yield _Member(member.name, 0, link_to=member.linkname.removeprefix("./"))
        elif member.isreg() and not member.issparse():
            yield _Member(member.name, member.size, opened.extractfile(member))
        else:
            yield _Member(member.name, member.size, problem="not a regular file")


def _beside(name: str, target: str) -> str:
    """Where a symbolic link leads, by names of the archive; what leads out keeps its '..' or '/'."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
