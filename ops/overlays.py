"""Saliency maps and boxes drawn over pictures.

A map is drawn as the exact blocks of the token grid: its cells divide the region that the policy saw evenly, so
that on a whole picture cell (row, column) covers column * width / grid_w to (column + 1) * width / grid_w, and
likewise downwards. Nothing is smoothed, because the policy saw nothing finer. Colours are inferno
(perceptually uniform: lightness rises evenly), and opacity rises with the value too, so that the picture shows
where the map is empty.

Reading and storing pictures is not done here; bytes come in and bytes go out.
"""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from ops.grid import WHOLE, Region, on_pixels

Box = tuple[float, float, float, float]

# Eleven stations of inferno (matplotlib, CC0), evenly spaced; straight lines in sRGB between them.
_INFERNO = "000004160b39420a686a176e932667bc3754dd513af37819fca50af6d746fcffa4"
_STATIONS = np.frombuffer(bytes.fromhex(_INFERNO), dtype=np.uint8).reshape(-1, 3).astype(np.float64)
MAX_OPACITY = 0.85


def inferno(values: np.ndarray) -> np.ndarray:
    """Colours uint8 [..., 3] for values in [0, 1]; values beyond are cut."""
    at = np.linspace(0.0, 1.0, len(_STATIONS))
    channels = [np.interp(values, at, _STATIONS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def times_even(values: np.ndarray) -> np.ndarray:
    """The map in multiples of an even spread: float64, same shape, mean 1. An all-zero map stays all zero."""
    grid = np.asarray(values, dtype=np.float64)
    if grid.ndim != 2 or grid.size == 0 or not np.isfinite(grid).all() or (grid < 0).any():
        raise ValueError(f"map of shape {grid.shape}: wanted a grid of finite values that are not negative")
    total = grid.sum()
    return grid * (grid.size / total) if total > 0 else grid


def heat_rgba(values: np.ndarray, top: float) -> np.ndarray:
    """uint8 [grid_h, grid_w, 4]: inferno of value / top, opacity rising with its square root.

    values: as of times_even. top: the value that gets the brightest colour, above 0; share it between maps
    that are to be compared.
    """
    if not top > 0:
        raise ValueError(f"top={top}: wanted the value of the brightest colour, above 0")
    share = np.clip(values / top, 0.0, 1.0)
    alpha = np.rint(255 * MAX_OPACITY * np.sqrt(share)).astype(np.uint8)
    return np.concatenate([inferno(share), alpha[..., None]], axis=-1)


def heat_png(values: np.ndarray, top: float) -> bytes:
    """The heat layer as a PNG with one pixel per cell, to be scaled up without smoothing."""
    out = io.BytesIO()
    Image.fromarray(heat_rgba(values, top)).save(out, "PNG", optimize=True)
    return out.getvalue()


def scale_png(steps: int = 64) -> bytes:
    """The colour scale as a PNG of one row, from 0 at the left to the top at the right."""
    return heat_png(np.linspace(0.0, 1.0, steps)[None, :], 1.0)


def shrunk(picture: Image.Image, long_side_px: int) -> Image.Image:
    """The picture in RGB, its long side at most long_side_px; never enlarged."""
    scale = min(1.0, long_side_px / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    rgb = picture.convert("RGB")
    return rgb if size == picture.size else rgb.resize(size, Image.Resampling.LANCZOS)


def webp(picture: Image.Image, long_side_px: int = 480, quality: int = 82) -> bytes:
    """The shrunk picture as WebP."""
    out = io.BytesIO()
    shrunk(picture, long_side_px).save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def overlay(
    picture: Image.Image,
    values: np.ndarray | None,
    boxes: Sequence[Box],
    *,
    region: Region = WHOLE,
    top: float | None = None,
    long_side_px: int = 480,
) -> bytes:
    """PNG of the picture with the map (None: none) and the boxes on it.

    values: [grid_h, grid_w], not negative, any scale. boxes: (x1, y1, x2, y2) in pixels of `picture`.
    region: the part of the picture that the grid spans; nothing is painted outside of it, and cells on padding are
    not seen. top: see heat_rgba, in multiples of an even spread; by default this map's own highest cell. Raises
    ValueError for a map, a region or a box that is none.
    """
    bad = [box for box in boxes if not np.isfinite(box).all() or box[2] < box[0] or box[3] < box[1]]
    if bad:
        raise ValueError(f"boxes {bad}: wanted finite x1 <= x2, y1 <= y2 in pixels")
    base = shrunk(picture, long_side_px)
    if values is not None and np.asarray(values).any():
        even = times_even(values)
        cells = heat_rgba(even, top if top is not None else float(even.max()))
        heat = Image.fromarray(on_pixels(cells, base.size, region))
        base = Image.alpha_composite(base.convert("RGBA"), heat).convert("RGB")
    scale_x, scale_y = base.width / picture.width, base.height / picture.height
    draw = ImageDraw.Draw(base)
    for x1, y1, x2, y2 in boxes:
        # x2 and y2 are exclusive edges: the last pixel inside is one before them
        corners = (
            x1 * scale_x,
            y1 * scale_y,
            max(x2 * scale_x - 1, x1 * scale_x),
            max(y2 * scale_y - 1, y1 * scale_y),
        )
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        inner = (corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1)
        if inner[2] > inner[0] and inner[3] > inner[1]:
            draw.rectangle(inner, outline=(255, 255, 255), width=2)
    out = io.BytesIO()
    base.save(out, "PNG")
    return out.getvalue()
