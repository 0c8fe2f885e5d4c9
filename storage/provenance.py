"""What made a thing: the code's fingerprint, the git commit, library versions, the machine.

Only facts about the running program belong here; how they are kept with an artifact belongs to `lineage`.
"""

import functools
import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from storage.objects import sha256_bytes, sha256_file
from storage.schema import SCHEMA_VERSION

_LIBRARIES = (
    "accelerate",
    "dagster",
    "datasets",
    "duckdb",
    "numpy",
    "peft",
    "pillow",
    "pyarrow",
    "torch",
    "transformers",
    "trl",
)


class ProvenanceError(ValueError):
    """Code that cannot be found, or a configuration that cannot be written as JSON."""


def canonical_json(value: Any, *, what: str = "value") -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text. Raises ProvenanceError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProvenanceError(f"{what}: cannot be written as JSON ({error})") from error


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hex sha256 of a configuration's canonical JSON."""
    return sha256_bytes(canonical_json(dict(config), what="config").encode())


def code_sha256(packages: tuple[str, ...]) -> str:
    """Hex sha256 over the .py files of the named packages or modules, whatever folder they are installed in.

    A dotted name may stand for a package (all .py files below it) or a single module. Raises ProvenanceError
    naming every package that is not found.
    """
    digest = hashlib.sha256()
    missing = []
    for package in sorted(set(packages)):
        files = _python_files(package)
        if not files:
            missing.append(package)
        for name, file in files:
            digest.update(f"{name}\0{sha256_file(file)}\n".encode())
    if missing:
        raise ProvenanceError(f"code {missing}: no such package or module; name importable packages")
    return digest.hexdigest()


def _python_files(package: str) -> list[tuple[str, Path]]:
    """The (dotted package and relative path, path) of a package's or module's .py files, sorted."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [(package, Path(spec.origin))] if spec.origin else []
    found = [
        (f"{package}/{file.relative_to(folder).as_posix()}", file)
        for folder in map(Path, spec.submodule_search_locations)
        for file in folder.rglob("*.py")
    ]
    return sorted(found)


@functools.cache
def git_state(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of this code's checkout; (None, None) without.

    Read once per process. Never raises: a wheel, an archive or a machine without git has no commit.
    """
    top = folder if folder is not None else Path(__file__).resolve().parent.parent
    if _git(top, "rev-parse", "--show-toplevel") != str(top):
        return None, None  # not a checkout of ours: perhaps a site-packages inside somebody else's
    commit = _git(top, "rev-parse", "HEAD")
    changes = _git(top, "status", "--porcelain", "--untracked-files=no")
    return commit, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        # Fixed arguments, no shell, a folder that we found ourselves.
        done = subprocess.run(  # noqa: S603
            [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@functools.cache
def _installed_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "schema": str(SCHEMA_VERSION)}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def library_versions() -> dict[str, str]:
    """Versions of Python, the schema and the libraries that matter, as installed here."""
    return dict(_installed_versions())
