import os
from pathlib import Path

import pytest

from storage.lineage import Ledger
from storage.objects import Store
from tests.storage.small_world import SmallWorld


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    # Flushing guards against a power cut, which no test can make; it costs most of these tests' time.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


@pytest.fixture
def world(ledger: Ledger, tmp_path: Path) -> SmallWorld:
    return SmallWorld(ledger, tmp_path / "scratch")
