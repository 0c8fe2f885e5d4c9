"""Pictures that turn, lie, blow up or are broken: upright pixels or a problem, never an exception."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ops.pictures import Picture, PictureProblem, open_upright
from tests.ops.delivery import encoded, pixels, turned

RGB = pixels()
# What is seen of the stored rows and columns, by EXIF's own definition of where row 0 and column 0 are.
UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: RGB[::-1].transpose(1, 0, 2),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: RGB[:, ::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation(orientation):
    picture = open_upright(turned(RGB, orientation))
    assert isinstance(picture, Picture)
    assert (picture.rgb == UPRIGHT[orientation]).all()
    assert picture.sides_swapped == (orientation >= 5)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(kind: bytes, data: bytes) -> bytes:
    png = encoded(RGB)
    return png[:33] + _chunk(kind, data) + png[33:]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_of_other_formats(kind, orientation):
    """Red, green, blue and white quarters of 32 x 16 px, as stored: where they are seen, and how wide it all is."""
    names = np.array([["red", "green"], ["blue", "white"]])
    quarters = np.array([[[255, 0, 0], [0, 128, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = open_upright(
        encoded(np.kron(quarters, np.ones((16, 32, 1), np.uint8)), kind, exif=exif, quality=95)
    )
    assert picture.size_wh == ((64, 32) if orientation < 5 else (32, 64))
    assert picture.sides_swapped == (orientation >= 5)
    seen = {
        1: [["red", "green"], ["blue", "white"]],
        2: [["green", "red"], ["white", "blue"]],
        3: [["white", "blue"], ["green", "red"]],
        4: [["blue", "white"], ["red", "green"]],
        5: [["red", "blue"], ["green", "white"]],
        6: [["blue", "red"], ["white", "green"]],
        7: [["white", "green"], ["blue", "red"]],
        8: [["green", "white"], ["red", "blue"]],
    }[orientation]
    high, wide = picture.height_px // 4, picture.width_px // 4
    for row, column in np.ndindex(2, 2):
        pixel = picture.rgb[(2 * row + 1) * high, (2 * column + 1) * wide].astype(int)
        assert (
            np.abs(pixel - quarters[names == seen[row][column]][0]).max() < 12
        )  # JPEG and WebP lose a little


def test_a_text_chunk_that_blows_up_is_a_problem_or_passed_over():
    bomb = _with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 * 2**20), 9))
    opened = open_upright(bomb)
    assert isinstance(opened, PictureProblem | Picture)
    assert (
        opened.reason == "undecodable_picture"
        if isinstance(opened, PictureProblem)
        else (opened.rgb == RGB).all()
    )


def test_a_broken_colour_profile_changes_nothing():
    for profile in (b"", b"not a profile", bytes(500)):
        opened = open_upright(_with_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)))
        assert isinstance(opened, Picture) and (opened.rgb == RGB).all()


def _png(bits: int, colour: int, pixel: tuple[int, ...], *more: bytes) -> bytes:
    """7 x 5 px of one value, which is written as it stands; more chunks before the pixels."""
    header = struct.pack(">IIBBBBB", 7, 5, bits, colour, 0, 0, 0)
    row = b"\0" + struct.pack(f">{len(pixel)}{'H' if bits == 16 else 'B'}", *pixel) * 7
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(more)
    return start + _chunk(b"IDAT", zlib.compress(row * 5)) + _chunk(b"IEND", b"")


# Of 16 bits the upper 8 count. On white, v with opacity a becomes (a v + (255 - a) 255) / 255, a = 128 here.
PNGS = {
    "grey": (_png(16, 0, (0x12FF,)), [18, 18, 18]),
    "grey, that value clear": (_png(16, 0, (0x12FF,), _chunk(b"tRNS", b"\x12\xff")), [255, 255, 255]),
    "grey, another clear": (_png(16, 0, (0x12FF,), _chunk(b"tRNS", b"\x12\xfe")), [18, 18, 18]),
    "grey and opacity": (_png(16, 4, (0x12FF, 0x8000)), [136, 136, 136]),
    "colours": (_png(16, 2, (0x12FF, 0x00FF, 0xFF00)), [18, 0, 255]),
    "colours and opacity": (_png(16, 6, (0x12FF, 0x00FF, 0xFF00, 0x8000)), [136, 127, 255]),
    "8 bits, that colour clear": (_png(8, 2, (1, 2, 3), _chunk(b"tRNS", b"\0\1\0\2\0\3")), [255, 255, 255]),
    "8 bits, another clear": (_png(8, 2, (1, 2, 3), _chunk(b"tRNS", b"\0\1\0\2\0\4")), [1, 2, 3]),
}


@pytest.mark.parametrize("name", PNGS)
def test_deep_and_clear_png(name):
    data, wanted = PNGS[name]
    assert (open_upright(data).rgb == wanted).all()


def test_a_palette_with_opacities():
    palette = _chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))
    opacities = _chunk(b"tRNS", bytes([255, 0, 128]))
    wanted = ([255, 0, 0], [255, 255, 255], [127, 127, 255])  # red; nothing of green; half of blue
    for place, colour in enumerate(wanted):
        assert (open_upright(_png(8, 3, (place,), palette, opacities)).rgb == colour).all()


def test_inverted_cmyk_as_adobe_writes_it():
    """Red, as ink (0, 255, 255, 0), lies in the file as 255 minus that: (255, 0, 0, 255)."""
    stream = io.BytesIO()
    Image.new("CMYK", (16, 8), (0, 255, 255, 0)).save(stream, "JPEG", quality=95)
    plain = stream.getvalue()
    transform = plain.index(b"Adobe") + 11
    assert np.abs(open_upright(plain).rgb - np.array([255, 0, 0])).max() <= 1
    # Told that these are Y = 255, Cb = 0, Cr = 0, K = 255: R = 255 - 1.402 * 128 = 75.5, G is cut at 255,
    # B = 255 - 1.772 * 128 = 28.2; what is stored of the inks is 255 minus these, and ink is 255 minus that again.
    told = plain[:transform] + b"\2" + plain[transform + 1 :]
    assert np.abs(open_upright(told).rgb - np.array([255 - 75.5, 0, 255 - 28.2])).max() <= 1


def test_sixteen_bits_of_every_colour():
    deep = RGB.astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )
    opened = open_upright(png)
    assert isinstance(opened, Picture) and (opened.rgb == RGB).all()
    stream = io.BytesIO()
    Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800).save(stream, "TIFF")
    assert open_upright(stream.getvalue()).rgb[4, 6].tolist() == [239, 239, 239]  # 61200 / 256


def test_the_first_frame_of_an_animated_webp():
    frames = [Image.new("RGB", (7, 5), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert open_upright(stream.getvalue()).rgb[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_every_cut_of_an_animation_is_refused_or_its_first_frame(kind):
    frames = [Image.fromarray(pixels((40, 30), number)) for number in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    data = stream.getvalue()
    first = open_upright(data).rgb
    assert first.shape == (30, 40, 3) and np.abs(first.astype(int) - pixels((40, 30), 0)).mean() < 12
    reasons = set()
    for length in range(0, len(data), 11):
        outcome = open_upright(data[:length])
        if isinstance(outcome, Picture):
            assert (outcome.rgb == first).all()
        else:
            reasons.add(outcome.reason)
    assert reasons == {"undecodable_picture"}


def test_a_frame_smaller_than_its_screen_lies_on_white():
    """GIF by its description: a screen of 7 x 5, a frame of one red pixel at (2, 1), colour 0 red, nothing behind."""
    head = b"GIF89a" + struct.pack("<HHBBB", 7, 5, 0x80, 1, 0) + bytes([255, 0, 0, 0, 0, 255])
    control = b"!\xf9\4" + bytes([1, 0, 0, 1, 0])  # colour 1 is clear
    frame = b"," + struct.pack("<HHHHB", 2, 1, 1, 1, 0) + bytes([2, 2, 0x44, 0x01, 0])  # clear, 0, end
    rgb = open_upright(head + control + frame + b";").rgb
    wanted = np.full((5, 7, 3), 255)
    wanted[1, 2] = [255, 0, 0]
    assert (rgb == wanted).all()
