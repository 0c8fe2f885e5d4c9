"""Raw rows one by one to pieces of the tables: pictures, checks, boxes, texts, and a refusal for whatever fails.

Any row can go this way. Not here: rows that can be judged many at a time (`ops/column_lane.py`), formats, decoding.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ops.boxes import CONVENTIONS, Box, BoxProblem, union_area
from ops.picture_rows import Opened, PictureRows, Unusable
from ops.pieces import Piece
from ops.questions import Asked, UnaskableError, ask
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawAnnotation,
    RawExample,
    RawRow,
    Refusal,
    encodable,
)
from ops.sources import Source
from storage.objects import sha256_bytes
from storage.tables import from_rows

MAX_BOXES = 10_000
"""Boxes that one question may have as its evidence unless a source says otherwise."""
ROWS_PER_PIECE = 2_000
BYTES_PER_PIECE = 64 * 2**20


def example_id(source: str, image_sha256: str, question: str, answer: str, boxes: Sequence[Box]) -> str:
    """24 hex digits of source, picture, question, answer and boxes; the row's place is left out."""
    parts = [source, image_sha256, question, answer, [box.xyxy for box in boxes]]
    return sha256_bytes(json.dumps(parts).encode())[:24]


class RowLane:
    """The way of single rows of one source; it remembers pictures from row to row."""

    def __init__(self, source: Source, pictures: PictureRows) -> None:
        self._source = source
        self._pictures = pictures
        self._max_boxes = int(source.options.get("max_boxes", MAX_BOXES))
        self._clip = bool(source.options.get("clip_boxes", False))
        self._sizes_must_agree = source.options.get("annotated_size", "must_agree") == "must_agree"

    def pieces(
        self, rows: Iterable[RawRow], place_of: Callable[[RawExample], int] = lambda row: 0
    ) -> Iterator[Piece]:
        """Rows to pieces of at most ROWS_PER_PIECE rows, or of little more than BYTES_PER_PIECE of pictures.

        place_of: the place of a row's picture among others, for `Piece.order`. Raises StoreError if a bucket's server
        fails.
        """
        made = _Made()
        for row, opened in self._pictures.of(rows, _picture_of):
            self._take(row, opened, made, place_of)
            if made.n_rows >= ROWS_PER_PIECE or made.n_bytes >= BYTES_PER_PIECE:
                yield made.piece()
                made = _Made()
        yield made.piece()

    def _take(
        self,
        row: RawRow,
        opened: Opened | Unusable | None,
        made: "_Made",
        place_of: Callable[[RawExample], int],
    ) -> None:
        made.n_rows += 1
        if isinstance(row, RawAnnotation):
            made.to_judge.append((len(made.refusals), row))
            return
        made.n_raw += 1
        if isinstance(row, Refusal):
            made.refusals.append(row)
            return
        try:
            if not isinstance(opened, Opened):
                problem = opened or Unusable("unreadable_file", row.picture.file_name)
                raise _UnusableError("picture", problem.reason, problem.detail)
            if row.picture.data is None:
                made.sizes[row.picture.file_name] = opened.size_wh
            boxes = self._converted(row, opened)
            example, box_rows = self._example(row, opened, boxes)
        except _UnusableError as error:
            made.refusals.append(Refusal(row.origin, error.stage, error.reason, error.detail))
            return
        made.add(example, box_rows, self._pictures.row_of(row.picture, opened), place_of(row), row.origin)

    def _converted(self, row: RawExample, opened: Opened) -> list[Box]:
        if len(row.boxes) > self._max_boxes:
            detail = (
                f"{len(row.boxes)} boxes of evidence; at most {self._max_boxes} are taken (option max_boxes)"
            )
            raise _UnusableError("box", "unsupported", detail)
        annotated = row.picture.annotated_wh
        disagrees = annotated is not None and annotated != opened.size_wh
        size = _sizes_in_words(annotated, opened) if disagrees else ""
        boxes = []
        for raw_box in row.boxes + row.others:
            _check_label(raw_box.label)
            box = CONVENTIONS[row.convention](raw_box.values, opened.size_wh, clip=self._clip)
            if isinstance(box, BoxProblem):
                needs = _needed(raw_box.annotation)
                raise _UnusableError("box", box.reason, f"{needs}{box.detail}{'; ' + size if size else ''}")
            boxes.append(box)
        if disagrees and self._sizes_must_agree:
            advice = "correct or remove width and height, or accept it with annotated_size: ignore"
            raise _UnusableError("picture", "unsupported", f"{size}; {advice}")
        return boxes

    def _example(
        self, row: RawExample, opened: Opened, everything: list[Box]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        boxes, others = everything[: len(row.boxes)], everything[len(row.boxes) :]
        texts = _texts(row, boxes, others, opened.size_wh)
        sha256 = opened.row["image_sha256"]
        identity = example_id(self._source.name, sha256, texts["question"], texts["answer"], boxes)
        width_px, height_px = opened.size_wh
        example = {
            "example_id": identity,
            "source": self._source.name,
            "source_file": row.origin.source_file,
            "source_row": row.origin.source_row,
            "image_sha256": sha256,
            **texts,
            "n_boxes": len(boxes),
            "evidence_area_frac": min(union_area(boxes) / (width_px * height_px), 1.0),
        }
        labels = (raw_box.label for raw_box in row.boxes)
        numbered = enumerate(zip(boxes, labels, strict=True))
        return example, [_box_row(identity, index, box, label) for index, (box, label) in numbered]


class _Made:
    """What came of the rows of one piece so far."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.to_judge: list[tuple[int, RawAnnotation]] = []
        self.sizes: dict[str, tuple[int, int]] = {}
        self.n_rows = self.n_raw = self.n_bytes = 0
        self._rows: dict[str, list[dict[str, Any]]] = {"images": [], "examples": [], "boxes": []}
        self._places: dict[str, list[int]] = {name: [] for name in self._rows}
        self._origins: list[Origin] = []
        self._n_before: list[int] = []

    def add(
        self,
        example: dict[str, Any],
        boxes: list[dict[str, Any]],
        image: dict[str, Any] | None,
        place: int,
        origin: Origin,
    ) -> None:
        """Add an example with its boxes, and its picture unless that was given before."""
        images = [] if image is None else [image]
        self.n_bytes += sum(len(each.get("bytes") or b"") for each in images)
        for name, rows in (("images", images), ("examples", [example]), ("boxes", boxes)):
            self._rows[name] += rows
            self._places[name] += [place] * len(rows)
        self._origins.append(origin)
        self._n_before.append(len(self.refusals))

    def piece(self) -> Piece:
        """The piece; nothing can be added afterwards."""
        return Piece(
            **{name: from_rows(name, rows) for name, rows in self._rows.items()},
            refusals=self.refusals,
            n_raw=self.n_raw,
            origins=self._origins,
            n_before=np.array(self._n_before, np.int64),
            to_judge=self.to_judge,
            sizes=self.sizes,
            order={name: np.array(places, np.int64) for name, places in self._places.items()},
        )


class _UnusableError(Exception):
    """A raw example that cannot become an example: stage, reason and detail for the quarantine."""

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.reason, self.detail = stage, reason, detail


def _check_label(label: str | None) -> None:
    try:
        encodable(label or "", "label")
    except FieldError as error:
        raise _UnusableError("box", error.reason, error.detail) from error


def _picture_of(row: RawRow) -> PictureRef | None:
    return row.picture if isinstance(row, RawExample) else None


def _texts(row: RawExample, boxes: list[Box], others: list[Box], size_wh: tuple[int, int]) -> dict[str, Any]:
    said: RawExample | Asked = row
    if row.template is not None:
        labels = [box.label or "" for box in row.boxes]
        try:
            said = ask(row.template, labels, boxes, size_wh, others)
        except UnaskableError as error:
            raise _UnusableError("question", "unsupported", str(error)) from error
    return {
        "question": said.question,
        "answer": said.answer,
        "accepted_answers": list(said.accepted_answers),
        "answer_type": said.answer_type,
        "question_kind": said.question_kind,
        "slice": row.slice,
        "condition": row.condition,
        "reasoning": said.reasoning,
    }


def _box_row(identity: str, index: int, box: Box, label: str | None) -> dict[str, Any]:
    edges = zip(("x1_px", "y1_px", "x2_px", "y2_px"), box.xyxy, strict=True)
    return {"example_id": identity, "box_index": index, **dict(edges), "label": label}


def _sizes_in_words(annotated: tuple[int, int] | None, opened: Opened) -> str:
    (width, height), seen = opened.size_wh, annotated or (0, 0)
    turned = f" (stored {height} x {width}, turned by EXIF)" if opened.sides_swapped else ""
    return f"annotated as {seen[0]} x {seen[1]} px, but upright it is {width} x {height} px{turned}"


def _needed(annotation: Origin | None) -> str:
    return "" if annotation is None else f"needs annotations[{annotation.source_row}], which is refused: "
