"""Profiles: the YAML files under pipelines/profiles/, read and checked into `assets.resources.Profile`.

Belongs here: finding a profile and reporting everything that is wrong with it. What a stage setting may be is
said in training/config.py.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from assets.resources import Profile
from training.config import STAGES, TEXT, ConfigError, problems_of, real, whole
from training.recipes import RECIPES

FOLDER = Path(__file__).parent / "profiles"
# Settings of a stage that something else sets, and are therefore not the profile's to set there.
SET_ELSEWHERE = {
    "grpo": {"recipe": "the partition"},
    "process": {
        "system_prompts": "sft and grpo",
        "max_completion_length": "grpo",
        "max_image_tokens": "base",
    },
}
KEYS = ("description", "seed", "policy", "recipes", "split", "draws", "command", *STAGES)


def profile_names() -> tuple[str, ...]:
    """Names of the profiles that exist."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_profile(name: str, recipes: tuple[str, ...] = ()) -> Profile:
    """The profile called `name`, or in the YAML file at that path; `recipes`, if any, replace its own.

    Raises ConfigError naming every setting that is wrong, its value and what is allowed.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError([f"profile = {name!r}: want one of {', '.join(profile_names())}, or a YAML file"])
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"profile {path}: cannot be read as YAML ({error})"]) from error
    if not isinstance(data, dict):
        raise ConfigError([f"profile {path}: want a mapping of settings, saw {type(data).__name__}"])
    return read_profile(path.stem, data | ({"recipes": list(recipes)} if recipes else {}))


def read_profile(name: str, data: Mapping[str, Any]) -> Profile:
    """A profile from a mapping; raises ConfigError with every problem found."""
    problems = [
        f"{key}: there is no such setting; known are {', '.join(KEYS)}" for key in data if key not in KEYS
    ]
    problems += _problems_of_values(data)
    for stage, settings in STAGES.items():
        given = data.get(stage) or {}
        if not isinstance(given, Mapping):
            problems.append(f"{stage} = {given!r}: want a mapping of settings")
            continue
        fixed = {key: by for key, by in SET_ELSEWHERE.get(stage, {}).items() if key in given}
        problems += [
            f"{stage}.{key}: is set by {by}; remove it from the profile" for key, by in fixed.items()
        ]
        problems += problems_of(settings, given, f"{stage}.")
    if problems:
        raise ConfigError([f"profile {name}: {problem}" for problem in problems])
    split = data.get("split", {})
    return Profile(
        name=name,
        description=data["description"],
        seed=data.get("seed", 0),
        policy=data.get("policy", "embedded"),
        recipes=tuple(data.get("recipes", RECIPES)),
        stages={stage: asdict(cls(**(data.get(stage) or {}))) for stage, cls in STAGES.items()},
        split_fractions={"val": split.get("val", 0.08), "test": split.get("test", 0.2)},
        draws=data.get("draws", 1000),
        command=tuple(data.get("command", ())),
    )


def _problems_of_values(data: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, default, allowed in (("seed", 0, whole(0, 2**32 - 1)), ("draws", 1000, whole(100))):
        if not allowed.test(data.get(key, default)):
            problems.append(f"{key} = {data[key]!r}: want {allowed.words}")
    for key, text in (("description", data.get("description")), ("policy", data.get("policy", "embedded"))):
        if not TEXT.test(text):
            problems.append(f"{key} = {text!r}: want {TEXT.words}")
    recipes = data.get("recipes", list(RECIPES))
    if not isinstance(recipes, list) or not recipes or len(set(map(str, recipes))) < len(recipes):
        problems.append(
            f"recipes = {recipes!r}: want a list of different recipes out of {', '.join(RECIPES)}"
        )
    else:
        problems += [
            f"recipes: {name!r} is no recipe; want some of {', '.join(RECIPES)}"
            for name in recipes
            if name not in RECIPES
        ]
    command = data.get("command", [])
    if not isinstance(command, list) or not all(isinstance(part, str) and part for part in command):
        problems.append(f"command = {command!r}: want a list of words, such as [accelerate, launch, -m]")
    return problems + _problems_of_split(data.get("split", {}))


def _problems_of_split(split: Any) -> list[str]:
    if not isinstance(split, Mapping) or set(split) - {"val", "test"}:
        return [f"split = {split!r}: want a mapping with val and test, the shares of the pictures held out"]
    share = real(0, 0.9, above=True)
    problems = [
        f"split.{key} = {value!r}: want {share.words}"
        for key, value in split.items()
        if not share.test(value)
    ]
    if not problems and sum({"val": 0.08, "test": 0.2, **split}.values()) > 0.9:
        problems.append(
            f"split = {dict(split)!r}: want at most 0.9 together, so that rows to train on are left"
        )
    return problems
