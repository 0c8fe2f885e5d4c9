from dataclasses import asdict, fields
from pathlib import Path

import pytest

from assets.resources import Profile
from pipelines.profiles import load_profile, profile_names, read_profile
from training.config import STAGES, ConfigError
from training.recipes import RECIPES

MINIMAL = {"description": "for a test"}


def test_the_shipped_profiles() -> None:
    assert profile_names() == ("cluster", "local-gpu", "paper-3b", "paper-7b", "tiny")


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_gives_every_setting_of_every_stage(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    for stage, settings in STAGES.items():
        assert set(profile.stages[stage]) == {each.name for each in fields(settings)}
        assert asdict(settings(**profile.stages[stage])) == profile.stages[stage]


def test_the_published_settings() -> None:
    """8 GPUs x 1 prompt x 8 completions = 64 completions a step; 5e-5 and 1e-5; LoRA 128 and 16 on q and v."""
    for name, size in (("paper-3b", "3B"), ("paper-7b", "7B")):
        profile = load_profile(name)
        sft, grpo = profile.stages["sft"], profile.stages["grpo"]
        assert profile.policy == f"Qwen/Qwen2.5-VL-{size}-Instruct"
        assert "8" in profile.command
        assert 8 * grpo["prompts_per_step"] * grpo["num_generations"] == 64
        assert (sft["learning_rate"], sft["epochs"], sft["lora_rank"]) == (5e-5, 2, 128)
        assert (grpo["learning_rate"], grpo["beta"], grpo["lora_rank"]) == (1e-5, 0.001, 16)
        assert (grpo["lora_targets"], grpo["repetition_penalty"]) == (("q_proj", "v_proj"), 1.05)


def test_the_tiny_profile_needs_nothing_from_outside() -> None:
    profile = load_profile("tiny")
    assert profile.policy == "embedded"
    assert profile.command == ()
    assert profile.policies == ("base", "cold_start", *RECIPES)


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"profile = 'tinny': want one of cluster, local-gpu, .*tiny"):
        load_profile("tinny")


def test_every_wrong_setting_is_reported_at_once() -> None:
    wrong = {
        **MINIMAL,
        "colour": 1,
        "seed": -1,
        "recipes": ["saliency_r2"],
        "split": {"val": 0.5, "test": 0.6},
        "command": "torchrun",
        "sft": {"learning_rate": "fast", "epoch": 3},
        "grpo": {"recipe": "accuracy", "num_generations": 1},
        "process": {"max_completion_length": 9},
    }
    with pytest.raises(ConfigError) as caught:
        read_profile("mine", wrong)
    message = str(caught.value)
    for part in (
        "profile mine: colour: there is no such setting",
        "seed = -1: want a whole number from 0",
        "recipes: 'saliency_r2' is no recipe; want some of accuracy, saliency_r1, saliency_loss",
        "split = {'val': 0.5, 'test': 0.6}: want at most 0.9 together",
        "command = 'torchrun': want a list of words",
        "sft.learning_rate = 'fast': want a number above 0",
        "sft.epoch: there is no such setting",
        "grpo.recipe: is set by the partition",
        "process.max_completion_length: is set by grpo; remove it from the profile",
        "grpo.num_generations = 1: want a whole number of at least 2",
    ):
        assert part in message
    assert len(caught.value.problems) == 10


def test_a_profile_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nrecipes: [accuracy]\ngrpo: {steps: 7, save_steps: 2}\n")
    profile = load_profile(str(path))
    assert (profile.name, profile.recipes, profile.stages["grpo"]["steps"]) == ("mine", ("accuracy",), 7)


def test_recipes_from_the_command_line_replace_the_profiles() -> None:
    assert load_profile("tiny", ("saliency_r1",)).recipes == ("saliency_r1",)
    with pytest.raises(ConfigError, match="'lift' is no recipe"):
        load_profile("tiny", ("lift",))


@pytest.mark.parametrize("text", ["just text", "[1, 2]", "a: [", ""])
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"profile .*mine\.yaml: "):
        load_profile(str(path))


def test_policies_are_in_the_order_in_which_they_come_to_be() -> None:
    profile = Profile("t", "", 0, "embedded", ("accuracy",), {}, {}, 100)
    assert profile.policies == ("base", "cold_start", "accuracy")
