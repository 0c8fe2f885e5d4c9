"""Charts of the report as inline SVG, drawn for a width of about 400 px so that they stay legible on a phone.

Each function takes plain numbers and labels and returns markup; labels are escaped, colours and fonts come
from the page's style sheet by class (`p0`, `p1`, ... for policies, which also differ by marker shape).
What is shown, and of which table, is decided in ops/report.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

WIDTH = 420
_MAX_LABEL = 25
Place = Callable[[float], float]
_SHAPES = ("circle", "square", "diamond", "triangle")


@dataclass(frozen=True)
class Dot:
    """One estimate to draw: value with interval (None where there is none), and the words beside it."""

    label: str
    style: int
    value: float
    low: float | None
    high: float | None
    note: str = ""
    chance: float | None = None


@dataclass(frozen=True)
class Line:
    """One series over training steps; y holds None where the step did not log the value."""

    label: str
    style: int
    x: Sequence[float]
    y: Sequence[float | None]


def marker(style: int, x: float, y: float, size: float = 5.0) -> Markup:
    """The mark of a policy, centred on (x, y): colour by class, shape by position in the order."""
    shape = _SHAPES[style % len(_SHAPES)]
    css = f"mark p{style % 8}"
    if shape == "circle":
        return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(css, _n(x), _n(y), _n(size))
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.15), (1.15, 0.9), (-1.15, 0.9)],
    }[shape]
    points = " ".join(f"{_n(x + size * dx)},{_n(y + size * dy)}" for dx, dy in corners)
    return Markup('<polygon class="{}" points="{}"/>').format(css, points)


def key_mark(style: int) -> Markup:
    """A policy's mark as a small picture for legends and table heads."""
    return Markup('<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(
        marker(style, 7, 7.2, 4.6)
    )


def interval_rows(
    title: str,
    dots: Sequence[Dot],
    domain: tuple[float, float],
    *,
    ticks: Sequence[float],
    tick_text: Sequence[str],
    zero_line: bool = False,
) -> Markup:
    """One row per estimate: label, interval as a line, value as a mark, a short note at the right.

    A chance value is drawn as a short upright stroke. Values beyond the domain are cut at its edge.
    """
    left, right, top, step = _label_room([dot.label for dot in dots]), WIDTH - 62, 12, 27
    height = top + step * len(dots) + 24
    bottom = top + step * len(dots)
    x = _scale(domain, left, right)
    parts = [_grid(x, ticks, tick_text, top, bottom)]
    if zero_line:
        parts.append(_line("zero", x(0.0), top - 4, x(0.0), bottom))
    for i, dot in enumerate(dots):
        y = top + step * (i + 0.5)
        parts.append(_text("label", left - 12, y + 4, _cut(dot.label), "end"))
        if dot.chance is not None:
            parts.append(_line("chance", x(dot.chance), y - 9, x(dot.chance), y + 9))
        if dot.low is not None and dot.high is not None:
            parts.append(_line(f"whisker p{dot.style % 8}", x(dot.low), y, x(dot.high), y))
        parts.append(marker(dot.style, x(dot.value), y))
        parts.append(_text("note", WIDTH - 2, y + 4, dot.note, "end"))
    said = "; ".join(_said(dot) for dot in dots)
    return _svg(title, said, height, parts)


def mini_interval(dot: Dot, domain: tuple[float, float]) -> Markup:
    """The small strip under a number of the results table: decoration, so it has no alt text."""
    x = _scale(domain, 4, 116)
    parts = [_line("axis", 4, 8, 116, 8)]
    if dot.chance is not None:
        parts.append(_line("chance", x(dot.chance), 2, x(dot.chance), 14))
    if dot.low is not None and dot.high is not None:
        parts.append(_line(f"whisker p{dot.style % 8}", x(dot.low), 8, x(dot.high), 8))
    parts.append(marker(dot.style, x(dot.value), 8, 3.6))
    return Markup('<svg class="mini" viewBox="0 0 120 16" aria-hidden="true">{}</svg>').format(
        Markup("").join(parts)
    )


def paired_dots(
    title: str,
    pairs: Sequence[tuple[Dot, Dot]],
    heads: tuple[str, str],
    *,
    ticks: Sequence[float],
    tick_text: Sequence[str],
) -> Markup:
    """Two estimates per row joined by a line: filled mark for the first, hollow for the second, on 0 to 1."""
    left, right, top, step = _label_room([first.label for first, _ in pairs]), WIDTH - 62, 30, 46
    height = top + step * len(pairs) + 24
    bottom = top + step * len(pairs)
    x = _scale((0.0, 1.0), left, right)
    parts = [_grid(x, ticks, tick_text, top, bottom)]
    parts += [
        Markup('<circle class="mark plain" cx="{}" cy="12" r="4.5"/>').format(left),
        _text("note", left + 9, 16, heads[0], "start"),
        Markup('<circle class="mark plain hollow" cx="{}" cy="12" r="4.5"/>').format(left + 120),
        _text("note", left + 129, 16, heads[1], "start"),
    ]
    for i, (first, second) in enumerate(pairs):
        y = top + step * (i + 0.5)
        css = f"p{first.style % 8}"
        parts.append(_text("label", left - 12, y + 4, _cut(first.label), "end"))
        parts.append(_line(f"joint {css}", x(first.value), y, x(second.value), y))
        for dot, offset in ((first, -9), (second, 9)):
            if dot.low is not None and dot.high is not None:
                parts.append(_line(f"thin {css}", x(dot.low), y + offset, x(dot.high), y + offset))
        if first.chance is not None:
            parts.append(_line("chance", x(first.chance), y - 13, x(first.chance), y + 13))
        parts.append(marker(first.style, x(first.value), y, 6))
        parts.append(Markup('<g class="hollow">{}</g>').format(marker(second.style, x(second.value), y, 6)))
        parts.append(_text("note", WIDTH - 2, y + 4, first.note, "end"))
    said = "; ".join(f"{a.label}: {heads[0]} {a.value:.2f}, {heads[1]} {b.value:.2f}" for a, b in pairs)
    return _svg(title, said, height, parts)


def lines(title: str, series: Sequence[Line], *, unit_range: bool, smooth: int) -> Markup:
    """Series over training steps: every step faint, and a centred moving mean of `smooth` steps on top.

    unit_range: the y axis is 0 to 1; otherwise it spans the data. Missing values leave a gap; but what is never logged
    in two steps on end (a mean of every sixth step) is drawn as marks with a line between them.
    """
    left, right, top, bottom = 44, WIDTH - 8, 10, 176
    xs = [v for line in series for v in line.x]
    ys = [v for line in series for v in line.y if v is not None]
    x_ticks = nice_ticks(min(xs), max(xs), 5)
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if unit_range else nice_ticks(min(ys), max(ys), 4)
    x = _scale((min(xs), max([*xs, min(xs) + 1e-9])), left, right)
    y_low, y_high = min([*ys, y_ticks[0]]), max([*ys, y_ticks[-1]])
    y = _scale((0.0, 1.0) if unit_range else (y_low, max(y_high, y_low + 1e-9)), bottom, top)
    parts = []
    for tick in y_ticks:
        parts.append(_line("rule", left, y(tick), right, y(tick)))
        parts.append(_text("tick", left - 6, y(tick) + 4, _short(tick), "end"))
    for tick in x_ticks:
        parts.append(_text("tick", x(tick), bottom + 17, _short(tick), "middle"))
    parts.append(_text("tick", right, bottom + 34, "step", "end"))
    for line in series:
        if not any(a is not None and b is not None for a, b in pairwise(line.y)):
            seen = [(at, value) for at, value in zip(line.x, line.y, strict=True) if value is not None]
            parts.append(_path(f"curve p{line.style % 8}", [a for a, _ in seen], [v for _, v in seen], x, y))
            parts += [marker(line.style, x(at), y(value), 3.2) for at, value in seen]
            continue
        parts.append(_path(f"raw p{line.style % 8}", line.x, line.y, x, y))
        parts.append(_path(f"curve p{line.style % 8}", line.x, moving_mean(line.y, smooth), x, y))
    said = "; ".join(f"{line.label} from {_end(line.y, 0)} to {_end(line.y, -1)}" for line in series)
    return _svg(title, said, bottom + 40, parts)


def share_bar(title: str, shares: Sequence[tuple[str, str, int]]) -> Markup:
    """One horizontal bar divided by counts: (label, css class, count). Nothing is drawn for a total of 0."""
    total = sum(count for _, _, count in shares)
    if total == 0:
        return Markup("")
    parts, at = [], 0.0
    for _, css, count in shares:
        width = 100 * count / total
        parts.append(
            Markup('<rect class="{}" x="{}" y="0" width="{}" height="8"/>').format(css, _n(at), _n(width))
        )
        at += width
    said = ", ".join(f"{label} {count}" for label, _, count in shares)
    return Markup(
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        'aria-label="{}: {}">{}</svg>'
    ).format(title, said, Markup("").join(parts))


def moving_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    """Centred mean over `window` steps, shorter at the ends; missing values are left out, never 0."""
    half = max(window, 1) // 2
    out: list[float | None] = []
    for i, value in enumerate(values):
        near = [v for v in values[max(0, i - half) : i + half + 1] if v is not None]
        out.append(None if value is None else sum(near) / len(near))
    return out


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers inside [low, high], about `wanted` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)] or [low]


def _label_room(labels: Sequence[str]) -> float:
    """Width kept for the labels at the left: about 7.4 px a letter, and never more than half the chart."""
    return min(16 + 7.4 * max(len(_cut(label)) for label in labels), 0.48 * WIDTH)


def _cut(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _scale(domain: tuple[float, float], start: float, end: float) -> Place:
    low, high = domain

    def place(value: float) -> float:
        return start + (end - start) * (min(max(value, low), high) - low) / (high - low)

    return place


def _grid(x: Place, ticks: Sequence[float], texts: Sequence[str], top: float, bottom: float) -> Markup:
    parts = []
    for tick, text in zip(ticks, texts, strict=True):
        parts.append(_line("rule", x(tick), top, x(tick), bottom))
        parts.append(_text("tick", x(tick), bottom + 16, text, "middle"))
    return Markup("").join(parts)


def _path(css: str, xs: Sequence[float], ys: Sequence[float | None], x: Place, y: Place) -> Markup:
    commands, pen_down = [], False
    for a, b in zip(xs, ys, strict=True):
        if b is None:
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{_n(x(a))} {_n(y(b))}")
        pen_down = True
    return Markup('<path class="{}" d="{}"/>').format(css, "".join(commands))


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css, _n(x1), _n(y1), _n(x2), _n(y2)
    )


def _text(css: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        css, _n(x), _n(y), anchor, text
    )


def _svg(title: str, said: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}. {}">{}</svg>').format(
        WIDTH, _n(height), title, said, Markup("").join(parts)
    )


def _said(dot: Dot) -> str:
    interval = "" if dot.low is None or dot.high is None else f" ({dot.low:.3f} to {dot.high:.3f})"
    chance = "" if dot.chance is None else f", chance {dot.chance:.3f}"
    return f"{dot.label} {dot.value:.3f}{interval}{chance}"


def _end(values: Sequence[float | None], which: int) -> str:
    seen = [v for v in values if v is not None]
    return f"{seen[which]:.3g}" if seen else "nothing"


def _short(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _n(value: float) -> str:
    """A coordinate with at most two decimals, the same on every machine."""
    return f"{round(value, 2) + 0.0:g}" if abs(value) < 10000 else f"{value:.0f}"
