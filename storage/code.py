"""Which of our modules a piece of work consists of: the ones it imports, directly or through others.

The names go into `storage.lineage.Work.code`, so that editing a module makes exactly the work anew that runs
it. Modules are read, not imported.
"""

import ast
import functools
import importlib.util
from pathlib import Path

ROOMS = ("training", "ops", "storage")


@functools.cache
def code_of(*modules: str) -> tuple[str, ...]:
    """The modules given and every module of ours that they reach by import, sorted."""
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += _imports_of(module)
    return tuple(sorted(reached))


@functools.cache
def _imports_of(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_file_of(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = (name for name in names if name.partition(".")[0] in ROOMS)
    return tuple(sorted(name for name in ours if _is_module(name)))


def _is_module(name: str) -> bool:
    room, _, rest = name.partition(".")
    return bool(rest) and (_folder_of(room) / (rest.replace(".", "/") + ".py")).is_file()


def _file_of(module: str) -> Path:
    room, _, rest = module.partition(".")
    return _folder_of(room) / (rest.replace(".", "/") + ".py")


@functools.cache
def _folder_of(room: str) -> Path:
    spec = importlib.util.find_spec(room)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{room}: not importable; install the project or run from its top folder")
    return Path(spec.submodule_search_locations[0])
