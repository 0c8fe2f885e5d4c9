"""Pictures by their hash out of stored tables: the wanted ones, and not the file around them."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.rows import pictures_by_sha256
from storage.tables import TableError, encode_table, from_rows

PER_GROUP = 1_000


def stored(path: Path, n: int, n_bytes: int = 40) -> list[str]:
    """An images table of n pictures of random bytes, in row groups of 1,000; their hashes in its order."""
    rows = []
    for number in range(n):
        data = os.urandom(n_bytes)
        sha256 = hashlib.sha256(data).hexdigest()
        words = dict.fromkeys(("pixels_sha256", "source", "source_file", "format", "uri"), "x")
        sizes = {"width_px": 4, "height_px": 3, "n_bytes": n_bytes}
        rows.append(
            {**words, **sizes, "image_sha256": sha256, "thumb": b"", "file_name": f"{number}", "bytes": data}
        )
    path.write_bytes(encode_table("images", from_rows("images", rows)))
    return [row["image_sha256"] for row in rows]


def test_each_wanted_picture_comes_with_its_own_bytes_from_any_row_group(tmp_path: Path) -> None:
    names = stored(tmp_path / "a.parquet", 2_500)
    others = stored(tmp_path / "b.parquet", 30)
    wanted = [names[0], names[17], names[999], names[1_000], names[2_499], others[29], "unknown"]
    found = pictures_by_sha256([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")], wanted)
    assert set(found) == set(wanted[:-1])
    assert all(hashlib.sha256(data).hexdigest() == sha256 for sha256, data in found.items())


PEAK = """
import sys, pyarrow as pa
from storage.rows import pictures_by_sha256

assert len(pictures_by_sha256([sys.argv[1]], [sys.argv[2]])) == 1
print(pa.default_memory_pool().max_memory())
"""


def test_row_groups_without_a_wanted_picture_are_not_read(tmp_path: Path) -> None:
    """Three groups of 20 MB; one picture of the second is wanted: less than two groups are in memory at once."""
    names = stored(tmp_path / "a.parquet", 3 * PER_GROUP, 20_000)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "a.parquet"), names[1_500]]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 200_000 < peak < 45_000_000


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(encode_table("splits", from_rows("splits", [])))
    with pytest.raises(TableError):
        pictures_by_sha256([str(tmp_path / "a.parquet")], ["x"])
