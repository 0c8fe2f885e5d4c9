"""Files at the top of the repository that must agree with each other, and definitions that load anywhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

TOP = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (TOP / "requirements.lock").read_text(encoding="utf-8")


def pinned() -> dict[str, str]:
    lines = [line.split("==") for line in LOCK.splitlines() if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def test_workspace_and_project_name_the_same_code_location() -> None:
    """State of schedules and sensors is keyed by the location's name, whichever file a tool reads."""
    workspace = yaml.safe_load((TOP / "workspace.yaml").read_text(encoding="utf-8"))
    (location,) = [each["python_module"] for each in workspace["load_from"]]
    project = PYPROJECT["tool"]["dg"]["project"]
    assert location["module_name"] == project["code_location_target_module"]
    assert location["location_name"] == project["code_location_name"]


def test_the_lock_pins_every_dependency() -> None:
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    names = {re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9_.-]+", each)[0]).lower() for each in wanted}
    assert names - set(pinned()) == set()


def test_the_lock_names_torch_without_a_build_and_no_torchvision() -> None:
    assert pinned()["torch"] == "2.13.0"
    assert "torchvision" not in pinned()


def test_duckdb_and_its_extension_are_of_one_version() -> None:
    assert pinned()["duckdb"] == pinned()["duckdb-extension-httpfs"]


def test_only_the_five_rooms_are_packaged() -> None:
    include = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in include} == {"pipelines", "assets", "ops", "training", "storage"}


def test_every_rule_that_is_switched_off_has_a_reason() -> None:
    text = (TOP / "pyproject.toml").read_text(encoding="utf-8")
    block = text[text.index("ignore = [") : text.index("[tool.mypy]")]
    rules = [line for line in block.splitlines() if re.match(r'\s*"', line)]
    assert rules
    assert [line for line in rules if "#" not in line] == []


def test_definitions_load_without_the_learning_libraries(tmp_path: Path) -> None:
    """In a process of its own: not imported, and not needed, for every run and tool loads them anew."""
    code = """
import sys
BLOCKED = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Refuse())
import pipelines.definitions
defs = pipelines.definitions.defs()
keys = sorted(key.to_user_string() for key in defs.resolve_all_asset_keys())
print(",".join(keys), BLOCKED & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=TOP,
        env={"SALIENCY_R1_ROOT": str(tmp_path / "root"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    keys, loaded = done.stdout.split()[0], done.stdout.split(maxsplit=1)[1].strip()
    assert loaded == "set()"
    assert keys.split(",") == sorted(
        [
            *("raw/files", "data/images", "data/examples", "data/boxes", "data/quarantine", "data/profile"),
            *("data/splits", "data/catalog", "policy/base", "policy/cold_start", "policy/grpo"),
            *("policy/processed_rows", "evidence/predictions"),
            *("evidence/saliency_maps", "evidence/comparison", "product/report", "product/champion"),
        ]
    )


def test_reading_the_environment_happens_in_one_place() -> None:
    """SALIENCY_R1_* is read in storage/settings.py alone; importing anything reads nothing."""
    rooms = ("pipelines", "assets", "training", "ops", "storage")
    readers = {
        path.relative_to(TOP).as_posix()
        for room in rooms
        for path in (TOP / room).rglob("*.py")
        if re.search(r"(environ|getenv)[^\n]*SALIENCY_R1_", path.read_text(encoding="utf-8"))
    }
    assert readers <= {"storage/settings.py"}
