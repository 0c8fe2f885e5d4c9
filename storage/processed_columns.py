"""The columns of what a policy's processor makes of one row, and why a row does not fit.

Whose processor it was, and of which row and side, is in `schema`, with the tables.
"""

import pyarrow as pa

from storage.columns import column, maybe

NO_PICTURE = ("unreadable_picture", "undecodable_picture", "picture_too_large")
"""Why a picture that the tables name cannot be shown to a policy."""

NOT_FITTING = (
    *NO_PICTURE,
    "processor_refused",
    "too_many_image_tokens",
    "picture_too_small",
    "prompt_too_long",
    "reference_too_long",
    "evidence_not_seen",
)
"""Why a row does not fit; where several hold, the first of them is told."""

_I32 = pa.int32()

PROCESSED_COLUMNS: tuple[pa.Field, ...] = (
    maybe("processed_w_px", _I32, "width of the picture as the model gets it: resized, cropped or padded"),
    maybe("processed_h_px", _I32, "its height; null, as all measures, where the processor gave nothing"),
    maybe("grid_h", _I32, "rows of the token grid"),
    maybe("grid_w", _I32, "columns of the token grid"),
    maybe("n_image_tokens", _I32, "image tokens in the prompt, thumbnails and tiles included"),
    maybe("n_prompt_tokens", _I32, "tokens of the prompt, image tokens included"),
    maybe(
        "n_reference_tokens",
        _I32,
        "tokens of the written reasoning and answer, as the cold start learns them; null without a reasoning",
    ),
    maybe("n_evidence_cells", _I32, "cells of the grid that the evidence boxes touch"),
    maybe(
        "smallest_box_cells",
        pa.float64(),
        "area of the smallest evidence box in cells, below 1: smaller than one cell; null without boxes",
    ),
    column("fits", pa.bool_(), "whether training can take the row as it is"),
    maybe("reason", pa.string(), "why it does not fit, from a closed list; null = it fits"),
    maybe("detail", pa.string(), "what was seen and what was wanted; null = it fits"),
)
