"""Detections that come in any order, gathered by their pictures; on disk where there are many of them.

Not here: where they come from (`ops/readers/table.py`, `ops/readers/open_images.py`), and what becomes of a picture.
"""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from io import BufferedRandom
from types import TracebackType
from zlib import crc32

from ops.readers.detections import Pictured
from storage.scratch import temporary_folder

MOST_IN_MEMORY = 50_000
"""Detections; more of them go to disk, in N_FILES files by their pictures' names, and come back one file at a time."""
N_FILES = 256


class Gathering:
    """Pictures with all their detections; use it in a `with`, for it may hold files meanwhile."""

    def __init__(self) -> None:
        self._pictures: dict[str, Pictured] = {}
        self._n_waiting = 0
        self._open = ExitStack()
        self._files: list[BufferedRandom] = []

    def __enter__(self) -> "Gathering":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, new: Pictured) -> None:
        """Add a picture's detections to those that it has already."""
        _join(self._pictures, new)
        self._n_waiting += len(new.detections)
        if self._n_waiting > MOST_IN_MEMORY:
            self._lay_aside()

    def pictures(self) -> Iterator[Pictured]:
        """Every picture once, its detections in the order in which they came, and nothing is held any more.

        Few come in the order of their first detections; many by file, and in that order within each.
        """
        if not self._files:
            yield from self._pictures.values()
            return
        self._lay_aside()
        for file in self._files:
            file.seek(0)
            found: dict[str, Pictured] = {}
            while file.peek(1):
                _join(found, pickle.load(file))  # noqa: S301  our own file, in a folder nobody else writes to
            yield from found.values()

    def _lay_aside(self) -> None:
        if not self._files:
            folder = self._open.enter_context(temporary_folder("gathered"))
            names = (folder / str(number) for number in range(N_FILES))
            self._files = [self._open.enter_context(name.open("w+b")) for name in names]
        for name, pictured in self._pictures.items():
            pickle.dump(pictured, self._files[crc32(name.encode()) % N_FILES])
        self._pictures, self._n_waiting = {}, 0


def _join(pictures: dict[str, Pictured], new: Pictured) -> None:
    known = pictures.setdefault(new.picture.file_name, new)
    if known is not new:
        known.detections.extend(new.detections)
