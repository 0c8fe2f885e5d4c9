"""JSON and JSON Lines of any origin, decoded row by row so that a broken row costs that row.

Here: bytes to Python values, and what is wrong with them. Not here: what the values mean.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from ops.readers.rows import FieldError, Origin, Refusal, Repeated, shown
from ops.source_files import FileProblem, SourceFiles

MAX_LINE_BYTES = 16 * 2**20
"""A longer line of JSON Lines is refused undecoded; rows name their pictures, they do not hold them."""

_SOME = 2**16
_BOM = b"\xef\xbb\xbf"


def file_bytes(files: SourceFiles, name: str, broken: str = "broken_json") -> bytes | Refusal:
    """The bytes of an annotation file without a byte order mark, or the refusal of the whole file.

    `broken` is the reason for which an empty file is refused.
    """
    data = files.read_whole(name)
    if isinstance(data, FileProblem):
        return Refusal(Origin(name, None, None), "read", data.reason, data.detail)
    data = data.removeprefix(_BOM)
    if not data.strip():
        return Refusal(Origin(name, None, None), "read", broken, "the file is empty")
    return data


@contextmanager
def stream_of(files: SourceFiles, name: str, broken: str = "broken_json") -> Iterator[BinaryIO | Refusal]:
    """The same as a stream behind a byte order mark, of a file of any length."""
    with files.opened(name) as opened:
        if isinstance(opened, FileProblem):
            yield Refusal(Origin(name, None, None), "read", opened.reason, opened.detail)
            return
        start = len(_BOM) if opened.read(len(_BOM)) == _BOM else 0
        opened.seek(start)
        while (some := opened.read(_SOME)) and not some.strip():
            pass
        if some:
            opened.seek(start)
            yield opened
        else:
            yield Refusal(Origin(name, None, None), "read", broken, "the file is empty")


def whole_file(files: SourceFiles, name: str) -> object | Refusal:
    """The one JSON value that a file holds, or the refusal of the whole file."""
    data = file_bytes(files, name)
    if isinstance(data, Refusal):
        return data
    try:
        return decoded(data)
    except FieldError as error:
        return error.refusal(Origin(name, None, _text(data)))


def whole_list(files: SourceFiles, name: str, what: str) -> list[object] | Refusal:
    """The list that a file holds, of `what` for the message, or the refusal of the whole file."""
    content = whole_file(files, name)
    if isinstance(content, list | Refusal):
        return content
    detail = f"wanted a list of {what}, saw {shown(content)}"
    return Refusal(Origin(name, None, content), "read", "broken_json", detail)


def whole_object(files: SourceFiles, name: str, what: str) -> dict[str, object] | Refusal:
    """The object that a file holds, of `what` for the message, or the refusal of the whole file."""
    content = whole_file(files, name)
    if isinstance(content, dict | Refusal):
        return content
    detail = f"wanted an object of {what}, saw {shown(content)}"
    return Refusal(Origin(name, None, content), "read", "broken_json", detail)


def lines(files: SourceFiles, name: str) -> Iterator[tuple[Origin, object] | Refusal]:
    """The values of a JSON Lines file with their 0-based line numbers; blank lines are no rows."""
    with stream_of(files, name) as stream:
        if isinstance(stream, Refusal):
            yield stream
            return
        for number, (line, n_bytes) in enumerate(_lines(stream)):
            if not line.strip():
                continue
            try:
                if n_bytes > MAX_LINE_BYTES:
                    detail = f"a line of {n_bytes} bytes; {MAX_LINE_BYTES} are allowed"
                    raise FieldError("read", "unsupported", detail)
                value = decoded(line)
            except FieldError as error:
                yield error.refusal(Origin(name, number, _text(line)))
            else:
                yield Origin(name, number, value), value


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Lines without their ends, and their lengths; of one beyond MAX_LINE_BYTES the first so many bytes."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        n_bytes, last = len(line), line
        while not last.endswith(b"\n") and (last := stream.readline(MAX_LINE_BYTES)):
            n_bytes += len(last)
        yield line.removesuffix(b"\n"), n_bytes - last.endswith(b"\n")


def decoded(data: bytes) -> object:
    """Decode one JSON value in UTF-8 as DECODER does.

    Raises FieldError (broken_json), whatever the bytes hold.
    """
    try:
        return DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FieldError("read", "broken_json", f"not UTF-8: {error.reason} at byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise FieldError("read", "broken_json", f"not JSON: {shown(str(error), 300)}") from error


def json_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A plain dictionary, unless that would lose a value."""
    made = dict(pairs)
    return made if len(made) == len(pairs) else Repeated(pairs)


def _whole_number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # thousands of digits, which Python does not take for an integer
        return float(digits)


DECODER = json.JSONDecoder(object_pairs_hook=json_object, parse_int=_whole_number)
"""Python's reader, but an object with a key that comes again is a Repeated, and a number of any length is one."""


def _text(data: bytes) -> str:
    return data[:2000].decode("utf-8", "replace")
