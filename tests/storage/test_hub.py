"""Files by hf:// addresses, from a hub on loopback by huggingface_hub's own client."""

import subprocess
import sys
import time

import pytest
from huggingface_hub import constants

from ops.source_files import FileProblem, SourceFiles
from storage import hub
from storage.objects import Store, StoreError, StoreUnreachableError
from storage.reading import names_below, read_address
from tests.hub_server import REPOSITORY, asked_by, hub_server

PLACE = f"hf://datasets/{REPOSITORY}"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def served(tmp_path, monkeypatch):
    with hub_server() as served, asked_by(served, tmp_path, monkeypatch):
        yield served


def test_files_are_read_and_listed(served):
    served.files["main"] = {"a.txt": b"one", "d/b.bin": bytes(range(256)) * 30_000, "d/e/c d.txt": b""}
    served.files["v1.0"] = {"a.txt": b"old"}
    assert read_address(f"{PLACE}/a.txt") == b"one"
    assert read_address(f"{PLACE}/d/b.bin") == served.files["main"]["d/b.bin"]
    assert read_address(f"{PLACE}/d/e/c d.txt") == b""
    assert read_address(f"{PLACE}@v1.0/a.txt") == b"old"
    assert names_below(PLACE) == ["a.txt", "d/b.bin", "d/e/c d.txt"]
    assert names_below(f"{PLACE}/d") == ["b.bin", "e/c d.txt"]
    assert names_below(f"{PLACE}@v1.0") == ["a.txt"]
    assert names_below(f"{PLACE}/none") == []


def test_what_is_not_there_is_a_reason_and_says_what(served, tmp_path):
    served.files["main"] = {"a.txt": b"one"}
    store = Store(str(tmp_path / "root"))
    for address, said in (
        (PLACE, "none.txt"),
        (f"{PLACE}@v9", "revision not found"),
        ("hf://datasets/a/b", "token"),
    ):
        problem = SourceFiles(address, store).read("none.txt")
        assert (
            isinstance(problem, FileProblem) and problem.reason == "missing_file" and said in problem.detail
        )


def test_a_private_data_set_wants_its_token(served, monkeypatch):
    served.files["main"], served.token = {"a.txt": b"secret"}, "hf_right"
    for token in (None, "hf_wrong"):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(hub, "_current", None)
        with pytest.raises(StoreError, match="make sure you are authenticated") as raised:
            read_address(f"{PLACE}/a.txt")
        assert "hf_wrong" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(hub, "_current", None)
    assert read_address(f"{PLACE}/a.txt") == b"secret"


def test_a_hub_that_fails_is_an_error_and_not_a_reason(served, tmp_path, monkeypatch):
    served.files["main"], served.fault = {"a.txt": b"one"}, 500
    files = SourceFiles(PLACE, Store(str(tmp_path / "root")))
    with pytest.raises(
        StoreUnreachableError, match=r"cannot be read; http://127\.0\.0\.1:.* fails or is not to be reached"
    ):
        files.read("a.txt")
    served.fault = None
    assert files.read("a.txt") == b"one"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(StoreUnreachableError, match=r"http://127\.0\.0\.1:9 fails or is not to be reached"):
        files.names()
    assert time.monotonic() - started < 40


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up(served, monkeypatch):
    """The listing is what huggingface_hub itself would wait for without end; tried six times, 24 s of waits between."""
    served.files["main"] = {"a.txt": b"one"}
    monkeypatch.setenv("SALIENCY_R1_HUB_TIMEOUT_S", "0.3")
    fs = hub._file_system()
    fs.info(PLACE)  # the data set is known to be there
    served.fault = "stall"
    started = time.monotonic()
    with pytest.raises(StoreUnreachableError, match="Timeout"):
        names_below(PLACE)
    assert time.monotonic() - started < 40


def test_without_the_library_the_error_says_what_to_install(tmp_path):
    code = """
import sys
sys.modules["huggingface_hub"] = None  # as Python marks what cannot be imported
from storage.objects import StoreError
from storage.reading import read_address
try:
    read_address("hf://datasets/a/b/c.txt")
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "hf://datasets/a/b/c.txt: cannot be read: install huggingface_hub\n", done.stderr


def test_offline_the_error_says_so(served, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StoreUnreachableError, match="offline mode is enabled"):
        read_address(f"{PLACE}/a.txt")
    assert served.asked == []


def test_a_file_that_the_token_may_not_read_is_a_reason(served, tmp_path):
    served.files["main"] = {"a.txt": b"one"}
    files = SourceFiles(PLACE, Store(str(tmp_path / "root")))
    assert files.names() == ["a.txt"]
    served.fault = 403
    problem = files.read("a.txt")
    assert isinstance(problem, FileProblem)
    assert (
        problem.reason == "unreadable_file"
        and "403; it wants a token with access: set HF_TOKEN" in problem.detail
    )
