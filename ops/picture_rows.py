"""Pictures of a source as rows of the images table: read, decoded and hashed side by side, or known by name alone.

Not here: decoding (`ops/pictures.py`), and which picture a question is about.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.pictures import MAX_PIXELS, PictureProblem, see
from ops.readers.rows import PictureRef
from ops.source_files import FileProblem, SourceFiles
from ops.sources import Source
from storage.objects import sha256_bytes
from storage.tables import digests, schema_of

KEPT, REFERENCED, UNREAD = "kept", "referenced", "unread"
MAX_SIDE_PX = 2**31 - 1
"""The longest side that the images table holds; a picture that is not read may claim any."""
_REMEMBERED = 100_000
"""Pictures of which it is known what they were, the last ones; at least half as many."""
_KNOWN = Struct("<II?32s")
"""Width and height in pixels, whether the sides are swapped, sha256 of the file."""
_DOUBTFUL = r"^/|\\|\x00|(^|/)\.{0,2}(/|$)"
"""What a name that leads out of the source holds; so do a few that do not."""
Row = TypeVar("Row")
_AHEAD = 2  # pictures in work for every thread


@dataclass(frozen=True)
class Opened:
    """A usable picture: its upright size in pixels, and its row of the images table.

    When it is asked for again the row may hold no more than where the picture lies, its sha256 and its size.
    """

    size_wh: tuple[int, int]
    sides_swapped: bool
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Unusable:
    """Why there is no picture: a reason of the quarantine's closed list, and what was seen."""

    reason: str
    detail: str


class PictureRows:
    """The pictures of one source, each opened once as long as it is remembered.

    Options of the source: max_pixels; pictures. "kept" (the default) stores the files in the table, "referenced" leaves
    them where they are, "unread" never opens them: their size is what the annotation says, their sha256 that of their
    uri, and nothing is known of their pixels. Pictures inside the annotations are always read.
    """

    def __init__(self, source: Source, files: SourceFiles) -> None:
        self._source, self._files = source, files
        self._max_pixels = int(source.options.get("max_pixels", MAX_PIXELS))
        self._how = source.options.get("pictures", KEPT)
        self._known: dict[str, bytes | Unusable] = {}
        self._known_before: dict[str, bytes | Unusable] = {}
        self._given: set[str] = set()

    @property
    def are_read(self) -> bool:
        """Whether pictures that lie beside the annotations are opened at all."""
        return bool(self._how != UNREAD)

    def of(
        self, rows: Iterable[Row], picture_of: Callable[[Row], PictureRef | None]
    ) -> Iterator[tuple[Row, Opened | Unusable | None]]:
        """Each row with its picture, in order; the next pictures are opened ahead, side by side.

        Raises StoreError if a bucket's server fails.
        """
        n_threads = min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(n_threads, "pictures") as pool:
            waiting: deque[tuple[Row, PictureRef | None, Future[Opened | Unusable] | None]] = deque()
            under_way: dict[str, Future[Opened | Unusable]] = {}
            for row in rows:
                picture = picture_of(row)
                started = None if picture is None else self._started(pool, picture, under_way)
                waiting.append((row, picture, started))
                if len(waiting) > _AHEAD * n_threads:
                    yield self._finished(*waiting.popleft(), under_way)
            while waiting:
                yield self._finished(*waiting.popleft(), under_way)

    def row_of(self, picture: PictureRef, opened: Opened) -> dict[str, Any] | None:
        """The picture's row of the images table with what is stored of it; None if it was asked for before."""
        if picture.data is not None or not self.are_read:
            return dict(opened.row)
        if picture.file_name in self._given:
            return None
        self._given.add(picture.file_name)
        if "bytes" not in opened.row:  # not remembered, since no example came of it then
            again = self._opened(picture)
            return dict(again.row) if isinstance(again, Opened) else None
        return dict(opened.row)

    def unread(self, names: pa.ChunkedArray, sizes_wh: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows of the images table of pictures that are not read, and whose names are safe, bool [pictures]."""
        doubtful = pc.match_substring_regex(names, _DOUBTFUL).to_numpy()
        safe = ~doubtful
        texts = names.to_pylist()
        for row in np.flatnonzero(doubtful).tolist():
            safe[row] = self._files.name_problem(texts[row]) is None
        uris = pc.binary_join_element_wise(self._files.uri(""), names, "")
        hashes = b"".join([sha256(uri).digest() for uri in uris.cast(pa.binary()).to_pylist()])
        columns = {
            "image_sha256": digests(hashes, 64),
            "source": [self._source.name] * len(texts),
            "source_file": [self._source.annotations] * len(texts),
            "file_name": names,
            "uri": uris,
            "width_px": pa.array(sizes_wh[:, 0]),
            "height_px": pa.array(sizes_wh[:, 1]),
        }
        schema = schema_of("images")
        absent = {f.name: pa.nulls(len(texts), f.type) for f in schema if f.name not in columns}
        return pa.table({**columns, **absent}).select(schema.names).cast(schema), safe

    def _started(
        self, pool: ThreadPoolExecutor, picture: PictureRef, under_way: dict[str, Future[Opened | Unusable]]
    ) -> Future[Opened | Unusable]:
        if picture.data is not None:
            return pool.submit(self._opened, picture)
        known = self._recalled(picture.file_name) if self.are_read else self._unread(picture)
        if known is not None:
            done: Future[Opened | Unusable] = Future()
            done.set_result(known)
            return done
        if picture.file_name not in under_way:
            under_way[picture.file_name] = pool.submit(self._opened, picture)
        return under_way[picture.file_name]

    def _finished(
        self,
        row: Row,
        picture: PictureRef | None,
        future: Future[Opened | Unusable] | None,
        under_way: dict[str, Future[Opened | Unusable]],
    ) -> tuple[Row, Opened | Unusable | None]:
        if picture is None or future is None:
            return row, None
        found = future.result()
        under_way.pop(picture.file_name, None)
        if picture.data is None and self.are_read:
            self._remember(picture.file_name, found)
        return row, found

    def _remember(self, file_name: str, found: Opened | Unusable) -> None:
        if file_name in self._known or file_name in self._known_before:
            return
        if len(self._known) >= _REMEMBERED // 2:
            self._known, self._known_before = {}, self._known
        if isinstance(found, Opened):
            digest = bytes.fromhex(found.row["image_sha256"])
            self._known[file_name] = _KNOWN.pack(*found.size_wh, found.sides_swapped, digest)
        else:
            self._known[file_name] = found

    def _recalled(self, file_name: str) -> Opened | Unusable | None:
        known = self._known.get(file_name) or self._known_before.get(file_name)
        if not isinstance(known, bytes):
            return known
        width_px, height_px, sides_swapped, digest = _KNOWN.unpack(known)
        size_wh = (width_px, height_px)
        return Opened(size_wh, sides_swapped, self._row(file_name, digest.hex(), size_wh))

    def _opened(self, picture: PictureRef) -> Opened | Unusable:
        data = self._files.read(picture.file_name) if picture.data is None else picture.data
        if isinstance(data, FileProblem):
            return Unusable(data.reason, data.detail)
        seen = see(data, self._max_pixels)
        if isinstance(seen, PictureProblem):
            return Unusable(seen.reason, f"{picture.file_name}: {seen.detail}")
        row = self._row(picture.file_name, sha256_bytes(data), seen.size_wh) | {
            "pixels_sha256": seen.pixels_sha256,
            "thumb": seen.thumb,
            "phash": seen.phash,
            "format": seen.format,
            "n_bytes": len(data),
            "bytes": None if self._how == REFERENCED and picture.data is None else data,
        }
        return Opened(seen.size_wh, seen.sides_swapped, row)

    def _unread(self, picture: PictureRef) -> Opened | Unusable:
        problem = self._files.name_problem(picture.file_name)
        if problem is not None:
            return Unusable(problem.reason, problem.detail)
        if picture.annotated_wh is None:
            detail = f"{picture.file_name}: pictures are not read, and no width and height are annotated"
            return Unusable("missing_field", detail)
        if max(picture.annotated_wh) > MAX_SIDE_PX:
            seen = "{} x {}".format(*picture.annotated_wh)
            return Unusable("picture_too_large", f"{picture.file_name}: annotated as {seen} px")
        identity = sha256_bytes(self._files.uri(picture.file_name).encode())
        return Opened(
            picture.annotated_wh, False, self._row(picture.file_name, identity, picture.annotated_wh)
        )

    def _row(self, file_name: str, sha256: str, size_wh: tuple[int, int]) -> dict[str, Any]:
        return {
            "image_sha256": sha256,
            "source": self._source.name,
            "source_file": self._source.annotations,
            "file_name": file_name,
            "uri": self._files.uri(file_name),
            "width_px": size_wh[0],
            "height_px": size_wh[1],
        }
