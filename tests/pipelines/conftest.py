from pathlib import Path

import pytest

from tests.assets.small_world import SmallWorld


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return SmallWorld(tmp_path)
