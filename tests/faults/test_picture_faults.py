"""Pictures kept in a bucket whose server fails: that is an error, and no word on the picture."""

from pathlib import Path

import pytest

from storage.objects import Store, StoreUnreachableError
from storage.rows import rows_from_paths
from tests.faults.faulty_s3 import ENDLESS
from tests.training.odd_rows import good, write

pytestmark = pytest.mark.timeout(20)


@pytest.mark.parametrize("kept", ["by address", "under the root"])
def test_a_failing_server_stops_the_reading_and_an_absent_picture_does_not(
    s3, behind, kept, tmp_path: Path
) -> None:
    root = f"s3://{behind.bucket}/root"
    names = ("here.png", "gone.png")
    uris = [f"{root}/{name}" if kept == "by address" else name for name in names]
    here, gone = (good(index, "test", uri=uri) for index, uri in enumerate(uris))
    Store(root).write_bytes("here.png", here.data)
    paths = write(tmp_path / "tables", [here, gone])
    s3.heal()
    unreadable: dict[str, str] = {}
    s3.fail("GET", "503", times=ENDLESS, below="here.png")
    with pytest.raises(StoreUnreachableError, match=r"here\.png: cannot be read"):
        rows_from_paths(paths, "test", root=root, unreadable=unreadable)
    s3.heal()
    unreadable.clear()
    rows = rows_from_paths(paths, "test", root=root, unreadable=unreadable)
    assert [row.image_bytes for row in rows] == [here.data, b""]
    assert list(unreadable) == [rows[1].image_sha256]
