"""The boxes that the sample of every detection format holds, and what becomes of a sample.

Two cups are asked how many; the one plate is asked how many and where.
"""

import pytest

from ops.normalise import NothingLeft, normalise
from tests.ops.delivery import conserved, encoded, new_store, pixels, refused, source

# label, x1, y1, x2, y2 in pixels of a 60 x 40 px picture.
CUPS = [("cup", 0.0, 0.0, 30.0, 20.0), ("cup", 15.0, 10.0, 45.0, 30.0)]
# Its middle is at x 51 of 60 (right third) and y 36 of 40 (bottom third).
PLATE = ("plate", 42.0, 32.0, 60.0, 40.0)
CANONICAL = [*CUPS, PLATE]
PICTURE = encoded(pixels((60, 40)))


def tables_of(tmp_path, kind, annotations, **options):
    """Normalise what lies in the shelf; nothing is lost on the way."""
    shelf = source(tmp_path / "shelf", kind, annotations=annotations, options=options)
    tables = normalise(shelf, new_store(tmp_path))
    conserved(tables)
    return tables


def only_refused(tmp_path, kind, annotations, **options):
    """File, row and reason of each refused row of a shelf that gives no example."""
    shelf = source(tmp_path / "shelf", kind, annotations=annotations, options=options)
    with pytest.raises(NothingLeft) as caught:
        normalise(shelf, new_store(tmp_path))
    return refused(caught.value.tables)


def boxes_of(tables) -> list[tuple]:
    """Label and edges of each distinct box, rounded to a millionth of a pixel, in order."""
    rows = tables.boxes.to_pylist()
    edges = ("x1_px", "y1_px", "x2_px", "y2_px")
    return list(dict.fromkeys((row["label"], *(round(row[edge], 6) for edge in edges)) for row in rows))


def asked(tables) -> list[tuple]:
    return [(row["question_kind"], row["answer"], row["source_row"]) for row in tables.examples.to_pylist()]


def is_canonical(tables) -> None:
    assert boxes_of(tables) == CANONICAL
    # The plate is the third entry, row 2.
    assert asked(tables) == [("count", "2", 0), ("count", "1", 2), ("where", "bottom right", 2)]
    assert tables.quarantine.num_rows == 0
