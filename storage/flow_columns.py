"""The columns of one flow, token by token: tokens, grid and three arrays, flat; null where there is no flow.

Who wrote the answer and why there may be no flow is in `schema`, with the tables.
"""

import pyarrow as pa

from storage.columns import maybe, region

TEXTS = pa.list_(pa.string())
FLOATS = pa.list_(pa.float32())

FLOW_COLUMNS: tuple[pa.Field, ...] = (
    maybe("thought_tokens", TEXTS, "the thought's tokens as text, in order; null without a flow"),
    maybe("answer_tokens", TEXTS, "the answer's tokens as text, in order; null without a flow"),
    maybe("grid_h", pa.int32(), "rows of the token grid"),
    maybe("grid_w", pa.int32(), "columns of the token grid"),
    *region(maybe),
    maybe(
        "looked_at",
        FLOATS,
        "[thought tokens x grid_h x grid_w], row-major: what each cell of the picture contributed straight to "
        "each thought token, in logits, signed",
    ),
    maybe(
        "thoughts_used",
        FLOATS,
        "[answer tokens x thought tokens], row-major: what each thought token contributed straight to each "
        "answer token, in logits, signed",
    ),
    maybe(
        "reached_answer",
        FLOATS,
        "[answer tokens x grid_h x grid_w], row-major: what each cell contributed to each answer token through "
        "the thoughts, in logits, signed",
    ),
)
