"""Visual-CoT rows as in saliency-r1-8k: `image, problem, solution, bbox` in JSON Lines, JSON or Parquet.

Convention: `bbox` is a string of four normalised numbers, "[x1, y1, x2, y2]", shares of the upright picture's
width and height (a list of four is taken too). Values above 1 and up to 1.005 count as 1, as 31 published
rows need; beyond that the row is refused. `image` is a file name relative to the source's location or, in
Parquet, a struct of `bytes` and `path`. A raw row is one line, list entry or Parquet row; it has one box.
"""

from collections.abc import Iterable, Iterator, Mapping

from ops.readers.row_files import Row, picture_of, rows_of
from ops.readers.rows import (
    FieldError,
    Origin,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    guessed_answer_type,
    optional_text,
    required_text,
)
from ops.source_files import SourceFiles

CONVENTION = "xyxy_normalised"


def read(files: SourceFiles, annotations: str) -> Iterator[RawRow]:
    """Yield one raw row for each row of the file, which ends in .jsonl, .json or .parquet, or of a folder of them."""
    yield from _examples(rows_of(files, annotations, (".jsonl", ".json", ".parquet")))


def _examples(rows: Iterable[Row]) -> Iterator[RawRow]:
    for row in rows:
        if isinstance(row, Refusal):
            yield row
            continue
        origin, value = row
        try:
            yield _example(origin, as_object(value))
        except FieldError as error:
            yield error.refusal(origin)


def _example(origin: Origin, row: Mapping[str, object]) -> RawExample:
    answer = required_text(row, "solution", "question", "no_answer")
    if row.get("bbox") is None:
        raise FieldError("box", "no_boxes", "wanted four normalised numbers in 'bbox', saw none")
    return RawExample(
        origin=origin,
        picture=picture_of(origin, row, "image"),
        convention=CONVENTION,
        boxes=(RawBox(row["bbox"]),),
        question=required_text(row, "problem", "question", "no_question"),
        answer=answer,
        answer_type=guessed_answer_type(answer),
        question_kind=optional_text(row, "dataset"),
        reasoning=optional_text(row, "reasoning"),
    )
