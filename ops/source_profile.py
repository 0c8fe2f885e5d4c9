"""The profile of a source: what is in it, in figures, from the columns of its normalised tables.

Long form, one row a figure (`storage/profile_columns.py`). Counts are out of n, quantiles of n values. Worked out by
column, so that a million boxes take seconds; pictures are never read. Not here: what looks wrong with the boxes
(`ops/convention_check.py`), and pictures of them (`ops/contact_sheet.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.convention_check import touching
from storage.asking import Rows, column, most_frequent, n_different, n_rows, parts, rows_of
from storage.tables import from_rows

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


def profile(source: str, tables: Mapping[str, Rows]) -> pa.Table:
    """The table source_profiles of one source; `tables` holds images, examples, boxes, quarantine."""
    figures = _Figures(source)
    _rows(figures, n_rows(tables["examples"]), tables["quarantine"])
    _pictures(figures, tables["images"])
    _boxes(figures, tables)
    _answers(figures, tables["examples"])
    _questions(figures, tables["examples"])
    return from_rows("source_profiles", figures.rows)


class PlacedBoxes:
    """Boxes, float64 [k, 4], and the size of each one's picture, [k, 2], piece by piece, as often as wanted.

    A box whose picture is not there is left out. Held meanwhile: 4 bytes a box, 16 a picture.
    """

    def __init__(self, tables: Mapping[str, Rows]) -> None:
        images, self._boxes = tables["images"], tables["boxes"]
        sizes = [_numbers(column(images, side)) for side in ("width_px", "height_px")]
        self._size_wh = np.stack(sizes, axis=1).reshape(-1, 2)
        self._picture = _picture_of_each(tables)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        start = 0
        for part in parts(self._boxes, ["x1_px", "y1_px", "x2_px", "y2_px"]):
            picture = self._picture[start : start + part.num_rows]
            start += part.num_rows
            known = picture >= 0
            xyxy = np.stack([_numbers(side) for side in part.columns], axis=1).reshape(-1, 4)
            yield xyxy[known], self._size_wh[picture[known]]


def _picture_of_each(tables: Mapping[str, Rows]) -> np.ndarray:
    """The row of the picture of each box, int32; -1 where there is none."""
    names = column(tables["images"], "image_sha256")
    picture_of = _all_rows_of(tables["examples"], "image_sha256", names)
    examples = column(tables["examples"], "example_id")
    example_of = _all_rows_of(tables["boxes"], "example_id", examples)
    return np.append(picture_of, np.int32(-1))[example_of]  # an example that is not there, -1, has none


def _all_rows_of(rows: Rows, name: str, among: pa.ChunkedArray) -> np.ndarray:
    """The row of each value of a column among others, int32; -1 where it is not there."""
    found, start = [np.empty(0, np.int32)], 0
    for part in parts(rows, [name]):
        found.append(rows_of(part[name], among, start).astype(np.int32))
        start = max(start, int(found[-1].max(initial=0)))
    return np.concatenate(found)


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

    def most_frequent(
        self,
        measure: str,
        values: Rows,
        name: str,
        n: int,
        most: int,
        *,
        only: tuple[str, str] | None = None,
        different: str | None = None,
    ) -> dict[str, int]:
        """The most frequent of n values with their counts, which it returns; ties by the alphabet.

        different: the measure of how many different ones there are.
        """
        of = "all" if only is None else "=".join(only)
        n_different, counts = most_frequent(values, name, most, only)
        if different:
            self.add(different, n_different, n, of=of)
        for value, count in counts:
            self.add(measure, count, n, bucket=value, of=of)
        return dict(counts)


def _rows(figures: _Figures, n_examples: int, quarantine: Rows) -> None:
    counts: Counter[str] = Counter()
    for part in parts(quarantine, ["reason"]):
        counts.update(part["reason"].to_pylist())
    rows_in = n_examples + counts.total()
    figures.add("rows_in", rows_in, rows_in)
    figures.add("rows_out", n_examples, rows_in)
    figures.add("rows_refused", counts.total(), rows_in)
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        figures.add("rows_refused", count, rows_in, bucket=reason)


def _pictures(figures: _Figures, images: Rows) -> None:
    n, n_read = n_rows(images), 0
    for part in parts(images, ["pixels_sha256"]):
        n_read += part.num_rows - part["pixels_sha256"].null_count
    figures.add("pictures", n, n)
    figures.add("pictures_with_the_same_pixels", n_read - n_different(images, "pixels_sha256"), n)
    width, height = _numbers(column(images, "width_px")), _numbers(column(images, "height_px"))
    figures.quantiles("picture_width_px", width, "px")
    figures.quantiles("picture_height_px", height, "px")
    figures.quantiles("picture_aspect", width / height, "ratio")
    shapes = {"landscape": width > height, "portrait": width < height, "square": width == height}
    for name, which in shapes.items():
        figures.add("picture_shape", which.sum(), n, bucket=name)


def _boxes(figures: _Figures, tables: Mapping[str, Rows]) -> None:
    n_boxes, areas, counts = n_rows(tables["boxes"]), [np.empty(0)], Counter[str]()
    for xyxy, size_wh in PlacedBoxes(tables):
        sides = xyxy[:, 2:] - xyxy[:, :2]
        areas.append(np.prod(sides, axis=1) / np.prod(size_wh, axis=1))
        near_empty = (areas[-1] < NEAR_EMPTY_FRAC) | (sides.min(axis=1, initial=np.inf) < THIN_PX)
        counts["near_empty"] += int(near_empty.sum())
        for edge, which in touching(xyxy, size_wh).items():
            counts[edge] += int(which.sum())
    area_frac = np.concatenate(areas)
    del areas
    n = len(area_frac)
    figures.add("boxes", n, n_boxes)
    figures.quantiles("boxes_per_example", _numbers(column(tables["examples"], "n_boxes")), "boxes")
    figures.quantiles("box_area_frac", area_frac, "share")
    figures.add("boxes_near_empty", counts["near_empty"], n)
    figures.add("boxes_whole_picture", (area_frac > WHOLE_FRAC).sum(), n)
    for edge in ("left", "top", "right", "lower"):
        figures.add("boxes_touching_edge", counts[edge], n, bucket=edge)
    figures.most_frequent(
        "label", tables["boxes"], "label", n_boxes, MOST_LISTED, different="labels_distinct"
    )


def _answers(figures: _Figures, examples: Rows) -> None:
    n, different = n_rows(examples), "answers_distinct"
    figures.most_frequent("answer", examples, "answer", n, MOST_LISTED, different=different)
    kinds = figures.most_frequent("answer_type", examples, "answer_type", n, MOST_LISTED)
    for kind, n_of_kind in sorted(kinds.items()):
        only = ("answer_type", kind)
        figures.most_frequent("answer", examples, "answer", n_of_kind, 1, only=only, different=different)


def _questions(figures: _Figures, examples: Rows) -> None:
    n, lengths, of_scripts = n_rows(examples), [np.empty(0)], Counter[str]()
    for part in parts(examples, ["question", "answer"]):
        lengths.append(_numbers(pc.utf8_length(part["question"])))
        of_scripts.update(scripts(part["question"], part["answer"]))
    figures.add("questions_distinct", n_different(examples, "question"), n)
    figures.quantiles("question_characters", np.concatenate(lengths), "characters")
    figures.most_frequent("question_kind", examples, "question_kind", n, MOST_LISTED)
    for script, count in sorted(of_scripts.items(), key=lambda item: (-item[1], item[0])):
        figures.add("text_script", count, n, bucket=script)


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
