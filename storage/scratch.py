"""Temporary folders on this machine, of which none stays for long: not even when its process is killed.

Not here: work folders of stages, which are kept so that a killed one can go on (`pipelines/launchers.py`).
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_START = "saliency-r1-tmp-"
_LOCK = "lock"


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A new empty folder, removed at the end; those that killed processes left behind are removed first.

    A process holds a lock on each folder of its own, which ends with the process, however it ends.
    """
    clear_abandoned()
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
    for top in Path(tempfile.gettempdir()).glob(f"{_START}*"):
        with suppress(OSError):  # another process was first, or holds it
            n_removed += _cleared(top)
    return n_removed


def _cleared(top: Path) -> bool:
    if top.stat().st_uid != os.getuid():
        return False
    if (top / _LOCK).exists():
        with (top / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(top)
    else:  # killed while it was removed
        shutil.rmtree(top)
    return True
