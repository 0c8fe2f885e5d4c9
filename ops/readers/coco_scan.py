"""COCO detections of any size: one walk over the file, then picture by picture in pieces that fit into memory.

The walk lays every annotation, as numbers, beside the others of its picture's piece in a temporary folder. A piece
holds neighbouring pictures with all that stands on them: as columns, and for those pictures where anything is out of
the ordinary row by row, by `ops/readers/coco.py`. Not here: what becomes of a piece (`ops/normalise.py`).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.questions import USUAL
from ops.readers.coco import CONVENTION, CocoIndex, Identifier, add_entries, rows
from ops.readers.coco_columns import (
    ANNOTATION,
    IMAGE,
    STORED_BOX,
    STORED_IMAGE,
    WHERE,
    boxes_of,
    is_int64,
    looked_up,
    pictures_of,
)
from ops.readers.detections import picture_name
from ops.readers.json_arrays import Block, NotStreamable, blocks
from ops.readers.json_files import decoded
from ops.readers.rows import Origin, PictureRef, RawRow, Refusal
from ops.source_files import HeldFile

PIECE_BYTES = 6 * 2**20
"""Bytes of the annotation file, on average, that stand on the pictures of one piece."""
MAX_PIECES = 256
IMAGES = "images.arrow"
_PER_BATCH = 1024  # pictures of a stored batch; a piece is a number of whole batches


@dataclass(frozen=True)
class DetectionPiece:
    """Neighbouring pictures of a source of detections, with everything that stands on them.

    `pictures`: place (0-based, in the file's list), file_name, width, height (as annotated, null where not), plain.
    `boxes`: picture (place of its picture), label (index into `labels`, -1 for none), x, y, width, height as the
    convention says, plain, place; in file order. What is not plain has to be read row by row.
    """

    source_file: str
    convention: str
    templates: Sequence[str]
    labels: Sequence[str]
    pictures: pa.Table
    boxes: pa.Table
    _scan: "CocoScan"

    def asked_about(self) -> list[str]:
        """Names of the pictures that anything stands on."""
        has_boxes = pc.is_in(self.pictures["place"], pc.unique(self.boxes["picture"]))
        return list(self.pictures["file_name"].filter(has_boxes).to_pylist())

    def stretches(self, n_pictures: int) -> Iterator["DetectionPiece"]:
        """The piece in pieces of a few pictures each."""
        of_picture = self.boxes["picture"].to_numpy()
        order = np.argsort(of_picture, kind="stable")
        boxes, of_picture = self.boxes.take(pa.array(order)), of_picture[order]
        for start in range(0, self.pictures.num_rows, n_pictures):
            pictures = self.pictures.slice(start, n_pictures)
            places = pictures["place"].to_numpy()
            first, last = np.searchsorted(of_picture, [places[0], places[-1] + 1])
            yield replace(self, pictures=pictures, boxes=boxes.slice(first, last - first))

    def rows(self, pictures: Collection[int]) -> Iterator[RawRow]:
        """The raw rows of some pictures, by their places: questions, then refusals, then boxes to be judged."""
        index = self._scan.index()
        wanted = pa.array(sorted(pictures), pa.int64())
        boxes = self.boxes.filter(pc.is_in(self.boxes["picture"], wanted)).sort_by("place")
        images = self.pictures.filter(pc.is_in(self.pictures["place"], wanted))
        with self._scan.file.opened() as stream:
            for key, table in (("images", images), ("annotations", boxes)):
                add_entries(index, key, self._scan.origins(stream, table))
        yield from rows(index, self.templates)

    def all_rows(self) -> Iterator[RawRow]:
        """The raw rows of all its pictures, a few pictures at a time."""
        for few in self.stretches(_PER_BATCH):
            yield from few.rows(few.pictures["place"].to_pylist())

    def origins(self, boxes: np.ndarray) -> "BoxOrigins":
        """Where boxes stand in the file, by their rows in `boxes`."""
        where = self.boxes.select([name for name, _ in WHERE])
        return BoxOrigins(self._scan.file, where.take(pa.array(boxes)).combine_chunks())


@dataclass(frozen=True)
class BoxOrigins:
    """Where entries stand in an annotation file; read when one is asked for."""

    file: HeldFile
    where: pa.Table

    def __getitem__(self, row: int) -> Origin:
        """The origin of one of them."""
        place, start, length = (self.where[name][row].as_py() for name, _ in WHERE)
        with self.file.opened() as stream:
            stream.seek(start)
            return Origin(self.file.name, place, decoded(stream.read(length)))


@dataclass
class CocoScan:
    """A COCO file after one walk: labels, what was refused, and everything else in files by piece."""

    file: HeldFile
    folder: Path
    boxes_from: str
    images_folder: str
    templates: Sequence[str] = USUAL
    labels: dict[Identifier, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    per_piece: int = _PER_BATCH

    def index(self) -> CocoIndex:
        """An empty index that knows the labels."""
        return CocoIndex(
            labels=dict(self.labels), boxes_from=self.boxes_from, images_folder=self.images_folder
        )

    def origins(self, stream: BinaryIO, entries: pa.Table) -> Iterator[Origin]:
        """Entries as they stand in the file, by the columns place, start and length."""
        where = zip(*(entries[name].to_pylist() for name, _ in WHERE), strict=True)
        for place, start, length in where:
            stream.seek(start)
            yield Origin(self.file.name, place, decoded(stream.read(length)))

    def pieces(self) -> Iterator[DetectionPiece]:
        """All pictures, in file order, piece by piece."""
        of_piece = replace(self, refusals=[])  # which may be many, and pieces go to other machines
        names = list(dict.fromkeys(self.labels.values()))
        numbers = {name: number for number, name in enumerate(names)}
        known = [(key[1], numbers[name]) for key, name in self.labels.items() if is_int64(key[1])]
        keys = np.array([key for key, _ in known], np.int64)
        order = np.argsort(keys)
        found = np.array([number for _, number in known], np.int64)[order]
        with pa.memory_map(str(self.folder / IMAGES)) as source:
            stored = pa.ipc.open_file(source)
            n_batches = self.per_piece // _PER_BATCH
            for first in range(0, stored.num_record_batches, n_batches):
                last = min(first + n_batches, stored.num_record_batches)
                images = pa.Table.from_batches([stored.get_batch(each) for each in range(first, last)])
                boxes = self._boxes(first // n_batches)
                labels = looked_up(boxes["category"].to_numpy(), keys[order], found)
                boxes = boxes.append_column("label", pa.array(labels))
                plain = pc.and_(boxes["plain"], pc.greater_equal(boxes["label"], 0))
                boxes = boxes.set_column(boxes.schema.get_field_index("plain"), "plain", plain)
                yield DetectionPiece(
                    self.file.name, CONVENTION, self.templates, names, self._named(images), boxes, of_piece
                )

    def strays(self) -> Iterator[Refusal]:
        """Annotations that stand on no picture, each with what is wrong with it."""
        entries = self._boxes(-1)
        with self.file.opened() as stream:
            for batch in entries.to_batches(max_chunksize=_PER_BATCH):
                index = self.index()
                add_entries(index, "annotations", self.origins(stream, pa.Table.from_batches([batch])))
                yield from index.refusals

    def _boxes(self, piece: int) -> pa.Table:
        path = self.folder / f"annotations.{piece}.arrow"
        if not path.exists():
            return STORED_BOX.empty_table()
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all().combine_chunks()

    def _named(self, images: pa.Table) -> pa.Table:
        """The usable pictures of a stretch, named relative to the source."""
        images = images.filter(pc.is_valid(images["place"]))
        if self.images_folder:
            names = [picture_name(self.images_folder, name) for name in images["file_name"].to_pylist()]
            where = images.schema.get_field_index("file_name")
            images = images.set_column(where, "file_name", pa.array(names, pa.string()))
        return images


def scan(
    file: HeldFile,
    folder: Path,
    templates: Sequence[str] = USUAL,
    boxes_from: str = "bbox",
    images: str = "",
) -> CocoScan:
    """Walk over the file and lay it out below `folder`. Raises NotStreamable.

    The other arguments are those of `ops.readers.coco.read`.
    """
    found = CocoScan(file, folder, boxes_from, images, templates)
    with _Layout(found) as layout:
        with file.opened() as stream:
            for block in blocks(stream, {"categories": None, "images": IMAGE, "annotations": ANNOTATION}):
                layout.take(block)
        if layout.check_complete():
            lists = {"images": IMAGE, "annotations": ANNOTATION}  # neither may fit into memory
            with file.opened() as stream:
                for block in blocks(stream, lists):
                    if block.key == "annotations":
                        layout.take(block)
    return found


class _Layout:
    """The blocks of a file on their way into the files of the pieces."""

    def __init__(self, found: CocoScan) -> None:
        self._scan = found
        self._seen: set[str] = set()
        self._pictures: list[pa.Table] = []
        self._places_of_texts: dict[str, int] = {}
        self._ids = self._places = np.zeros(0, np.int64)
        self._parts: dict[int, tuple[pa.OSFile, pa.RecordBatchStreamWriter]] = {}
        self._is_late = False

    def __enter__(self) -> "_Layout":
        return self

    def __exit__(self, *_: object) -> None:
        for file, writer in self._parts.values():
            writer.close()
            file.close()

    def take(self, block: Block) -> None:
        """Lay out one block. Annotations before the pictures are passed over, for a second walk."""
        self._seen.add(block.key)
        if block.key == "categories":
            index = self._scan.index()
            add_entries(index, "categories", self._origins(block))
            self._scan.labels.update(index.labels)
            self._scan.refusals[:0] = index.refusals
        elif block.key == "images":
            self._pictures.append(pictures_of(block, self._places_of_texts))
        elif "images" in self._seen:
            self._finish_pictures()
            self._lay_out(boxes_of(block, self._place_of_text, self._scan.boxes_from))
        else:
            self._is_late = True

    def check_complete(self) -> bool:
        """Whether the annotations need another walk. Raises NotStreamable if a list is missing."""
        missing = sorted({"images", "annotations"} - self._seen)
        if missing:
            raise NotStreamable(f"no {' and no '.join(missing)}")
        self._finish_pictures()
        return self._is_late

    def _origins(self, block: Block) -> Iterator[Origin]:
        for place, value in enumerate(block.values or (), start=block.first):
            yield Origin(self._scan.file.name, place, value)

    def _place_of_text(self, text: str) -> int:
        return self._places_of_texts.get(text, -1)

    def _finish_pictures(self) -> None:
        """Refuse pictures without a name or an id of their own, and store the others."""
        if not self._pictures:
            return
        table = pa.concat_tables(self._pictures).combine_chunks()
        self._pictures = []
        places = np.arange(table.num_rows)
        usable = table["usable"].to_numpy().copy()
        by_number = np.flatnonzero(usable & table["id"].is_valid().to_numpy())
        numbers = table["id"].take(pa.array(by_number)).to_numpy()
        order = np.argsort(numbers, kind="stable")
        taken = np.zeros(len(order), bool)
        taken[1:] = numbers[order][1:] == numbers[order][:-1]
        usable[by_number[order][taken]] = False
        self._ids, self._places = numbers[order][~taken], by_number[order][~taken]
        n_pieces = min(-(-self._scan.file.n_bytes // PIECE_BYTES), MAX_PIECES)
        per_piece = -(-table.num_rows // n_pieces)
        self._scan.per_piece = max(1, -(-per_piece // _PER_BATCH)) * _PER_BATCH
        self._refuse(table.filter(pa.array(~usable)), set(by_number[order][taken].tolist()))
        stored = table.drop_columns(["usable"]).set_column(
            STORED_IMAGE.get_field_index("place"), "place", pa.array(places, mask=~usable)
        )
        with (
            pa.OSFile(str(self._scan.folder / IMAGES), "wb") as file,
            pa.ipc.new_file(file, STORED_IMAGE) as out,
        ):
            out.write_table(stored.cast(STORED_IMAGE), max_chunksize=_PER_BATCH)

    def _refuse(self, entries: pa.Table, taken: set[int]) -> None:
        """Refuse pictures, for their ids where an earlier one has it: those at the places `taken`, and text ids."""
        index = self._scan.index()
        with self._scan.file.opened() as stream:
            for origin in self._scan.origins(stream, entries):
                number = origin.raw.get("id") if isinstance(origin.raw, dict) else None
                by_text = isinstance(number, str) and self._place_of_text(number) not in (
                    -1,
                    origin.source_row,
                )
                again = by_text or origin.source_row in taken
                index.images = {(type(number).__name__, number): PictureRef("")} if again else {}
                add_entries(index, "images", [origin])
        self._scan.refusals += index.refusals

    def _lay_out(self, boxes: pa.Table) -> None:
        if not boxes.num_rows:
            return
        ids = boxes["image_id"].to_numpy()
        found = looked_up(ids, self._ids, self._places)
        by_text = boxes["picture"].to_numpy()
        pictures = np.where(boxes["has_number"].to_numpy(), found, by_text)
        piece = np.where(pictures < 0, -1, pictures // self._scan.per_piece).astype(np.int16)
        boxes = boxes.set_column(boxes.schema.get_field_index("picture"), "picture", pa.array(pictures))
        order = np.argsort(piece, kind="stable")
        boxes = boxes.select(STORED_BOX.names).take(pa.array(order)).combine_chunks()
        numbers, starts = np.unique(piece[order], return_index=True)
        for number, start, stop in zip(numbers, starts, [*starts[1:], len(order)], strict=True):
            self._part(int(number)).write_table(boxes.slice(start, stop - start).cast(STORED_BOX))

    def _part(self, number: int) -> pa.RecordBatchStreamWriter:
        if number not in self._parts:
            file = pa.OSFile(str(self._scan.folder / f"annotations.{number}.arrow"), "wb")
            self._parts[number] = file, pa.ipc.new_stream(file, STORED_BOX)
        return self._parts[number][1]
