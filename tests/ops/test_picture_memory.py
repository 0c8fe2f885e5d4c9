"""How much memory pictures take, as the kernel counts it for a process: headers that lie, and large pictures."""

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.ops.delivery import encoded

LOOK = """
import json, pathlib, re, sys
from ops.pictures import see
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
files = [pathlib.Path(name).read_bytes() for name in sys.argv[1:]]
see(files[0])
found = []
for data in files[1:]:
    before, seen = peak(), see(data)
    found.append([getattr(seen, "reason", None), peak() - before])
print(json.dumps(found))
"""


def _looked_at(tmp_path, files: list[bytes]) -> list[tuple[str | None, int]]:
    """Of each file, taken in turn by a fresh process: why it was refused, and by how many kB the peak rose."""
    small = encoded(np.zeros((5, 7, 3), np.uint8))
    names = [tmp_path / str(number) for number in range(len(files) + 1)]
    for name, data in zip(names, [small, *files], strict=True):
        name.write_bytes(data)
    command = [sys.executable, "-c", LOOK, *map(str, names)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [(reason, grown_kb) for reason, grown_kb in json.loads(ended.stdout)]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


def _gif(screen: int, frame: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\2\2\x4c\1\0;"


def _bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 70, 0, 0, 54) + head + bytes(16)


def _jpeg(width: int, height: int) -> bytes:
    data = encoded(np.zeros((5, 7, 3), np.uint8), "JPEG")
    size = data.index(b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (278, height), (279, 99)]
    entries = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def _webp(side: int) -> bytes:
    """An animation whose canvas is a square so wide, with one frame of 7 x 5."""
    stream = io.BytesIO()
    Image.new("RGB", (7, 5)).save(stream, "WEBP", lossless=True)
    canvas = struct.pack("<I", 2) + 2 * struct.pack("<I", side - 1)[:3]
    frame = bytes(6) + b"\6\0\0\4\0\0" + bytes(4) + stream.getvalue()[12:]
    parts = ((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(part)) + part for name, part in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": _png(60_000, 50_000),
    "the largest png": _png(2**31 - 1, 2**31 - 1),
    "a png just too large": _png(7_072, 7_071),  # 50,006,112 pixels
    "gif": _gif(65_535, 7),
    "a frame beyond its gif": _gif(7, 65_535),
    "bmp": _bmp(60_000, 50_000),
    "a bmp upside down": _bmp(60_000, -50_000),
    "jpeg": _jpeg(65_500, 65_500),
    "tiff": _tiff(60_000, 50_000),
    "ppm": b"P6 60000 50000 255\n" + bytes(10),
    "webp": _webp(16_383),
}


def test_a_header_that_claims_too_much_costs_no_memory(tmp_path):
    found = _looked_at(tmp_path, list(BOMBS.values()))
    for name, (reason, grown_kb) in zip(BOMBS, found, strict=True):
        assert reason == "picture_too_large", name
        assert grown_kb < 8_000, name  # the least of them would be 150 MB


def _large(mode: str) -> bytes:
    """16 million pixels of one colour."""
    stream = io.BytesIO()
    image = Image.new(mode, (4_000, 4_000), 7 if mode in ("L", "P", "I;16") else (7, 8, 9, 100)[: len(mode)])
    image.save(stream, "PNG", compress_level=1, **({"transparency": 7} if mode == "P" else {}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel"), [("RGB", 4), ("L", 5), ("P", 5), ("RGBA", 8), ("I;16", 9)]
)
def test_a_large_picture_takes_few_bytes_a_pixel(mode, bytes_per_pixel, tmp_path):
    """What Pillow holds, 4 bytes a pixel of RGB, and what was stored; of all else a few rows at a time."""
    ((reason, grown_kb),) = _looked_at(tmp_path, [_large(mode)])
    assert reason is None
    assert grown_kb * 1024 < (bytes_per_pixel + 1) * 16e6
