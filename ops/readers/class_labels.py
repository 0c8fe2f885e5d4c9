"""The names of classes that Hugging Face's `datasets` writes into Parquet files, beside integers that stand for them.

The schema's metadata has the key huggingface: JSON with info.features, a tree of columns in which a ClassLabel has
names; its integer counts from 0. Lists do not matter: a class in a list, in a list of structs or in a struct of lists
is looked up alike. Not here: which column is a label (`ops/readers/table.py`).
"""

import json
from collections.abc import Mapping
from typing import Any

Classes = tuple[str, ...] | dict[str, Any]
"""The names of a column, or the classes of the columns inside it; those without are left out."""

_LISTS = ("Sequence", "List", "LargeList")


class ClassCode(int):
    """An integer that stands for a class: its `name`, None outside the names, of which there are `n_names`."""

    name: str | None
    n_names: int

    def __new__(cls, code: int, names: tuple[str, ...]) -> "ClassCode":
        """The code with its name."""
        made = super().__new__(cls, code)
        made.name = (names[code].strip() or None) if 0 <= code < len(names) else None
        made.n_names = len(names)
        return made


def classes_of(metadata: Mapping[bytes, bytes] | None) -> Classes | None:
    """The classes of a file's columns by its schema's metadata; None if it tells of none, or not as `datasets` does."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return _classes(features)
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def with_names(value: Any, classes: Classes | None) -> Any:
    """A value of a column with every integer of a class as a ClassCode; all else as it is."""
    if classes is None or value is None:
        return value
    if isinstance(value, list):
        return [with_names(item, classes) for item in value]
    if isinstance(classes, dict):
        if not isinstance(value, dict):
            return value
        return value | {
            key: with_names(value[key], inside) for key, inside in classes.items() if key in value
        }
    return ClassCode(value, classes) if type(value) is int else value


def named(value: object) -> object:
    """A class's name in place of its code, in a list too; a code without a name stays one."""
    if isinstance(value, list):
        return [_name(item) for item in value]
    return _name(value)


def _name(value: object) -> object:
    return value.name if isinstance(value, ClassCode) and value.name is not None else value


def _classes(feature: Any) -> Classes | None:
    if isinstance(feature, list) and len(feature) == 1:  # how older releases write a list
        return _classes(feature[0])
    if not isinstance(feature, dict):
        return None
    kind = feature.get("_type")
    if kind == "ClassLabel":
        names = feature.get("names")
        return (
            tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
        )
    if kind in _LISTS:
        return _classes(feature.get("feature"))
    if isinstance(kind, str):
        return None
    found = {key: inside for key, value in feature.items() if (inside := _classes(value)) is not None}
    return found or None
