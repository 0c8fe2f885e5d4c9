import hashlib
import io
import struct
import zlib
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from PIL import Image

from ops.pictures import (
    THUMB_BYTES,
    Picture,
    PictureProblem,
    open_upright,
    phash,
    pixels_sha256,
    see,
    thumb,
)
from tests.ops.delivery import encoded, pixels, turned


def _opened(data: bytes) -> Picture:
    picture = open_upright(data)
    assert isinstance(picture, Picture), picture
    return picture


def _png_header_only(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT"


def test_lossless_formats_give_the_same_pixels():
    rgb = pixels()
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        picture = _opened(encoded(rgb, kind))
        assert picture.size_wh == (7, 5)
        assert (picture.rgb == rgb).all()
    assert _opened(encoded(rgb, "JPEG")).format == "JPEG"


def test_exif_is_applied():
    rgb = pixels()
    # Orientation 6: turn by a quarter clockwise, so the stored first column, read upwards, is the first row.
    clockwise = _opened(turned(rgb, 6))
    assert clockwise.size_wh == (5, 7)
    assert clockwise.sides_swapped
    assert (clockwise.rgb == rgb[::-1].transpose(1, 0, 2)).all()
    half = _opened(turned(rgb, 3))
    assert (half.rgb == rgb[::-1, ::-1]).all()
    assert not half.sides_swapped


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_leaves_the_picture_as_stored():
    rgb = pixels()
    picture = _opened(encoded(rgb, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    assert (picture.rgb == rgb).all()


def test_transparent_pixels_are_white():
    rgba = np.dstack([pixels(), np.full((5, 7), 255, np.uint8)])
    rgba[2, 3, 3] = 0
    picture = _opened(encoded(rgba))
    assert picture.rgb[2, 3].tolist() == [255, 255, 255]
    assert picture.rgb[2, 4].tolist() == rgba[2, 4, :3].tolist()


def test_sixteen_bit_grey_is_scaled_not_cut():
    grey = Image.fromarray((np.arange(35, dtype=np.uint16) * 1800).reshape(5, 7))
    stream = io.BytesIO()
    grey.save(stream, "PNG")
    # the last value is 34 * 1800 = 61200; 61200 / 256 = 239.06
    assert _opened(stream.getvalue()).rgb[4, 6].tolist() == [239, 239, 239]


def test_cmyk_palette_and_animation_become_rgb():
    for mode in ("CMYK", "P", "L", "1", "LA"):
        stream = io.BytesIO()
        Image.fromarray(pixels()).convert(mode).save(stream, "TIFF" if mode != "P" else "GIF")
        assert _opened(stream.getvalue()).rgb.shape == (5, 7, 3)
    frames = [Image.new("RGB", (7, 5), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    assert _opened(stream.getvalue()).rgb[0, 0].tolist() == [255, 0, 0]


def test_the_pixel_limit_holds_before_anything_is_decoded():
    # A header that claims 3e9 pixels and no data at all: only a check before decoding can name the size.
    for data in (_png_header_only(60_000, 50_000), _png_header_only(9_000, 9_000)):
        problem = open_upright(data)
        assert isinstance(problem, PictureProblem)
        assert problem.reason == "picture_too_large"
    assert open_upright(encoded(pixels()), max_pixels=34).reason == "picture_too_large"
    assert isinstance(open_upright(encoded(pixels()), max_pixels=35), Picture)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 7 5\nshowpage\n",
        _png_header_only(7, 5),
        encoded(pixels((70, 50)), "JPEG")[:900],
        encoded(pixels((70, 50)), "PNG")[:900],
        b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
    ],
)
def test_what_does_not_decode_is_a_problem_without_addresses(data):
    problem = open_upright(data)
    assert isinstance(problem, PictureProblem)
    assert problem.reason == "undecodable_picture"
    assert "0x" not in problem.detail  # the same bytes must give the same quarantine row


def test_every_cut_of_a_jpeg_is_refused_or_whole():
    data = encoded(pixels((40, 30)), "JPEG", progressive=True)
    whole = _opened(data).rgb
    for length in range(0, len(data), 7):
        outcome = open_upright(data[:length])
        if isinstance(outcome, Picture):
            assert (outcome.rgb == whole).all()
        else:
            assert outcome.reason == "undecodable_picture"


def test_pixels_identity_is_size_and_bytes():
    rgb = pixels()
    assert pixels_sha256(rgb) == hashlib.sha256(b"7x5" + rgb.tobytes()).hexdigest()
    assert pixels_sha256(rgb) != pixels_sha256(rgb.reshape(7, 5, 3))
    assert pixels_sha256(rgb[:, ::-1]) == pixels_sha256(rgb[:, ::-1].copy())
    with pytest.raises(ValueError, match="uint8"):
        pixels_sha256(rgb.astype(np.float32))


def test_thumb_is_the_mean_of_each_cell():
    # 32 x 48 px: each of the 16 x 16 cells covers 2 columns and 3 rows.
    rgb = np.zeros((48, 32, 3), np.uint8)
    rgb[3:6, 2:4] = [[[10, 0, 0], [20, 0, 0]]]  # cell row 1, column 1: mean red 15
    cells = np.frombuffer(thumb(rgb), np.uint8).reshape(16, 16, 3)
    assert len(thumb(rgb)) == THUMB_BYTES
    assert cells[1, 1].tolist() == [15, 0, 0]
    assert cells.sum() == 15


def test_phash_of_a_known_wave():
    # One cosine, half a period over the width: the only frequency is (0, 1), bit 62 from below.
    wave = 128 + 100 * np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    rgb = np.repeat(np.tile(wave, (96, 1)).astype(np.uint8)[..., None], 3, axis=2)
    assert phash(rgb) == 1 << 62
    assert phash(rgb.transpose(1, 0, 2)) == 1 << 55  # (1, 0): row 1 of 8, first column
    assert phash(255 - rgb) == 0


def test_a_flat_picture_has_no_phash():
    """Also where rounding leaves a contrast below nothing: so it does for the last three."""
    for colour in ((77, 77, 77), (205, 72, 112), (75, 63, 156), (107, 215, 144)):
        assert phash(np.full((30, 50, 3), colour, np.uint8)) is None, colour


def test_thumb_counts_a_pixel_by_its_share():
    # 24 columns on 16 cells: a cell is 1.5 pixels; the second holds half of pixel 1 and all of pixel 2.
    rgb = np.zeros((16, 24, 3), np.uint8)
    rgb[:, 1] = 90
    cells = np.frombuffer(thumb(rgb), np.uint8).reshape(16, 16, 3)
    assert cells[0, :3, 0].tolist() == [30, 30, 0]


def _glass(size_wh: tuple[int, int]) -> np.ndarray:
    """Pixels of which every column lets more through than the last: uint8 [height, width, 4]."""
    opacity = np.linspace(255, 0, size_wh[0]).astype(np.uint8)
    return np.dstack([pixels(size_wh), np.tile(opacity, (size_wh[1], 1))])


@pytest.mark.parametrize("size_wh", [(7, 5), (31, 600), (900, 733), (70_000, 2), (1, 1)])
def test_what_is_seen_on_the_way_is_what_the_pixels_give(size_wh):
    """Of a picture in one band or in many, a side below 32 or an odd one, in modes of all kinds."""
    rgb = pixels(size_wh)
    files = [encoded(rgb), encoded(_glass(size_wh)), encoded(rgb[..., 0]), encoded(rgb, "TIFF")]
    if max(size_wh) < 65_500:  # the longest side of a JPEG
        files += [turned(rgb, 6), encoded(rgb, "JPEG")]
    for data in files:
        picture, seen = _opened(data), see(data)
        assert (seen.format, seen.size_wh, seen.sides_swapped) == (
            picture.format,
            picture.size_wh,
            picture.sides_swapped,
        )
        assert seen.pixels_sha256 == pixels_sha256(picture.rgb)
        assert (seen.thumb, seen.phash) == (thumb(picture.rgb), phash(picture.rgb))
    for data in (b"", _png_header_only(60_000, 50_000), encoded(rgb)[:40]):
        assert see(data) == open_upright(data)


def test_a_large_picture_is_laid_on_white_in_every_row():
    rgba = _glass((900, 733))
    share = rgba[..., 3:] / 255
    wanted = rgba[..., :3] * share + 255 * (1 - share)
    assert np.abs(_opened(encoded(rgba)).rgb - wanted).max() <= 1  # Pillow computes in whole numbers


def test_thumb_is_the_mean_pixel_by_pixel():
    """Against a loop in fractions: each pixel is given to the cells in which it lies, by the share of it there."""
    rgb = pixels((19, 11), 3)
    sums = [[[Fraction()] * 3 for _ in range(16)] for _ in range(16)]
    for (y, x), (row, column) in product(np.ndindex(11, 19), np.ndindex(16, 16)):
        high = min(Fraction(y + 1), Fraction(11 * (row + 1), 16)) - max(Fraction(y), Fraction(11 * row, 16))
        wide = min(Fraction(x + 1), Fraction(19 * (column + 1), 16)) - max(
            Fraction(x), Fraction(19 * column, 16)
        )
        if high > 0 and wide > 0:
            cell = sums[row][column]
            sums[row][column] = [
                total + high * wide * int(value) for total, value in zip(cell, rgb[y, x], strict=True)
            ]
    cell_px = Fraction(19 * 11, 256)
    wanted = [int(total / cell_px + Fraction(1, 2)) for row in sums for cell in row for total in cell]
    assert list(thumb(rgb)) == wanted
