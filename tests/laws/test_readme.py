"""What the README names is there: rooms, files, commands, settings, tables."""

import importlib.util
import re
from pathlib import Path

from pipelines.jobs import JOB_NAMES
from storage.catalog import questions
from storage.schema import TABLES

TOP = Path(__file__).resolve().parents[2]
README = (TOP / "README.md").read_text(encoding="utf-8")
MAKEFILE = (TOP / "Makefile").read_text(encoding="utf-8")
ROOMS = ("pipelines/", "assets/", "training/", "ops/", "storage/", "tests/")


def named(pattern: str) -> set[str]:
    return set(re.findall(pattern, README))


def test_the_map_has_every_room_once() -> None:
    rows = re.findall(r"^\| `([a-z]+/)` \|", README, flags=re.M)
    assert rows == list(ROOMS)


def test_every_file_and_folder_that_is_named_exists() -> None:
    inside = named(r"`((?:pipelines|assets|training|ops|storage|tests|docs)/[\w./-]*)`")
    beside = {
        name
        for name in named(r"`([\w.-]+\.(?:toml|yaml|lock)|Makefile|\.ci/run|LICENSE)`")
        if name != "sources.yaml"
    }
    assert [name for name in sorted(inside | beside) if not (TOP / name).exists()] == []


def test_every_picture_exists() -> None:
    assert [name for name in sorted(named(r"!\[[^\]]*\]\(([^)]+)\)")) if not (TOP / name).exists()] == []


def test_every_command_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.M))
    assert named(r"\bmake ([a-z]+)\b(?! sure)") - {"it", "them"} <= targets
    for module in sorted(named(r"python -m ([\w.]+)")):
        assert importlib.util.find_spec(module) is not None, module
    assert named(r"NAME=(\w+)") <= set(questions())
    assert named(r"pipelines\.run ([a-z_]+)") <= set(JOB_NAMES)


def test_every_table_is_named() -> None:
    assert {name for name in TABLES if f"`{name}`" not in README} == set()


def test_every_profile_is_named() -> None:
    profiles = {path.stem for path in (TOP / "pipelines" / "profiles").glob("*.yaml")}
    assert {name for name in profiles if f"`{name}`" not in README} == set()
