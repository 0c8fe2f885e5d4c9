"""The report's part on each source: its profile in words, what looks wrong, and its contact sheet.

The figures are `ops/source_profile.py`, the warnings `ops/source_warnings.py`; here they are only put into words.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from ops.gallery import data_uri

Row = Mapping[str, Any]
MOST_NAMED = 5
_MORE = ", \N{HORIZONTAL ELLIPSIS}"
_DASH, _SPACE = "\N{EN DASH}", "\N{NO-BREAK SPACE}"


def sources(
    source_profiles: pa.Table, source_warnings: pa.Table, contact_sheets: Mapping[str, bytes]
) -> list[dict[str, Any]]:
    """Per source, in the order of their names, what the template shows; texts are plain and escaped there."""
    rows: dict[str, list[Row]] = {}
    for row in source_profiles.to_pylist():
        rows.setdefault(row["source"], []).append(row)
    warnings: dict[str, list[str]] = {}
    for row in source_warnings.to_pylist():
        warnings.setdefault(row["source"], []).append(row["detail"].removeprefix(f"source {row['source']}: "))
    return [
        {
            "name": name,
            "warnings": warnings.get(name, []),
            "sheet_uri": data_uri(contact_sheets[name], "image/webp") if name in contact_sheets else None,
            **_told(_Figures(found)),
        }
        for name, found in sorted(rows.items())
    ]


class _Figures:
    """The figures of one source by measure, subset and bucket."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)
        self._at = {(row["measure"], row["subset"], row["bucket"]): row for row in self._rows}

    def count(self, measure: str, bucket: str | None = None, of: str = "all") -> int:
        """A count; 0 where there is none."""
        row = self._at.get((measure, of, bucket))
        return 0 if row is None else int(row["value"])

    def value(self, measure: str, bucket: str) -> float | None:
        """A quantile."""
        row = self._at.get((measure, "all", bucket))
        return None if row is None else float(row["value"])

    def buckets(self, measure: str, of: str = "all") -> list[Row]:
        """All buckets of a measure, in the order of the table."""
        named = [row for row in self._rows if row["measure"] == measure and row["subset"] == of]
        return [row for row in named if row["bucket"] is not None]

    def subsets(self, measure: str) -> list[str]:
        """The parts of the source that a measure is told of, besides all of it."""
        found = (row["subset"] for row in self._rows if row["measure"] == measure and row["subset"] != "all")
        return list(dict.fromkeys(found))


def _told(figures: _Figures) -> dict[str, Any]:
    reasons = [
        {"reason": row["bucket"].replace("_", " "), "n": int(row["value"])}
        for row in figures.buckets("rows_refused")
    ]
    facts = [
        ("Pictures", _pictures(figures)),
        ("Boxes", _boxes(figures)),
        ("At the edge", _edges(figures)),
        ("Labels", _named(figures, "labels_distinct", "label")),
        ("Answers", [*_named(figures, "answers_distinct", "answer"), *_by_type(figures)]),
        ("Questions", _questions(figures)),
        ("Writing", _scripts(figures)),
    ]
    return {
        "rows_in": figures.count("rows_in"),
        "rows_out": figures.count("rows_out"),
        "refused": figures.count("rows_refused"),
        "reasons": reasons,
        "facts": [{"term": term, "said": said} for term, said in facts if said],
    }


def _pictures(figures: _Figures) -> list[str]:
    n = figures.count("pictures")
    if not n:
        return []
    shapes = [f"{_share(row)} {row['bucket']}" for row in figures.buckets("picture_shape") if row["value"]]
    twins = figures.count("pictures_with_the_same_pixels")
    return [
        f"{n:,}, {_span(figures, 'picture_width_px')} px wide, {_span(figures, 'picture_height_px')} px high",
        ", ".join(shapes),
        f"{twins:,} with the same pixels as another" if twins else "no two with the same pixels",
    ]


def _boxes(figures: _Figures) -> list[str]:
    n = figures.count("boxes")
    if not n:
        return []
    low, middle, high = (figures.value("box_area_frac", bucket) for bucket in ("p05", "p50", "p95"))
    empty, whole = figures.count("boxes_near_empty"), figures.count("boxes_whole_picture")
    return [
        f"{n:,}, {_span(figures, 'boxes_per_example')} per example",
        f"area {_percent(middle)} of the picture in the middle, {_percent(low)} to {_percent(high)} for nine in ten",
        f"{empty:,} near-empty, {whole:,} over the whole picture",
    ]


def _edges(figures: _Figures) -> list[str]:
    edges = figures.buckets("boxes_touching_edge")
    return [", ".join(f"{row['bucket']} {_share(row)}" for row in edges)] if figures.count("boxes") else []


def _named(figures: _Figures, measure: str, bucket: str) -> list[str]:
    n, rows = figures.count(measure), figures.buckets(bucket)
    if not n:
        return []
    named = ", ".join(f"{_brief(row['bucket'])} {_share(row)}" for row in rows[:MOST_NAMED])
    return [f"{n:,} different: {named}{_MORE if n > MOST_NAMED else ''}"]


def _by_type(figures: _Figures) -> list[str]:
    out = []
    for of in figures.subsets("answers_distinct"):
        kind, (top,) = of.removeprefix("answer_type="), figures.buckets("answer", of)
        n = figures.count("answers_distinct", of=of)
        out.append(
            f"{kind.replace('_', ' ')}, {top['n']:,}: {n:,} different, {_brief(top['bucket'])} {_share(top)}"
        )
    return out


def _questions(figures: _Figures) -> list[str]:
    n = figures.count("questions_distinct")
    return [f"{n:,} different, {_span(figures, 'question_characters')} characters"] if n else []


def _scripts(figures: _Figures) -> list[str]:
    rows = figures.buckets("text_script")
    return [", ".join(f"{row['bucket']} {_share(row)}" for row in rows)] if rows else []


def _span(figures: _Figures, measure: str) -> str:
    """From least to most, with the median where they differ."""
    least, middle, most = (figures.value(measure, bucket) for bucket in ("min", "p50", "max"))
    if least is None or middle is None or most is None:
        return _DASH
    return f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f} (median {middle:,.0f})"


def _share(row: Row) -> str:
    return _percent(row["value"] / row["n"] if row["n"] else None)


def _percent(share: float | None) -> str:
    if share is None:
        return _DASH
    number = "0" if share == 0 else f"<{_SPACE}0.1" if share < 0.001 else f"{100 * share:.1f}"
    return f"{number}{_SPACE}%"


def _brief(text: str) -> str:
    """A text of the data in quotation marks, cut where it is long."""
    short = text if len(text) <= 40 else text[:39] + "\N{HORIZONTAL ELLIPSIS}"
    return f"\N{LEFT DOUBLE QUOTATION MARK}{short}\N{RIGHT DOUBLE QUOTATION MARK}"
