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
