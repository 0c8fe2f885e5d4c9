import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.assets.small_world import SmallWorld


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # guards against a power cut only


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return SmallWorld(tmp_path)


@pytest.fixture
def instance(world: SmallWorld) -> Iterator[dg.DagsterInstance]:
    with world.instance() as instance:
        yield instance
