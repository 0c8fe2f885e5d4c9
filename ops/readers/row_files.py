"""Files of rows with named fields: CSV, JSON Lines, a JSON list, Parquet, or a folder of any one of them.

Here: files to rows, each with its place, and what is wrong with a file or a line; the picture of a row. A row
that cannot be decoded costs itself only. Not here: what the fields mean (`ops/readers/table.py`, ...).
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ops.readers.class_labels import classes_of, with_names
from ops.readers.json_files import file_bytes, lines, stream_of
from ops.readers.json_lists import list_entries
from ops.readers.rows import FieldError, Origin, PictureRef, Refusal, as_object, file_name, shown
from ops.source_files import SourceFiles

Row = tuple[Origin, object] | Refusal
PARQUET_BATCH = 32
"""Rows of Parquet that are Python values at once; each may hold a picture of some megabytes."""

MAX_COLUMNS = 10_000
MAX_LINE_CHARACTERS = 16 * 2**20
"""A longer line of CSV is refused unread."""
_BUFFER_BYTES = 2**20
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


def rows_of(
    files: SourceFiles, name: str, kinds: Sequence[str], delimiter: str | None = None
) -> Iterator[Row]:
    """Yield the rows of a file, or of all files below a folder in the order of their names.

    kinds: the endings that are read, of .csv, .tsv, .jsonl, .json, .parquet. delimiter: a name of DELIMITERS for CSV
    files; by default a tab in .tsv and a comma in .csv. A file of another kind is one refusal; in a folder, other
    files are passed over.
    """
    readers = _readers(delimiter)
    below = [] if PurePosixPath(name).suffix.lower() in kinds else files.names(name, kinds)
    most, n_rows = files.limits.max_rows, 0
    for file in below or [name]:
        kind = PurePosixPath(file).suffix.lower()
        if kind in kinds:
            for row in readers[kind](files, file):
                n_rows += 1
                if n_rows > most:
                    detail = f"more than {most} rows; the others are not read (option max_rows)"
                    yield Refusal(Origin(file, None, None), "read", "unsupported", detail)
                    return
                yield row
        else:
            detail = f"{file}: wanted a file that ends in {', '.join(kinds)}, or a folder with such files"
            yield Refusal(Origin(file, None, None), "read", "unsupported", detail)


def names_by_code(files: SourceFiles, name: str) -> dict[str, str] | Refusal:
    """The names of labels from a CSV file without a first line of names: code, name; or the file's refusal.

    A code with a blank name has none.
    """
    data = file_bytes(files, name, "broken_file")
    if isinstance(data, Refusal):
        return data
    names: dict[str, str] = {}
    for place, record in enumerate(_records(csv.reader(_TextLines(io.BytesIO(data)), strict=True))):
        if isinstance(record, csv.Error) or len(record) not in (0, 2) or not _is_utf8(record):
            seen = str(record) if isinstance(record, csv.Error) else shown(record)
            detail = f"{name} line {place + 1}: wanted a label's code and its name, saw {seen}"
            return Refusal(Origin(name, place, None), "read", "broken_file", detail)
        code, label = (field.strip() for field in record or ("", ""))
        if label and names.setdefault(code, label) != label:
            detail = (
                f"{name} line {place + 1}: {shown(code)} is {shown(label)}, and {shown(names[code])} before"
            )
            return Refusal(Origin(name, place, None), "read", "broken_file", detail)
    return names


def picture_of(origin: Origin, row: Mapping[str, object], key: str) -> PictureRef:
    """The picture in a field: a file name, bytes, or a struct of `bytes` and `path`. Raises FieldError."""
    value = row.get(key)
    inside = f"{origin.source_file}#{origin.source_row}"
    if isinstance(value, bytes):
        return PictureRef(inside, value)
    if not isinstance(value, dict):
        return PictureRef(file_name(row, key))
    data, path = as_object(value).get("bytes"), value.get("path")
    if isinstance(data, bytes):
        return PictureRef(path if isinstance(path, str) and path else inside, data)
    return PictureRef(file_name(value, "path"))


def _readers(delimiter: str | None) -> dict[str, Callable[[SourceFiles, str], Iterator[Row]]]:
    told = DELIMITERS.get(delimiter or "")
    return {
        ".csv": partial(_csv, delimiter=told or ","),
        ".tsv": partial(_csv, delimiter=told or "\t"),
        ".jsonl": lines,
        ".json": partial(list_entries, what="rows"),
        ".parquet": _parquet,
    }


def _parquet(files: SourceFiles, name: str) -> Iterator[Row]:
    with stream_of(files, name, "broken_file") as stream:
        if isinstance(stream, Refusal):
            yield stream
        else:
            yield from _rows_of_parquet(stream, name)


def _rows_of_parquet(stream: BinaryIO, name: str) -> Iterator[Row]:
    place = 0
    try:
        opened = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
        doubled = [field for field, count in Counter(opened.schema_arrow.names).items() if count > 1]
        if doubled:
            detail = f"{name}: {', '.join(map(shown, doubled))} is the name of more than one column"
            yield Refusal(Origin(name, None, doubled), "read", "broken_file", detail)
            return
        classes = classes_of(opened.schema_arrow.metadata)
        for batch in opened.iter_batches(batch_size=PARQUET_BATCH):
            for value in _values(batch):
                if isinstance(value, FieldError):
                    yield value.refusal(Origin(name, place, None))
                else:
                    yield Origin(name, place, value), with_names(value, classes)
                place += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        origin = Origin(name, None, None)
        detail = f"not readable as Parquet after {place} rows: {shown(str(error), 300)}"
        yield Refusal(origin, "read", "unreadable_file", detail)


def _values(batch: pa.RecordBatch) -> list[object]:
    """The rows of a batch; a FieldError in place of one that cannot be decoded."""
    try:
        return list(batch.to_pylist())
    except (
        pa.ArrowException,
        ValueError,
        OverflowError,
    ) as error:  # text that is not UTF-8, dates out of range
        if batch.num_rows > 1:
            return [value for start in range(batch.num_rows) for value in _values(batch.slice(start, 1))]
        return [FieldError("read", "broken_file", f"a value cannot be decoded: {shown(str(error), 300)}")]


def _csv(files: SourceFiles, name: str, delimiter: str) -> Iterator[Row]:
    """Rows by the names in the first line. Fields have csv.field_size_limit() characters, 131,072, at most."""
    with stream_of(files, name, "broken_file") as stream:
        if isinstance(stream, Refusal):
            yield stream
        else:
            yield from _rows_of_csv(stream, name, delimiter)


def _rows_of_csv(stream: BinaryIO, name: str, delimiter: str) -> Iterator[Row]:
    records = csv.reader(_TextLines(stream), delimiter=delimiter, strict=True)
    header = _header(name, next(_records(records), []), delimiter)
    if isinstance(header, Refusal):
        yield header
        return
    place = -1
    for record in _records(records):
        if record == []:  # a blank line
            continue
        place += 1
        origin = Origin(name, place, record if isinstance(record, list) else None)
        try:
            row = _named(header, record)
        except FieldError as error:
            yield error.refusal(origin)
        else:
            yield Origin(name, place, row), row


class _TextLines:
    """Bytes as lines of text; what is not UTF-8 becomes halves of surrogate pairs, to be refused row by row.

    A line beyond MAX_LINE_CHARACTERS is a csv.Error, and the next one follows.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")

    def __iter__(self) -> "_TextLines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE_CHARACTERS + 1)
        if not line:
            raise StopIteration
        if len(line) <= MAX_LINE_CHARACTERS or line.endswith(("\n", "\r")):
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._text.readline(MAX_LINE_CHARACTERS)
        raise csv.Error(f"a line of more than {MAX_LINE_CHARACTERS} characters")


def _records(records: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    while True:
        try:
            yield next(records)
        except StopIteration:
            return
        except csv.Error as error:  # the reader starts afresh at the next line
            yield error


def _header(name: str, record: list[str] | csv.Error, delimiter: str) -> list[str] | Refusal:
    names = [] if isinstance(record, csv.Error) else [field.strip() for field in record]
    if len(names) > MAX_COLUMNS:
        detail = f"{name}: the first line names {len(names)} columns; {MAX_COLUMNS} are allowed"
        return Refusal(Origin(name, None, names[:100]), "read", "unsupported", detail)
    doubled = sorted({field for field in names if field and names.count(field) > 1})
    others = [told for told, sign in DELIMITERS.items() if len(names) == 1 and sign in names[0]]
    if not any(names):
        problem = f"the first line must name the columns: {'saw a blank line' if record == [] else record}"
    elif doubled:
        problem = f"the first line names {', '.join(map(shown, doubled))} more than once"
    elif others:
        problem = f"the first line is one field, {shown(names[0])}, at the delimiter {shown(delimiter)}; "
        problem += f"the option delimiter could be {' or '.join(others)}"
    elif not _is_utf8(names):
        problem = "the first line is not UTF-8; save the file as UTF-8"
    else:
        return names
    return Refusal(Origin(name, None, names), "read", "broken_file", f"{name}: {problem}")


def _named(header: list[str], record: list[str] | csv.Error) -> dict[str, object]:
    if isinstance(record, csv.Error):
        raise FieldError("read", "broken_file", f"not CSV: {record}")
    if len(record) != len(header):
        detail = f"wanted {len(header)} fields as in the first line, saw {len(record)}"
        raise FieldError("read", "missing_field" if len(record) < len(header) else "broken_file", detail)
    if not _is_utf8(record):
        raise FieldError("read", "broken_file", "not UTF-8; save the file as UTF-8")
    return {name: field for name, field in zip(header, record, strict=True) if name}


def _is_utf8(fields: list[str]) -> bool:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True
