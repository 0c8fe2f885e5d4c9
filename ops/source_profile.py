"""The profile of a source: what is in it, in figures, from the columns of its normalised tables.

Long form, one row a figure (`storage/profile_columns.py`). Counts are out of n, quantiles of n values. Worked out by
column, so that a million boxes take seconds; pictures are never read. Not here: what looks wrong with the boxes
(`ops/convention_check.py`), and pictures of them (`ops/contact_sheet.py`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.convention_check import touching
from storage.tables import from_rows

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "images": ("image_sha256", "pixels_sha256", "width_px", "height_px", "file_name", "uri"),
    "examples": (
        "example_id",
        "image_sha256",
        "question",
        "answer",
        "answer_type",
        "question_kind",
        "n_boxes",
    ),
    "boxes": ("example_id", "x1_px", "y1_px", "x2_px", "y2_px", "label"),
    "quarantine": ("source_file", "source_row", "reason", "detail", "raw"),
}
"""What is read of each table to tell of a source; no picture bytes."""

NEAR_EMPTY_FRAC, THIN_PX, WHOLE_FRAC = 0.0005, 3.0, 0.95
MOST_LISTED = 20
"""Labels and answers that are listed by name, the most frequent first."""

LONGEST_BUCKET = 200
QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
SCRIPTS = (
    *(
        "Latin",
        "Han",
        "Hiragana",
        "Katakana",
        "Hangul",
        "Cyrillic",
        "Greek",
        "Arabic",
        "Hebrew",
        "Devanagari",
    ),
    *("Bengali", "Tamil", "Telugu", "Gujarati", "Gurmukhi", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao"),
    *("Khmer", "Myanmar", "Georgian", "Armenian", "Ethiopic", "Mongolian", "Tibetan"),
)
"""Unicode scripts that are looked for; letters of any other count as Other."""


def profile(source: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """The table source_profiles of one source; `tables` holds images, examples, boxes, quarantine (COLUMNS)."""
    figures = _Figures(source)
    _rows(figures, tables["examples"].num_rows, tables["quarantine"])
    _pictures(figures, tables["images"])
    _boxes(figures, tables)
    _answers(figures, tables["examples"])
    _questions(figures, tables["examples"])
    return from_rows("source_profiles", figures.rows)


def placed_boxes(tables: Mapping[str, pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, float64 [n, 4], and the size of each one's picture, [n, 2]; one whose picture is not there is left out."""
    examples, images, boxes = tables["examples"], tables["images"], tables["boxes"]
    picture = pc.index_in(examples["image_sha256"], value_set=images["image_sha256"].combine_chunks())
    example = pc.index_in(boxes["example_id"], value_set=examples["example_id"].combine_chunks())
    place = pc.take(picture.combine_chunks(), example.combine_chunks())
    known = pc.is_valid(place)
    sides = ("x1_px", "y1_px", "x2_px", "y2_px")
    xyxy = np.stack([_numbers(boxes[side].filter(known)) for side in sides], axis=1)
    rows = place.filter(known).to_numpy()
    size_wh = np.stack([_numbers(images[side])[rows] for side in ("width_px", "height_px")], axis=1)
    return xyxy.reshape(-1, 4), size_wh.reshape(-1, 2)


class _Figures:
    """The rows of the profile while they are gathered."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.rows: list[dict[str, Any]] = []

    def add(
        self,
        measure: str,
        value: float,
        n: int,
        *,
        bucket: str | None = None,
        unit: str = "count",
        of: str = "all",
    ) -> None:
        """One figure."""
        named = None if bucket is None else bucket[:LONGEST_BUCKET]
        told = {"source": self._source, "measure": measure, "subset": of, "bucket": named, "unit": unit}
        self.rows.append({**told, "value": float(value), "n": int(n)})

    def quantiles(self, measure: str, values: np.ndarray, unit: str) -> None:
        """Seven quantiles of the finite values; nothing where there is none."""
        finite = values[np.isfinite(values)]
        if len(finite):
            for name, value in zip(QUANTILES, np.quantile(finite, list(QUANTILES.values())), strict=True):
                self.add(measure, value, len(finite), bucket=name, unit=unit)

    def most_frequent(self, measure: str, values: pa.ChunkedArray, most: int, *, of: str = "all") -> None:
        """The most frequent values with their counts; ties by the alphabet."""
        counts = pc.value_counts(values.drop_null().combine_chunks())
        table = pa.table({"value": counts.field(0), "n": counts.field(1)})
        ranked = table.sort_by([("n", "descending"), ("value", "ascending")]).slice(0, most).to_pylist()
        for row in ranked:
            self.add(measure, row["n"], len(values), bucket=str(row["value"]), of=of)


def _rows(figures: _Figures, n_examples: int, quarantine: pa.Table) -> None:
    rows_in = n_examples + quarantine.num_rows
    figures.add("rows_in", rows_in, rows_in)
    figures.add("rows_out", n_examples, rows_in)
    figures.add("rows_refused", quarantine.num_rows, rows_in)
    counts = pc.value_counts(quarantine["reason"]).to_pylist()
    for row in sorted(counts, key=lambda row: (-row["counts"], row["values"])):
        figures.add("rows_refused", row["counts"], rows_in, bucket=row["values"])


def _pictures(figures: _Figures, images: pa.Table) -> None:
    n, pixels = images.num_rows, images["pixels_sha256"].drop_null()
    figures.add("pictures", n, n)
    figures.add("pictures_with_the_same_pixels", len(pixels) - pc.count_distinct(pixels).as_py(), n)
    width, height = _numbers(images["width_px"]), _numbers(images["height_px"])
    figures.quantiles("picture_width_px", width, "px")
    figures.quantiles("picture_height_px", height, "px")
    figures.quantiles("picture_aspect", width / height, "ratio")
    shapes = {"landscape": width > height, "portrait": width < height, "square": width == height}
    for name, which in shapes.items():
        figures.add("picture_shape", which.sum(), n, bucket=name)


def _boxes(figures: _Figures, tables: Mapping[str, pa.Table]) -> None:
    examples, labels = tables["examples"], tables["boxes"]["label"]
    xyxy, size_wh = placed_boxes(tables)
    n, sides = len(xyxy), xyxy[:, 2:] - xyxy[:, :2]
    area_frac = np.prod(sides, axis=1) / np.prod(size_wh, axis=1)
    near_empty = (area_frac < NEAR_EMPTY_FRAC) | (sides.min(axis=1, initial=np.inf) < THIN_PX)
    figures.add("boxes", n, tables["boxes"].num_rows)
    figures.quantiles("boxes_per_example", _numbers(examples["n_boxes"]), "boxes")
    figures.quantiles("box_area_frac", area_frac, "share")
    figures.add("boxes_near_empty", near_empty.sum(), n)
    figures.add("boxes_whole_picture", (area_frac > WHOLE_FRAC).sum(), n)
    for edge, which in touching(xyxy, size_wh).items():
        figures.add("boxes_touching_edge", which.sum(), n, bucket=edge)
    figures.add("labels_distinct", pc.count_distinct(labels.drop_null()).as_py(), len(labels))
    figures.most_frequent("label", labels, MOST_LISTED)


def _answers(figures: _Figures, examples: pa.Table) -> None:
    answers, kinds = examples["answer"], examples["answer_type"]
    figures.add("answers_distinct", pc.count_distinct(answers).as_py(), len(answers))
    figures.most_frequent("answer", answers, MOST_LISTED)
    figures.most_frequent("answer_type", kinds, MOST_LISTED)
    for kind in sorted(pc.unique(kinds).to_pylist()):
        of_kind = answers.filter(pc.equal(kinds, kind))
        of = f"answer_type={kind}"
        figures.add("answers_distinct", pc.count_distinct(of_kind).as_py(), len(of_kind), of=of)
        figures.most_frequent("answer", of_kind, 1, of=of)


def _questions(figures: _Figures, examples: pa.Table) -> None:
    questions = examples["question"]
    figures.add("questions_distinct", pc.count_distinct(questions).as_py(), len(questions))
    figures.quantiles("question_characters", _numbers(pc.utf8_length(questions)), "characters")
    figures.most_frequent("question_kind", examples["question_kind"], MOST_LISTED)
    for script, count in scripts(questions, examples["answer"]).items():
        figures.add("text_script", count, len(questions), bucket=script)


def scripts(questions: pa.ChunkedArray, answers: pa.ChunkedArray) -> dict[str, int]:
    """Examples by the Unicode scripts of question and answer, most frequent first; one with two counts for both.

    A script is no language: Latin is English and Vietnamese alike. Examples without any letter count as "none".
    """
    texts = pc.binary_join_element_wise(questions, answers, " ")
    plain = pc.match_substring_regex(texts, r"^[\x00-\x7f]*$")
    latin = pc.match_substring_regex(texts, r"[A-Za-z]")
    other = texts.filter(pc.invert(plain))
    counts = {"Latin": pc.sum(pc.and_(plain, latin)).as_py() or 0}
    counts["none"] = (pc.sum(plain).as_py() or 0) - counts["Latin"]
    if len(other):
        for script in SCRIPTS:
            found = pc.sum(pc.match_substring_regex(other, rf"\p{{{script}}}")).as_py() or 0
            counts[script] = counts.get(script, 0) + found
        rest = "".join(rf"\p{{{script}}}" for script in SCRIPTS)
        beside = pc.match_substring_regex(other, rf"[^\PL{rest}]")
        counts["Other"] = pc.sum(beside).as_py() or 0
        letters = pc.match_substring_regex(other, r"\pL")
        counts["none"] += len(other) - (pc.sum(letters).as_py() or 0)
    return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda item: (-item[1], item[0])))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64, nulls as NaN."""
    return pc.cast(column, pa.float64()).to_numpy().astype(np.float64, copy=False)
