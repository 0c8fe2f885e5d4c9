"""The Rosetta set: pictures with things whose boxes are known, which every format has to give back.

Here: what a picture of the set is. Not here: how a format writes it (`rosetta_writers.py`, `rosetta_tables.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.sources import Source
from tests.ops.delivery import encoded, pixels, write

Thing = tuple[str, float, float, float, float]
"""label, x1, y1, x2, y2 in pixels, x2 and y2 exclusive."""


@dataclass(frozen=True)
class Picture:
    """A picture of the set: its number names its file."""

    number: int
    size_wh: tuple[int, int]
    things: Sequence[Thing]

    @property
    def file(self) -> str:
        """The file's name without its folder."""
        return f"{self.number}.jpg"

    @property
    def data(self) -> bytes:
        """The bytes of the picture file."""
        return encoded(pixels(self.size_wh, self.number), "JPEG")

    def share(self, thing: Thing, whole: float = 1.0) -> list[float]:
        """The four edges of a thing as shares of the sides, where `whole` is all of one."""
        (width, height), (_, x1, y1, x2, y2) = self.size_wh, thing
        return [x1 * whole / width, y1 * whole / height, x2 * whole / width, y2 * whole / height]


Pictures = Sequence[Picture]
Write = Callable[[Path, Pictures], Source]
LABELS = ("plate", "cup", "fork")  # in another order than they come in


def put_pictures(folder: Path, pictures: Pictures) -> None:
    """Write the pictures' files."""
    for picture in pictures:
        write(folder, f"images/{picture.file}", picture.data)


def numbered(pictures: Pictures) -> list[tuple[int, Picture, Thing]]:
    """Every thing with its picture and a number over all pictures, from 1."""
    pairs = [(picture, thing) for picture in pictures for thing in picture.things]
    return [(number, picture, thing) for number, (picture, thing) in enumerate(pairs, start=1)]


def xywh(thing: Thing) -> list[float]:
    _, x1, y1, x2, y2 = thing
    return [x1, y1, x2 - x1, y2 - y1]
