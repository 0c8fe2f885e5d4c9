"""Composing one scene: a background, some things on it, and where exactly each can be seen.

Which things exist belongs to `ops/scene_objects.py`; questions to `ops/scene_questions.py`; files to `ops/scenes.py`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ops.scene_objects import COLOURS, OBJECT_BY_NAME, OBJECTS, sprite

SIZES_WH: tuple[tuple[int, int], ...] = (
    (252, 168),
    (168, 252),
    (266, 182),
    (210, 154),
    (154, 210),
    (196, 196),
    (280, 168),
)
"""Picture sizes in pixels; none but one is square, and some are no multiple of a token's side."""

ODD_COLOUR_RATE = 0.03
"""How often a thing with a typical colour is drawn in another one in an ordinary scene."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placed:
    """One thing in a scene. `box` is its visible extent in pixels (x1, y1, x2, y2; ends exclusive)."""

    name: str
    colour: str
    place: str
    cell_row_column: tuple[int, int]
    box: Box


@dataclass(frozen=True)
class Scene:
    """A picture (uint8 RGB [h, w, 3]) and what it shows, in reading order of the cells."""

    picture: NDArray[np.uint8]
    placed: tuple[Placed, ...]
    cells_rows_columns: tuple[int, int]


@dataclass(frozen=True)
class _Plan:
    """A thing to draw: in which cell, how large, and how far from the cell's middle (shares of the free room)."""

    name: str
    colour: str
    cell: tuple[int, int]
    side_share: float
    shift_xy: tuple[float, float]
    mirrored: bool


@dataclass(frozen=True)
class ScenePlan:
    """All that decides a scene but its film grain."""

    size_wh: tuple[int, int]
    things: tuple[_Plan, ...]
    background_seed: int

    def recoloured(self, index: int, colour: str) -> "ScenePlan":
        """The same plan with thing `index` in another colour."""
        changed = replace(self.things[index], colour=colour)
        return replace(self, things=(*self.things[:index], changed, *self.things[index + 1 :]))


def place_name(cell: tuple[int, int], rows_columns: tuple[int, int]) -> str:
    """The words for a cell: 'top left', 'middle right', 'bottom centre'."""
    vertical = {2: ("top", "bottom"), 3: ("top", "middle", "bottom")}[rows_columns[0]][cell[0]]
    horizontal = {2: ("left", "right"), 3: ("left", "centre", "right")}[rows_columns[1]][cell[1]]
    return f"{vertical} {horizontal}"


def cells_of(size_wh: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells: the longer side has three, a near-square picture two and two."""
    width, height = size_wh
    return (2, 3) if width > 1.15 * height else (3, 2) if height > 1.15 * width else (2, 2)


def draw_plan(rng: Generator, odd_colour_rate: float = ODD_COLOUR_RATE) -> ScenePlan:
    """Draw sizes, things, colours and places of a scene with two to five things."""
    size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]
    rows, columns = cells_of(size_wh)
    n_things = int(rng.integers(2, min(rows * columns, 6)))
    cells = [divmod(int(k), columns) for k in sorted(rng.choice(rows * columns, n_things, replace=False))]
    names = [OBJECTS[rng.integers(len(OBJECTS))].name for _ in cells]
    if rng.random() < 0.45:  # several of a kind, for counting
        repeats = rng.choice(n_things, size=int(rng.integers(2, n_things + 1)), replace=False)
        for index in repeats:
            names[index] = names[repeats[0]]
    things = tuple(
        _Plan(
            name,
            _draw_colour(rng, name, odd_colour_rate),
            (int(cell[0]), int(cell[1])),
            float(rng.uniform(0.72, 1.0)),
            (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
            bool(rng.random() < 0.5),
        )
        for name, cell in zip(names, cells, strict=True)
    )
    return ScenePlan(size_wh, things, int(rng.integers(2**31)))


def _draw_colour(rng: Generator, name: str, odd_colour_rate: float) -> str:
    typical = OBJECT_BY_NAME[name].typical_colour
    if typical is None:
        return str(rng.choice(list(COLOURS)))
    return other_colour(rng, typical) if rng.random() < odd_colour_rate else typical


def other_colour(rng: Generator, colour: str) -> str:
    """Any colour but `colour`."""
    return str(rng.choice([name for name in COLOURS if name != colour]))


def compose(plan: ScenePlan, grain_seed: int) -> Scene:
    """Draw a plan. The same plan and grain seed give the same pixels."""
    (width, height), (rows, columns) = plan.size_wh, cells_of(plan.size_wh)
    canvas = _background(np.random.default_rng(plan.background_seed), width, height)
    owner = np.full((height, width), -1, dtype=np.int16)
    for index, thing in enumerate(plan.things):
        _paste(canvas, owner, index, thing, width / columns, height / rows)
    grain = np.random.default_rng(grain_seed).normal(0.0, 2.0, size=(height, width, 1))
    picture = np.clip(np.rint(canvas + grain), 0, 255).astype(np.uint8)
    placed = tuple(
        Placed(
            thing.name,
            thing.colour,
            place_name(thing.cell, (rows, columns)),
            thing.cell,
            _extent(owner == index),
        )
        for index, thing in enumerate(plan.things)
    )
    return Scene(picture, placed, (rows, columns))


def _paste(
    canvas: NDArray[np.float64],
    owner: NDArray[np.int16],
    index: int,
    thing: _Plan,
    cell_w: float,
    cell_h: float,
) -> None:
    height, width = owner.shape
    image = sprite(thing.name, thing.colour, round(min(cell_w, cell_h) * thing.side_share), thing.mirrored)
    h, w = image.shape[:2]
    row, column = thing.cell
    left = (column + 0.5) * cell_w - w / 2 + thing.shift_xy[0] * max(0.0, (cell_w - w) / 2)
    top = (row + 0.5) * cell_h - h / 2 + thing.shift_xy[1] * max(0.0, (cell_h - h) / 2)
    x, y = int(np.clip(round(left), 0, width - w)), int(np.clip(round(top), 0, height - h))
    alpha = image[..., 3:].astype(np.float64) / 255.0
    window = canvas[y : y + h, x : x + w]
    window[:] = alpha * image[..., :3] + (1.0 - alpha) * window
    owner[y : y + h, x : x + w][image[..., 3] > 127] = index


def _extent(visible: NDArray[np.bool_]) -> Box:
    ys, xs = np.nonzero(visible)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def _background(rng: Generator, width: int, height: int) -> NDArray[np.float64]:
    """A muted background, float64 [h, w, 3]: plain, gradient, stripes, checks or blots."""
    first, second = (_muted(rng), _muted(rng))
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64)
    kind = rng.integers(5)
    if kind == 0:
        share = np.zeros((height, width))
    elif kind == 1:
        share = ys / height if rng.random() < 0.5 else xs / width
    elif kind == 2:
        angle, period = rng.uniform(0, np.pi), rng.uniform(14, 40)
        share = 0.5 + 0.5 * np.sin(2 * np.pi * (xs * np.cos(angle) + ys * np.sin(angle)) / period)
    elif kind == 3:
        side = rng.integers(12, 36)
        share = ((xs // side + ys // side) % 2).astype(np.float64)
    else:
        centres = rng.uniform(0, 1, size=(6, 2)) * (width, height)
        near = [np.exp(-((xs - cx) ** 2 + (ys - cy) ** 2) / (2 * 26.0**2)) for cx, cy in centres]
        share = np.clip(np.sum(near, axis=0), 0, 1)
    return first * (1 - share[..., None]) + second * share[..., None]


def _muted(rng: Generator) -> NDArray[np.float64]:
    grey = rng.uniform(150, 250)
    return np.clip(grey + rng.uniform(-22, 22, size=3), 0, 255)
