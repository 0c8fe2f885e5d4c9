import json
import subprocess
import sys

import pytest

from training.config import (
    RECIPES,
    ConfigError,
    EvaluateSettings,
    GrpoSettings,
    SftSettings,
    StageConfig,
    read_stage_config,
)

TABLES = {name: [f"/data/{name}.parquet"] for name in ("images", "examples", "boxes", "splits")}


def config_dict(**changes):
    return {
        "stage": "grpo",
        "root": "var",
        "work_dir": "var/work/x",
        "policy": "embedded",
        "policy_name": "accuracy",
        "policy_id": "accuracy@0123456789ab",
        "seed": 7,
        "tables": TABLES,
        "settings": {"recipe": "accuracy", "steps": 10},
    } | changes


def test_every_problem_is_reported_at_once_with_setting_value_and_what_is_allowed():
    bad = config_dict(
        seed=-1,
        tables={"images": ["a"], "examples": ["b"], "boxes": ["c"]},
        settings={"recipe": "saliency", "steps": 0, "temprature": 1.0, "epsilon": True},
        extra=1,
    )
    with pytest.raises(ConfigError) as caught:
        StageConfig.from_dict(bad)
    text = str(caught.value)
    assert len(caught.value.problems) == 7
    assert "seed = -1: want a whole number from 0 to 4294967295" in text
    assert "settings.recipe = 'saliency': want one of accuracy, saliency_r1" in text
    assert "settings.steps = 0: want a whole number of at least 1" in text
    assert "settings.temprature: there is no such setting" in text
    assert "settings.epsilon = True: want a number above 0" in text
    assert "tables.splits: missing" in text
    assert "extra: there is no such entry" in text


def test_missing_entries_are_named():
    with pytest.raises(ConfigError) as caught:
        StageConfig.from_dict({"stage": "sft"})
    named = {problem.partition(":")[0] for problem in caught.value.problems}
    assert named == {"root", "work_dir", "policy", "policy_name", "policy_id", "seed", "tables", "settings"}


def test_unknown_stage_is_refused():
    with pytest.raises(ConfigError, match="stage = 'dance': want one of base, process, sft, grpo, evaluate"):
        StageConfig.from_dict(config_dict(stage="dance"))


def test_a_config_survives_json():
    config = StageConfig.from_dict(config_dict(settings={"lora_rank": 4, "lora_targets": ["q_proj"]}))
    again = StageConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.settings.lora_targets == ("q_proj",)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        # One round feeds 2 steps: a checkpoint after step 3 lies in the middle of a round.
        ({"steps_per_generation": 2, "save_steps": 3}, "multiple of 2, "),
        # 3 micro-batches a round, 2 a step: rounds end at micro-batches 3, 6, ...; steps at 2, 4, 6: step 3.
        ({"steps_per_generation": 3, "gradient_accumulation": 2, "save_steps": 4}, "multiple of 3, "),
        # Each round is used twice: 2 x 2 micro-batches.
        ({"steps_per_generation": 2, "num_iterations": 2, "save_steps": 6}, "multiple of 4, "),
    ],
)
def test_checkpoints_must_fall_between_rounds_of_sampling(settings, wanted):
    with pytest.raises(ConfigError, match=wanted):
        GrpoSettings(**settings)


def test_a_round_that_ends_within_a_step_needs_no_more_than_the_step():
    # 4 micro-batches a step and a round each: every step ends a round.
    assert GrpoSettings(steps_per_generation=1, gradient_accumulation=4, save_steps=1).batch_size == 8


def test_checkpoints_must_fall_between_logged_steps():
    with pytest.raises(ConfigError, match=r"save_steps = 10: want a multiple of logging_steps \(4\)"):
        SftSettings(save_steps=10, logging_steps=4)


def test_batches_must_divide():
    with pytest.raises(ConfigError, match=r"gradient_accumulation = 5: .*4 x 8 = 32"):
        GrpoSettings(gradient_accumulation=5, steps_per_generation=5)
    # 2 prompts x 3 completions in 2 micro-batches of 3, 1 per round: 3 completions, one prompt a round.
    assert (
        GrpoSettings(
            prompts_per_step=2, num_generations=3, gradient_accumulation=2, steps_per_generation=1
        ).prompts_per_round
        == 1
    )
    # 3 prompts x 2 completions in 2 micro-batches of 3: no whole group in a round of one micro-batch.
    with pytest.raises(ConfigError, match=r"steps_per_generation = 1: .*3 completions"):
        GrpoSettings(prompts_per_step=3, num_generations=2, gradient_accumulation=2, steps_per_generation=1)


@pytest.mark.parametrize("names", [["q_proj, v_proj"], ["q_proj,"], [], ["'q_proj'"], "q_proj"])
def test_lora_targets_are_a_list_of_names(names):
    with pytest.raises(ConfigError, match="lora_targets"):
        SftSettings(lora_targets=names)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1e-4", 0.0, -1.0, 2.0])
def test_learning_rates_are_finite_positive_numbers(value):
    with pytest.raises(ConfigError, match="learning_rate"):
        SftSettings(learning_rate=value)


def test_defaults_are_allowed():
    assert SftSettings().lora_rank == 0
    assert EvaluateSettings().split == "test"
    assert GrpoSettings().steps_per_generation > GrpoSettings().gradient_accumulation


def test_recipes():
    assert RECIPES["accuracy"].rewards == ("format", "accuracy")
    assert RECIPES["saliency_r1"].rewards == ("format", "accuracy", "saliency")
    assert all(len(recipe.rewards) == len(recipe.weights) for recipe in RECIPES.values())
    assert {weight for recipe in RECIPES.values() for weight in recipe.weights} == {1.0}


def test_a_file_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stage_config(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_stage_config(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="want one JSON object, saw list"):
        read_stage_config(path)


def test_config_loads_without_torch():
    code = "import sys, training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
