"""Visual-CoT rows as in saliency-r1-8k: `image, problem, solution, bbox` in JSON Lines, JSON or Parquet.

Convention: `bbox` is a string of four normalised numbers, "[x1, y1, x2, y2]", shares of the upright picture's
width and height (a list of four is taken too). Values above 1 and up to 1.005 count as 1, as 31 published
rows need; beyond that the row is refused. `image` is a file name relative to the source's location or, in
Parquet, a struct of `bytes` and `path`. A raw row is one line, list entry or Parquet row; it has one box.
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from ops.readers.json_files import file_bytes, lines, whole_file
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    file_name,
    guessed_answer_type,
    optional_text,
    required_text,
    shown,
)
from ops.source_files import SourceFiles

CONVENTION = "xyxy_normalised"


def read(files: SourceFiles, annotations: str) -> Iterator[RawRow]:
    """Yield one raw row for each row of the file, whose name ends in .jsonl, .json or .parquet."""
    kinds = {".jsonl": lines, ".json": _json_list, ".parquet": _parquet}
    rows = kinds.get(PurePosixPath(annotations).suffix.lower())
    if rows is None:
        detail = f"{annotations}: wanted a file that ends in {', '.join(kinds)}"
        yield Refusal(Origin(annotations, None, None), "read", "unsupported", detail)
        return
    yield from _examples(rows(files, annotations))


def _examples(rows: Iterable[tuple[Origin, object] | Refusal]) -> Iterator[RawRow]:
    for row in rows:
        if isinstance(row, Refusal):
            yield row
            continue
        origin, value = row
        try:
            yield _example(origin, as_object(value))
        except FieldError as error:
            yield error.refusal(origin)


def _json_list(files: SourceFiles, name: str) -> Iterator[tuple[Origin, object] | Refusal]:
    content = whole_file(files, name)
    if isinstance(content, Refusal):
        yield content
    elif not isinstance(content, list):
        detail = f"wanted a list of rows, saw {shown(content)}"
        yield Refusal(Origin(name, None, content), "read", "broken_json", detail)
    else:
        yield from ((Origin(name, place, value), value) for place, value in enumerate(content))


def _parquet(files: SourceFiles, name: str) -> Iterator[tuple[Origin, object] | Refusal]:
    data = file_bytes(files, name)
    if isinstance(data, Refusal):
        yield data
        return
    place = 0
    try:
        for batch in pq.ParquetFile(io.BytesIO(data)).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                yield Origin(name, place, row), row
                place += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        origin = Origin(name, None, None)
        detail = f"not readable as Parquet after {place} rows: {shown(str(error), 300)}"
        yield Refusal(origin, "read", "unreadable_file", detail)


def _example(origin: Origin, row: Mapping[str, object]) -> RawExample:
    answer = required_text(row, "solution", "question", "no_answer")
    if row.get("bbox") is None:
        raise FieldError("box", "no_boxes", "wanted four normalised numbers in 'bbox', saw none")
    return RawExample(
        origin=origin,
        picture=_picture(origin, row),
        convention=CONVENTION,
        boxes=(RawBox(row["bbox"]),),
        question=required_text(row, "problem", "question", "no_question"),
        answer=answer,
        answer_type=guessed_answer_type(answer),
        question_kind=optional_text(row, "dataset"),
        reasoning=optional_text(row, "reasoning"),
    )


def _picture(origin: Origin, row: Mapping[str, object]) -> PictureRef:
    value = row.get("image")
    if not isinstance(value, dict):
        return PictureRef(file_name(row, "image"))
    data, path = value.get("bytes"), value.get("path")
    if isinstance(data, bytes):
        inside = f"{origin.source_file}#{origin.source_row}"
        return PictureRef(path if isinstance(path, str) and path else inside, data)
    return PictureRef(file_name(value, "path"))
