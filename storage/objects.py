"""Bytes and folders under one root, a local folder or an S3 prefix, written whole or not at all.

What the bytes mean (tables, artifacts, catalogue) belongs to the other modules of this room. Paths are
relative to the root, with forward slashes; nothing outside the root can be named.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from storage import s3
from storage.s3 import StoreError, StoreUnreachableError
from storage.settings import S3Limits, absolute_root, cache_folder

__all__ = [
    "Store",
    "StoreError",
    "StoreUnreachableError",
    "checked_relative",
    "copy_uri",
    "read_uri",
    "remote_names",
    "sha256_bytes",
    "sha256_file",
    "sha256_folder",
]

_CHUNK = 1 << 20
_PART = ".part"  # suffix of files and folders that are being written; never listed, never trusted


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while piece := stream.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def sha256_folder(path: str | os.PathLike[str]) -> str:
    """Hex sha256 over the files of a folder: sorted relative paths, each with its own sha256.

    Renaming, adding, removing or changing a file changes it; times, modes and empty folders do not.
    """
    digest = hashlib.sha256()
    for relative, file in _files_of(Path(path)):
        digest.update(f"{relative}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _files_of(folder: Path) -> list[tuple[str, Path]]:
    """The files below a folder as (relative path with forward slashes, path), sorted by relative path."""
    if not folder.is_dir():
        raise StoreError(f"{folder}: wanted a folder")
    found = [(file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file()]
    return sorted(found)


def read_uri(uri: str) -> bytes:
    """Read one file by its full address, a local path or s3://bucket/key. Raises StoreError."""
    if uri.startswith("s3://"):
        return s3.call(uri, "read", lambda fs: bytes(fs.cat_file(uri)))
    try:
        return Path(uri).read_bytes()
    except OSError as error:
        raise StoreError(f"{uri}: cannot be read ({error})") from error


def copy_uri(uri: str, path: Path) -> None:
    """Copy one file by its full address, a local path or s3://bucket/key, to a local path. Raises StoreError."""
    if uri.startswith("s3://"):
        s3.call(uri, "read", lambda fs: fs.get_file(uri, str(path)))
        return
    try:
        shutil.copyfile(uri, path)
    except OSError as error:
        raise StoreError(f"{uri}: cannot be read ({error})") from error


def remote_names(uri: str) -> list[str]:
    """Names of the files below s3://bucket/prefix, relative to it; none where there is nothing. Raises StoreError."""
    start = uri.removeprefix("s3://").rstrip("/") + "/"
    try:
        return [str(found).removeprefix(start) for found in s3.call(uri, "listed", lambda fs: fs.find(start))]
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise


def checked_relative(relative: str) -> str:
    """Return a relative path unchanged, or raise StoreError if it could name something outside the root."""
    parts = relative.split("/")
    if relative.startswith("/") or "\\" in relative or "\0" in relative or {"", ".", ".."} & set(parts):
        raise StoreError(
            f"{relative!r}: wanted a path relative to the root, with forward slashes and "
            "without '.', '..' or empty parts"
        )
    return relative


class Store:
    """The files under one root; `root` is a local path or s3://bucket/prefix.

    A write is seen whole or not at all: locally through a file beside the target, flushed to the disk and
    renamed (a power cut may undo the rename, not halve the file); on S3 through one put. `cache_dir` keeps
    what `fetch` downloads from S3 (default: SALIENCY_R1_CACHE, or ~/.cache/saliency-r1).
    """

    def __init__(self, root: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
        self.root = absolute_root(str(root))
        self.is_local = "://" not in self.root
        self._cache_dir = Path(cache_dir) if cache_dir is not None else cache_folder()
        if self.is_local:
            Path(self.root).mkdir(parents=True, exist_ok=True)

    def url(self, relative: str) -> str:
        """The absolute path or the s3:// address of a relative path."""
        return f"{self.root}/{checked_relative(relative)}"

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write bytes under a relative path, replacing what was there, atomically."""
        target = self.url(relative)
        if not self.is_local:
            s3.call(
                target, "written", lambda fs: fs.pipe_file(target, data, chunksize=_part_bytes(len(data)))
            )
            return
        part = _part_beside(Path(target))
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def put_file(self, local_file: str | os.PathLike[str], relative: str) -> None:
        """Copy a local file under a relative path, replacing what was there, atomically."""
        source, target = Path(local_file), self.url(relative)
        if not self.is_local:
            _upload(source, target)
            return
        part = _part_beside(Path(target))
        try:
            _copy_and_sync(source, part)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def put_folder(self, local_dir: str | os.PathLike[str], relative: str) -> None:
        """Copy a local folder under a relative path, replacing what was there.

        Locally the folder appears whole; on S3 file by file, so nothing may refer to it before this returns. What is
        there already is replaced and never absent between, for another writer may have brought the same and gone.
        """
        files = _files_of(Path(local_dir))
        if not files:
            raise StoreError(f"{local_dir}: the folder is empty, nothing to store as {relative}")
        target = self.url(relative)
        if not self.is_local:
            for name, file in files:
                _upload(file, f"{target}/{name}")
            for extra in sorted(set(self.list(relative)) - {f"{relative}/{name}" for name, _ in files}):
                self.delete(extra)
            return
        part = _part_beside(Path(target))
        try:
            for name, file in files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                _copy_and_sync(file, part / name)
            _swap_folder(part, Path(target))
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def read_bytes(self, relative: str) -> bytes:
        """Read a file. Raises StoreError if it is not there."""
        return read_uri(self.url(relative))

    def read_all(self, prefix: str) -> dict[str, bytes]:
        """All files in the folder `prefix` and below, by relative path, sorted; on S3 read at the same time."""
        names = self.list(prefix)
        if self.is_local:
            return {name: self.read_bytes(name) for name in names}
        urls = [self.url(name) for name in names]
        found = s3.call(self.url(prefix), "read", lambda fs: fs.cat(urls)) if names else {}
        return {name: bytes(found[self.url(name).removeprefix("s3://")]) for name in names}

    def exists(self, relative: str) -> bool:
        """Whether a file, or a folder with a file in it, is stored under the relative path."""
        target = self.url(relative)
        if self.is_local:
            return Path(target).exists()
        return s3.call(target, "looked for", lambda fs: bool(fs.exists(target)))

    def list(self, prefix: str = "") -> list[str]:
        """The relative paths of all files in the folder `prefix` and below, sorted; '' is the root."""
        target = self.url(prefix.rstrip("/")) if prefix else self.root
        if self.is_local:
            if Path(target).is_file():
                return [prefix]
            found = [
                file.relative_to(self.root).as_posix() for file in Path(target).rglob("*") if file.is_file()
            ]
            return sorted(name for name in found if not any(p.endswith(_PART) for p in name.split("/")))
        base = self.root.removeprefix("s3://") + "/"
        found = s3.call(target, "listed", lambda fs: list(fs.find(target)))
        return sorted(name.removeprefix(base) for name in found if name.startswith(base))

    def delete(self, relative: str) -> None:
        """Remove a file or a folder; nothing happens if it is not there."""
        target = self.url(relative)
        if not self.is_local:
            # One by one: a refusal within a bulk deletion is passed over by s3fs.
            for name in self.list(relative):
                _remove(self.url(name))
        elif Path(target).is_dir():
            shutil.rmtree(target)
        else:
            Path(target).unlink(missing_ok=True)

    def fetch(self, relative: str) -> Path:
        """The local path of a file or folder: the stored one itself when local, else a downloaded copy.

        Treat it as read-only. A copy is kept by the address, names and versions (ETags) behind it, so a
        changed object is downloaded anew. Raises StoreError if nothing is there.
        """
        target = self.url(relative)
        if self.is_local:
            if not Path(target).exists():
                raise StoreError(f"{target}: not there")
            return Path(target)
        found = s3.call(target, "listed", lambda fs: fs.find(target, detail=True))
        if not found:
            raise StoreError(f"{target}: not there")
        base = target.removeprefix("s3://")
        states = [
            (name.removeprefix(base), info.get("ETag"), info["size"]) for name, info in sorted(found.items())
        ]
        cached = self._cache_dir / sha256_bytes(f"{target}{states}".encode())[:32] / Path(base).name
        if not cached.exists():
            self._download(base, [name for name, _, _ in states], cached)
        return cached

    def _download(self, base: str, names: Sequence[str], cached: Path) -> None:
        part = _part_beside(cached)
        try:
            for name in names:
                place = Path(f"{part}{name}")
                place.parent.mkdir(parents=True, exist_ok=True)
                _load(f"s3://{base}{name}", place)
            if part.is_dir():
                _swap_folder(part, cached)
            else:
                part.replace(cached)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if part.is_file():
                part.unlink()


def _upload(file: Path, url: str) -> None:
    part = _part_bytes(file.stat().st_size)
    s3.call(url, "written", lambda fs: fs.put_file(str(file), url, chunksize=part))


def _load(url: str, place: Path) -> None:
    s3.call(url, "read", lambda fs: fs.get_file(url, str(place)))


def _remove(url: str) -> None:
    s3.call(url, "deleted", lambda fs: fs.rm_file(url))


def _part_bytes(n_bytes: int) -> int:
    """Size of the parts of an upload; S3 takes 10,000 of them at most."""
    return max(S3Limits.from_environment().part_mib << 20, -(-n_bytes // 10_000))


def _part_beside(target: Path) -> Path:
    """A name of its own beside the target, for what is being written; the folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{target.name}.{uuid.uuid4().hex}{_PART}"


def _copy_and_sync(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
        writer.flush()
        os.fsync(writer.fileno())


def _swap_folder(part: Path, target: Path) -> None:
    """Rename a finished folder into place; what was there is moved away first and then removed."""
    old = _part_beside(target)
    if target.exists():
        target.rename(old)
    try:
        part.rename(target)
    except OSError:
        # Another writer was first: its folder stands.
        if not target.is_dir():
            raise
    shutil.rmtree(old, ignore_errors=True)
