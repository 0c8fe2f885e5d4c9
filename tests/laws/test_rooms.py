"""Who imports whom, and the few rules of form that every file keeps."""

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
ROOMS = ("pipelines", "assets", "training", "ops", "storage")  # a room imports only what stands to its right
LEARNING = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "tokenizers"}
KEEPING = {"duckdb", "fsspec", "s3fs", "huggingface_hub"}
WITHOUT_TORCH = {"training/config.py", "training/conversation.py", "training/recipes.py"}
WITH_DAGSTER = {"ops/steps.py", "ops/upkeep.py"}
LONGEST = 400

FILES = sorted(path for room in ROOMS for path in (TOP / room).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(TOP).as_posix()


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: relative import"
            names.add(str(node.module))
    return names


def tops_of(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports_of(path)}


def test_the_rooms_are_there() -> None:
    assert len(FILES) > 50
    assert {path.relative_to(TOP).parts[0] for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_to_its_right(room: str) -> None:
    forbidden = {*ROOMS[: ROOMS.index(room)], "tests"}
    wrong = {
        name_of(path): sorted(tops_of(path) & forbidden)
        for path in FILES
        if path.is_relative_to(TOP / room) and tops_of(path) & forbidden
    }
    assert wrong == {}


def test_learning_libraries_are_imported_only_in_training() -> None:
    wrong = {
        name_of(path): sorted(tops_of(path) & LEARNING)
        for path in FILES
        if (not name_of(path).startswith("training/") or name_of(path) in WITHOUT_TORCH)
        and tops_of(path) & LEARNING
    }
    assert wrong == {}


def test_dagster_is_imported_only_where_it_belongs() -> None:
    users = {name_of(path) for path in FILES if any(top.startswith("dagster") for top in tops_of(path))}
    outside = {name for name in users if name.partition("/")[0] not in ("pipelines", "assets")}
    assert outside == WITH_DAGSTER


def test_duckdb_and_file_systems_are_imported_only_in_storage() -> None:
    wrong = {
        name_of(path): sorted(tops_of(path) & KEEPING)
        for path in FILES
        if not name_of(path).startswith("storage/") and tops_of(path) & KEEPING
    }
    assert wrong == {}


def test_no_sql_in_assets() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if name_of(path).startswith("assets/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "select " in node.value.lower()
    ]
    assert wrong == []


def test_annotations_are_real_where_dagster_reads_them() -> None:
    """With `from __future__ import annotations` dagster cannot resolve what an asset or op asks for."""
    wrong = [
        name_of(path)
        for path in FILES
        if "__future__" in tops_of(path) and any(top.startswith("dagster") for top in tops_of(path))
    ]
    assert wrong == []


def test_package_files_are_empty() -> None:
    filled = [name_of(path) for path in FILES if path.name == "__init__.py" and path.stat().st_size]
    assert filled == []


def test_no_file_is_named_after_nothing() -> None:
    nothing = {"utils", "util", "common", "helpers", "helper", "misc"}
    every = [*FILES, *(TOP / "tests").rglob("*.py")]
    assert [name_of(path) for path in every if path.stem in nothing] == []


def test_no_file_is_too_long() -> None:
    every = [*FILES, *(TOP / "tests").rglob("*.py")]
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in every}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_input_is_never_checked_by_assert() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    assert wrong == []


def test_nothing_is_left_to_do() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" + "XX")
    every = [*FILES, *(TOP / "tests").rglob("*.py")]
    wrong = [
        name_of(path) for path in every if any(mark in path.read_text(encoding="utf-8") for mark in marks)
    ]
    assert wrong == []


def test_every_module_says_what_belongs_in_it() -> None:
    silent = [
        name_of(path)
        for path in FILES
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
