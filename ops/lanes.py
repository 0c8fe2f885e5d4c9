"""Which way the rows of a source go: as columns where they can be taken so, else row by row; in the order of the file.

Not here: what either way makes of them (`ops/column_lane.py`, `ops/row_lane.py`), and where that is done
(`ops/engines.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops import column_lane
from ops.engines import Engine
from ops.picture_rows import MAX_SIDE_PX, Opened, PictureRows, Unusable
from ops.pieces import Piece, nothing, together
from ops.readers.coco_scan import DetectionPiece
from ops.readers.rows import PictureRef, RawExample, RawRow
from ops.row_lane import MAX_BOXES, RowLane
from ops.source_files import SourceFiles
from ops.sources import Source, files_of, pieces_of
from storage.objects import Store
from storage.tables import from_rows

PICTURES_AT_ONCE = 64
"""Pictures that are held in memory together while their questions are made."""
ROWS_AT_ONCE = 500
"""Raw rows that are worked on together at most; fewer where their pictures lie inside them."""
BYTES_AT_ONCE = 64 * 2**20
"""A part ends with the row whose embedded picture brings it to so many bytes."""

Part = DetectionPiece | Sequence[RawRow]


def pieces(source: Source, store: Store, folder: Path, engine: Engine) -> Iterator[Piece]:
    """All of a source, piece by piece. `folder`: an empty one for what does not fit into memory meanwhile.

    Raises StoreError if a bucket's server fails.
    """
    files = files_of(source, store)
    lanes = _Lanes(source, files, PictureRows(source, files) if engine.in_process else None)
    return engine.run(lanes.taken, _parts(pieces_of(source, files, folder)))


def _parts(found: Iterable[DetectionPiece | Iterator[RawRow]]) -> Iterator[Part]:
    """What is worked on together: detections of some pictures as columns, or some rows."""
    for each in found:
        if isinstance(each, DetectionPiece) and column_lane.can_take(each):
            yield each
            continue
        rows = each.all_rows() if isinstance(each, DetectionPiece) else each
        while some := list(_some(rows)):
            yield some


def _some(rows: Iterator[RawRow]) -> Iterator[RawRow]:
    n_bytes = 0
    for row in islice(rows, ROWS_AT_ONCE):
        yield row
        n_bytes += len(row.picture.data or b"") if isinstance(row, RawExample) else 0
        if n_bytes >= BYTES_AT_ONCE:
            return


@dataclass(frozen=True)
class _Lanes:
    """Both ways of one source. `pictures`: those known from part to part; None to know a part's own only."""

    source: Source
    files: SourceFiles
    pictures: PictureRows | None

    def taken(self, part: Part) -> Iterable[Piece]:
        """What comes of a part: made, where it is numbers only, else on demand, for pictures take memory."""
        return _Lane(self.source, self.pictures or PictureRows(self.source, self.files)).taken(part)


class _Lane:
    """Both ways for one part."""

    def __init__(self, source: Source, pictures: PictureRows) -> None:
        self._source, self._pictures = source, pictures
        self._rows = RowLane(source, pictures)
        self._max_boxes = int(source.options.get("max_boxes", MAX_BOXES))
        self._clip = bool(source.options.get("clip_boxes", False))
        self._sizes_must_agree = source.options.get("annotated_size", "must_agree") == "must_agree"

    def taken(self, part: Part) -> Iterable[Piece]:
        """As `_Lanes.taken`."""
        if not isinstance(part, DetectionPiece):
            return self._rows.pieces(part)
        if self._pictures.are_read:
            return map(self._detections, part.stretches(PICTURES_AT_ONCE))
        return [self._detections(part)]

    def _detections(self, piece: DetectionPiece) -> Piece:
        pictures = self._opened(piece) if self._pictures.are_read else self._named(piece)
        plain, edges = column_lane.plain_pictures(
            piece, pictures.sizes_wh, pictures.usable, self._max_boxes, clip=self._clip
        )
        made = nothing()
        if plain.any():
            images = pictures.image_rows(self._pictures, plain)
            made = column_lane.take(piece, self._source.name, images, plain, edges)
        if plain.all():
            return made
        others = piece.pictures["place"].filter(pa.array(~plain))
        theirs = piece.boxes.filter(pc.is_in(piece.boxes["picture"], others))
        pairs = zip(theirs["place"].to_pylist(), theirs["picture"].to_pylist(), strict=True)
        picture_of = dict(pairs)  # by the annotation at which a question stands
        rows = piece.rows(others.to_pylist())
        for more in self._rows.pieces(rows, lambda row: picture_of[row.origin.source_row]):
            made = together(made, more)
        return made

    def _named(self, piece: DetectionPiece) -> "_Named":
        told, known = _annotated(piece)
        known &= (told <= MAX_SIDE_PX).all(axis=1)
        told = np.where(known[:, None], told, 1)
        table, safe = self._pictures.unread(piece.pictures["file_name"], told)
        return _Named(told, known & safe, table)

    def _opened(self, piece: DetectionPiece) -> "_Read":
        told, known = _annotated(piece)
        asked = np.isin(piece.pictures["place"].to_numpy(), piece.boxes["picture"].to_numpy())
        names = zip(piece.pictures["file_name"].to_pylist(), asked.tolist(), strict=True)
        references = [PictureRef(name) if is_asked else None for name, is_asked in names]
        opened = [found for _, found in self._pictures.of(references, lambda each: each)]
        sizes_wh = np.array([each.size_wh if isinstance(each, Opened) else (1, 1) for each in opened])
        usable = np.array([isinstance(each, Opened) for each in opened])
        if self._sizes_must_agree:
            usable &= ~known | (told == sizes_wh).all(axis=1)
        return _Read(sizes_wh, usable, references, opened)


@dataclass(frozen=True)
class _Named:
    """Pictures known by name: sizes [pictures, 2], which are usable, rows of the images table."""

    sizes_wh: np.ndarray
    usable: np.ndarray
    table: pa.Table

    def image_rows(self, pictures: PictureRows, wanted: np.ndarray) -> pa.Table:
        """The rows of some pictures, bool [pictures]."""
        return self.table.filter(pa.array(wanted))


@dataclass(frozen=True)
class _Read:
    """Pictures that were opened, where anything stands on them; otherwise as `_Named`."""

    sizes_wh: np.ndarray
    usable: np.ndarray
    references: Sequence[PictureRef | None]
    opened: Sequence[Opened | Unusable | None]

    def image_rows(self, pictures: PictureRows, wanted: np.ndarray) -> pa.Table:
        """The rows of some pictures, bool [pictures]; without bytes where a row of the same name was given before."""
        rows = []
        for reference, opened, is_wanted in zip(self.references, self.opened, wanted.tolist(), strict=True):
            if is_wanted and reference is not None and isinstance(opened, Opened):
                rows.append(pictures.row_of(reference, opened) or dict(opened.row))
        return from_rows("images", rows)


def _annotated(piece: DetectionPiece) -> tuple[np.ndarray, np.ndarray]:
    """Annotated sizes [pictures, 2], 1 where there is none, and where there is one."""
    sides = [piece.pictures[name] for name in ("width", "height")]
    known = pc.and_(*(each.is_valid() for each in sides)).to_numpy()
    return np.column_stack([pc.fill_null(each, 1).to_numpy() for each in sides]), known
