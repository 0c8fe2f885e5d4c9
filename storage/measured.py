"""Which held-out examples were measured, and how many may be lost: those whose picture cannot be read are neither
right nor wrong.

Here: what is said of rows of the table `predictions`. Not here: why a picture cannot be read (`rows`).
"""

import pyarrow as pa

NOT_MEASURED_LIMIT = 0.05
"""The largest share of examples that may be lost: beyond it the others do not stand for all, and something is broken
that can be mended."""


def was_measured(predictions: pa.Table) -> pa.ChunkedArray:
    """A mask over the rows of `predictions`; the others hold a reason and no answer."""
    return predictions["correct"].is_valid()


def too_many_lost(n_lost: int, n: int) -> str | None:
    """What is wrong where more than NOT_MEASURED_LIMIT of `n` examples have no picture; None: nothing."""
    if n_lost <= NOT_MEASURED_LIMIT * n:
        return None
    return (
        f"{n_lost} of {n} examples cannot be asked: no picture that can be read; at most {NOT_MEASURED_LIMIT:.0%} "
        "may be lost"
    )
