"""The arrays of one large JSON object, block by block, so that a file of any length takes little memory.

Here: where entries begin and end in the bytes, and their values; as columns by Arrow's reader where a block's entries
are objects that fit a schema, one by one by Python's where not. What is read is what Python's own reader would read.
Not here: what entries mean. A file that is no such object, is broken or repeats a key is for whoever reads it whole.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json as pj

from ops.readers.json_files import json_object

BLOCK_BYTES = 4 * 2**20
MAX_VALUE_BYTES = 64 * 2**20
"""A longer entry, or a longer value beside the arrays, is not streamed."""

_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(rb"[ \t\r\n]*")
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SCALAR = re.compile(rb"[^\s,\[\]{}\"]+")
_MARKS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
_END = re.compile(rb"\}[ \t\r\n]*\][ \t\r\n]*[,}]")
_SEAM = b"}\x1e{"  # a byte that no JSON text holds as it stands
_SPACE_IN_TEXT = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(object_pairs_hook=json_object)


class NotStreamable(Exception):  # noqa: N818  a property of the file, not always a mistake of its author
    """A file that has to be read whole: broken, not one object, a key twice, an entry of enormous length."""


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

    `schemas`: by key the columns wanted, None for decoded values; what else entries hold is passed over. A named key
    whose value is no array raises NotStreamable, as does whatever the whole file would be refused for.
    """
    walk = _Walk(stream)
    walk.skip(b"{")
    seen: set[str] = set()
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
            yield from _array(walk, key, schemas[key])
        if walk.peek() == b"}":
            break
        walk.skip(b",")
    walk.skip(b"}")
    if walk.peek():
        raise NotStreamable("something follows the object")


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
        """Where data[0] stands in the file."""
        return self._base

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
        """Go past one byte. Raises NotStreamable if another one follows."""
        if self.peek() != wanted:
            raise NotStreamable(f"wanted {wanted.decode()!r} at byte {self._base + self.at}")
        self.at += 1

    def text(self) -> str:
        """Read a JSON text."""
        if self.peek() != b'"':
            raise NotStreamable(f"wanted a key at byte {self._base + self.at}")
        return str(self.value())

    def value(self) -> object:
        """Read any JSON value. Raises NotStreamable if it is none, or longer than MAX_VALUE_BYTES."""
        self.peek()
        stop = self._stop()
        while stop is None:
            if len(self.data) - self.at > MAX_VALUE_BYTES or not self.more():
                raise NotStreamable(f"no end of the value at byte {self._base + self.at}")
            stop = self._stop()
        text, self.at = self.data[self.at : stop], stop
        try:
            return json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise NotStreamable(str(error)) from error

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


def _array(walk: _Walk, key: str, schema: pa.Schema | None) -> Iterator[Block]:
    walk.skip(b"[")
    first = 0
    if walk.peek() == b"]":
        walk.at += 1
        none = np.zeros(0, np.int64)
        yield Block(key, 0, None, [], none, none)
        return
    while True:
        walk.fill()
        block = _as_columns(walk, key, first, schema) if schema is not None else None
        block = block or _one_by_one(walk, key, first)
        first += len(block.starts)
        yield block
        if walk.peek() == b"]":
            walk.at += 1
            return
        walk.skip(b",")
        walk.peek()


def _as_columns(walk: _Walk, key: str, first: int, schema: pa.Schema) -> Block | None:
    """The whole entries ahead as columns, or None, with nothing read, where they do not fit.

    Seams between entries are taken for what looks like one. A seam inside an entry would leave a part of it with a
    bracket or a quote that is open, which Arrow refuses; a part that holds two entries shows in their number.
    """
    data, at = walk.data, walk.at
    end, seam = _END.search(data, at), _BETWEEN.search(data, at)
    if end is not None:
        stop = end.start() + 1
    elif seam is not None:
        stop = data.rfind(seam.group()) + 1
    else:
        return None
    text = data[at:stop]
    between = seam.group() if seam is not None and seam.start() < stop - 1 else b"},{"
    if b"\x1e" in text:
        return None
    parted = text.replace(between, _SEAM)
    after = np.flatnonzero(np.frombuffer(parted, np.uint8) == 0x1E)
    table = _parsed(parted.replace(b"\x1e", b"\n"), schema, several_lines=b"\n" in text)
    if table is None or table.num_rows != len(after) + 1:
        return None
    longer = (len(between) - len(_SEAM)) * np.arange(len(after) + 1)
    starts = np.concatenate([[0], after + 1]) + longer
    stops = np.concatenate([after + longer[:-1], [len(text)]])
    walk.at = stop
    return Block(key, first, table, None, starts + (walk.place + at), stops - starts)


def _parsed(lines: bytes, schema: pa.Schema, *, several_lines: bool) -> pa.Table | None:
    told = pj.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="ignore", newlines_in_values=several_lines
    )
    try:
        return pj.read_json(pa.BufferReader(lines), pj.ReadOptions(block_size=2**20), told)
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _one_by_one(walk: _Walk, key: str, first: int) -> Block:
    """The whole entries ahead, at least one, decoded. Raises NotStreamable."""
    while True:
        found = _decoded(walk, key, first)
        if found is not None:
            return found
        if len(walk.data) - walk.at > MAX_VALUE_BYTES or not walk.more():
            raise NotStreamable(f"no end of {key}[{first}] at byte {walk.place + walk.at}")


def _decoded(walk: _Walk, key: str, first: int) -> Block | None:
    text = walk.data[walk.at :].decode("utf-8", "surrogateescape")
    values, starts, lengths = [], [], []
    at, n_bytes, behind = 0, 0, (0, 0)
    while True:
        try:
            value, stop = _DECODER.raw_decode(text, at)
            after = _past_space(text, stop)
        except (ValueError, RecursionError):
            break
        if after >= len(text):  # what looks like a number's end may be its middle
            break
        entry = text[at:stop].encode("utf-8", "surrogateescape")
        _check_utf8(entry)
        values.append(value)
        starts.append(walk.place + walk.at + n_bytes)
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


def _check_utf8(entry: bytes) -> None:
    try:
        entry.decode()
    except UnicodeDecodeError as error:
        raise NotStreamable(f"not UTF-8: {error.reason}") from error
