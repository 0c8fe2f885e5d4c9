"""What the README names is there: rooms, files, commands, settings, tables."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


def test_explain_works_in_five_lines_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block is run as it stands, with a picture of 168 x 112 px beside it: 6 x 4 image tokens of 28 px."""
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "explain" in block
    ]
    assert len([line for line in code.splitlines() if line]) == 5
    picture = Image.new("RGB", (168, 112), (120, 140, 120))
    picture.paste((220, 180, 30), (10, 10, 60, 60))
    picture.save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    printed: list[np.ndarray] = []
    exec(code, {"print": printed.append})
    (values,) = printed
    assert values.shape == (4, 6)
    assert np.isfinite(values).all() and (values >= 0).all() and values.max() > 0
