"""The files of one source, read by the names that annotations give them, which nobody vouches for.

Here: a name cannot leave the source's folder, and a file that cannot be read is a reason, not an exception.
Not here: what the bytes mean (`ops/readers/`, `ops/pictures.py`) and the list of sources (`ops/sources.py`).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import BinaryIO

from storage.objects import Store, StoreError, checked_relative
from storage.reading import copy_address, n_bytes_of, names_below, read_address
from storage.scratch import temporary_folder
from storage.unpack import Unpacked, UnpackError, is_archive, unpacked

GENERATED = "generated/"
"""Locations that start so lie below the root of everything else."""


def _is_safe(name: str) -> bool:
    try:
        return bool(checked_relative(name)) and bool(name.encode())
    except (StoreError, UnicodeEncodeError):
        return False


@dataclass(frozen=True)
class FileProblem:
    """Why a file cannot be had: a reason of the quarantine's closed list, and what was seen."""

    reason: str
    detail: str


@dataclass(frozen=True)
class ReadLimits:
    """What a source's annotations may be: MiB of a file that is read into memory whole, rows of its tables."""

    max_file_mib: int = 4096
    max_rows: int = 50_000_000


NO_OPTIONS = ReadLimits()
_ONE_OPENS = Lock()  # of the module, for what is sent to another machine can hold none


class SourceFiles:
    """Read-only view of a source's folder, on disk, S3 or a hub, or of an archive (.zip, .tar, .tar.gz, .tgz) of files.

    `location` is an absolute folder or archive, an s3:// or hf:// address of either, or generated/NAME below the root
    of `store`. An archive is unpacked once (`storage/unpack.py`); names are relative to what lies at its top.
    """

    def __init__(self, location: str, store: Store, limits: ReadLimits = NO_OPTIONS) -> None:
        self.limits = limits
        self._as_written = location.rstrip("/")
        below_root = location.startswith(GENERATED)
        self._address = store.url(self._as_written) if below_root else self._as_written
        self._is_archive = not below_root and is_archive(self._address)
        self._opened: Unpacked | FileProblem | None = None
        self.given: set[str] = set()
        """Names of the files whose content was handed out."""
        self.unnameable: set[str] = set()
        """Files that were passed over because their names are no text or lead out, as their names can be shown."""
        self._is_local = self._is_archive or "://" not in self._address

    def __getstate__(self) -> dict[str, object]:
        """What goes to another machine, which unpacks an archive into a cache of its own."""
        return self.__dict__ | {"_opened": None}

    def uri(self, name: str) -> str:
        """Where a file lies; a generated one relative to the root, as the location is written.

        One of an archive is ARCHIVE!/NAME, which `storage/reading.py` reads.
        """
        return f"{self._as_written}{'!' if self._is_archive else ''}/{name}"

    def name_problem(self, name: str) -> FileProblem | None:
        """What is wrong with a file's name as such; whether there is such a file is not looked at."""
        try:
            checked_relative(name)
        except StoreError as error:
            return FileProblem("unsafe_path", str(error))
        return None

    def local_copy(self, name: str, folder: Path) -> Path | FileProblem:
        """A path of the file on this machine: its own, or that of a copy in `folder`. Raises StoreError as `read`."""
        top = self.name_problem(name) or self._folder(name)
        if isinstance(top, FileProblem):
            return top
        path = Path(top) / name
        if self._is_local:
            return self._local_problem(Path(top), path) or path
        path = folder / f"copy{Path(name).suffix}"
        try:
            copy_address(f"{top}/{name}", path)
        except StoreError as error:
            return _problem_of(error, is_remote=True)
        return path

    def read(self, name: str) -> bytes | FileProblem:
        """The bytes of a file by its name relative to the location, with forward slashes.

        Raises StoreError if a bucket's server fails: that says nothing of the file; run again.
        """
        folder = self.name_problem(name) or self._folder(name)
        if isinstance(folder, FileProblem):
            return folder
        if self._is_local:
            problem = self._local_problem(Path(folder), Path(folder) / name)
            if problem is not None:
                return problem
        data = _read(f"{folder}/{name}", self._is_local)
        if not isinstance(data, FileProblem):
            self.given.add(name)
        return data

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO | FileProblem]:
        """A file as a stream that can be moved about in, of any length: memory holds what is read of it.

        Raises StoreError as `read`.
        """
        with nullcontext(Path()) if self._is_local else temporary_folder("fetched") as folder:
            path = self.local_copy(name, folder)
            if isinstance(path, FileProblem):
                yield path
                return
            try:
                stream = path.open("rb")
            except OSError as error:
                yield FileProblem("unreadable_file", f"{path}: {error}"[:500])
                return
            with stream:
                self.given.add(name)
                yield stream

    def read_whole(self, name: str) -> bytes | FileProblem:
        """The bytes of an annotation file as `read` gives them, unless there are more than the limits allow."""
        most, n_bytes = self.limits.max_file_mib, self.n_bytes(name)
        if isinstance(n_bytes, FileProblem):
            return n_bytes
        if n_bytes > most << 20:
            detail = f"{name} has {n_bytes} bytes and is read into memory whole; at most {most} MiB are"
            return FileProblem("unsupported", f"{detail} (option max_file_mib)")
        return self.read(name)

    def n_bytes(self, name: str) -> int | FileProblem:
        """How long a file is, without fetching it. Raises StoreError as `read`."""
        folder = self.name_problem(name) or self._folder(name)
        if isinstance(folder, FileProblem):
            return folder
        try:
            return n_bytes_of(f"{folder}/{name}")
        except StoreError as error:
            return _problem_of(error, not self._is_local)

    def refused_members(self) -> dict[str, str]:
        """Members of an archive that cannot be had, by name, with why; none for a folder."""
        opened = self._open() if self._is_archive else None
        if not isinstance(opened, Unpacked):
            return {}
        return {name: detail for name, (_, detail) in sorted(opened.refused.items())}

    def names(self, below: str = "", suffixes: Sequence[str] = ()) -> list[str]:
        """Names of the files below a folder of the source, sorted, relative to the location; all for no suffixes.

        Suffixes are compared in small letters. Files that start with a dot, and folders that do, are left out, and so
        is what cannot be named safely. An absent folder has none. Raises StoreError if a bucket's server fails.
        """
        try:
            folder = checked_relative(below) if below else ""
        except StoreError:
            return []
        top = self._folder()
        if isinstance(top, FileProblem):
            return []
        start = f"{top}/{folder}" if folder else top
        found = self._local_names(Path(start)) if self._is_local else names_below(start)
        prefix = f"{folder}/" if folder else ""
        wanted = tuple(suffix.lower() for suffix in suffixes)
        named = [
            f"{prefix}{name}"
            for name in found
            if (not wanted or name.lower().endswith(wanted))
            and not any(part.startswith(".") for part in name.split("/"))
        ]
        self.unnameable |= {
            name.encode("utf-8", "backslashreplace").decode() for name in named if not _is_safe(name)
        }
        return sorted(name for name in named if _is_safe(name))

    def _folder(self, name: str = "") -> str | FileProblem:
        """Where the files lie, or why the one of this name cannot be had."""
        if not self._is_archive:
            return self._address
        opened = self._open()
        if isinstance(opened, FileProblem):
            return opened
        return FileProblem(*opened.refused[name]) if name in opened.refused else str(opened.folder)

    def _open(self) -> Unpacked | FileProblem:
        with _ONE_OPENS:
            if self._opened is None:
                try:
                    self._opened = unpacked(self._address)
                except UnpackError as error:
                    self._opened = FileProblem("unreadable_file", str(error)[:500])
                except StoreError as error:
                    self._opened = _problem_of(error, "://" in self._address)
            return self._opened

    def _local_names(self, start: Path) -> list[str]:
        """Links to folders are not followed, so a loop of them has an end."""
        return [
            f"{Path(folder).relative_to(start).as_posix()}/{name}".removeprefix("./")
            for folder, _, names in os.walk(start)
            for name in names
        ]

    def _local_problem(self, top: Path, path: Path) -> FileProblem | None:
        try:
            real, folder = path.resolve(), top.resolve()
            if not real.is_relative_to(folder):
                return FileProblem("unsafe_path", f"{path} leads out of {folder}; files must lie inside it")
            if not real.exists():
                return FileProblem("missing_file", f"there is no {path}")
            if not real.is_file():  # a folder, or a pipe, which would block
                return FileProblem("unreadable_file", f"{path} is not a regular file")
        except (OSError, ValueError, RuntimeError) as error:  # names too long, loops of links
            return FileProblem("unreadable_file", f"{path}: {error}"[:500])
        return None


@dataclass(frozen=True)
class HeldFile:
    """A file of a source and its path on the machine that found it; on another one it is fetched, once a process."""

    files: SourceFiles
    name: str
    path: Path
    n_bytes: int

    def opened(self) -> BinaryIO:
        """The file, to be read. Raises StoreError if it cannot be had, or is of another length than the one found."""
        stream = (self.path if self.path.exists() else self._fetched()).open("rb")
        if os.fstat(stream.fileno()).st_size != self.n_bytes:
            stream.close()
            raise StoreError(f"{self.files.uri(self.name)}: changed while it was read; run again")
        return stream

    def _fetched(self) -> Path:
        key = self.files.uri(self.name), self.n_bytes
        with _ONE_FETCHES:
            if key not in _FETCHED:
                folder = TemporaryDirectory(prefix="fetched-")
                found = self.files.local_copy(self.name, Path(folder.name))
                if isinstance(found, FileProblem):
                    raise StoreError(f"{self.files.uri(self.name)}: {found.detail}")
                _FETCHED[key] = folder, found
            return _FETCHED[key][1]


_ONE_FETCHES = Lock()
_FETCHED: dict[tuple[str, int], tuple[TemporaryDirectory[str], Path]] = {}


def _read(address: str, is_local: bool) -> bytes | FileProblem:
    try:
        return read_address(address)
    except StoreError as error:
        return _problem_of(error, not is_local)


def _problem_of(error: StoreError, is_remote: bool) -> FileProblem:
    """What is certain about a file; raises the error again if it may be the server's."""
    missing = isinstance(error.__cause__, FileNotFoundError)
    if is_remote and not (missing or isinstance(error.__cause__, PermissionError)):
        raise error
    return FileProblem("missing_file" if missing else "unreadable_file", str(error)[:500])
