"""The files of one source, read by the names that annotations give them, which nobody vouches for.

Here: a name cannot leave the source's folder, and a file that cannot be read is a reason, not an exception.
Not here: what the bytes mean (`ops/readers/`, `ops/pictures.py`) and the list of sources (`ops/sources.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.objects import Store, StoreError, checked_relative, copy_uri, read_uri, remote_names

GENERATED = "generated/"
"""Locations that start so lie below the root of everything else."""


def _is_safe(name: str) -> bool:
    try:
        return bool(checked_relative(name))
    except StoreError:
        return False


@dataclass(frozen=True)
class FileProblem:
    """Why a file cannot be had: a reason of the quarantine's closed list, and what was seen."""

    reason: str
    detail: str


class SourceFiles:
    """Read-only view of a source's folder, on disk or on S3.

    `location` is an absolute folder, an s3:// address, or generated/NAME below the root of `store`.
    """

    def __init__(self, location: str, store: Store) -> None:
        self._as_written = location.rstrip("/")
        below_root = location.startswith(GENERATED)
        self._address = store.url(self._as_written) if below_root else self._as_written
        self._is_local = "://" not in self._address

    def uri(self, name: str) -> str:
        """Where a file lies; a generated one relative to the root, as the location is written."""
        return f"{self._as_written}/{name}"

    def name_problem(self, name: str) -> FileProblem | None:
        """What is wrong with a file's name as such; whether there is such a file is not looked at."""
        try:
            checked_relative(name)
        except StoreError as error:
            return FileProblem("unsafe_path", str(error))
        return None

    def local_copy(self, name: str, folder: Path) -> Path | FileProblem:
        """A path of the file on this machine: its own, or that of a copy in `folder`. Raises StoreError as `read`."""
        problem = self.name_problem(name)
        path = Path(f"{self._address}/{name}")
        if problem is None and self._is_local:
            problem = self._local_problem(path)
        if problem is not None or self._is_local:
            return problem or path
        path = folder / f"copy{Path(name).suffix}"
        try:
            copy_uri(f"{self._address}/{name}", path)
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError | PermissionError):
                raise
            missing = isinstance(error.__cause__, FileNotFoundError)
            return FileProblem("missing_file" if missing else "unreadable_file", str(error)[:500])
        return path

    def read(self, name: str) -> bytes | FileProblem:
        """The bytes of a file by its name relative to the location, with forward slashes.

        Raises StoreError if a bucket's server fails: that says nothing of the file; run again.
        """
        problem = self.name_problem(name)
        if problem is not None:
            return problem
        address = f"{self._address}/{name}"
        if self._is_local:
            problem = self._local_problem(Path(address))
            if problem is not None:
                return problem
        try:
            return read_uri(address)
        except StoreError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            if not (missing or self._is_local or isinstance(error.__cause__, PermissionError)):
                raise
            return FileProblem("missing_file" if missing else "unreadable_file", str(error)[:500])

    def names(self, below: str = "", suffixes: Sequence[str] = ()) -> list[str]:
        """Names of the files below a folder of the source, sorted, relative to the location; all for no suffixes.

        Suffixes are compared in small letters. Files that start with a dot, and folders that do, are left out, and so
        is what cannot be named safely. An absent folder has none. Raises StoreError if a bucket's server fails.
        """
        try:
            folder = checked_relative(below) if below else ""
        except StoreError:
            return []
        start = f"{self._address}/{folder}" if folder else self._address
        found = self._local_names(Path(start)) if self._is_local else remote_names(start)
        prefix = f"{folder}/" if folder else ""
        wanted = tuple(suffix.lower() for suffix in suffixes)
        return sorted(
            f"{prefix}{name}"
            for name in found
            if (not wanted or name.lower().endswith(wanted))
            and not any(part.startswith(".") for part in name.split("/"))
            and _is_safe(name)
        )

    def _local_names(self, start: Path) -> list[str]:
        """Links to folders are not followed, so a loop of them has an end."""
        return [
            f"{Path(folder).relative_to(start).as_posix()}/{name}".removeprefix("./")
            for folder, _, names in os.walk(start)
            for name in names
        ]

    def _local_problem(self, path: Path) -> FileProblem | None:
        try:
            real, folder = path.resolve(), Path(self._address).resolve()
            if not real.is_relative_to(folder):
                return FileProblem("unsafe_path", f"{path} leads out of {folder}; files must lie inside it")
            if not real.exists():
                return FileProblem("missing_file", f"there is no {path}")
            if not real.is_file():  # a folder, or a pipe, which would block
                return FileProblem("unreadable_file", f"{path} is not a regular file")
        except (OSError, ValueError, RuntimeError) as error:  # names too long, loops of links
            return FileProblem("unreadable_file", f"{path}: {error}"[:500])
        return None
