"""Whether a source's boxes were read by the convention that they were written in, from what came of them.

A wrong convention shows in three ways. Boxes are lost: corners swapped, or outside the picture. Boxes pile up at
the right and lower edge, where they were cut. Or boxes lie lopsided: pictures have no preferred side, so if boxes
keep to numbers that another convention allows, while their mirror images would not, the other one wrote them.
Here: the evidence, and which conventions fit the numbers. Not here: conversion (`ops/boxes.py`), any advice in words.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.boxes import CONVENTIONS, NORMALISED_OVERSHOOT, ROUNDING_PX
from storage.asking import Rows, parts

MOST_BOXES = 20_000
"""Boxes that are looked at, spread evenly over the source; the check takes the same time for millions."""

FEWEST = 8
"""Boxes that must speak against a convention before anything is said."""

LEAST_SHARE, MOST_LOST, EDGE_LIMIT, REFUSED_LIMIT = 0.02, 0.01, 0.5, 0.05
_ENOUGH = 0.9
_EDGE_PX = 0.5
_WHOLE = {"normalised": 1.0, "percent": 100.0, "permille": 1000.0}
_NUMBER = r"(-?[0-9][0-9.]*(?:e[+-]?[0-9]+)?)"
_SEEN = r"^['\"]?[\[(]\s*" + r"\s*,\s*".join(
    _NUMBER.replace("(", f"(?P<{side}>", 1) for side in ("a", "b", "c", "d")
)
_IN_PICTURE = r"(?:sticks out of|in) the (?P<width>[0-9]+) x (?P<height>[0-9]+) px picture"
_READ_AS = {
    "coco": "xywh_px",
    "visual_cot": "xyxy_normalised",
    "voc": "xyxy_px_from_1",
    "yolo": "cxcywh_normalised",
    "labelme": "xyxy_px",
    "cvat": "xyxy_px",
    "label_studio": "xyxy_percent",
    "open_images": "xyxy_normalised",
    "flickr30k": "xyxy_px_from_1",
    "gqa": "xywh_px",
    "refcoco": "xywh_px",
    "visual_genome": "xywh_px",
}


@dataclass(frozen=True)
class Evidence:
    """Boxes as the source wrote them. `raw`: float64 [n, 4]; `size_wh`: float64 [n, 2], NaN where not known.

    `n_boxes` and `n_refused` count all converted boxes and refused rows, `raw` holds an even sample of both.
    """

    raw: np.ndarray
    size_wh: np.ndarray
    n_boxes: int
    n_refused: int


@dataclass(frozen=True)
class Sign:
    """One sign of a wrong convention: its kind (closed list), what was seen, and the conventions that would fit.

    `share` of the `n` boxes speak for it; `fits` is empty where none of `ops.boxes.CONVENTIONS` does.
    """

    kind: str
    seen: str
    share: float
    n: int
    fits: tuple[str, ...] = ()


def told_convention(format_: str, options: Mapping[str, Any]) -> str | None:
    """The convention by which the reader of a format hands on its boxes; None for a table that names none."""
    if format_ == "table":
        return options.get("box_convention")
    if format_ == "voc" and options.get("from_zero"):
        return "xyxy_px"
    return _READ_AS[format_]


Boxes = Iterable[tuple[np.ndarray, np.ndarray]]
"""Boxes piece by piece, as often as wanted: float64 [k, 4], and [k, 2] the upright size of each one's picture."""


def signs(told: str, boxes: Boxes, quarantine: Rows, *, clipped: bool = False) -> list[Sign]:
    """What speaks against the told convention; [] where nothing does.

    quarantine: its columns reason and detail are read. clipped: boxes were cut at the picture's edge (clip_boxes), so
    that their own numbers are lost and only the edges can tell.
    """
    n_boxes, n_pushed = 0, 0
    for xyxy, size_wh in boxes:
        n_boxes += len(xyxy)
        n_pushed += _n_pushed(xyxy, size_wh)
    found = _refused(told, n_boxes, quarantine)
    edge = _at_the_edge(told, n_boxes, n_pushed)
    if not clipped:
        other = another_fits(told, evidence(told, boxes, quarantine))
        if other:
            return [other, *(Sign(s.kind, s.seen, s.share, s.n, other.fits) for s in (*edge, *found))]
    return [*edge, *found]


def evidence(told: str, boxes: Boxes, quarantine: Rows) -> Evidence:
    """The numbers as written: of converted boxes by undoing the conversion, of refused ones from their detail."""
    n_boxes = sum(len(xyxy) for xyxy, _ in boxes)
    n_refused = sum(len(numbers) for numbers, _ in _all_refused(quarantine))
    step = max(1, -(-(n_boxes + n_refused) // MOST_BOXES))
    kept, kept_wh = _every(step, boxes)
    refused, refused_wh = _every(step, _all_refused(quarantine))
    raw = np.concatenate([written(told, kept, kept_wh), refused])
    sizes = np.concatenate([kept_wh, refused_wh])
    rows, places = np.unique(np.concatenate([raw, sizes], axis=1), axis=0, return_index=True)
    del rows  # a box that several questions share counts once
    places.sort()
    return Evidence(raw[places], sizes[places], n_boxes, n_refused)


def _every(step: int, pieces: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """The first of each `step` rows."""
    found, start = [(np.empty((0, 4)), np.empty((0, 2)))], 0
    for numbers, size_wh in pieces:
        found.append(
            (numbers[-start % step :: step], np.asarray(size_wh, dtype=np.float64)[-start % step :: step])
        )
        start += len(numbers)
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])


def _all_refused(quarantine: Rows) -> Boxes:
    return map(refused_numbers, parts(quarantine, ["reason", "detail"]))


def refused_numbers(quarantine: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The four numbers of each row refused for its box, [n, 4], and its picture's size, [n, 2] (NaN: not known)."""
    for_box = pc.is_in(
        quarantine["reason"], pa.array(["swapped_corners", "box_outside_picture", "zero_area_box"])
    )
    details = quarantine["detail"].filter(for_box).combine_chunks()
    numbers = pc.extract_regex(details, _SEEN)
    readable = pc.is_valid(numbers)
    numbers = numbers.filter(readable)
    sizes = pc.extract_regex(details.filter(readable), _IN_PICTURE)
    return _floats(numbers, ("a", "b", "c", "d")), _floats(sizes, ("width", "height"))


def another_fits(told: str, found: Evidence) -> Sign | None:
    """The sign that other conventions explain the numbers much better than the told one, which it names; or None."""
    known = np.isfinite(found.size_wh).all(axis=1)
    if known.sum() < max(FEWEST, len(known) / 2):  # only the sizes of pictures tell the units apart
        return None
    raw, size_wh = _that_are_boxes(found)
    n = len(raw)
    if n < FEWEST:
        return None
    lost = {name: 1.0 - float(_valid(name, raw, size_wh).mean()) for name in CONVENTIONS}
    # The told one may explain only some of the boxes, and then has to lose half of them to speak against another.
    rivals = {
        name: (0.0 if 1.0 - lost[name] >= _ENOUGH else (1.0 - lost[name]) / 2)
        for name in CONVENTIONS
        if name == told or 1.0 - lost[name] >= _ENOUGH
    }
    faults = {
        name: max(lost[name], _lopsided(name, raw, size_wh, rivals))
        for name in CONVENTIONS
        if name == told or lost[name] <= MOST_LOST
    }
    fault = faults.pop(told)
    fitting = {name: each for name, each in faults.items() if each <= fault / 2}
    if fault < LEAST_SHARE or fault * n < FEWEST or not fitting:
        return None
    best = min(fitting.values())
    fits = sorted(name for name, each in fitting.items() if each <= best + max(LEAST_SHARE, FEWEST / n))
    fits.sort(key=lambda name: fitting[name])
    best_fit, share = fits[0], lost[told] if lost[told] >= LEAST_SHARE else fault
    if lost[told] >= LEAST_SHARE:
        seen = f"read as {told}, {share:.1%} have swapped corners or leave their picture"
    else:
        seen = (
            f"read as {told}, they crowd together: mirrored, {share:.1%} of them would lie where "
            f"{best_fit} has no numbers, and none does as it is"
        )
    few = f"{lost[best_fit]:.1%} have" if lost[best_fit] else "none has"
    rest = f"read as {best_fit}, they lie evenly and {few} swapped corners or a part outside"
    said = f"{n} different boxes: {seen}; {rest}"
    return Sign("another_convention_fits", said, share, n, tuple(fits))


def _that_are_boxes(found: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that are a box by at least one convention; an unknown size becomes the largest one known."""
    sizes = np.where(np.isfinite(found.size_wh), found.size_wh, np.nanmax(found.size_wh, axis=0))
    some = np.zeros(len(found.raw), dtype=bool)
    for name in CONVENTIONS:
        some |= _valid(name, found.raw, sizes)
    return found.raw[some], sizes[some]


def _lopsided(name: str, raw: np.ndarray, size_wh: np.ndarray, rivals: Mapping[str, float]) -> float:
    """Share of boxes that a rival explains while it does not explain their mirror image; 0 where all lie evenly.

    Boxes by `name`, mirrored left to right and top to bottom; the larger share of the two, of the worst rival.
    rivals: by name the share that must be exceeded, for chance and true lopsidedness move those that explain little.
    """
    usable = _valid(name, raw, size_wh)
    if not usable.any():
        return 0.0
    raw, size_wh = raw[usable], size_wh[usable]
    boxes, worst = corners(name, raw, size_wh), 0.0
    for axis in (0, 1):
        mirrored = boxes.copy()
        mirrored[:, axis] = size_wh[:, axis] - boxes[:, axis + 2]
        mirrored[:, axis + 2] = size_wh[:, axis] - boxes[:, axis]
        turned = written(name, mirrored, size_wh)
        for rival in rivals:
            if rival != name:
                gone = float(_valid(rival, raw, size_wh).mean() - _valid(rival, turned, size_wh).mean())
                worst = max(worst, gone if gone > rivals[rival] else 0.0)
    return worst


def corners(name: str, raw: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Edges x1, y1, x2, y2 in pixels, [n, 4], of numbers as written, as `ops.boxes.CONVENTIONS` converts them."""
    layout, _, unit = name.partition("_")
    a, b, c, d = raw.T
    edges = {
        "xyxy": lambda: (a, b, c, d),
        "xywh": lambda: (a, b, a + c, b + d),
        "cxcywh": lambda: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[layout]()
    out = np.stack(edges, axis=1)
    if unit == "px_from_1":
        out = out - np.array([1.0, 1.0, 0.0, 0.0])
    if unit in _WHOLE:
        out = out / _WHOLE[unit] * np.tile(size_wh, 2)
    return out


def written(name: str, boxes_xyxy_px: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """The numbers, [n, 4], by which a convention writes boxes: `corners` undone."""
    layout, _, unit = name.partition("_")
    edges = np.asarray(boxes_xyxy_px, dtype=np.float64)
    if unit in _WHOLE:
        edges = edges / np.tile(size_wh, 2) * _WHOLE[unit]
    if unit == "px_from_1":
        edges = edges + np.array([1.0, 1.0, 0.0, 0.0])
    x1, y1, x2, y2 = edges.T
    numbers = {
        "xyxy": lambda: (x1, y1, x2, y2),
        "xywh": lambda: (x1, y1, x2 - x1, y2 - y1),
        "cxcywh": lambda: ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }[layout]()
    return np.stack(numbers, axis=1)


def _valid(name: str, raw: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Which numbers are a box inside its picture by a convention, with the slack of `ops/boxes.py`; bool [n]."""
    edges, unit = corners(name, raw, size_wh), name.partition("_")[2]
    beyond = (NORMALISED_OVERSHOOT - 1.0) * size_wh if unit in _WHOLE else np.full_like(size_wh, ROUNDING_PX)
    fits = [
        edges[:, 2:] > edges[:, :2],
        edges[:, :2] >= -ROUNDING_PX - 1e-6,
        edges[:, 2:] <= size_wh + beyond + 1e-6,
    ]
    return np.asarray(np.concatenate(fits, axis=1).all(axis=1))


def touching(boxes_xyxy_px: np.ndarray, size_wh: np.ndarray) -> dict[str, np.ndarray]:
    """Which boxes reach to within half a pixel of each edge of their picture: bool [n] by left, top, right, lower."""
    return {
        "left": boxes_xyxy_px[:, 0] <= _EDGE_PX,
        "top": boxes_xyxy_px[:, 1] <= _EDGE_PX,
        "right": boxes_xyxy_px[:, 2] >= size_wh[:, 0] - _EDGE_PX,
        "lower": boxes_xyxy_px[:, 3] >= size_wh[:, 1] - _EDGE_PX,
    }


def _n_pushed(boxes: np.ndarray, size_wh: np.ndarray) -> int:
    """How many touch the right or lower edge and not the one across, which a box of the whole side would."""
    at = touching(boxes, size_wh)
    return int(((at["right"] & ~at["left"]) | (at["lower"] & ~at["top"])).sum())


def _at_the_edge(told: str, n: int, n_pushed: int) -> list[Sign]:
    share = n_pushed / max(n, 1)
    if share <= EDGE_LIMIT or n_pushed < FEWEST:
        return []
    seen = f"{n_pushed} of {n} boxes touch the right or lower edge of their picture and not the opposite one"
    fits = (told.replace("xywh", "xyxy", 1),) if told.startswith("xywh") else ()
    return [Sign("boxes_at_right_or_lower_edge", seen, share, n, fits)]


def _refused(told: str, n_boxes: int, quarantine: Rows) -> list[Sign]:
    counts: Counter[str] = Counter()
    for part in parts(quarantine, ["reason", "detail"]):
        own = pc.invert(pc.starts_with(part["detail"], "needs "))  # a question that needs a refused box
        counts.update(part["reason"].filter(own).to_pylist())
    words = {
        "swapped_corners": "have their right or lower edge before the left or upper one",
        "box_outside_picture": "leave their picture",
    }
    total = n_boxes + sum(counts.get(reason, 0) for reason in words)
    return [
        Sign(reason, f"{n} of {total} boxes {words[reason]} when read as {told}", n / total, total)
        for reason in words
        if (n := counts.get(reason, 0)) >= FEWEST and n > REFUSED_LIMIT * total
    ]


def _floats(found: Any, names: Sequence[str]) -> np.ndarray:
    columns = [
        pc.cast(pc.struct_field(found, name), pa.float64()).to_numpy(zero_copy_only=False) for name in names
    ]
    return np.stack(columns, axis=1).reshape(-1, len(names)).astype(np.float64)
