"""Pictures from untrusted bytes: upright decoding under a pixel limit, the pixels' identity, the thumbnail.

Here: one way to turn the bytes of a file into RGB pixels, used by everybody, and what is derived from the
pixels alone. Not here: drawing (`ops/overlays.py`), which file belongs to which row (`ops/readers/`), which
side of the split a picture goes to (`ops/split.py`).
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 50_000_000
"""Largest picture that is decoded unless a source says otherwise: 150 MB as RGB."""

THUMB_SIDE_PX = 16
THUMB_BYTES = THUMB_SIDE_PX * THUMB_SIDE_PX * 3

# Pillow also opens formats that start other programs (EPS) or that no picture data set uses; they stay shut.
Image.init()
_FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF") if name in Image.OPEN
]  # some builds of Pillow come without AVIF

_EXIF_ORIENTATION = 0x0112
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


def open_upright(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture | PictureProblem:
    """Decode the bytes of one picture file; never raises for what the bytes hold.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, an animation
    gives its first frame. More than `max_pixels` pixels are refused by the header, before decoding.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels is our own limit
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        stored_wh = image.size
        if stored_wh[0] * stored_wh[1] > max_pixels:
            return _too_large(f"{stored_wh[0]} x {stored_wh[1]} px", max_pixels)
        format_name = image.format or "unknown"
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
    pixels = np.asarray(rgb)
    pixels.setflags(write=False)
    return Picture(pixels, format_name, rgb.width, rgb.height, rgb.size != stored_wh)


def pixels_sha256(rgb: np.ndarray) -> str:
    """Identity of what is seen: sha256 of b"{width}x{height}" followed by the upright RGB bytes, row by row.

    `rgb`: uint8 [height, width, 3]. Equal for a PNG and a BMP of the same pixels.
    """
    height_px, width_px = _checked(rgb).shape[:2]
    digest = hashlib.sha256(f"{width_px}x{height_px}".encode())
    digest.update(np.ascontiguousarray(rgb).tobytes())
    return digest.hexdigest()


def thumb(rgb: np.ndarray) -> bytes:
    """The picture as 16 x 16 RGB cells, each the mean of the pixels below it: 768 bytes, row-major.

    `rgb`: uint8 [height, width, 3]. Stretched to the square, so that a smaller copy has the same thumbnail.
    """
    side = (THUMB_SIDE_PX, THUMB_SIDE_PX)
    return Image.fromarray(np.ascontiguousarray(_checked(rgb))).resize(side, Image.Resampling.BOX).tobytes()


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
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"grey values from {grey.min()} to {grey.max()}, wanted 0 to 65535")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
