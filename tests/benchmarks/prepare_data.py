"""How much memory all of `prepare_data` takes: `python -m tests.benchmarks.prepare_data [--boxes N]`.

The synthetic COCO file of `tests/benchmarks/normalise.py`, pictures never opened, through the command that a user
types, in an empty root: raw files, tables, checks, profile, contact sheet, splits, catalogue. Each process is asked for
its highest resident set while it runs.

JSON: seconds, and `peak_gb` by process: the command, and by name the largest of what it starts. Exit code 1 when one
is over WANTED_GB.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.normalise import write_coco

WANTED_GB = 0.7
SOURCE = """sources:
  - name: large
    format: coco
    location: {folder}
    annotations: annotations.json
    licence: made here
    options: {{pictures: unread}}
"""


def family_of(process: int) -> list[int]:
    """A process and all that descend from it, as of now."""
    try:
        told = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [process, *(each for child in told.split() for each in family_of(int(child)))]


def watched(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, dict[str, float]]:
    """Seconds of a command, and the peak of each of its processes in GB. Raises CalledProcessError."""
    peaks: dict[str, float] = {}
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdout=said, stderr=said, env=environment) as process,
    ):
        while process.poll() is None:
            for each in family_of(process.pid):
                try:
                    status = Path(f"/proc/{each}/status").read_text()
                except OSError:
                    continue
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                name = "the command" if each == process.pid else status.split()[1]
                peaks[name] = max(peaks.get(name, 0.0), int(found[1]) / 1e6 if found else 0.0)
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=said.read()[-2000:])
    return seconds, peaks


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the file, run the command, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--boxes", type=int, default=1_000_000)
    n_boxes = parser.parse_args(arguments).boxes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        folder.mkdir()
        write_coco(folder / "annotations.json", n_boxes)
        sources = Path(place) / "sources.yaml"
        sources.write_text(SOURCE.format(folder=folder))
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SALIENCY_R1_")
        }
        environment |= {"SALIENCY_R1_ROOT": f"{place}/root", "SALIENCY_R1_SOURCES": str(sources)}
        environment["DAGSTER_HOME"] = f"{place}/home"
        seconds, peaks = watched([sys.executable, "-m", "pipelines.run", "prepare_data"], environment)
    found = {"n_boxes": n_boxes, "seconds": round(seconds, 1), "wanted_gb": WANTED_GB}
    peak_gb = {name: round(peak, 3) for name, peak in peaks.items()}
    sys.stdout.write(json.dumps({**found, "peak_gb": peak_gb}, indent=1) + "\n")
    return int(max(peaks.values()) > WANTED_GB)


if __name__ == "__main__":
    sys.exit(main())
