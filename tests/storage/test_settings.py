"""The environment, read in one place."""

from pathlib import Path

import pytest

from storage.settings import ArchiveLimits, S3Limits, Settings, SettingsError, cache_folder


def test_defaults_are_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({}) == Settings(str(tmp_path / "var"), None, "tiny")
    assert Settings.from_environment({"SALIENCY_R1_ROOT": "", "SALIENCY_R1_SOURCES": ""}).root == str(
        tmp_path / "var"
    )


def test_what_is_set_is_used(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALIENCY_R1_ROOT", "s3://bucket/some/prefix/")
    monkeypatch.setenv("SALIENCY_R1_SOURCES", "mine.yaml")
    monkeypatch.setenv("SALIENCY_R1_PROFILE", "paper-3b")
    found = Settings.from_environment()
    assert found == Settings("s3://bucket/some/prefix", str(tmp_path / "mine.yaml"), "paper-3b")
    assert Settings.from_environment({"SALIENCY_R1_ROOT": "~/data"}).root == str(Path.home() / "data")


@pytest.mark.parametrize("root", ["gs://bucket/x", "s3://", "s3:///x", "http://host/x"])
def test_another_address_is_refused_by_name_and_value(root):
    with pytest.raises(SettingsError, match=f"SALIENCY_R1_ROOT='{root}': wanted a local path or s3://bucket"):
        Settings.from_environment({"SALIENCY_R1_ROOT": root})


def test_limits_of_s3_are_read_and_refused_by_name():
    assert S3Limits.from_environment({"SALIENCY_R1_S3_ATTEMPTS": ""}) == S3Limits(5, 20, 5, 50)
    given = {"CONNECT_TIMEOUT_S": "0.5", "READ_TIMEOUT_S": "7", "ATTEMPTS": "3", "PART_MIB": "8"}
    found = S3Limits.from_environment({f"SALIENCY_R1_S3_{name}": text for name, text in given.items()})
    assert found == S3Limits(0.5, 7, 3, 8)
    for name, text in (("ATTEMPTS", "0"), ("ATTEMPTS", "2.5"), ("PART_MIB", "4"), ("READ_TIMEOUT_S", "nan")):
        with pytest.raises(SettingsError, match=f"SALIENCY_R1_S3_{name}='{text}': wanted a"):
            S3Limits.from_environment({f"SALIENCY_R1_S3_{name}": text})


def test_limits_of_archives_and_the_cache_folder(tmp_path):
    assert ArchiveLimits.from_environment({}) == ArchiveLimits(2_000_000, 204_800, 200)
    given = {
        "SALIENCY_R1_ARCHIVE_MEMBERS": "3000000",
        "SALIENCY_R1_ARCHIVE_MIB": "4",
        "SALIENCY_R1_ARCHIVE_RATIO": "",
    }
    assert ArchiveLimits.from_environment(given) == ArchiveLimits(3_000_000, 4, 200)
    with pytest.raises(SettingsError, match="SALIENCY_R1_ARCHIVE_RATIO='0': wanted a whole number from 1 up"):
        ArchiveLimits.from_environment({"SALIENCY_R1_ARCHIVE_RATIO": "0"})
    assert cache_folder({}) == Path.home() / ".cache" / "saliency-r1"
    assert cache_folder({"SALIENCY_R1_CACHE": str(tmp_path)}) == tmp_path
