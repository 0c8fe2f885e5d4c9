"""Temporary folders on this machine, of which none stays for long: not even when its process is killed.

Not here: work folders of stages, which are kept so that a killed one can go on (`pipelines/launchers.py`).
"""

import fcntl
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_START = "saliency-r1-tmp-"
_LOCK = "lock"
_UNSEEN_S = 3600.0
"""Seconds after which a folder that was never shown is abandoned: between its making and that lie milliseconds."""
_BETWEEN_CLEARINGS_S = 60.0
_last_clearing: dict[str, float] = {}


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A new empty folder, removed at the end; those that killed processes left behind are removed first.

    A process holds a lock on each folder of its own, which ends with the process, however it ends. It looks for those
    of others once a minute, for there may be much in the place of temporary files.
    """
    _clear_now_and_then()
    hidden = Path(tempfile.mkdtemp(prefix=f".{_START}{name}-"))
    top = hidden.with_name(hidden.name.removeprefix("."))
    with (hidden / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (hidden / "files").mkdir()
        hidden.rename(top)  # seen only now that it is held
        try:
            yield top / "files"
        finally:
            shutil.rmtree(top / "files", ignore_errors=True)
            shutil.rmtree(top, ignore_errors=True)


def clear_abandoned() -> int:
    """Remove this user's temporary folders that no process holds; how many there were."""
    n_removed = 0
    place = Path(tempfile.gettempdir())
    for top in (*place.glob(f"{_START}*"), *place.glob(f".{_START}*")):
        with suppress(OSError):  # another process was first, or holds it
            n_removed += _cleared(top)
    return n_removed


def _clear_now_and_then() -> None:
    place, now = tempfile.gettempdir(), time.monotonic()
    if now - _last_clearing.get(place, -math.inf) >= _BETWEEN_CLEARINGS_S:
        _last_clearing[place] = now
        clear_abandoned()


def _cleared(top: Path) -> bool:
    told = top.stat()
    if told.st_uid != os.getuid():
        return False
    if top.name.startswith(".") and time.time() - told.st_mtime < _UNSEEN_S:  # perhaps about to be shown
        return False
    if (top / _LOCK).exists():
        with (top / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(top)
    else:  # killed while it was removed
        shutil.rmtree(top)
    return True
