"""Files by their full addresses: a local path, s3://bucket/key, hf://datasets/..., each with !/ and a name inside too.

Here: which of the rooms' stores an address belongs to. Not here: the project's own root (`objects`).
"""

from pathlib import Path

from storage import hub, s3
from storage.objects import StoreError, checked_relative, copy_uri, read_uri, remote_names
from storage.unpack import inside, unpacked


def read_address(address: str) -> bytes:
    """The bytes of one file. Raises StoreError."""
    place = inside(address)
    if place is None:
        return hub.read(address) if address.startswith(hub.SCHEME) else read_uri(address)
    archive, name = place
    found = unpacked(archive)
    if name in found.refused:
        raise StoreError(f"{address}: {found.refused[name][1]}")
    return read_uri(f"{found.folder}/{checked_relative(name)}")


def copy_address(address: str, path: Path) -> None:
    """Copy one file, which lies in no archive, to a local path. Raises StoreError."""
    if address.startswith(hub.SCHEME):
        hub.fetch(address, path)
    else:
        copy_uri(address, path)


def n_bytes_of(address: str) -> int:
    """The size of one file, which lies in no archive. Raises StoreError."""
    if address.startswith(hub.SCHEME):
        return hub.n_bytes(address)
    if address.startswith("s3://"):
        return int(s3.call(address, "read", lambda fs: fs.info(address)["size"]))
    try:
        return Path(address).stat().st_size
    except (OSError, ValueError) as error:
        raise StoreError(f"{address}: cannot be read ({error})") from error


def names_below(address: str) -> list[str]:
    """Names of the files below an s3:// or hf:// address, relative to it; none where there is nothing.

    Raises StoreError if the server fails.
    """
    return hub.names(address) if address.startswith(hub.SCHEME) else remote_names(address)
