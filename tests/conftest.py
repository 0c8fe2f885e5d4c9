"""What holds for all tests: nothing from outside decides what they do, and nothing goes out."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", DAGSTER_DISABLE_TELEMETRY="1")
for name in ("SALIENCY_R1_ROOT", "SALIENCY_R1_SOURCES", "SALIENCY_R1_PROFILE", "DAGSTER_HOME"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_home_of_somebody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the caches of whoever runs it."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp() / "home"))
