"""Settings of the training stages: one frozen dataclass each, read from JSON and checked at the door.

Belongs here: names, defaults, allowed values and rules between settings. Not here: anything that needs torch
(definitions load this module on machines without it), and anything that acts on a setting.

Every problem of a file is reported at once, each with the setting, the value seen and what is allowed.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.recipes import RECIPES

SALIENCY_METHODS = (
    *("cot_rollout", "direct", "thought_sum", "raw_attention", "attention_rollout", "grad_attention", "tam"),
    *("cot_rollout_positive", "cot_rollout_normalised", "cot_rollout_late", "cot_rollout_confident"),
    "cot_rollout_direct",
)
REWARDED_METHODS = tuple(name for name in SALIENCY_METHODS if name != "grad_attention")
"""Those that can ride on a pass that somebody else makes: all but the one with a backward pass of its own."""
SALIENCY_ROWS = ("predictor", "state")
EMBEDDED = Path(__file__).parent / "embedded"
ROW_TABLES = ("images", "examples", "boxes", "splits")
DEFAULT_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def local_folder_of(policy: str) -> Path | None:
    """The folder that a policy's name stands for: the embedded one or a folder; None for the name of a hub."""
    if policy == "embedded":
        return EMBEDDED
    is_path = policy.startswith((".", "/", "~")) or Path(policy).is_dir()
    return Path(policy).expanduser() if is_path else None


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` lists every reason, one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("the configuration cannot be used:\n" + "\n".join(f"  - {p}" for p in problems))


@dataclass(frozen=True)
class Allowed:
    """What a setting may be: a test and its description in words."""

    words: str
    test: Callable[[Any], bool]


def whole(low: int, high: int | None = None) -> Allowed:
    """A whole number from `low` to `high`, both allowed."""
    words = (
        f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    )
    return Allowed(words, lambda v: type(v) is int and v >= low and (high is None or v <= high))


def real(low: float, high: float = math.inf, *, above: bool = False) -> Allowed:
    """A finite number from `low` to `high`; `above` leaves `low` itself out."""
    words = f"a number {'above' if above else 'of at least'} {low:g}"
    words += f" and at most {high:g}" if high < math.inf else ""

    def test(value: Any) -> bool:
        if type(value) not in (int, float) or not math.isfinite(value):
            return False
        return (value > low if above else value >= low) and value <= high

    return Allowed(words, test)


def one_of(*names: str) -> Allowed:
    """One of the given names."""
    return Allowed("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


FLAG = Allowed("true or false", lambda v: type(v) is bool)
TEXT = Allowed("a text that is not empty", lambda v: isinstance(v, str) and v.strip() != "")
TEXT_OR_NONE = Allowed("a text that is not empty, or null", lambda v: v is None or TEXT.test(v))
NAMES = Allowed(
    "a list of module names, without commas or spaces in them",
    lambda v: isinstance(v, list | tuple) and len(v) > 0 and all(_is_module_name(name) for name in v),
)


def _is_module_name(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not any(sign in value for sign in ", \t\n\"'")


def setting(default: Any, allowed: Allowed) -> Any:
    """A dataclass field with its default (MISSING: must be given) and what is allowed."""
    return field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True)
class _Checked:
    """Refuses values that its fields do not allow; settings classes inherit from it."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if isinstance(getattr(self, each.name), list):
                object.__setattr__(self, each.name, tuple(getattr(self, each.name)))
        problems = problems_of(type(self), {each.name: getattr(self, each.name) for each in fields(self)})
        if problems:
            raise ConfigError(problems)

    @classmethod
    def rules(cls, values: Mapping[str, Any]) -> list[str]:
        """Problems between settings; called only when each of `values` is allowed by itself."""
        return []


@dataclass(frozen=True)
class _Training(_Checked):
    """What SFT and GRPO share: optimiser, adapters, precision, row limit, system prompt, checkpoints."""

    learning_rate: float = setting(1e-5, real(0, 1, above=True))
    lr_scheduler: str = setting("linear", one_of("linear", "cosine", "constant"))
    warmup_ratio: float = setting(0.0, real(0, 0.9))
    weight_decay: float = setting(0.0, real(0))
    max_grad_norm: float = setting(1.0, real(0, above=True))
    gradient_accumulation: int = setting(1, whole(1))
    gradient_checkpointing: bool = setting(False, FLAG)
    precision: str = setting("float32", one_of("float32", "bfloat16"))
    lora_rank: int = setting(0, whole(0, 1024))  # 0: every weight is trained
    lora_alpha: int = setting(32, whole(1))
    lora_dropout: float = setting(0.0, real(0, 0.9))
    lora_targets: tuple[str, ...] = setting(DEFAULT_LORA_TARGETS, NAMES)
    max_rows: int = setting(0, whole(0))  # 0: every row of the split
    system_prompt: str | None = setting(None, TEXT_OR_NONE)  # None: the one of training.conversation
    save_steps: int = setting(50, whole(1))
    logging_steps: int = setting(1, whole(1))

    @classmethod
    def rules(cls, values: Mapping[str, Any]) -> list[str]:
        """A checkpoint in the middle of a logging window would lose that window's sums on resume."""
        save, log = values["save_steps"], values["logging_steps"]
        if save % log:
            return [
                f"save_steps = {save}: want a multiple of logging_steps ({log}); else a resume loses log rows"
            ]
        return []


@dataclass(frozen=True)
class SftSettings(_Training):
    """Cold start: loss on the completion (thought and answer) of rows that have a written reasoning."""

    epochs: float = setting(1.0, real(0, above=True))
    max_steps: int = setting(0, whole(0))  # 0: as many as the epochs need
    batch_size: int = setting(8, whole(1))  # per micro-batch and device
    eval_steps: int = setting(0, whole(0))  # 0: no loss on the val split
    max_eval_rows: int = setting(64, whole(1))


@dataclass(frozen=True)
class GrpoSettings(_Training):
    """GRPO. One optimiser step learns from prompts_per_step x num_generations completions.

    `steps_per_generation` counts micro-batches, as TRL does: one round of sampling feeds
    steps_per_generation / gradient_accumulation optimiser steps. Above 1, TRL itself recomputes the old
    policy's log-probabilities without gradient before the rewards, and the saliency map rides on that pass.
    """

    recipe: str = setting("saliency_r1", one_of(*RECIPES))
    steps: int = setting(100, whole(1))
    prompts_per_step: int = setting(4, whole(1))  # per device
    num_generations: int = setting(8, whole(2))
    steps_per_generation: int = setting(2, whole(1))
    num_iterations: int = setting(1, whole(1))
    max_completion_length: int = setting(512, whole(1))
    temperature: float = setting(1.0, real(0, above=True))
    top_p: float = setting(1.0, real(0, 1, above=True))
    repetition_penalty: float = setting(1.0, real(0, above=True))
    beta: float = setting(0.0, real(0))
    epsilon: float = setting(0.2, real(0, above=True))
    loss_type: str = setting("dapo", one_of("grpo", "bnpo", "dr_grpo", "dapo"))
    scale_rewards: str = setting("group", one_of("group", "batch", "none"))
    mask_truncated: bool = setting(False, FLAG)
    saliency_method: str = setting("cot_rollout", one_of(*REWARDED_METHODS))
    saliency_rows: str = setting("predictor", one_of(*SALIENCY_ROWS))

    @property
    def batch_size(self) -> int:
        """Completions of one micro-batch on one device."""
        return self.prompts_per_step * self.num_generations // self.gradient_accumulation

    @property
    def prompts_per_round(self) -> int:
        """Distinct prompts of one round of sampling on one device."""
        return self.batch_size * self.steps_per_generation // self.num_generations

    @classmethod
    def rules(cls, values: Mapping[str, Any]) -> list[str]:
        """Batches must divide evenly, and checkpoints must fall between rounds of sampling.

        TRL does not save a half-used round (`_step`, `_buffered_inputs`): a checkpoint inside one resumes out
        of phase.
        """
        problems = super().rules(values)
        prompts, group = values["prompts_per_step"], values["num_generations"]
        accumulation, per_round = values["gradient_accumulation"], values["steps_per_generation"]
        if prompts * group % accumulation:
            problems.append(
                f"gradient_accumulation = {accumulation}: want a divisor of "
                f"prompts_per_step x num_generations ({prompts} x {group} = {prompts * group})"
            )
        elif (prompts * group // accumulation) * per_round % group:
            problems.append(
                f"steps_per_generation = {per_round}: want a round of sampling "
                f"({prompts * group // accumulation * per_round} completions) that is a multiple of "
                f"num_generations ({group})"
            )
        if RECIPES[values["recipe"]].loss_weight and values["gradient_checkpointing"]:
            problems.append(
                f"gradient_checkpointing = true: want false with the recipe {values['recipe']}, whose map keeps the "
                "graph of every layer"
            )
        period = math.lcm(accumulation, per_round * values["num_iterations"]) // accumulation
        if values["save_steps"] % period:
            problems.append(
                f"save_steps = {values['save_steps']}: want a multiple of {period}, the steps after which a "
                f"round of sampling ends (steps_per_generation {per_round} x "
                f"num_iterations {values['num_iterations']}, gradient_accumulation {accumulation})"
            )
        return problems


@dataclass(frozen=True)
class EvaluateSettings(_Checked):
    """Held-out answers and maps of one policy, greedy decoding."""

    split: str = setting("test", one_of("test", "val", "train"))
    batch_size: int = setting(16, whole(1))
    max_completion_length: int = setting(512, whole(1))
    max_rows: int = setting(0, whole(0))  # 0: every row of the split
    saliency_method: str = setting("cot_rollout", one_of(*SALIENCY_METHODS))
    saliency_rows: str = setting("predictor", one_of(*SALIENCY_ROWS))
    n_bootstrap: int = setting(1000, whole(100))
    faithfulness_rows: int = setting(0, whole(0))  # examples whose pictures are also masked; 0: none
    token_flow_rows: int = setting(24, whole(0))  # examples whose flow is archived token by token; 0: none
    precision: str = setting("float32", one_of("float32", "bfloat16"))
    system_prompt: str | None = setting(None, TEXT_OR_NONE)


@dataclass(frozen=True)
class InspectSettings(_Checked):
    """Check of a base policy against the pictures of the data."""

    max_rows: int = setting(64, whole(1))
    max_image_tokens: int = setting(4096, whole(1))
    precision: str = setting("float32", one_of("float32", "bfloat16"))


PROMPTS = Allowed(
    "a list of different system prompts, each a text that is not empty, or null",
    lambda v: (
        isinstance(v, list | tuple)
        and 0 < len(v) == len(set(map(repr, v)))
        and all(TEXT_OR_NONE.test(p) for p in v)
    ),
)


@dataclass(frozen=True)
class ProcessSettings(_Checked):
    """Every row through the policy's processor. All but the last say what training will do with the rows."""

    system_prompts: tuple[str | None, ...] = setting((None,), PROMPTS)  # None: that of training.conversation
    max_completion_length: int = setting(512, whole(1))
    max_image_tokens: int = setting(4096, whole(1))
    pictures_per_part: int = setting(256, whole(1))  # a killed run loses at most as many


STAGES: dict[str, type[_Checked]] = {
    "base": InspectSettings,
    "process": ProcessSettings,
    "sft": SftSettings,
    "grpo": GrpoSettings,
    "evaluate": EvaluateSettings,
}


def problems_of(cls: type[_Checked], values: Mapping[str, Any], where: str = "") -> list[str]:
    """Every reason why `cls(**values)` cannot be; empty when it can."""
    known = {each.name: each for each in fields(cls)}
    problems = [
        f"{where}{name}: there is no such setting; known are {', '.join(sorted(known))}"
        for name in values
        if name not in known
    ]
    seen = {each.name: values.get(each.name, each.default) for each in known.values()}
    wrong = []
    for name, value in seen.items():
        allowed: Allowed = known[name].metadata["allowed"]
        if value is MISSING:
            wrong.append(f"{where}{name}: missing; want {allowed.words}")
        elif not allowed.test(value):
            wrong.append(f"{where}{name} = {value!r}: want {allowed.words}")
    between = [] if wrong else [where + text for text in cls.rules(seen)]
    return problems + wrong + between


@dataclass(frozen=True)
class StageConfig:
    """What one stage is to do.

    root: where artifacts live (a folder or s3://). work_dir: local scratch folder that survives a kill.
    policy: `embedded`, a folder or a hub name. policy_name: the partition (base, cold_start, a recipe).
    tables: table name -> paths of the Parquet files to read.
    """

    stage: str
    root: str
    work_dir: str
    policy: str
    policy_name: str
    policy_id: str
    seed: int
    tables: dict[str, list[str]]
    settings: Any

    @property
    def work_path(self) -> Path:
        """The scratch folder as a path."""
        return Path(self.work_dir)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "StageConfig":
        """Check `data` and build; raises ConfigError with every problem found."""
        problems = [
            f"{name}: there is no such entry; known are {', '.join(_ENTRIES)}"
            for name in data
            if name not in _ENTRIES
        ]
        for name, allowed in _ENTRIES.items():
            if name not in data:
                problems.append(f"{name}: missing; want {allowed.words}")
            elif not allowed.test(data[name]):
                problems.append(f"{name} = {data[name]!r}: want {allowed.words}")
        settings, settings_cls = data.get("settings"), STAGES.get(str(data.get("stage")))
        if settings_cls and isinstance(settings, Mapping):
            problems += problems_of(settings_cls, settings, "settings.")
        if settings_cls and isinstance(data.get("tables"), Mapping):
            problems += [
                f"tables.{name}: missing; want the paths of its Parquet files"
                for name in ROW_TABLES
                if not data["tables"].get(name)
            ]
        if problems or settings_cls is None:
            raise ConfigError(problems)
        entries = {name: data[name] for name in _ENTRIES if name != "settings"}
        return cls(**entries, settings=settings_cls(**data["settings"]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON-able mapping that `from_dict` reads back equal."""
        return asdict(self)


_PATHS = Allowed(
    "a mapping of table name to a list of paths",
    lambda v: (
        isinstance(v, Mapping)
        and all(isinstance(p, list | tuple) and all(TEXT.test(path) for path in p) for p in v.values())
    ),
)
_ENTRIES: dict[str, Allowed] = {
    "stage": one_of(*STAGES),
    "root": TEXT,
    "work_dir": TEXT,
    "policy": TEXT,
    "policy_name": TEXT,
    "policy_id": TEXT,
    "seed": whole(0, 2**32 - 1),
    "tables": _PATHS,
    "settings": Allowed("a mapping of settings", lambda v: isinstance(v, Mapping)),
}


def read_stage_config(path: str | Path) -> StageConfig:
    """The configuration in the JSON file at `path`; raises ConfigError with every problem."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read ({error.strerror})"]) from error
    except ValueError as error:
        raise ConfigError([f"{path}: not JSON ({error})"]) from error
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: want one JSON object, saw {type(data).__name__}"])
    return StageConfig.from_dict(data)
