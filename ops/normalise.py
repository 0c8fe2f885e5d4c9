"""Raw rows of a source to the tables images, examples, boxes and quarantine; nothing gets lost on the way.

Rows are counted as the source's reader defines a raw row: a question (written or generated), and every entry
of an annotation file that is itself refused. Each raw row becomes one example or one row of the quarantine,
so rows_in = rows_out + quarantined. A box with a row of its own that is refused costs that row once, and
every question that needs the box is refused with a row of its own. Not here: formats, boxes, decoding.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ops.boxes import CONVENTIONS, Box, BoxProblem, union_area
from ops.pictures import MAX_PIXELS, PictureProblem, open_upright, phash, pixels_sha256, thumb
from ops.questions import Asked, UnaskableError, ask
from ops.readers.rows import Origin, PictureRef, RawAnnotation, RawExample, Refusal, shown
from ops.source_files import FileProblem, SourceFiles
from ops.sources import Source, rows_of
from storage.objects import Store, sha256_bytes
from storage.tables import from_rows

RAW_LIMIT = 2000


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


class NothingLeft(Exception):  # noqa: N818  the state of the source, as the docs name it
    """A source of which no row is usable; `tables` holds what was refused and why."""

    def __init__(self, source: str, tables: Tables) -> None:
        reasons = (
            ", ".join(f"{reason} {n}" for reason, n in tables.refused_by_reason.items()) or "no rows at all"
        )
        super().__init__(
            f"source {source!r}: none of {tables.counts['rows_in']} rows is usable ({reasons}); "
            f"first refusal: {_first_detail(tables)}"
        )
        self.tables = tables


def normalise(source: Source, store: Store) -> Tables:
    """Read, check and convert all rows of a source. Raises NothingLeft if no example remains.

    Options of the source: max_pixels (default MAX_PIXELS); clip_boxes (cut boxes at the picture's edge
    instead of refusing them); annotated_size. The size is always that of the upright picture. With
    "must_agree", the default, a picture annotated with another width or height costs its questions, since
    boxes drawn on another size or orientation would lie wrong; "ignore" takes them.
    """
    work = _Work(source, store)
    rows_in = 0
    for row in rows_of(source, store):
        if isinstance(row, RawAnnotation):
            rows_in += work.judge(row)
            continue
        rows_in += 1
        if isinstance(row, Refusal):
            work.refuse(row)
        else:
            work.take(row)
    tables = work.tables(rows_in)
    if not tables.examples.num_rows:
        raise NothingLeft(source.name, tables)
    return tables


def example_id(source: str, image_sha256: str, question: str, answer: str, boxes: Sequence[Box]) -> str:
    """24 hex digits of source, picture, question, answer and boxes; the row's place is left out."""
    parts = [source, image_sha256, question, answer, [box.xyxy for box in boxes]]
    return sha256_bytes(json.dumps(parts).encode())[:24]


@dataclass(frozen=True)
class _Opened:
    """A usable picture: its upright size and its row of the images table."""

    size_wh: tuple[int, int]
    sides_swapped: bool
    row: dict[str, Any]


class _UnusableError(Exception):
    """A raw example that cannot become an example: stage, reason and detail for the quarantine."""

    def __init__(self, stage: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.stage, self.reason, self.detail = stage, reason, detail


class _Work:
    """The rows of one source while they are gathered."""

    def __init__(self, source: Source, store: Store) -> None:
        self._source = source
        self._files = SourceFiles(source.location, store)
        self._max_pixels = int(source.options.get("max_pixels", MAX_PIXELS))
        self._clip = bool(source.options.get("clip_boxes", False))
        self._sizes_must_agree = source.options.get("annotated_size", "must_agree") == "must_agree"
        self._pictures: dict[str, _Opened | _UnusableError] = {}
        self._images: dict[str, dict[str, Any]] = {}
        self._examples: dict[str, dict[str, Any]] = {}
        self._boxes: list[dict[str, Any]] = []
        self._quarantine: list[dict[str, Any]] = []

    def refuse(self, refusal: Refusal) -> None:
        """Add one row to the quarantine."""
        self._quarantine.append(
            {
                "source": self._source.name,
                "source_file": refusal.origin.source_file,
                "source_row": refusal.origin.source_row,
                "stage": refusal.stage,
                "reason": refusal.reason,
                "detail": refusal.detail.encode("utf-8", "backslashreplace").decode(),
                "raw": shown(refusal.origin.raw, RAW_LIMIT),
            }
        )

    def judge(self, row: RawAnnotation) -> int:
        """Refuse an annotation whose box is none; 1 if it was refused, else 0."""
        opened = self._pictures.get(row.picture.file_name)
        size_wh = opened.size_wh if isinstance(opened, _Opened) else None
        box = CONVENTIONS[row.convention](row.values, size_wh, clip=self._clip)
        if not isinstance(box, BoxProblem):
            return 0
        self.refuse(Refusal(row.origin, "box", box.reason, box.detail))
        return 1

    def take(self, row: RawExample) -> None:
        """Turn one raw example into an example with boxes and picture, or into a row of the quarantine."""
        try:
            opened = self._opened(row.picture)
            boxes = self._converted(row, opened)
            self._keep(row, opened, boxes)
        except _UnusableError as error:
            self.refuse(Refusal(row.origin, error.stage, error.reason, error.detail))

    def tables(self, rows_in: int) -> Tables:
        """What was gathered, as tables."""
        examples = list(self._examples.values())
        return Tables(
            images=from_rows("images", list(self._images.values())),
            examples=from_rows("examples", examples),
            boxes=from_rows("boxes", self._boxes),
            quarantine=from_rows("quarantine", self._quarantine),
            counts={"rows_in": rows_in, "rows_out": len(examples), "quarantined": len(self._quarantine)},
        )

    def _opened(self, picture: PictureRef) -> _Opened:
        if picture.data is not None:
            return self._decoded(picture.file_name, picture.data)
        known = self._pictures.get(picture.file_name)
        if known is None:
            try:
                data = self._files.read(picture.file_name)
                if isinstance(data, FileProblem):
                    raise _UnusableError("picture", data.reason, data.detail)
                known = self._decoded(picture.file_name, data)
            except _UnusableError as error:
                known = error
            self._pictures[picture.file_name] = known
        if isinstance(known, _UnusableError):
            raise _UnusableError(known.stage, known.reason, known.detail)
        return known

    def _decoded(self, file_name: str, data: bytes) -> _Opened:
        picture = open_upright(data, self._max_pixels)
        if isinstance(picture, PictureProblem):
            raise _UnusableError("picture", picture.reason, f"{file_name}: {picture.detail}")
        row = {
            "image_sha256": sha256_bytes(data),
            "pixels_sha256": pixels_sha256(picture.rgb),
            "thumb": thumb(picture.rgb),
            "phash": phash(picture.rgb),
            "source": self._source.name,
            "source_file": self._source.annotations,
            "file_name": file_name,
            "uri": self._files.uri(file_name),
            "format": picture.format,
            "width_px": picture.width_px,
            "height_px": picture.height_px,
            "n_bytes": len(data),
            "bytes": data,
        }
        return _Opened(picture.size_wh, picture.sides_swapped, row)

    def _converted(self, row: RawExample, opened: _Opened) -> list[Box]:
        annotated = row.picture.annotated_wh
        disagrees = annotated is not None and annotated != opened.size_wh
        size = _sizes_in_words(annotated, opened) if disagrees else ""
        boxes = []
        for raw_box in row.boxes + row.others:
            box = CONVENTIONS[row.convention](raw_box.values, opened.size_wh, clip=self._clip)
            if isinstance(box, BoxProblem):
                needs = _needed(raw_box.annotation)
                raise _UnusableError("box", box.reason, f"{needs}{box.detail}{'; ' + size if size else ''}")
            boxes.append(box)
        if disagrees and self._sizes_must_agree:
            advice = "correct or remove width and height, or accept it with annotated_size: ignore"
            raise _UnusableError("picture", "unsupported", f"{size}; {advice}")
        return boxes

    def _keep(self, row: RawExample, opened: _Opened, everything: list[Box]) -> None:
        boxes, others = everything[: len(row.boxes)], everything[len(row.boxes) :]
        texts = _texts(row, boxes, others, opened.size_wh)
        sha256 = opened.row["image_sha256"]
        identity = example_id(self._source.name, sha256, texts["question"], texts["answer"], boxes)
        if identity in self._examples:
            first = self._examples[identity]["source_row"]
            detail = f"same picture, question, answer and boxes as row {first}"
            raise _UnusableError("question", "duplicate_example", detail)
        self._images.setdefault(sha256, opened.row)
        width_px, height_px = opened.size_wh
        self._examples[identity] = {
            "example_id": identity,
            "source": self._source.name,
            "source_file": row.origin.source_file,
            "source_row": row.origin.source_row,
            "image_sha256": sha256,
            **texts,
            "n_boxes": len(boxes),
            "evidence_area_frac": min(union_area(boxes) / (width_px * height_px), 1.0),
        }
        for index, (box, raw_box) in enumerate(zip(boxes, row.boxes, strict=True)):
            self._boxes.append(_box_row(identity, index, box, raw_box.label))


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


def _sizes_in_words(annotated: tuple[int, int] | None, opened: _Opened) -> str:
    (width, height), seen = opened.size_wh, annotated or (0, 0)
    turned = f" (stored {height} x {width}, turned by EXIF)" if opened.sides_swapped else ""
    return f"annotated as {seen[0]} x {seen[1]} px, but upright it is {width} x {height} px{turned}"


def _needed(annotation: Origin | None) -> str:
    return "" if annotation is None else f"needs annotations[{annotation.source_row}], which is refused: "


def _first_detail(tables: Tables) -> str:
    if not tables.quarantine.num_rows:
        return "none"
    first = tables.quarantine.slice(0, 1).to_pylist()[0]
    return f"{first['source_file']} row {first['source_row']}: {first['detail']}"
