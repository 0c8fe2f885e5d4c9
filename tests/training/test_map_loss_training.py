"""GRPO with the map as a loss: what is added to the loss, what is counted, and that it moves the map."""

import pytest
import torch

from tests.training.small_grpo import grpo_trainer
from tests.training.small_run import save_speaking_policy, write_tables
from training.config import ConfigError
from training.map_loss import contrast
from training.progress import COMPLETIONS, METRICS, read_json_lines
from training.saliency import record_maps

CHANGES = {"recipe": "saliency_loss", "temperature": 0.6}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_speaking_policy(tmp_path_factory.mktemp("policy"))


def test_the_loss_is_grpo_s_and_what_the_right_maps_lack(tmp_path, tables, policy):
    """Weight 1: (sum over right completions with a map of 1 - contrast) / completions, over a batch of 6."""
    trainer = grpo_trainer(tmp_path, tables, policy, **CHANGES, steps=2)
    trainer.create_optimizer_and_scheduler(2)
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.current_gradient_accumulation_steps = 1
    with_maps = trainer._compute_loss(trainer.model, batch)
    plain = super(type(trainer), trainer)._compute_loss(trainer.model, batch)

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    inputs = {"input_ids": ids, "attention_mask": mask, "image_grid_thw": batch["image_grid_thw"]}
    start = batch["prompt_ids"].shape[1]
    with torch.no_grad(), record_maps(trainer.policy, inputs, start) as recorder:
        trainer.policy.model(
            **inputs,
            pixel_values=batch["pixel_values"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            use_cache=False,
        )
    lacking, n_right = 0.0, 0
    for place, index in enumerate(batch["completion_index"].tolist()):
        judged, signed = trainer._right[index], recorder.signed[place]
        said = trainer.policy.tokenizer.decode(batch["completion_ids"][place], skip_special_tokens=True)
        if judged.right and signed is not None:
            assert said.endswith("red")
            lacking += 1 - float(contrast(signed, judged.boxes, judged.image_wh))
            n_right += 1
    assert 0 < n_right < 6
    assert (with_maps - plain).item() == pytest.approx(lacking / 6, rel=1e-4)


def test_training_on_the_map_moves_it(tmp_path, tables, policy):
    """What the maps lack in the first and in the last fifth of twenty steps; nothing is logged where no map is lost."""
    moved = {}
    for recipe in ("saliency_loss", "accuracy"):
        trainer = grpo_trainer(
            tmp_path / recipe, tables, policy, **CHANGES | {"recipe": recipe}, steps=20, learning_rate=3e-4
        )
        trainer.train()
        lines = [row for row in read_json_lines(tmp_path / recipe / METRICS) if "loss" in row]
        moved[recipe] = lines
    contrasts = [row["map_contrast_mean"] for row in moved["saliency_loss"] if "map_contrast_mean" in row]
    assert all(-1 <= each <= 1 for each in contrasts)
    lacking = [1 - each for each in contrasts]
    assert sum(lacking[-4:]) < 0.7 * sum(lacking[:4])
    assert all("n_maps" in row for row in moved["saliency_loss"])
    assert not any("n_maps" in row for row in moved["accuracy"])


def test_right_completions_without_a_map_are_counted(tmp_path, tables, policy):
    """Without values the policy says its answer alone: each right one of a batch is counted, and the loss is GRPO's."""
    trainer = grpo_trainer(tmp_path, tables, policy, **CHANGES, steps=2, learning_rate=1e-9)
    for layer in trainer.policy.family.text_model(trainer.policy.model).layers:
        layer.self_attn.v_proj.weight.data.zero_()
        layer.self_attn.v_proj.bias.data.zero_()
        layer.self_attn.v_proj.requires_grad_(False)
    trainer.train()
    counted = [row for row in read_json_lines(tmp_path / METRICS) if "loss" in row]
    n_right = sum(row["reward_accuracy"] == 1 for row in read_json_lines(tmp_path / COMPLETIONS))
    assert n_right > 0
    assert [
        sum(row[name] for row in counted) for name in ("n_maps", "n_unscorable", "unscorable_no_thought")
    ] == [*(0, n_right, n_right)]
    assert "map_contrast_mean" not in counted[0]


def test_checkpointed_layers_are_refused_before_anything_is_computed(tmp_path, tables, policy):
    with pytest.raises(ConfigError, match="want false with the recipe saliency_loss"):
        grpo_trainer(tmp_path, tables, policy, **CHANGES, gradient_checkpointing=True)
