"""The `dagster.yaml` of a home: written when it is missing or one of our own from before, kept when it is a person's.

What the instance does with it belongs to `instance`.
"""

import shutil
import uuid
from pathlib import Path

import yaml

from storage.objects import sha256_file

TEMPLATE = Path(__file__).parent / "dagster.yaml"
WRITTEN = ".dagster.yaml.sha256"
"""Beside it: the hash of what was written, so that a later version knows its own file from an edited one."""

_WRITTEN_BEFORE_HASHES = (
    "4ad238083d1fb6914f1922f4a842f43a7449499b5e72a0507551f1a85cb5c9c3",  # without event_log_storage
    "b97c46ff5198b449416b3e3814658a48eed2eb95992e96ea62e6abb84b95fda3",
)


def settle(home: Path) -> None:
    """Write the settings of this version into a home, unless a person's are there."""
    place, note = home / "dagster.yaml", home / WRITTEN
    ours = sha256_file(TEMPLATE)
    there = sha256_file(place) if place.exists() else None
    if there != ours and (there is None or there in (*_WRITTEN_BEFORE_HASHES, _read(note))):
        part = home / f".dagster.yaml.{uuid.uuid4().hex}"
        shutil.copyfile(TEMPLATE, part)
        part.replace(place)  # another process may look for it at this moment
        there = ours
    if there == ours and _read(note) != ours:
        note.write_text(f"{ours}\n")


def lacking(home: Path) -> str | None:
    """What to tell whoever wrote a home's settings of their own: what of the pools they lack; None = all is there.

    Other values, and another storage, are a person's choice.
    """
    place = home / "dagster.yaml"
    try:
        told = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return f"{place}: cannot be read ({' '.join(str(error).split())}); {_ADVICE}"
    theirs = told if isinstance(told, dict) else {}
    missing = []
    concurrency = theirs.get("concurrency")
    if not (isinstance(concurrency, dict) and "pools" in concurrency):
        missing.append("concurrency.pools")
    if not {"event_log_storage", "storage"} & set(theirs):
        missing.append("event_log_storage")
    if not missing:
        return None
    return f"{place} was edited and is kept as it is, without {' and '.join(missing)}; {_ADVICE}"


_ADVICE = (
    f"two runs at once may train at the same time, or wait for ever: take these over from {TEMPLATE}, or remove the "
    "file and it is written anew"
)


def _read(note: Path) -> str | None:
    return note.read_text(errors="replace").strip() if note.exists() else None
