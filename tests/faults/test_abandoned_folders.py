"""Temporary folders of processes that are killed with no time to clean up."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HOLD = """
import sys
from storage.scratch import temporary_folder
with temporary_folder("pieces") as folder, (folder / "rows").open("w") as rows:
    rows.write("x" * 100_000)
    print(folder, flush=True)
    sys.stdin.read()
"""
PASS_BY = (
    "from storage.scratch import temporary_folder\nwith temporary_folder('pieces') as folder: print(folder)"
)
KILLED_BEFORE_IT_IS_SEEN = """
import os, signal
from pathlib import Path
from storage.scratch import temporary_folder
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with temporary_folder("pieces"): pass
"""
TWICE_AROUND = """
import subprocess, sys
from storage import scratch
with scratch.temporary_folder("first"): pass
with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=-1, stdout=-1) as killed:
    killed.stdout.readline()
    killed.kill()
with scratch.temporary_folder("second") as folder: print(len(list(folder.parents[1].iterdir())))
print(scratch.clear_abandoned())
"""


@contextmanager
def _held(place: Path):
    """A process that holds a folder below `place` until it is told to end, and that folder."""
    command, pipe = [sys.executable, "-c", HOLD], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=_environment(place)) as process:
        yield process, Path(process.stdout.readline().strip())


def _environment(place: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(place)}


def _another_passes_by(place: Path) -> Path:
    command = [sys.executable, "-c", PASS_BY]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(place))
    return Path(said.stdout.strip())


def test_the_folder_of_a_killed_process_is_removed_by_the_next(tmp_path):
    with _held(tmp_path) as (process, killed):
        process.kill()
        process.wait()
        assert (killed / "rows").exists()
    with _held(tmp_path) as (process, alive):
        assert not killed.exists()
        mine = _another_passes_by(tmp_path)
        assert mine.parents[1] == tmp_path and not mine.exists()
        assert (alive / "rows").exists()
        assert list(tmp_path.iterdir()) == [alive.parent]
        process.stdin.close()
        assert process.wait() == 0
    assert list(tmp_path.iterdir()) == []


def test_what_was_half_removed_is_removed_and_what_is_not_ours_stays(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    place = tmp_path / "tmp"
    half = place / "saliency-r1-tmp-pieces-half"
    half.mkdir(parents=True)
    (half / "rows").touch()
    (place / "saliency-r1-tmp-pieces-link").symlink_to(elsewhere)
    (place / "pieces-of-somebody").mkdir()
    _another_passes_by(place)
    assert sorted(each.name for each in place.iterdir()) == [
        "pieces-of-somebody",
        "saliency-r1-tmp-pieces-link",
    ]
    assert (elsewhere / "lock").exists()


def test_a_folder_whose_process_was_killed_before_showing_it_goes_after_an_hour(tmp_path):
    command = [sys.executable, "-c", KILLED_BEFORE_IT_IS_SEEN]
    assert subprocess.run(command, check=False, env=_environment(tmp_path)).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".saliency-r1-tmp-pieces-")
    _another_passes_by(tmp_path)
    assert left.exists()  # for all that is known, it is being made
    long_ago = time.time() - 3700
    os.utime(left, (long_ago, long_ago))
    _another_passes_by(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_process_looks_around_once_a_minute(tmp_path):
    command = [sys.executable, "-c", TWICE_AROUND, HOLD]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment(tmp_path))
    assert said.stdout.split() == ["2", "1"]  # its own beside the abandoned one, which is then asked for
    assert list(tmp_path.iterdir()) == []
