"""A source to the tables images, examples, boxes and quarantine, piece by piece; nothing gets lost on the way.

Rows are counted as the source's reader defines a raw row: a question (written or generated), and every entry
of an annotation file that is itself refused. Each raw row becomes one example or one row of the quarantine,
so rows_in = rows_out + quarantined. A box with a row of its own that is refused costs that row once, and
every question that needs the box is refused with a row of its own. Not here: formats, boxes, decoding.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ops.ahead import ahead
from ops.boxes import CONVENTIONS, BoxProblem
from ops.engines import Engine, LocalEngine
from ops.lanes import pieces
from ops.pieces import Piece
from ops.readers.rows import RAW_LIMIT, Origin, RawAnnotation, Refusal, shown
from ops.seen_keys import SeenKeys
from ops.sources import Source
from storage.objects import Store
from storage.scratch import temporary_folder
from storage.tables import TableWriter, from_rows, read_table

TABLES = ("images", "examples", "boxes", "quarantine")


@dataclass(frozen=True)
class Tables:
    """A source in the shape of the design's tables, and its arithmetic.

    `counts` holds rows_in, rows_out and quarantined; the first is the sum of the other two.
    """

    images: pa.Table
    examples: pa.Table
    boxes: pa.Table
    quarantine: pa.Table
    counts: Mapping[str, int]

    @property
    def refused_by_reason(self) -> dict[str, int]:
        """Number of quarantined rows by reason, most frequent first."""
        return dict(Counter(self.quarantine["reason"].to_pylist()).most_common())


@dataclass(frozen=True)
class Written:
    """The same as files `NAME.parquet` in a folder, and its arithmetic; see `Tables`."""

    folder: Path
    counts: Mapping[str, int]
    refused_by_reason: Mapping[str, int]
    first_refusal: str

    def path(self, table: str) -> Path:
        """The Parquet file of a table."""
        return self.folder / f"{table}.parquet"


class NothingLeft(Exception):  # noqa: N818  the state of the source, as the docs name it
    """A source of which no row is usable; `written` holds what was refused and why, `tables` too if in memory."""

    def __init__(self, source: str, written: Written) -> None:
        reasons = ", ".join(f"{reason} {n}" for reason, n in written.refused_by_reason.items())
        super().__init__(
            f"source {source!r}: none of {written.counts['rows_in']} rows is usable ({reasons or 'no rows at all'}); "
            f"first refusal: {written.first_refusal}"
        )
        self.written = written
        self.tables: Tables | None = None


def normalise(source: Source, store: Store, engine: Engine | None = None) -> Tables:
    """Read, check and convert all rows of a small source, in memory; otherwise as `normalise_into`."""
    with temporary_folder("tables") as folder:
        try:
            return _tables(normalise_into(source, store, folder, engine))
        except NothingLeft as error:
            error.tables = _tables(error.written)
            raise


def _tables(written: Written) -> Tables:
    read = {name: read_table(written.path(name).read_bytes(), name=name) for name in TABLES}
    return Tables(**read, counts=written.counts)


def normalise_into(source: Source, store: Store, folder: Path, engine: Engine | None = None) -> Written:
    """Read, check and convert all rows of a source into Parquet files; raises NothingLeft if no example remains.

    The engine, by default this process, says where the work is done, and changes no row. Memory does not grow with the
    source but for some 30 bytes an example and 40 a picture, by which what comes again is known, and some 350 more for
    each picture, its name among them, that is opened or that is taken row by row.

    Options of the source: max_pixels and pictures (`ops/picture_rows.py`); clip_boxes (cut boxes at the picture's edge
    instead of refusing them); annotated_size. The size is always that of the upright picture. With "must_agree", the
    default, a picture annotated with another width or height costs its questions, since boxes drawn on another size or
    orientation would lie wrong; "ignore" takes them.
    """
    gathered = _Gathered(source)
    with ExitStack() as files, temporary_folder("pieces") as aside:
        writers = {
            name: files.enter_context(TableWriter(name, folder / f"{name}.parquet")) for name in TABLES
        }
        new = (gathered.take(piece) for piece in pieces(source, store, aside, engine or LocalEngine()))
        for _ in ahead(partial(_write, writers), new, n_threads=1, n_ahead=2):
            pass
    written = Written(folder, gathered.counts, dict(gathered.reasons.most_common()), gathered.first_refusal)
    if not written.counts["rows_out"]:
        raise NothingLeft(source.name, written)
    return written


def _write(writers: Mapping[str, TableWriter], tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        if table.num_rows:
            writers[name].write(table)


class _Gathered:
    """What the pieces of a source come to: what is there twice is found, and everything is counted."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._images, self._examples = SeenKeys(), SeenKeys()
        self._sizes: dict[str, tuple[int, int]] = {}
        self._clip = bool(source.options.get("clip_boxes", False))
        self.counts = {"rows_in": 0, "rows_out": 0, "quarantined": 0}
        self.reasons: Counter[str] = Counter()
        self.first_refusal = "none"

    def take(self, piece: Piece) -> dict[str, pa.Table]:
        """The rows that a piece adds to each table."""
        rows = piece.examples["source_row"].to_numpy()
        new, first = self._examples.add(piece.examples["example_id"], rows)
        self._sizes.update(piece.sizes)
        further = [
            (int(piece.n_before[row]), _double(piece.origins[row], int(first[row])))
            for row in np.flatnonzero(~new).tolist()
        ]
        judged = [(n, refusal) for n, row in piece.to_judge if (refusal := self._judged(row))]
        refused = _merged(piece.refusals, sorted([*further, *judged], key=itemgetter(0)))
        new_images, _ = self._images.add(
            piece.images["image_sha256"], np.zeros(piece.images.num_rows, np.int64)
        )
        n_boxes = piece.examples["n_boxes"].to_numpy()
        self._count(piece.n_raw + len(judged), int(new.sum()), refused)
        return {
            "images": _only(piece.images, new_images),
            "examples": _only(piece.examples, new),
            "boxes": _only(piece.boxes, np.repeat(new, n_boxes)),
            "quarantine": from_rows(
                "quarantine", [_refused_row(self._source.name, each) for each in refused]
            ),
        }

    def _count(self, n_raw: int, n_out: int, refused: Sequence[Refusal]) -> None:
        for name, more in (("rows_in", n_raw), ("rows_out", n_out), ("quarantined", len(refused))):
            self.counts[name] += more
        self.reasons.update(each.reason for each in refused)
        if refused and self.first_refusal == "none":
            origin = refused[0].origin
            self.first_refusal = f"{origin.source_file} row {origin.source_row}: {refused[0].detail}"

    def _judged(self, row: RawAnnotation) -> Refusal | None:
        """The refusal of an annotation whose box is none; of a picture nobody asks about only its form counts."""
        size_wh = self._sizes.get(row.picture.file_name)
        box = CONVENTIONS[row.convention](row.values, size_wh, clip=self._clip)
        return Refusal(row.origin, "box", box.reason, box.detail) if isinstance(box, BoxProblem) else None


def _only(table: pa.Table, wanted: np.ndarray) -> pa.Table:
    return table if wanted.all() else table.filter(pa.array(wanted))


def _merged(refusals: Sequence[Refusal], further: Sequence[tuple[int, Refusal]]) -> list[Refusal]:
    """Refusals with further ones among them, each after so many of the first; those in order."""
    merged, start = [], 0
    for n_before, refusal in further:
        merged += [*refusals[start:n_before], refusal]
        start = n_before
    return [*merged, *refusals[start:]]


def _double(origin: Origin, first: int) -> Refusal:
    detail = f"same picture, question, answer and boxes as row {first}"
    return Refusal(origin, "question", "duplicate_example", detail)


def _refused_row(source: str, refusal: Refusal) -> dict[str, Any]:
    return {
        "source": source,
        "source_file": refusal.origin.source_file,
        "source_row": refusal.origin.source_row,
        "stage": refusal.stage,
        "reason": refusal.reason,
        "detail": refusal.detail.encode("utf-8", "backslashreplace").decode(),
        "raw": shown(refusal.origin.raw, RAW_LIMIT),
    }
