"""A cup and a plate on a 60 x 40 px picture, and what was made of them; for formats with questions."""

from ops.normalise import normalise
from tests.ops.delivery import new_store, source

# x, y, width, height of a cup and a plate; as corners (5, 4, 15, 12) and (40, 20, 58, 38).
# Middles (10, 8) and (49, 29); ninths end at x 20, 40, 60 and y 13.3, 26.7, 40: top left and bottom right.
CUP, PLATE = [5, 4, 10, 8], [40, 20, 18, 18]
CUP_XYXY, PLATE_XYXY = (5, 4, 15, 12), (40, 20, 58, 38)


def tables_of(folder, kind, **fields):
    """The tables of a source at the folder."""
    return normalise(source(folder, kind, **fields), new_store(folder))


def said(tables):
    """Question, answer and evidence of each example."""
    rows = tables.boxes.to_pylist()
    keys = ("x1_px", "y1_px", "x2_px", "y2_px")
    return [
        (
            row["question"],
            row["answer"],
            [tuple(box[key] for key in keys) for box in rows if box["example_id"] == row["example_id"]],
        )
        for row in tables.examples.to_pylist()
    ]


def details(tables) -> str:
    """What was wrong with the refused rows, in one text."""
    return " | ".join(tables.quarantine["detail"].to_pylist())


def where(phrase: str) -> str:
    """The question about a phrase."""
    return f"In which part of the picture is this: {phrase}?"
