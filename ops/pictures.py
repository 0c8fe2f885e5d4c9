"""Pictures from untrusted bytes: upright decoding under a pixel limit, the pixels' identity, their look.

Here: one way to turn the bytes of a file into RGB pixels, used by everybody, and what is derived from the
pixels alone. Not here: drawing (`ops/overlays.py`), which file belongs to which row (`ops/readers/`), which
pictures look alike (`ops/looks.py`), which side of the split a picture goes to (`ops/split.py`).
"""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Largest picture that is decoded unless a source says otherwise: 150 MB as RGB.

While it is looked at it takes 4 to 9 bytes a pixel, 16 if it is an animated WebP; so do others in other threads.
"""

THUMB_SIDE_PX = 16
THUMB_BYTES = THUMB_SIDE_PX * THUMB_SIDE_PX * 3

LUMA = np.array([0.299, 0.587, 0.114])
"""Luminance of red, green and blue (ITU-R BT.601)."""

FLAT = 0.5
"""A picture whose luminance varies by less than this has no perceptual hash: standard deviation, of 255."""

_HASHED_SIDE = 32
_FREQUENCIES = 8
_MARGIN = 0.01
_REDUCED_SIDE_PX = 128
_BAND_PIXELS = 2**19
_DCT = np.cos(np.pi / 64 * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(_HASHED_SIDE) + 1)) / 4
_DCT[0] /= np.sqrt(2)  # rows 0 to 7 of the orthonormal DCT-II of 32 values, [8, 32]

# Pillow also opens formats that start other programs (EPS) or that no picture data set uses; they stay shut.
Image.init()
_FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF") if name in Image.OPEN
]  # some builds of Pillow come without AVIF

_EXIF_ORIENTATION = 0x0112
_SIDES_SWAPPED = 5  # and above
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `rgb` is uint8 [height_px, width_px, 3], upright, read-only."""

    rgb: np.ndarray
    format: str
    width_px: int
    height_px: int
    sides_swapped: bool
    """True when EXIF swaps the sides: the file stores the picture height_px wide and width_px high."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """(width_px, height_px), upright."""
        return self.width_px, self.height_px


@dataclass(frozen=True)
class PictureProblem:
    """Why bytes are no usable picture: a reason of the quarantine's closed list, and what was seen."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Seen:
    """What is stored of a picture that was decoded, besides its file; `size_wh` in pixels, upright."""

    format: str
    size_wh: tuple[int, int]
    sides_swapped: bool
    pixels_sha256: str
    thumb: bytes
    phash: int | None


def open_upright(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture | PictureProblem:
    """Decode the bytes of one picture file; never raises for what the bytes hold.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, an animation
    gives its first frame. More than `max_pixels` pixels are refused by the header, before decoding.
    """
    upright = _upright(data, max_pixels)
    if isinstance(upright, PictureProblem):
        return upright
    pixels = np.asarray(upright.image)
    pixels.setflags(write=False)
    return Picture(pixels, upright.format, *upright.image.size, upright.sides_swapped)


def see(data: bytes, max_pixels: int = MAX_PIXELS) -> Seen | PictureProblem:
    """`open_upright` with `pixels_sha256`, `thumb` and `phash` of what it gives, faster and in less memory."""
    upright = _upright(data, max_pixels)
    if isinstance(upright, PictureProblem):
        return upright
    image = upright.image
    identity = _identity(image.size, (band.tobytes() for _, band in _bands(image)))
    cells = _cells(_reduced(image))
    return Seen(upright.format, image.size, upright.sides_swapped, identity, _thumb(cells), _phash(cells))


def pixels_sha256(rgb: np.ndarray) -> str:
    """Identity of what is seen: sha256 of b"{width}x{height}" followed by the upright RGB bytes, row by row.

    `rgb`: uint8 [height, width, 3]. Equal for a PNG and a BMP of the same pixels.
    """
    height_px, width_px = _checked(rgb).shape[:2]
    return _identity((width_px, height_px), [np.ascontiguousarray(rgb).reshape(-1).data])


def thumb(rgb: np.ndarray) -> bytes:
    """The picture as 16 x 16 RGB cells, each the mean of the pixels below it: 768 bytes, row-major.

    `rgb`: uint8 [height, width, 3]. Stretched to the square, so that a smaller copy has the same thumbnail; a
    pixel on a cell's edge counts by the share of it that lies inside. Of a side of 256 px or more, blocks of
    pixels are averaged first.
    """
    return _thumb(_cells(_reduced(_image_of(rgb))))


def phash(rgb: np.ndarray) -> int | None:
    """Perceptual hash: 64 bits that hardly change when a picture is encoded, resized or lit anew; None if flat.

    `rgb`: uint8 [height, width, 3]. The DCT hash (C. Zauner, "Implementation and Benchmarking of Perceptual
    Image Hash Functions", 2010; the 8 x 8 variant of the library imagehash): luminance on 32 x 32 cells, its
    DCT-II, of that the 8 x 8 lowest frequencies, one bit for each that is above their median, row-major from
    the highest bit down. Departures: cells are area means; the first bit, the brightness, is left 0, so the
    value is 0 to 2**63 - 1; and "above" means by 1 % of the picture's contrast, since in a symmetric drawing
    half of the frequencies are next to nothing and would give bits at random. Where the contrast is below
    FLAT all bits would be random: None, the hash tells nothing.
    """
    return _phash(_cells(_reduced(_image_of(rgb))))


class _Upright(NamedTuple):
    image: Image.Image
    """Mode RGB."""
    format: str
    sides_swapped: bool


class _Cells(NamedTuple):
    """Sums of the pixels below _HASHED_SIDE x _HASHED_SIDE equal cells, in 1/_HASHED_SIDE**2 of a pixel.

    `sums`: float64 [_HASHED_SIDE, _HASHED_SIDE, 3], whole numbers; `n_pixels`: how many there are in all.
    """

    sums: np.ndarray
    n_pixels: int


def _upright(data: bytes, max_pixels: int) -> _Upright | PictureProblem:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is our own limit
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        stored_wh = image.size
        if stored_wh[0] * stored_wh[1] > max_pixels:
            return _too_large(f"{stored_wh[0]} x {stored_wh[1]} px", max_pixels)
        format_name = image.format or "unknown"
        turned_by_pillow = format_name == "TIFF" and _orientation(image) >= _SIDES_SWAPPED  # as it is loaded
        image.load()
        orientation = _orientation(image)
        rgb = _rgb(image)
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
    except Image.DecompressionBombError as error:
        return _too_large(str(error), max_pixels)
    except UnidentifiedImageError:
        return PictureProblem("undecodable_picture", f"{len(data)} bytes in no known picture format")
    except (
        Exception
    ) as error:  # hostile bytes make Pillow raise nearly anything; one row must not end the run
        return PictureProblem(
            "undecodable_picture", f"{len(data)} bytes: {type(error).__name__}: {error}"[:500]
        )
    return _Upright(rgb, format_name, turned_by_pillow or rgb.size != stored_wh)


def _identity(size_wh: tuple[int, int], pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256(f"{size_wh[0]}x{size_wh[1]}".encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom, some rows at a time, and where they start: what is made of them stays small."""
    n_rows = max(1, _BAND_PIXELS // image.width)
    if n_rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, n_rows):
        yield top, image.crop((0, top, image.width, min(top + n_rows, image.height)))


def _thumb(cells: _Cells) -> bytes:
    n = _HASHED_SIDE // THUMB_SIDE_PX
    sums = cells.sums.reshape(THUMB_SIDE_PX, n, THUMB_SIDE_PX, n, 3).sum(axis=(1, 3))
    return np.floor(sums / (n * n * cells.n_pixels) + 0.5).astype(np.uint8).tobytes()


def _phash(cells: _Cells) -> int | None:
    low = _DCT @ (cells.sums / cells.n_pixels @ LUMA) @ _DCT.T
    contrast = float(np.sqrt(max(0.0, np.sum(np.square(low)) - low[0, 0] ** 2)))  # of a flat one, about 0
    if contrast < FLAT * _HASHED_SIDE:  # by Parseval the standard deviation is the contrast over 32
        return None
    bits = low > np.median(low) + _MARGIN * contrast
    bits[0, 0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _image_of(rgb: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(_checked(rgb)))


def _reduced(image: Image.Image) -> Image.Image:
    """The picture with each side below twice _REDUCED_SIDE_PX, blocks of pixels averaged."""
    factors = max(1, image.width // _REDUCED_SIDE_PX), max(1, image.height // _REDUCED_SIDE_PX)
    return image if factors == (1, 1) else image.reduce(factors)


def _cells(image: Image.Image) -> _Cells:
    """`image`: as `_reduced` gives it."""
    width, height = image.size
    pixels = np.frombuffer(image.tobytes(), np.uint8).reshape(height, 3 * width)
    rows = _summed(pixels).reshape(_HASHED_SIDE, width, 3).transpose(1, 0, 2)
    columns = _summed(rows.reshape(width, -1)).reshape(_HASHED_SIDE, _HASHED_SIDE, 3).transpose(1, 0, 2)
    return _Cells(columns.astype(np.float64), width * height)


def _summed(values: np.ndarray) -> np.ndarray:
    """Sums over _HASHED_SIDE equal parts of the first axis, in 1/_HASHED_SIDE of an entry: [_HASHED_SIDE, 1, ...].

    Exact: whole numbers of at most 255 * 255 * 255, below 2**24. Few and small steps, for each of them makes threads
    wait for one another.
    """
    entries, shares = _shares(len(values))
    return np.matmul(shares, values.take(entries, axis=0).astype(np.float32, copy=False))


@lru_cache(maxsize=2 * _REDUCED_SIDE_PX)
def _shares(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Of equal parts of so many entries: which entries each has, and how much of them, in 1/_HASHED_SIDE of one.

    Integers [_HASHED_SIDE, k] and float32 [_HASHED_SIDE, 1, k].
    """
    edges = np.arange(_HASHED_SIDE + 1)[:, None] * length
    entries = edges[:-1] // _HASHED_SIDE + np.arange(length // _HASHED_SIDE + 2)
    starts, ends = np.maximum(edges[:-1], entries * _HASHED_SIDE), (entries + 1) * _HASHED_SIDE
    inside = np.maximum(np.minimum(edges[1:], ends) - starts, 0)
    return np.minimum(entries, length - 1), inside.astype(np.float32)[:, None]


def _checked(rgb: np.ndarray) -> np.ndarray:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(
            f"want uint8 [height, width, 3] with at least one pixel, got {rgb.dtype} {list(rgb.shape)}"
        )
    return rgb


def _too_large(seen: str, max_pixels: int) -> PictureProblem:
    return PictureProblem(
        "picture_too_large", f"{seen}; at most {max_pixels} pixels (option max_pixels)"[:500]
    )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels: take the picture as stored
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed scale")
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()}, wanted 0 to 65535")
        shown = (grey >> 8).astype(np.uint8)
        if "transparency" in image.info:  # one value of grey, of which Pillow makes nothing in this mode
            shown[grey == image.info["transparency"]] = 255
        return Image.fromarray(shown).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for top, band in _bands(image):
        layer = band.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        rgb.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return rgb
