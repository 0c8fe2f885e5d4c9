"""Detections that come in any order, gathered by their pictures; on disk where there are many of them.

Not here: where they come from (`ops/readers/table.py`, `ops/readers/open_images.py`), and what becomes of a picture.
"""

import pickle
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from types import TracebackType

from ops.readers.detections import Pictured
from ops.readers.rows import AsShown
from storage.scratch import temporary_folder

MOST_BYTES = 64 * 2**20
"""Of detections in memory, about; more of them go to disk, and come back a file at a time."""
PER_FILE = 1024
"""Pictures of one file, neighbours in the order of their first detections."""

_OF_EACH = 1000


class GatheredPictures:
    """Pictures with all their detections, in the order in which they first came; use it in a `with`.

    Memory grows by some 150 bytes a picture, by which its place is known, and not with the detections. Rows must hold
    no more than what is shown of them (`ops.readers.rows.as_shown`).
    """

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._pictures: dict[str, Pictured] = {}
        self._n_bytes = 0
        self._open = ExitStack()
        self._folder: Path | None = None

    def __enter__(self) -> "GatheredPictures":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add(self, new: Pictured) -> None:
        """Add a picture's detections to those that it has already."""
        self._number.setdefault(new.picture.file_name, len(self._number))
        _join(self._pictures, new)
        self._n_bytes += _OF_EACH + sum(_size(each.origin.raw, each.box.label) for each in new.detections)
        if self._n_bytes > MOST_BYTES:
            self._lay_aside()

    def pictures(self) -> Iterator[Pictured]:
        """Every picture once, its detections in the order in which they came; afterwards nothing can be added."""
        if self._folder is None:
            yield from self._pictures.values()
            return
        self._lay_aside()
        for number in range(-(-len(self._number) // PER_FILE)):
            found: dict[str, Pictured] = {}
            with (self._folder / str(number)).open("rb") as file:
                while file.peek(1):
                    _join(found, pickle.load(file))  # noqa: S301  our own file, in a folder of this process
            yield from found.values()

    def _lay_aside(self) -> None:
        if self._folder is None:
            self._folder = self._open.enter_context(temporary_folder("gathered"))
        ordered = sorted(self._pictures.values(), key=self._place)
        for number, some in groupby(ordered, lambda each: self._place(each) // PER_FILE):
            with (self._folder / str(number)).open("ab") as file:
                for pictured in some:
                    pickle.dump(pictured, file)
        self._pictures, self._n_bytes = {}, 0

    def _place(self, pictured: Pictured) -> int:
        return self._number[pictured.picture.file_name]


def _join(pictures: dict[str, Pictured], new: Pictured) -> None:
    known = pictures.setdefault(new.picture.file_name, new)
    if known is not new:
        known.detections.extend(new.detections)


def _size(raw: object, label: str | None) -> int:
    return _OF_EACH + len(label or "") + (len(raw) if isinstance(raw, AsShown) else 0)
