"""Archives as folders: a zip or tar file, on disk, on S3 or on a hub, unpacked once into the cache by its content.

A file inside is named ARCHIVE!/NAME. What is unpacked is kept below SALIENCY_R1_CACHE by the sha256 of the archive,
beside a note of what was refused; it may be deleted at any time. How members are written safely is in
`unpack_members`.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from storage import hub, s3
from storage.objects import StoreError, copy_uri, sha256_bytes, sha256_file
from storage.settings import ArchiveLimits, cache_folder
from storage.unpack_members import KINDS, UnpackError, most_bytes, unpack

__all__ = ["UnpackError", "Unpacked", "inside", "is_archive", "unpacked"]

_SETTLED_S = 2.0
"""A file that changed less long ago may change again within the clock's grain, and is hashed each time."""


@dataclass(frozen=True)
class Unpacked:
    """Where the files of an archive lie, to be read only, and what was refused: by name a reason and a detail."""

    folder: Path
    n_members: int = 0
    n_bytes: int = 0
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def is_archive(address: str) -> bool:
    """Whether an address, local, s3:// or hf://, is that of an archive and not of a folder."""
    return address.lower().endswith(KINDS) and not ("://" not in address and Path(address).is_dir())


def inside(address: str) -> tuple[str, str] | None:
    """The archive and the name within it, of the address of a file in an archive; else None."""
    found = re.fullmatch(
        rf"(.+?(?:{'|'.join(map(re.escape, KINDS))}))!/(.+)", address, re.IGNORECASE | re.DOTALL
    )
    return (found[1], found[2]) if found else None


def unpacked(address: str) -> Unpacked:
    """The unpacked archive, from the cache if it is there. Raises StoreError (absent), UnpackError (refused)."""
    limits, cache = ArchiveLimits.from_environment(), cache_folder() / "unpacked"
    state, settled = _state(address)
    note = cache / f"{sha256_bytes(f'{address}{state}'.encode())[:32]}.sha256"
    if settled and note.is_file() and (known := _known(cache / note.read_text(), limits)):
        return known
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=cache) as scratch:
        archive = Path(address) if "://" not in address else Path(scratch) / "archive"
        if "://" in address:
            _fetch(address, archive)
        sha256 = sha256_file(archive)
        known = _known(cache / sha256, limits) or _unpack(
            archive, address, Path(scratch), cache / sha256, limits
        )
        if _state(address)[0] == state:
            written = Path(scratch) / "note"
            written.write_text(sha256)
            written.replace(note)
    return known


def _unpack(archive: Path, address: str, scratch: Path, place: Path, limits: ArchiveLimits) -> Unpacked:
    """Unpack aside and move into place whole; where another process was first, its folder stands."""
    whole = scratch / "whole"
    contents = unpack(archive, address.rpartition("/")[2], whole / "files", limits)
    told = {**asdict(contents), "packed_bytes": archive.stat().st_size}
    (whole / "contents.json").write_text(json.dumps(told))
    if place.exists() and _known(place, limits) is None:
        shutil.rmtree(place)
    with suppress(OSError):
        whole.rename(place)
    known = _known(place, limits)
    if known is None:
        raise StoreError(f"{place}: cannot be written; is the cache folder (SALIENCY_R1_CACHE) writable?")
    return known


def _fetch(address: str, place: Path) -> None:
    if address.startswith(hub.SCHEME):
        hub.fetch(address, place)
    else:
        copy_uri(address, place)


def _state(address: str) -> tuple[object, bool]:
    """What changes when the archive does, without reading it; and whether that can be relied on."""
    if address.startswith(hub.SCHEME):
        return hub.state(address), True
    if "://" in address:
        info = s3.call(address, "read", lambda fs: fs.info(address))
        return (info.get("ETag"), info["size"]), bool(info.get("ETag"))
    try:
        seen = Path(address).stat()
        if not Path(address).is_file():
            raise StoreError(f"{address}: not a regular file")
    except OSError as error:
        raise StoreError(f"{address}: cannot be read ({error})") from error
    state = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)
    return state, time.time() - seen.st_ctime > _SETTLED_S


def _known(place: Path, limits: ArchiveLimits) -> Unpacked | None:
    """What the cache holds, unless it is above the limits of today."""
    try:
        told = json.loads((place / "contents.json").read_bytes())
    except (OSError, ValueError):
        return None
    if told["n_members"] > limits.members or told["n_bytes"] > most_bytes(limits, told["packed_bytes"]):
        return None
    refused = {name: (reason, detail) for name, (reason, detail) in told["refused"].items()}
    return Unpacked(place / "files", told["n_members"], told["n_bytes"], refused)
