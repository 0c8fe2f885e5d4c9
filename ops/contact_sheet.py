"""A contact sheet of a source: small pictures with their boxes drawn, by which people find a wrong convention.

Here: which pictures are shown, and how the sheet is drawn. Not here: reading the chosen pictures (`storage/rows.py`),
and full-size drawings with saliency maps (`ops/overlays.py`).
"""

import functools
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from ops.convention_check import corners, refused_numbers
from ops.pictures import Picture, PictureProblem, open_upright
from ops.readers.detections import picture_name
from storage.asking import Rows, first_rows, having, parts, taken

MOST_PICTURES, MOST_REFUSED, MOST_BYTES = 24, 6, 100_000
COLUMNS, TILE_WH, TEXT_PX, GAP_PX = 6, (184, 138), 36, 12
MOST_ENLARGED = 3.0
PAPER, INK, SOFT, EMPTY = (251, 250, 247), (28, 28, 30), (91, 91, 98), (233, 230, 223)
KEPT, REFUSED = (255, 255, 255), (255, 96, 64)
_PICTURE_NAME = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?|ppm|avif)$", re.IGNORECASE)
_IMAGE_ID = re.compile(r'"image_id": ?(\d{1,18})\b')
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One place of the sheet: boxes in pixels of the upright picture, and two lines of text below it.

    A refused box may have its corners swapped or lie outside; it is drawn as far as it lies inside.
    """

    image_sha256: str | None
    file_name: str
    boxes: tuple[Box, ...]
    title: str
    text: str
    refused: bool = False


@dataclass(frozen=True)
class Candidate:
    """A refused row whose numbers are known: they are read by `convention` once the picture's size is known.

    It names its picture, or tells by which number another entry of its file does.
    """

    names: tuple[str, ...]
    numbers: tuple[float, float, float, float]
    reason: str
    source_file: str | None = None
    image_id: int | None = None


def chosen(tables: Mapping[str, Rows], most: int = MOST_PICTURES) -> list[Shown]:
    """Pictures evenly spread over the source in its own order, each with its first question and that one's boxes."""
    rows = first_rows(tables["examples"], "image_sha256").to_numpy()
    spread = np.unique(np.linspace(0, max(0, len(rows) - 1), min(most, len(rows))).round().astype(int))
    columns = ["example_id", "image_sha256", "question", "answer"]
    asked = taken(tables["examples"], rows[spread], columns).to_pylist()
    sides = ["x1_px", "y1_px", "x2_px", "y2_px", "label"]
    examples = [example["example_id"] for example in asked]
    of_these = having(tables["boxes"], "example_id", examples, ["example_id", *sides])
    pictures = [example["image_sha256"] for example in asked]
    named = having(tables["images"], "image_sha256", pictures, ["image_sha256", "file_name"])
    name_of = dict(zip(*(each.to_pylist() for each in named.columns), strict=True))
    around: dict[str, list[Mapping[str, Any]]] = {}
    for box in of_these.to_pylist():
        around.setdefault(box["example_id"], []).append(box)
    return [
        Shown(
            example["image_sha256"],
            name_of.get(example["image_sha256"], ""),
            tuple(_edges(box) for box in around.get(example["example_id"], ())),
            example["answer"],
            _labels(around.get(example["example_id"], ())) or example["question"],
        )
        for example in asked
    ]


def candidates(quarantine: Rows, images_folder: str = "", most: int = 10 * MOST_REFUSED) -> list[Candidate]:
    """Rows refused for their boxes, spread evenly, that name a picture, or its number, and whose own are known."""
    refused, start = [np.empty(0, np.int64)], 0
    for part in parts(quarantine, ["reason"]):
        for_box = pc.is_in(part["reason"], pa.array(["swapped_corners", "box_outside_picture"]))
        refused.append(start + np.flatnonzero(for_box.to_numpy()))
        start += part.num_rows
    places = np.concatenate(refused)
    rows = taken(
        quarantine, places[:: max(1, -(-len(places) // most))], ["reason", "detail", "raw", "source_file"]
    )
    found = []
    for place in range(rows.num_rows):
        row = rows.slice(place, 1)
        numbers, _ = refused_numbers(row)
        names = tuple(_picture_names(row["raw"][0].as_py(), images_folder))
        number = _IMAGE_ID.search(row["raw"][0].as_py())
        if len(numbers) and (names or number):
            told = (
                row["reason"][0].as_py(),
                row["source_file"][0].as_py(),
                int(number[1]) if number else None,
            )
            found.append(Candidate(names, tuple(numbers[0].tolist()), *told))
    return found


def refused(candidate: Candidate, convention: str, file_name: str, size_wh: tuple[int, int]) -> Shown:
    """A refused row in its picture, as the told convention reads it, with its corners put in order."""
    raw, sizes = np.array([candidate.numbers]), np.array([size_wh], dtype=np.float64)
    x1, y1, x2, y2 = corners(convention, raw, sizes)[0].tolist()
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    numbers = ", ".join(f"{number:g}" for number in candidate.numbers)
    return Shown(None, file_name, (box,), candidate.reason.replace("_", " "), f"[{numbers}]", refused=True)


def draw(
    shown: Sequence[Shown], data: Sequence[bytes | None], *, max_pixels: int, most_bytes: int = MOST_BYTES
) -> bytes:
    """The sheet as WebP of at most `most_bytes`; `data` holds each one's picture file, None where it cannot be had.

    Pictures are decoded one after the other and shrunk at once. Those with refused boxes come below the others.
    """
    kept = [place for place, each in enumerate(shown) if not each.refused]
    lost = [place for place, each in enumerate(shown) if each.refused]
    blocks = [("", kept)] if kept or not lost else []
    blocks += [("Refused for their boxes", lost)] if lost else []
    columns = max(1, min(COLUMNS, max((len(places) for _, places in blocks), default=1)))
    sheet = _paper(columns, [(title, -(-len(places) // columns)) for title, places in blocks])
    top = GAP_PX
    for title, places in blocks:
        if title:
            ImageDraw.Draw(sheet).text((GAP_PX, top + 4), title, fill=INK, font=_font(15))
            top += 30
        for number, place in enumerate(places):
            left = GAP_PX + number % columns * (TILE_WH[0] + GAP_PX)
            at = (left, top + number // columns * (TILE_WH[1] + TEXT_PX + GAP_PX))
            _tile(sheet, at, shown[place], data[place], max_pixels)
        top += -(-len(places) // columns) * (TILE_WH[1] + TEXT_PX + GAP_PX)
    return _encoded(sheet, most_bytes)


def _paper(columns: int, blocks: Sequence[tuple[str, int]]) -> Image.Image:
    height = GAP_PX + sum((30 if title else 0) + n * (TILE_WH[1] + TEXT_PX + GAP_PX) for title, n in blocks)
    return Image.new("RGB", (GAP_PX + columns * (TILE_WH[0] + GAP_PX), max(height, 60)), PAPER)


def _tile(sheet: Image.Image, at: tuple[int, int], shown: Shown, data: bytes | None, max_pixels: int) -> None:
    picture = PictureProblem("missing_file", "") if data is None else open_upright(data, max_pixels)
    pen = ImageDraw.Draw(sheet)
    below = at[1] + TILE_WH[1] + 3
    if isinstance(picture, Picture):
        small, scale = _small(picture)
        _frame(small, shown, scale)
        corner = (at[0], at[1] + TILE_WH[1] - small.height)
        sheet.paste(small, corner)
    else:
        pen.rectangle((at[0], at[1], at[0] + TILE_WH[0], at[1] + TILE_WH[1]), fill=EMPTY)
        pen.text((at[0] + 8, at[1] + 8), "picture cannot be read", fill=SOFT, font=_font(12))
    colour = (176, 44, 20) if shown.refused else INK
    for text, down, size_px, ink in ((shown.title, 0, 13, colour), (shown.text, 16, 11, SOFT)):
        drawn = (
            text if _has_glyphs(text) else shown.file_name
        )  # a name says more than empty frames for letters
        pen.text((at[0], below + down), _cut(drawn, size_px), fill=ink, font=_font(size_px))


def _small(picture: Picture) -> tuple[Image.Image, tuple[float, float]]:
    """The picture as large as its place allows, and by how much its sides were scaled."""
    scale = min(TILE_WH[0] / picture.width_px, TILE_WH[1] / picture.height_px, MOST_ENLARGED)
    size = (max(1, round(picture.width_px * scale)), max(1, round(picture.height_px * scale)))
    small = Image.fromarray(picture.rgb).resize(size, Image.Resampling.LANCZOS)
    return small, (size[0] / picture.width_px, size[1] / picture.height_px)


def _frame(small: Image.Image, shown: Shown, scale: tuple[float, float]) -> None:
    """Each box as a bright line between two dark ones; x2 and y2 are exclusive, and what is outside is cut."""
    pen = ImageDraw.Draw(small)
    for x1, y1, x2, y2 in shown.boxes:
        left, right = (min(max(x * scale[0], 0.0), small.width - 1.0) for x in (x1, x2))
        top, lower = (min(max(y * scale[1], 0.0), small.height - 1.0) for y in (y1, y2))
        x0, y0 = round(left), round(top)
        edges = (x0, y0, max(round(right) - 1, x0), max(round(lower) - 1, y0))
        for grown, colour in ((1, (0, 0, 0)), (-2, (0, 0, 0)), (0, REFUSED if shown.refused else KEPT)):
            line = (edges[0] - grown, edges[1] - grown, edges[2] + grown, edges[3] + grown)
            if line[2] >= line[0] and line[3] >= line[1]:
                pen.rectangle(line, outline=colour, width=2 if grown == 0 else 1)


def _encoded(sheet: Image.Image, most_bytes: int) -> bytes:
    """WebP at the best quality that fits; a smaller sheet where none does."""
    while True:
        for quality in (82, 70, 58, 46, 34):
            out = io.BytesIO()
            sheet.save(out, "WEBP", quality=quality, method=4)
            if out.tell() <= most_bytes:
                return out.getvalue()
        if min(sheet.size) < 16:
            raise ValueError(f"most_bytes={most_bytes}: too few for any picture")
        sheet = sheet.resize((sheet.width * 4 // 5, sheet.height * 4 // 5), Image.Resampling.LANCZOS)


@functools.cache
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)


def _has_glyphs(text: str) -> bool:
    """Whether the built-in font has every letter of a text."""
    font = _font(13)
    absent = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(char)) != absent for char in set(text[:200]) if char.isprintable())


def _cut(text: str, size_px: int) -> str:
    """The text in one line as far as it fits below a picture."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:200]).split())
    font = _font(size_px)
    if font.getlength(line) <= TILE_WH[0]:
        return line
    while line and font.getlength(line + "\N{HORIZONTAL ELLIPSIS}") > TILE_WH[0]:
        line = line[:-1]
    return line + "\N{HORIZONTAL ELLIPSIS}"


def _labels(boxes: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(box["label"] for box in boxes if box["label"]))


def _edges(box: Mapping[str, Any]) -> Box:
    return box["x1_px"], box["y1_px"], box["x2_px"], box["y2_px"]


def _picture_names(raw: str, folder: str) -> Iterator[str]:
    """Texts in a raw row that look like a picture's name, relative to the source; the row may have been cut."""
    for found in _STRING.finditer(raw):
        try:
            text = json.loads(f'"{found[1]}"')
        except ValueError:
            continue
        if _PICTURE_NAME.search(text):
            yield picture_name(folder, text)
