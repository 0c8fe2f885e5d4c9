"""The columns of what is told of each source: its profile in figures, and what looks wrong with its boxes.

Long form, so that a new figure needs no new column. How figures are worked out is `ops/source_profile.py`.
"""

import pyarrow as pa

from storage.columns import column, maybe

_TEXT = pa.string()
_I64 = pa.int64()
_F64 = pa.float64()

SOURCE_PROFILES = pa.schema(
    [
        column("source", _TEXT, "the source that is told of"),
        column(
            "measure", _TEXT, "what was counted or measured, such as rows_refused, box_area_frac or answer"
        ),
        column("subset", _TEXT, "of which part of the source: all, or answer_type=yes_no"),
        maybe(
            "bucket",
            _TEXT,
            "which value or quantile: a reason, a label, an answer, min, p05 to p95, max; null = of all",
        ),
        column(
            "unit", _TEXT, "of the value: count, boxes, px, share, ratio or characters; a count is out of n"
        ),
        column("value", _F64, "the count or the measured value"),
        column("n", _I64, "number of rows, pictures, boxes or examples that the value is out of"),
    ]
)

SOURCE_WARNINGS = pa.schema(
    [
        column("source", _TEXT, "the source whose boxes look wrong"),
        column("kind", _TEXT, "the sign that was seen, from a closed list"),
        maybe("told", _TEXT, "the box convention that the source was read by; null where none was told"),
        column(
            "fits", pa.list_(_TEXT), "conventions that fit the numbers, the best first; empty = none does"
        ),
        column("share", _F64, "share of the boxes that speak against the told convention"),
        column("n", _I64, "number of boxes that were looked at"),
        column("detail", _TEXT, "what was seen, what would fit, and what to change"),
    ]
)

WARNING_KINDS = (
    "another_convention_fits",
    "boxes_at_right_or_lower_edge",
    "swapped_corners",
    "box_outside_picture",
)

PROFILE_UNITS = ("count", "boxes", "px", "share", "ratio", "characters")
