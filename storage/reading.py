"""Files by their full addresses: a local path, s3://bucket/key, or either of an archive with !/ and a name inside.

Here: which of the rooms' stores an address belongs to. Not here: the project's own root (`objects`).
"""

from storage.objects import StoreError, checked_relative, read_uri
from storage.unpack import inside, unpacked


def read_address(address: str) -> bytes:
    """The bytes of one file. Raises StoreError."""
    place = inside(address)
    if place is None:
        return read_uri(address)
    archive, name = place
    found = unpacked(archive)
    if name in found.refused:
        raise StoreError(f"{address}: {found.refused[name][1]}")
    return read_uri(f"{found.folder}/{checked_relative(name)}")
