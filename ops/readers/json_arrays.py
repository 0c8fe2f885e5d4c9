"""The arrays of one large JSON object, block by block, so that a file of any length takes little memory.

Here: where entries begin and end in the bytes, and their values; as columns by Arrow's reader where a block's entries
are objects that fit a schema, one by one by Python's where not. What is read is what Python's own reader would read;
of values beside the schema's only whether they are JSON to Python, not keys that come twice.
Not here: what entries mean. A file that is no such object, is broken or repeats a key is for whoever reads it whole.
"""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from ops.readers.json_files import DECODER

BLOCK_BYTES = 4 * 2**20
MAX_VALUE_BYTES = 64 * 2**20
"""A longer entry, or a longer value beside the arrays, is not streamed."""

_THREADS, _AHEAD = 2, 4
_MOST_NESTED = 500  # brackets of an entry; Python's reader goes less deep than a thousand
_MISFITS = 8  # blocks after which no further one is tried as columns

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\"]+")
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
_BEFORE_END = np.frombuffer(b"] \t\r\n", np.uint8)
_END = re.compile(rb"\}[ \t\r\n]*\][ \t\r\n]*[,}]")
_NULL_BESIDE = re.compile(rb"\}[ \t\r\n]*null")
_NO_NUMBER = re.compile(rb"[:,\[ \t\r\n](?:-N|-?Inf)")
_SPACE_IN_TEXT = re.compile(r"[ \t\r\n]*")


class NotStreamable(Exception):  # noqa: N818  a property of the file, not always a mistake of its author
    """A file that has to be read whole: broken, not one object, a key twice, an entry of enormous length."""


class BrokenJsonError(NotStreamable):
    """A file that nobody can read, found to be so without reading it whole; the message names the place."""


@dataclass(frozen=True)
class Block:
    """Some neighbouring entries of the array under `key`, the first at 0-based place `first`.

    Either `columns` (the schema's, one row an entry) or `values` (decoded entries) holds them. `starts` and `lengths`
    say where each stands, in bytes of the file, int64.
    """

    key: str
    first: int
    columns: pa.Table | None
    values: list[object] | None
    starts: np.ndarray
    lengths: np.ndarray


def blocks(stream: BinaryIO, schemas: Mapping[str, pa.Schema | None]) -> Iterator[Block]:
    """Every block of the arrays that are named, in file order; an empty array gives one block without entries.

    `stream` can be moved about in. `schemas`: by key the columns wanted, None for decoded values; what else stands in
    entries is passed over. A named key whose value is no array raises NotStreamable, as does whatever the whole file
    would be refused for. Columns are read ahead in threads.
    """
    walk = _Walk(stream)
    walk.skip(b"{")
    seen: set[str] = set()
    with ThreadPoolExecutor(_THREADS, "blocks") as pool:
        while walk.peek() != b"}" or seen:
            key = walk.text()
            if key in seen:
                raise NotStreamable(f"key {key!r} comes twice")
            seen.add(key)
            walk.skip(b":")
            if key not in schemas:
                walk.value()
            elif walk.peek() != b"[":
                raise NotStreamable(f"{key!r} is no list")
            else:
                yield from _array(walk, key, schemas[key], pool)
            if walk.peek() == b"}":
                break
            walk.skip(b",")
    walk.skip(b"}")
    if walk.peek():
        raise BrokenJsonError(f"something follows the object at byte {walk.place}")


def values(stream: BinaryIO) -> Iterator[object]:
    """The values of a file that is one JSON list, decoded block by block.

    Raises NotStreamable, after the values before it, at whatever the whole file would be refused for.
    """
    walk = _Walk(stream)
    with ThreadPoolExecutor(1) as unused:
        for block in _array(walk, "", None, unused):
            yield from block.values or ()
    if walk.peek():
        raise BrokenJsonError(f"something follows the list at byte {walk.place}")


class _Walk:
    """A position in a stream with the bytes that follow it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._base = 0  # where data[0] stands in the file
        self.data, self.at = b"", 0
        self.more()
        if self.data.startswith(_BOM):
            self.at = len(_BOM)

    @property
    def place(self) -> int:
        """Where it stands in the file."""
        return self._base + self.at

    def go_back(self, place: int) -> None:
        """Stand at a place of the file again."""
        self._stream.seek(place)
        self._base, self.data, self.at = place, b"", 0
        self.more()

    def more(self) -> bool:
        """Read on, and let go of what lies behind; False at the end."""
        piece = self._stream.read(BLOCK_BYTES)
        self._base += self.at
        self.data, self.at = self.data[self.at :] + piece, 0
        return bool(piece)

    def fill(self) -> None:
        """Have a block's bytes ahead, where the file has them."""
        while len(self.data) - self.at < BLOCK_BYTES and self.more():
            pass

    def peek(self) -> bytes:
        """The next byte that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self.data, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.data):
                return self.data[self.at : self.at + 1]
            if not self.more():
                return b""

    def skip(self, wanted: bytes) -> None:
        """Go past one byte. Raises BrokenJsonError if another one follows."""
        if self.peek() != wanted:
            raise BrokenJsonError(f"wanted {wanted.decode()!r} at byte {self.place}")
        self.at += 1

    def text(self) -> str:
        """Read a JSON text."""
        if self.peek() != b'"':
            raise BrokenJsonError(f"wanted a key at byte {self.place}")
        return str(self.value())

    def value(self) -> object:
        """Read any JSON value. Raises NotStreamable if it is none, or longer than MAX_VALUE_BYTES."""
        self.peek()
        stop = self._stop()
        while stop is None:
            if (is_long := len(self.data) - self.at > MAX_VALUE_BYTES) or not self.more():
                kind = NotStreamable if is_long else BrokenJsonError
                raise kind(f"no end of the value at byte {self.place}")
            stop = self._stop()
        text, self.at = self.data[self.at : stop], stop
        try:
            return DECODER.decode(text.decode())
        except (ValueError, RecursionError) as error:
            raise BrokenJsonError(f"{error}, of the value that ends at byte {self.place}") from error

    def _stop(self) -> int | None:
        """Where the value ahead ends, None if that is not in sight."""
        first = self.data[self.at : self.at + 1]
        if first == b'"':
            text = _TEXT.match(self.data, self.at)
            return text.end() if text else None
        if first not in (b"[", b"{"):
            scalar = _SCALAR.match(self.data, self.at)
            return scalar.end() if scalar and scalar.end() < len(self.data) else None
        depth = 0
        for mark in _MARKS.finditer(self.data, self.at):
            depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark.group(), 0)
            if depth == 0 and mark.group() in (b"]", b"}"):
                return mark.end()
        return None


def _array(walk: _Walk, key: str, schema: pa.Schema | None, pool: ThreadPoolExecutor) -> Iterator[Block]:
    walk.skip(b"[")
    if walk.peek() == b"]":
        walk.skip(b"]")
        none = np.zeros(0, np.int64)
        yield Block(key, 0, None, [], none, none)
        return
    waiting: deque[tuple[_Cut, Future[pa.Table | None]]] = deque()
    first = n_misfits = 0
    is_over = False
    while not is_over or waiting:
        while not is_over and schema is not None and len(waiting) < _AHEAD:
            cut = _Cut.of(walk)
            if cut is None:
                break
            waiting.append((cut, pool.submit(_parsed, cut, schema)))
            is_over = cut.is_last
        if waiting:
            cut, parsed = waiting.popleft()
            table = parsed.result()
            if table is None:
                waiting.clear()
                walk.go_back(cut.place)
                shorter = _Cut.of(walk, to_the_end=True) if cut.has_end else None
                table = None if shorter is None or schema is None else _parsed(shorter, schema)
                cut, is_over = shorter or cut, shorter is not None and shorter.is_last
            if table is not None:
                yield Block(key, first, table, None, cut.starts, cut.lengths)
                first += len(cut.starts)
                continue
            n_misfits += 1
            schema = schema if n_misfits < _MISFITS else None
            walk.go_back(cut.place)
        block = _one_by_one(walk, key, first)
        first += len(block.starts)
        yield block
        is_over = _past_entry(walk)


def _past_entry(walk: _Walk) -> bool:
    """Go past what follows an entry; whether that ends the array."""
    if walk.peek() == b"]":
        walk.skip(b"]")
        return True
    walk.skip(b",")
    walk.peek()
    return False


@dataclass(frozen=True)
class _Cut:
    """What looks like whole entries, from `place` in the file: as lines of their own, and where they stand.

    Seams between entries are taken for what looks like one. A seam inside an entry would leave a part of it with a
    bracket or a quote that is open, which Arrow refuses; a part that holds two entries shows in their number.
    """

    place: int
    text: bytes
    lines: np.ndarray
    """The text's bytes with an end of line between entries."""
    starts: np.ndarray
    lengths: np.ndarray
    is_last: bool
    has_end: bool
    """Whether the array may end inside: a shorter cut may fit where this one does not."""

    @classmethod
    def of(cls, walk: _Walk, *, to_the_end: bool = False) -> "_Cut | None":
        """Cut off the entries ahead, up to what looks like the last seam, or like the array's end.

        None, with nothing read, where nothing looks like an object that ends.
        """
        walk.fill()
        data, at, place = walk.data, walk.at, walk.place
        found = _BETWEEN.search(data, at)
        between = found.group() if found is not None else b"},{"
        seams, others = _closing(data, at, between)
        ends = (mark for each in others if (mark := _END.match(data, at + each)) is not None)
        end = next(ends, None)
        stop = at + int(seams[-1]) + 1 if len(seams) else 0
        has_end = end is not None and stop > end.start() + 1 and not to_the_end
        if end is not None and not has_end:
            stop = end.start() + 1
        if data[at : at + 1] != b"{" or not stop:
            return None
        text = data[at:stop]
        seams = seams[seams < len(text) - 1]
        lines = np.frombuffer(text, np.uint8).copy()
        lines[seams + between.index(b",")] = ord("\n")
        starts = np.concatenate([[0], seams + len(between) - 1])
        stops = np.concatenate([seams + 1, [len(text)]])
        walk.at = stop
        try:
            is_last = _past_entry(walk)
        except NotStreamable:
            walk.go_back(place)
            return None
        return cls(place, text, lines, starts + place, stops - starts, is_last, has_end)


def _closing(data: bytes, at: int, between: bytes) -> tuple[np.ndarray, list[int]]:
    """Places, from `at` on, of the brackets that begin the text `between`, and of those that an array may end after."""
    symbols = np.frombuffer(data, np.uint8)[at:]
    closing = np.flatnonzero(symbols == ord("}"))
    inside = closing[: np.searchsorted(closing, len(symbols) - len(between), side="right")]
    is_seam = np.ones(len(inside), bool)
    for offset, symbol in enumerate(between):
        is_seam &= symbols[inside + offset] == symbol
    others = np.concatenate([inside[~is_seam], closing[len(inside) :]])
    after = symbols[np.minimum(others + 1, len(symbols) - 1)]
    return inside[is_seam], others[np.isin(after, _BEFORE_END)].tolist()


def _parsed(cut: _Cut, schema: pa.Schema) -> pa.Table | None:
    """The entries as columns, or None where they do not fit, or where Arrow would pass over what Python refuses."""
    if _is_doubtful(cut):
        return None
    try:
        if not cut.text.isascii():
            cut.text.decode()  # the reader takes bytes for text that are none
    except UnicodeDecodeError:
        return None
    told = pj.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="ignore", newlines_in_values=b"\n" in cut.text
    )
    read = pj.ReadOptions(use_threads=False, block_size=2**20)
    try:
        table = pj.read_json(pa.BufferReader(pa.py_buffer(cut.lines)), read, told)
    except pa.ArrowException:
        return None
    return table if table.num_rows == len(cut.starts) else None


def _is_doubtful(cut: _Cut) -> bool:
    """Whether the text holds what is no JSON to Python and yet some to Arrow.

    That are names of numbers and what is nested deeper than Python goes. A null beside the entries would bring Arrow's
    reader down with the whole process.
    """
    text, lengths = cut.text, cut.lengths  # one letter is found faster than several
    if ((b"N" in text and b"-N" in text) or (b"I" in text and b"Inf" in text)) and _NO_NUMBER.search(text):
        return True
    if b"u" in text and b"null" in text and _NULL_BESIDE.search(text):
        return True
    long = np.flatnonzero(lengths > _MOST_NESTED)
    starts = (cut.starts[long] - cut.place).tolist()
    entries = (text[start : start + n] for start, n in zip(starts, lengths[long].tolist(), strict=True))
    return any(entry.count(b"[") + entry.count(b"{") > _MOST_NESTED for entry in entries)


def _one_by_one(walk: _Walk, key: str, first: int) -> Block:
    """The whole entries ahead, at least one, decoded. Raises NotStreamable."""
    while True:
        found = _decoded(walk, key, first)
        if found is not None:
            return found
        if (is_long := len(walk.data) - walk.at > MAX_VALUE_BYTES) or not walk.more():
            kind = NotStreamable if is_long else BrokenJsonError
            raise kind(f"no end of {key}[{first}] at byte {walk.place}")


def _decoded(walk: _Walk, key: str, first: int) -> Block | None:
    text = walk.data[walk.at :].decode("utf-8", "surrogateescape")
    values, starts, lengths = [], [], []
    at, n_bytes, behind = 0, 0, (0, 0)
    while True:
        try:
            value, stop = DECODER.raw_decode(text, at)
            after = _past_space(text, stop)
        except (ValueError, RecursionError):
            break
        if text[after : after + 1] not in (",", "]"):  # what looks like a number's end may be its middle
            break
        entry = text[at:stop].encode("utf-8", "surrogateescape")
        _check_utf8(entry, walk.place + n_bytes)
        values.append(value)
        starts.append(walk.place + n_bytes)
        lengths.append(len(entry))
        behind = (stop, n_bytes + len(entry))
        if text[after] != ",":
            break
        at = _past_space(text, after + 1)
        n_bytes += len(entry) + at - stop
    if not values:
        return None
    walk.at += behind[1]
    return Block(key, first, None, values, np.array(starts, np.int64), np.array(lengths, np.int64))


def _past_space(text: str, at: int) -> int:
    space = _SPACE_IN_TEXT.match(text, at)
    return space.end() if space else at


def _check_utf8(entry: bytes, place: int) -> None:
    try:
        entry.decode()
    except UnicodeDecodeError as error:
        raise BrokenJsonError(f"not UTF-8: {error.reason} at byte {place + error.start}") from error
