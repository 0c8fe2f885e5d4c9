"""Boxes as tables write them: texts, lists, structs, four columns. From one field to rows of four numbers.

Here: which four numbers are one box, and what could be meant where nothing says how to read them. Not here: their
conversion (`ops/boxes.py`), and which column holds them (`ops/readers/table.py`).
"""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal

from ops.boxes import CONVENTIONS, NORMALISED_OVERSHOOT, BoxProblem
from ops.readers.rows import FieldError, as_object, shown
from ops.readers.shapes import number

KEYS: Mapping[tuple[str, str, str, str], str] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("left", "top", "right", "bottom"): "xyxy",
    ("x", "y", "w", "h"): "xywh",
    ("x", "y", "width", "height"): "xywh",
    ("left", "top", "width", "height"): "xywh",
    ("cx", "cy", "w", "h"): "cxcywh",
    ("x_center", "y_center", "width", "height"): "cxcywh",
}
"""Layouts by the names of a box's four sides, in the order of the layout; x and y alone are the top left corner."""

MAX_TEXT = 131_072
"""Characters of a text that holds boxes; as many as a CSV field has."""

_WHOLE = {"normalised": 1.0, "percent": 100.0, "permille": 1000.0}


def boxes_in(value: object, convention: str | None) -> list[list[object]]:
    """Four values for each box in a field: one box or a list, each a list, a struct of one of KEYS, or a text of these.

    convention: one of CONVENTIONS; None refuses the row and names what would fit. Raises FieldError (no_boxes for a
    null or an empty field; bad_box_format for what is no box, unsupported for a struct of another layout).
    """
    found = _boxes(value, 0)
    if not found:
        raise FieldError("box", "no_boxes", f"wanted boxes, saw {shown(value)}")
    boxes = [box for box, _ in found]
    layouts = sorted({layout for _, layout in found if layout is not None})
    if convention is None:
        raise FieldError("box", "unsupported", _what_fits(boxes, layouts))
    other = [layout for layout in layouts if not convention.startswith(f"{layout}_")]
    if other:
        detail = f"{shown(value)} is {', '.join(other)} by its names, but box_convention is {convention}"
        raise FieldError("box", "unsupported", detail)
    return boxes


Found = list[tuple[list[object], str | None]]


def _boxes(value: object, depth: int) -> Found:
    """Boxes with the layout that their names tell, if there are names."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if depth > 4:
        raise FieldError("box", "bad_box_format", "boxes are nested more than four deep")
    if isinstance(value, str):
        return _boxes(_parsed(value), depth + 1)
    if isinstance(value, dict):
        return _of_struct(as_object(value))
    if not isinstance(value, list | tuple):
        raise FieldError("box", "bad_box_format", f"wanted boxes, saw {shown(value)}")
    if value and all(isinstance(item, int | float | Decimal) or _is_number_text(item) for item in value):
        return [(_four(value), None)]
    found: Found = []
    for item in value:
        inside = _boxes(item, depth + 1)
        if not inside:
            raise FieldError("box", "no_boxes", f"one of the boxes is {shown(item)} in {shown(value)}")
        found += inside
    return found


def _of_struct(value: Mapping[str, object]) -> Found:
    sides, layout = sides_of(value)
    fields = [value[side] for side in sides]
    lists = [field for field in fields if isinstance(field, list)]
    if len(lists) == 4 and len({len(field) for field in lists}) == 1:  # an entry of each list is one box
        return [(_four(list(box)), layout) for box in zip(*lists, strict=True)]
    return [(_four(fields), layout)]


def sides_of(value: Mapping[str, object]) -> tuple[tuple[str, str, str, str], str]:
    """The names of a box's sides in a struct, and its layout. Raises FieldError if none or several fit."""
    fits = [(sides, layout) for sides, layout in KEYS.items() if set(sides) <= set(value)]
    if len(fits) == 1:
        return fits[0]
    wanted = " or ".join(", ".join(sides) for sides, _ in (fits or KEYS.items()))
    seen = f"{len(fits)} of them in " if fits else ""
    detail = f"wanted {'one of ' if fits else ''}{wanted}; saw {seen}{', '.join(sorted(map(str, value)))}"
    raise FieldError("box", "bad_box_format", detail)


def _four(values: list[object] | tuple[object, ...]) -> list[object]:
    if len(values) != 4:
        raise FieldError("box", "bad_box_format", f"wanted four numbers, saw {shown(values)}")
    return [_number(value, values) for value in values]


def _number(value: object, values: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    value = number(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError("box", "bad_box_format", f"wanted four numbers, saw {shown(values)}")
    return value


def _is_number_text(item: object) -> bool:
    return isinstance(item, str) and not isinstance(number(item), str)


def _parsed(text: str) -> object:
    """JSON, JSON with single quotes (as Python prints it), or numbers between commas or blanks."""
    if len(text) > MAX_TEXT:
        detail = f"a text of {len(text)} characters; {MAX_TEXT} are allowed"
        raise FieldError("box", "bad_box_format", detail)
    for written in (text, text.replace("'", '"')):
        try:
            value = json.loads(written)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list | dict):
            return value
    bare = text.strip()
    enclosed = bare[0] + bare[-1] in ("[]", "()")
    numbers = re.split(r"[\s,;]+", bare[1:-1].strip() if enclosed else bare)
    if len(numbers) == 4 and all(map(_is_number_text, numbers)):
        return numbers
    wanted = 'a text like "[x1, y1, x2, y2]", "x1 y1 x2 y2" or a JSON list of boxes'
    raise FieldError("box", "bad_box_format", f"wanted {wanted}, saw {shown(text)}")


def _what_fits(boxes: list[list[object]], layouts: list[str]) -> str:
    fits = [name for name in CONVENTIONS if all(_fits(name, box) for box in boxes)]
    if layouts:
        fits = [name for name in fits if name.split("_")[0] in layouts]
    what = ", ".join(fits) if fits else f"none of {', '.join(CONVENTIONS)}"
    return f"the option box_convention must say how to read {shown(boxes)}; of these numbers fit: {what}"


def _fits(convention: str, box: list[object]) -> bool:
    """Whether numbers make sense: a box inside its picture, and not one that a smaller unit explains."""
    numbers = [float(value) for value in box if isinstance(value, int | float) and abs(value) < 1e15]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return False
    whole = _WHOLE.get(convention.partition("_")[2])
    if whole != 1.0 and max(numbers) <= NORMALISED_OVERSHOOT:
        return False
    size_wh = None if whole is None else (1000, 1000)
    return min(numbers) >= 0 and not isinstance(CONVENTIONS[convention](box, size_wh), BoxProblem)
