"""How fast and in how much memory a COCO file is normalised: `python -m tests.benchmarks.normalise [--small]`.

A synthetic file as large as COCO's own: 1 million boxes over 120,000 pictures of random sizes, three kinds a picture,
80 kinds, boxes in random order with two decimals, pictures by reference and never opened. Ours makes the four tables,
questions with their ids included; the peers (`tests/benchmarks/peers/`, in an environment of their own, see
`make bench`) read the same file and write one table of boxes. Whole processes, in turn, with nothing else running:
seconds are medians, memory is the highest resident set. What all of them found is compared, box by box.

JSON: `side_by_side` with `times_faster` than the fastest peer (wanted 5) and `peak_gb` (wanted under 0.7); `growth`
from 10 thousand to 5 million boxes, with microseconds a box; `with_pictures`, a source of JPEG files, against decoding
alone in as many threads. Exit code 1 when a figure misses, 2 when boxes differ.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from ops.normalise import normalise_into
from ops.pictures import open_upright
from ops.sources import Source
from storage.objects import Store

HERE = Path(__file__).resolve().parent
PEERS = ("pycocotools", "supervision", "datumaro")
WANTED_TIMES, WANTED_GB, WANTED_GROWTH, WANTED_OF_DECODER = 5.0, 0.7, 1.5, 1.3
N_KINDS = 80


def write_coco(path: Path, n_boxes: int, seed: int = 0) -> None:
    """A COCO file of so many boxes; 120 pictures for every thousand."""
    draw = np.random.default_rng(seed)
    n_pictures = max(1, n_boxes * 12 // 100)
    size = draw.integers(300, 641, (n_pictures, 2))
    kinds = draw.integers(1, N_KINDS + 1, (n_pictures, 3))
    with path.open("w") as file:
        file.write('{"info": {"description": "synthetic"}, "licenses": [], "images": [')
        file.write(
            ", ".join(
                f'{{"id": {n + 1}, "file_name": "train2017/{n + 1:012d}.jpg", "width": {w}, "height": {h}}}'
                for n, (w, h) in enumerate(size.tolist())
            )
        )
        file.write('], "annotations": [')
        for start in range(0, n_boxes, 100_000):
            rows = _annotations(draw, start, min(100_000, n_boxes - start), size, kinds)
            file.write((", " if start else "") + ", ".join(rows))
        names = ", ".join(f'{{"id": {n}, "name": "thing {n}"}}' for n in range(1, N_KINDS + 1))
        file.write(f'], "categories": [{names}]}}')


def _annotations(
    draw: np.random.Generator, start: int, n: int, size: np.ndarray, kinds: np.ndarray
) -> Iterator[str]:
    picture = draw.integers(0, len(size), n)
    kind = kinds[picture, draw.integers(0, 3, n)]
    corner = size[picture] * draw.random((n, 2)) * 0.8
    extent = (size[picture] - corner) * (0.05 + 0.9 * draw.random((n, 2)))
    numbers = zip(picture.tolist(), kind.tolist(), corner.tolist(), extent.tolist(), strict=True)
    for each, (of_picture, of_kind, (x, y), (width, height)) in enumerate(numbers, start=start + 1):
        yield (
            f'{{"id": {each}, "image_id": {of_picture + 1}, "category_id": {of_kind}, "segmentation": [], '
            f'"bbox": [{x:.2f}, {y:.2f}, {width:.2f}, {height:.2f}], "area": {width * height:.4f}, "iscrowd": 0}}'
        )


def ours(file: str, out: str) -> None:
    """Normalise a file, alone in its folder or not, whose pictures are not read."""
    path = Path(file)
    Path(out).mkdir()
    source = Source("coco", "coco", str(path.parent), path.name, options={"pictures": "unread"})
    normalise_into(source, Store(f"{out}/root"), Path(out))


def run(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and gigabytes (highest resident set) of a process. Raises CalledProcessError.

    The kernel's own figure after the end counts what this process held when it split off; so it is asked while it runs.
    """
    peak_kb, started = 0, time.perf_counter()
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
            peak_kb = max(peak_kb, int(found[1]) if found else 0)
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said.read()[-2000:])
    return seconds, peak_kb / 1e6


def ours_command(file: Path, out: Path) -> list[str]:
    """The command that runs `ours` in a process of its own."""
    return [sys.executable, "-m", "tests.benchmarks.normalise", "--ours", str(file), str(out)]


def boxes_of(path: Path) -> np.ndarray:
    """The boxes of a table, float64 [n, 4], sorted; of ours each once, from the questions how many there are."""
    if path.is_dir():
        counts = pq.read_table(path / "examples.parquet", columns=["example_id", "question_kind"])
        counted = counts.filter(pc.equal(counts["question_kind"], "count"))["example_id"]
        table = pq.read_table(path / "boxes.parquet")
        table = table.filter(pc.is_in(table["example_id"], counted.combine_chunks()))
        names = ["x1_px", "y1_px", "x2_px", "y2_px"]
    else:
        table, names = pq.read_table(path), ["x1", "y1", "x2", "y2"]
    corners = np.round(np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64), 1)
    return corners[np.lexsort(corners.T)]


def side_by_side(folder: Path, n_boxes: int, rounds: int, peers_python: str) -> dict[str, object]:
    """Ours and every peer, in turn."""
    file = folder / "annotations.json"
    write_coco(file, n_boxes)
    commands = {"ours": ours_command(file, folder / "ours")}
    script = str(HERE / "peers" / "coco_to_parquet.py")
    commands |= {name: [peers_python, script, name, str(file), str(folder / name)] for name in PEERS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            subprocess.run(["rm", "-rf", str(folder / name)], check=True)
            taken[name].append(run(command))
    found = {name: boxes_of(folder / name) for name in commands}
    differ = [name for name in PEERS if not _alike(found["ours"], found[name])]
    seconds = {name: statistics.median(each for each, _ in times) for name, times in taken.items()}
    fastest = min(PEERS, key=lambda name: seconds[name])
    return {
        "file_mb": round(file.stat().st_size / 1e6),
        "n_boxes": len(found["ours"]),
        "seconds": {name: round(each, 2) for name, each in seconds.items()},
        "peak_gb": {name: round(max(each for _, each in times), 3) for name, times in taken.items()},
        "fastest_peer": fastest,
        "times_faster": round(seconds[fastest] / seconds["ours"], 2),
        "boxes_differ_from": differ,
    }


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether sorted boxes are the same to 0.3 px: peers keep them as float32, and round before they sort."""
    return one.shape == other.shape and bool(np.abs(one.mean(axis=0) - other.mean(axis=0)).max() < 0.01)


def growth(folder: Path, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Seconds and memory of ours by number of boxes."""
    rows = []
    for n_boxes in sizes:
        file, out = folder / "growing.json", folder / f"grown-{n_boxes}"
        write_coco(file, n_boxes)
        seconds, gigabytes = run(ours_command(file, out))
        rows.append(
            {
                "n_boxes": n_boxes,
                "seconds": round(seconds, 2),
                "microseconds_a_box": round(1e6 * seconds / n_boxes, 2),
                "peak_gb": round(gigabytes, 3),
            }
        )
        subprocess.run(["rm", "-rf", str(out), str(file)], check=True)
    return rows


def with_pictures(folder: Path, n_pictures: int) -> dict[str, float]:
    """Normalising a source of JPEG files against decoding the same files and nothing else, in as many threads."""
    draw, folder = np.random.default_rng(1), folder / "shelf"
    (folder / "train2017").mkdir(parents=True)
    write_coco(folder / "annotations.json", n_pictures * 100 // 12)
    images = json.loads((folder / "annotations.json").read_text())["images"]
    for image in images:
        coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        coarse.resize((image["width"], image["height"]), Image.Resampling.BICUBIC).save(
            folder / image["file_name"]
        )
    files = [folder / image["file_name"] for image in images]
    n_threads = min(8, os.cpu_count() or 1)
    rounds = []
    for number in range(3):
        started = time.perf_counter()
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda path: open_upright(path.read_bytes()) and None, files))
        decoded = time.perf_counter()
        out = folder / f"out-{number}"
        out.mkdir()
        source = Source("coco", "coco", str(folder), "annotations.json")
        normalise_into(source, Store(str(out / "root")), out)
        rounds.append((time.perf_counter() - decoded) / (decoded - started))
    return {
        "n_pictures": len(images),
        "threads": n_threads,
        "times_decoding": round(statistics.median(rounds), 2),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all three parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ours", nargs=2, metavar=("FILE", "OUT"), help="normalise one file and end")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--small", action="store_true", help="a few boxes, to see that it runs; no figure counts"
    )
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON", ".venv-peers/bin/python"))
    chosen = parser.parse_args(arguments)
    if chosen.ours:
        ours(*chosen.ours)
        return 0
    n_boxes = 10_000 if chosen.small else 1_000_000
    sizes = (1_000, 10_000) if chosen.small else (10_000, 100_000, 1_000_000, 5_000_000)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        compared = side_by_side(folder, n_boxes, chosen.rounds, chosen.peers_python)
        grown = growth(folder, sizes)
        pictured = with_pictures(folder, 60 if chosen.small else 1_500)
    found = {"side_by_side": compared, "growth": grown, "with_pictures": pictured}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if compared["boxes_differ_from"]:
        return 2
    last, before = grown[-1], grown[-2]
    missed = [
        compared["times_faster"] < WANTED_TIMES,
        compared["peak_gb"]["ours"] > WANTED_GB,
        last["microseconds_a_box"] > WANTED_GROWTH * before["microseconds_a_box"],
        last["peak_gb"] > WANTED_GB,
        pictured["times_decoding"] > WANTED_OF_DECODER,
    ]
    return 0 if chosen.small or not any(missed) else 1


if __name__ == "__main__":
    sys.exit(main())
