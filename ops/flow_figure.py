"""From picture through thought to answer: one answer's token flow as a figure of the report.

Here: which flows are shown (RULE), tokens merged into words, words folded into gaps where there are too many, and
the drawing. The numbers come from the table token_flows, they are computed in the training room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from ops import gallery, overlays
from ops.statistics import draw_order

Row = Mapping[str, Any]
MOST = 6
RULE = (
    "Of the archived flows of the champion, those whose answer is right and whose question has evidence boxes, in "
    f"the order of the same seeded hash; the first {MOST} with pictures not shown before in this section."
)
WIDTH, PICTURE, LEFT, GAP, CELL, LINKS = 1160, 214, 250, 46, 66, 92
TALLEST_PICTURE = 270
_MOST_WORDS, _MOST_ANSWERS, _TALLEST = 12, 4, 96
_THINNEST = 0.4  # px: a link below this would be a broken hairline; its number stays in the table


@dataclass(frozen=True)
class Word:
    """One word, or several folded into a gap (n_words > 1 or folded): text, tokens [start, stop), how many words."""

    text: str
    tokens: range
    folded: bool = False
    n_words: int = 1


@dataclass(frozen=True)
class Flow:
    """What a figure shows, in logits.

    thought_maps: [thought words, grid_h, grid_w]. used: [answer words, thought words].
    answer_maps: [answer words, grid_h, grid_w].
    """

    thoughts: tuple[Word, ...]
    answers: tuple[Word, ...]
    thought_maps: np.ndarray
    used: np.ndarray
    answer_maps: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """[thought words]: each word's share of all that speaks for the answer; 0 where it speaks against it."""
        speaks_for = self.used.clip(min=0).sum(axis=0)
        return speaks_for / speaks_for.sum() if speaks_for.sum() > 0 else speaks_for


def chosen(flows: pa.Table, predictions: pa.Table, examples: pa.Table, policy: str, seed: int) -> list[Row]:
    """Rows of token_flows by RULE."""
    columns = ["policy", "example_id", "correct"]
    right = {
        r["example_id"]
        for r in predictions.select(columns).to_pylist()
        if r["policy"] == policy and r["correct"]
    }
    boxed = {r["example_id"] for r in examples.select(["example_id", "n_boxes"]).to_pylist() if r["n_boxes"]}
    rows = [
        row
        for row in flows.to_pylist()
        if row["policy"] == policy and row["unscorable_reason"] is None and row["example_id"] in right & boxed
    ]
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: draw_order(seed, row["example_id"])):
        first.setdefault(row["image_sha256"], row)
    return list(first.values())[:MOST]


def words_of(tokens: Sequence[str]) -> list[Word]:
    """Tokens joined into words: a word begins where white space stands; white space alone joins the next word."""
    starts = [0] if tokens else []
    for i in range(1, len(tokens)):
        parted = tokens[i][:1].isspace() or tokens[i - 1][-1:].isspace()
        if parted and "".join(tokens[starts[-1] : i]).strip():
            starts.append(i)
    if len(starts) > 1 and not "".join(tokens[starts[-1] :]).strip():
        starts.pop()  # white space at the very end has no word after it
    stops = [*starts[1:], len(tokens)] if starts else []
    return [Word("".join(tokens[a:b]).strip(), range(a, b)) for a, b in zip(starts, stops, strict=True)]


def folded(words: Sequence[Word], weights: Sequence[float], keep: int) -> list[Word]:
    """The `keep` words of the largest weight in their order (earlier first on a tie); runs between become gaps."""
    kept = set(sorted(range(len(words)), key=lambda i: (-weights[i], i))[:keep])
    out: list[Word] = []
    for i, word in enumerate(words):
        if i in kept:
            out.append(word)
        elif out and out[-1].folded:
            last = out.pop()
            out.append(
                Word(
                    f"{last.text} {word.text}",
                    range(last.tokens.start, word.tokens.stop),
                    True,
                    last.n_words + 1,
                )
            )
        else:
            out.append(Word(word.text, word.tokens, True))
    return out


def flow_of(row: Row) -> Flow:
    """A row of token_flows by words: shares of a word's tokens, and of a gap's words, are summed with their signs."""
    grid = (row["grid_h"], row["grid_w"])
    n_answers, n_thoughts = len(row["answer_tokens"]), len(row["thought_tokens"])
    used = np.array(row["thoughts_used"], np.float64).reshape(n_answers, n_thoughts)
    thoughts = _fitted(words_of(row["thought_tokens"]), np.abs(used).sum(axis=0), _MOST_WORDS)
    answers = _fitted(words_of(row["answer_tokens"]), np.abs(used).sum(axis=1), _MOST_ANSWERS)
    looked = np.array(row["looked_at"], np.float64).reshape(n_thoughts, *grid)
    reached = np.array(row["reached_answer"], np.float64).reshape(n_answers, *grid)
    return Flow(
        tuple(thoughts),
        tuple(answers),
        _summed(looked, thoughts),
        _summed(_summed(used, answers).T, thoughts).T,
        _summed(reached, answers),
    )


def _fitted(words: list[Word], token_weights: np.ndarray, most: int) -> list[Word]:
    """As many words as there is room for, the rest folded."""
    weights = [float(token_weights[w.tokens.start : w.tokens.stop].sum()) for w in words]
    for keep in range(min(most, len(words)), 0, -1):
        tiles = folded(words, weights, keep)
        n_gaps = sum(tile.folded for tile in tiles)
        if WIDTH - LEFT - GAP * n_gaps >= CELL * keep:
            return tiles
    return words


def _summed(values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    return np.stack([values[w.tokens.start : w.tokens.stop].sum(axis=0) for w in words])


def figure(
    row: Row, example: Row, boxes: Sequence[Sequence[float]], size_wh: tuple[int, int], number: int
) -> Markup:
    """The figure as SVG; it draws the picture that the page defines as `flow-picture-{number}`.

    boxes: (x1, y1, x2, y2) in pixels of the picture of size_wh. Positive links are filled, negative ones dashed.
    """
    flow = flow_of(row)
    region = tuple(row[f"region_{edge}"] for edge in ("x1", "y1", "x2", "y2"))
    scene = _Scene(size_wh, region, boxes, f"flow-picture-{number}")
    edges = _columns(flow.thoughts)
    thumb = scene.fitted(
        min(b - a for (a, b), w in zip(edges, flow.thoughts, strict=True) if not w.folded) - 8, _TALLEST
    )
    top, bar = 26, 26 + thumb[1] + 44
    answer_y = bar + LINKS
    height = max(answer_y + 34 + thumb[1], 40 + scene.fitted(PICTURE, TALLEST_PICTURE)[1])
    parts = [
        _text("head", 0, 14, "The picture", "start"),
        _text("head", LEFT, 14, "The thought: what each word looked at", "start"),
        scene.drawn(0, top, scene.fitted(PICTURE, TALLEST_PICTURE), None, 0.0),
    ]
    tops = float(flow.thought_maps.max(initial=0)), float(flow.answer_maps.max(initial=0))
    for i, (word, (a, b)) in enumerate(zip(flow.thoughts, edges, strict=True)):
        parts.append(_thought(flow, i, word, (a, b), top, thumb, scene, tops[0]))
    centres = [(LEFT + WIDTH) / 2 + 190 * (i - (len(flow.answers) - 1) / 2) for i in range(len(flow.answers))]
    parts.append(_links(flow, edges, centres, bar, answer_y))
    parts.append(_text("head", LEFT, answer_y + 18, "The answer", "start"))
    for i, (word, x) in enumerate(zip(flow.answers, centres, strict=True)):
        parts.append(_answer(flow, i, word, x, answer_y, thumb, scene, tops[1]))
    said = "; ".join(f"{_label(w)} {share:.0%}" for w, share in zip(flow.thoughts, flow.shares, strict=True))
    answer = " ".join(word.text for word in flow.answers)
    return Markup(
        '<svg class="chart flow" viewBox="0 0 {} {:.0f}" role="img" aria-label="Flow for the question: {} '
        'Answer: {}. Share of each thought word in it: {}.">{}</svg>'
    ).format(WIDTH, height, example["question"], answer, said, Markup("").join(parts))


def numbers(row: Row) -> list[dict[str, Any]]:
    """The figure's numbers as rows of a table: each thought word, what it looked at and what it gave, in logits."""
    flow = flow_of(row)
    return [
        {
            "word": word.text if not word.folded else _label(word),
            "looked": _signed(flow.thought_maps[i].sum()),
            "used": [_signed(value) for value in flow.used[:, i]],
            "share": f"{flow.shares[i]:.0%}",
        }
        for i, word in enumerate(flow.thoughts)
    ]


@dataclass(frozen=True)
class _Scene:
    """The picture with its boxes and the part of it that the token grid spans."""

    size_wh: tuple[int, int]
    region: tuple[float, ...]
    boxes: Sequence[Sequence[float]]
    href: str

    def fitted(self, width: float, height: float) -> tuple[float, float]:
        scale = min(width / self.size_wh[0], height / self.size_wh[1])
        return self.size_wh[0] * scale, self.size_wh[1] * scale

    def drawn(
        self, x: float, y: float, wh: tuple[float, float], values: np.ndarray | None, top: float
    ) -> Markup:
        """The picture at a place of the figure, with the positive cells of `values` over it."""
        width, height = self.size_wh
        parts = [Markup('<use href="#{}"/>').format(self.href)]
        if values is not None and top > 0:
            x1, y1, x2, y2 = self.region
            png = overlays.heat_png(values.clip(min=0), top)
            parts.append(
                Markup(
                    '<image class="heat" href="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" '
                    'preserveAspectRatio="none"/>'
                ).format(
                    gallery.data_uri(png, "image/png"),
                    x1 * width,
                    y1 * height,
                    (x2 - x1) * width,
                    (y2 - y1) * height,
                )
            )
        for a, b, c, d in self.boxes:
            for css in ("box-out", "box-in"):
                parts.append(
                    Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                        css, a, b, c - a, d - b
                    )
                )
        return Markup(
            '<svg x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" viewBox="0 0 {} {}">{}</svg>'
        ).format(x, y, *wh, width, height, Markup("").join(parts))


def _columns(words: Sequence[Word]) -> list[tuple[float, float]]:
    """Left and right edge of each word's column; gaps are narrow."""
    n_gaps = sum(word.folded for word in words)
    wide = min((WIDTH - LEFT - GAP * n_gaps) / max(len(words) - n_gaps, 1), 132.0)
    edges, at = [], float(LEFT)
    for word in words:
        edges.append((at, at + (GAP if word.folded else wide)))
        at = edges[-1][1]
    return edges


def _thought(
    flow: Flow,
    i: int,
    word: Word,
    edge: tuple[float, float],
    top: float,
    thumb: tuple[float, float],
    scene: _Scene,
    brightest: float,
) -> Markup:
    middle, y = (edge[0] + edge[1]) / 2, top + thumb[1] + 18
    told = f"{word.text}: the picture gave {_signed(flow.thought_maps[i].sum())} logits; " + ", ".join(
        f"it gave {_signed(v)} to {_label(a)}" for v, a in zip(flow.used[:, i], flow.answers, strict=True)
    )
    if word.folded:
        body = _text(
            "gap", middle, top + thumb[1] / 2 - 2, f"\N{HORIZONTAL ELLIPSIS} {word.n_words}", "middle"
        )
        body += _text("gap", middle, top + thumb[1] / 2 + 13, "more", "middle")
    else:
        body = scene.drawn(middle - thumb[0] / 2, top, thumb, flow.thought_maps[i], brightest)
        body += _text("word", middle, y, _cut(word.text, edge[1] - edge[0]), "middle")
    body += _text("share", middle, y + 17, f"{flow.shares[i]:.0%}", "middle")
    return Markup("<g><title>{}</title>{}</g>").format(told, body)


def _answer(
    flow: Flow,
    i: int,
    word: Word,
    x: float,
    y: float,
    thumb: tuple[float, float],
    scene: _Scene,
    brightest: float,
) -> Markup:
    told = (
        f"{word.text}: {_signed(flow.used[i].sum())} logits straight from the thought; through the thought the "
        f"picture gave {_signed(flow.answer_maps[i].sum())}"
    )
    body = _text("said", x, y + 20, _cut(_label(word), 190), "middle")
    body += scene.drawn(x - thumb[0] / 2, y + 30, thumb, flow.answer_maps[i], brightest)
    return Markup("<g><title>{}</title>{}</g>").format(told, body)


def _links(
    flow: Flow, edges: Sequence[tuple[float, float]], centres: Sequence[float], top: float, bottom: float
) -> Markup:
    """Ribbons from thought words to answer words; one scale: as wide as fits both the columns and the answers."""
    sizes = np.abs(flow.used)
    at_words = (
        (b - a - 6) / max(total, 1e-12) for (a, b), total in zip(edges, sizes.sum(axis=0), strict=True)
    )
    room = min(*at_words, 170 / max(sizes.sum(axis=1).max(), 1e-12))
    wide, middle = sizes * room, (top + bottom) / 2
    from_x = [(a + b) / 2 - wide[:, t].sum() / 2 for t, (a, b) in enumerate(edges)]
    parts = []
    for i, centre in enumerate(centres):
        x = centre - wide[i].sum() / 2
        for t, word in enumerate(flow.thoughts):
            a, b, c, d = from_x[t], from_x[t] + wide[i, t], x, x + wide[i, t]
            from_x[t], x = b, d
            if b - a < _THINNEST:
                continue
            path = (
                f"M{a:.1f} {top:.0f}C{a:.1f} {middle:.0f} {c:.1f} {middle:.0f} {c:.1f} {bottom:.0f}"
                f"L{d:.1f} {bottom:.0f}C{d:.1f} {middle:.0f} {b:.1f} {middle:.0f} {b:.1f} {top:.0f}Z"
            )
            told = f"{_label(word)} \N{RIGHTWARDS ARROW} {_label(flow.answers[i])}: {_signed(flow.used[i, t])} logits"
            css = "link for" if flow.used[i, t] >= 0 else "link against"
            parts.append(Markup('<path class="{}" d="{}"><title>{}</title></path>').format(css, path, told))
    return Markup("").join(parts)


def _label(word: Word) -> str:
    return (
        f"\N{HORIZONTAL ELLIPSIS} {word.n_words} more word{'s' * (word.n_words > 1)}"
        if word.folded
        else word.text
    )


def _cut(text: str, width: float) -> str:
    room = max(int(width / 7.4), 3)
    return text if len(text) <= room else text[: room - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _text(css: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        css, x, y, anchor, text
    )


def answers_of(row: Row) -> list[str]:
    """The answer's words as the figure shows them."""
    return [_label(word) for word in flow_of(row).answers]
