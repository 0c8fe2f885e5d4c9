"""Which held-out examples the report shows, and their figures: the same picture under several policies.

The choice is a rule with a seed, never a hand: it is stated in RULE, printed in the report, and each group
says how many examples it was drawn from. Drawing is ops/overlays.py, the page is ops/report.py.
"""

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from ops import overlays
from ops.comparison import COLD_START, policy_order
from ops.grid import rectangle
from ops.pictures import MAX_PIXELS, PictureProblem, open_upright
from ops.statistics import draw_order
from storage.archive import region_of, unpack
from storage.measured import was_measured

Row = dict[str, Any]
PER_GROUP = 2
RULE = (
    "Held-out examples are put in the order of a seeded hash of their identifier; each group takes its first "
    f"{PER_GROUP} whose pictures were not shown yet. Nothing is picked by hand or by score."
)


@dataclass(frozen=True)
class Group:
    """Examples that share an outcome: those shown, out of how many."""

    title: str
    example_ids: tuple[str, ...]
    n_all: int


@dataclass(frozen=True)
class Answered:
    """What one policy said about an example, with the heat layer (None: no map, and why).

    heat_xywh: where it lies, in pixels of the picture, not rounded; beyond the picture where the policy saw padding.
    """

    policy: str
    completion: str
    thought: str | None
    answer: str | None
    correct: bool
    mass: float | None
    chance: float | None
    lift: float | None
    reason: str | None
    heat_uri: str | None
    heat_xywh: tuple[float, float, float, float] | None
    grid: str | None


@dataclass(frozen=True)
class Figure:
    """One example with its picture (None: not stored), boxes in pixels and the answers side by side."""

    example: Row
    picture_uri: str | None
    width_px: int
    height_px: int
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[str, ...]
    top: float
    answers: tuple[Answered, ...]


def focus_of(policies: Iterable[str]) -> str | None:
    """The recipe that the report is about: saliency_r1, else the last in order; None without a recipe."""
    recipes = [name for name in policy_order(policies) if name not in ("base", COLD_START)]
    return "saliency_r1" if "saliency_r1" in recipes else (recipes[-1] if recipes else None)


def choose(predictions: pa.Table, examples: pa.Table, seed: int, per_group: int = PER_GROUP) -> list[Group]:
    """The groups of RULE over examples that cold start and the focus recipe both answered.

    Without a recipe (or a cold start) the groups are the right and the wrong answers of the last policy.
    """
    policies = policy_order(predictions["policy"].to_pylist())
    if not policies:
        return []
    focus = focus_of(policies) or policies[-1]
    before = COLD_START if COLD_START in policies and focus != COLD_START else None
    right: dict[str, dict[str, bool]] = defaultdict(dict)
    picture: dict[str, str] = {}
    columns = ["policy", "example_id", "image_sha256", "correct"]
    for row in predictions.filter(was_measured(predictions)).select(columns).to_pylist():
        right[row["policy"]][row["example_id"]] = row["correct"]
        picture[row["example_id"]] = row["image_sha256"]
    conflict = {
        r["example_id"]
        for r in examples.select(["example_id", "condition"]).to_pylist()
        if r["condition"] == "conflict"
    }
    now, then = right[focus], right[before] if before else right[focus]
    shared = sorted((e for e in now if e in then), key=lambda e: draw_order(seed, e))
    used: set[str] = set()
    groups = []
    for title, wanted in _outcomes(focus, before, now, then, conflict):
        members = [e for e in shared if wanted(e)]
        shown: list[str] = []
        for example_id in members:
            if len(shown) < per_group and picture[example_id] not in used:
                shown.append(example_id)
                used.add(picture[example_id])
        groups.append(Group(title, tuple(shown), len(members)))
    return [group for group in groups if group.n_all]


def pictures_needed(predictions: pa.Table, examples: pa.Table, seed: int) -> list[str]:
    """image_sha256 of the pictures that the report will show, in the order of showing."""
    chosen = [e for group in choose(predictions, examples, seed) for e in group.example_ids]
    picture = dict(
        zip(predictions["example_id"].to_pylist(), predictions["image_sha256"].to_pylist(), strict=True)
    )
    return [picture[e] for e in chosen]


def figures(
    example_ids: Sequence[str],
    predictions: pa.Table,
    examples: pa.Table,
    boxes: pa.Table,
    maps: pa.Table,
    images: pa.Table,
    pictures: Mapping[str, bytes],
) -> dict[str, Figure]:
    """example_id -> Figure. All maps of one example share one colour scale; its top is in Figure.top."""
    wanted = set(example_ids)
    example_of = {r["example_id"]: r for r in _rows(examples, wanted)}
    boxes_of: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(boxes, wanted):
        boxes_of[row["example_id"]].append(row)
    said_of: dict[str, list[Row]] = defaultdict(list)
    for row in _rows(predictions.filter(was_measured(predictions)), wanted):
        said_of[row["example_id"]].append(row)
    map_of = {row["map_id"]: row for row in _rows(maps, wanted)}
    size_of = {
        r["image_sha256"]: (r["width_px"], r["height_px"])
        for r in images.select(["image_sha256", "width_px", "height_px"]).to_pylist()
    }
    out = {}
    for example_id in example_ids:
        example = example_of[example_id]
        evidence = sorted(boxes_of[example_id], key=lambda row: row["box_index"])
        out[example_id] = _figure(
            example, evidence, said_of[example_id], map_of, size_of[example["image_sha256"]], pictures
        )
    return out


def _outcomes(
    focus: str, before: str | None, now: Mapping[str, bool], then: Mapping[str, bool], conflict: set[str]
) -> list[tuple[str, Callable[[str], bool]]]:
    against = [("Picture and expectation disagree", lambda e: e in conflict)]
    if before is None:
        return [
            *against,
            (f"{focus} right", lambda e: now[e]),
            (f"{focus} wrong", lambda e: not now[e]),
        ]
    return [
        *against,
        (f"Won: {before} wrong, {focus} right", lambda e: now[e] and not then[e]),
        (f"Lost: {before} right, {focus} wrong", lambda e: then[e] and not now[e]),
        ("Both right", lambda e: now[e] and then[e]),
        ("Both wrong", lambda e: not now[e] and not then[e]),
    ]


def _rows(table: pa.Table, example_ids: set[str]) -> list[Row]:
    keep = [e in example_ids for e in table["example_id"].to_pylist()]
    return table.filter(pa.array(keep, pa.bool_())).to_pylist()


def _figure(
    example: Row,
    evidence: Sequence[Row],
    said: Sequence[Row],
    map_of: Mapping[str, Row],
    size_wh: tuple[int, int],
    pictures: Mapping[str, bytes],
) -> Figure:
    said = sorted(said, key=lambda row: policy_order(r["policy"] for r in said).index(row["policy"]))
    grids, places = {}, {}
    for row in said:
        if row["map_id"] is not None and row["map_id"] in map_of:
            archived = map_of[row["map_id"]]
            grids[row["policy"]] = overlays.times_even(_unpacked(archived))
            places[row["policy"]] = rectangle(region_of(archived), size_wh)
    top = max((float(grid.max()) for grid in grids.values()), default=0.0)
    answers = tuple(_answered(row, grids.get(row["policy"]), places.get(row["policy"]), top) for row in said)
    data = pictures.get(example["image_sha256"])
    return Figure(
        example=example,
        picture_uri=None if data is None else picture_uri(data),
        width_px=size_wh[0],
        height_px=size_wh[1],
        boxes=tuple((b["x1_px"], b["y1_px"], b["x2_px"], b["y2_px"]) for b in evidence),
        labels=tuple(dict.fromkeys(b["label"] for b in evidence if b["label"])),
        top=top,
        answers=answers,
    )


def _answered(
    row: Row, grid: np.ndarray | None, place: tuple[float, float, float, float] | None, top: float
) -> Answered:
    drawn = grid is not None and top > 0
    return Answered(
        policy=row["policy"],
        completion=row["completion"],
        thought=row["thought"],
        answer=row["answer"],
        correct=row["correct"],
        mass=row["mass"],
        chance=row["chance"],
        lift=row["lift"],
        reason=row["unscorable_reason"],
        heat_uri=data_uri(overlays.heat_png(grid, top), "image/png") if drawn and grid is not None else None,
        heat_xywh=place,
        grid=f"{grid.shape[1]}\N{MULTIPLICATION SIGN}{grid.shape[0]}" if grid is not None else None,
    )


def _unpacked(row: Row) -> np.ndarray:
    return unpack(row["values"], row["grid_h"], row["grid_w"])


def picture_uri(data: bytes, long_side_px: int = 480) -> str | None:
    """Upright, at most long_side_px, WebP; None for bytes that are no picture any more."""
    picture = open_upright(data, MAX_PIXELS)
    if isinstance(picture, PictureProblem):
        return None
    return data_uri(overlays.webp(Image.fromarray(picture.rgb), long_side_px), "image/webp")


def data_uri(data: bytes, mime: str) -> str:
    """The bytes as an address that needs no request."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"
