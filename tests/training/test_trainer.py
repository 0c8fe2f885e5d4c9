import inspect
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.trainer.base_trainer import _BaseTrainer

from storage.rows import rows_from_paths
from tests.tiny_models import tiny_policy
from tests.training.small_grpo import grpo_trainer
from tests.training.small_run import save_speaking_policy, write_tables
from training.checkpoints import CHECKPOINTS
from training.dataset import picture
from training.policy import Policy, load_policy, save_policy
from training.progress import COMPLETIONS, METRICS, read_json_lines
from training.rewards import map_mass
from training.saliency import explain

FLOAT32_ORDER = 1e-4  # the trainer's batch is padded: the same sums in another order


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_speaking_policy(tmp_path_factory.mktemp("policy"))


def parameters(method):
    return list(inspect.signature(method).parameters)


def test_overridden_methods_have_the_signature_that_is_relied_on():
    assert parameters(GRPOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters(GRPOTrainer._calculate_rewards) == [
        *("self", "inputs", "prompts", "completions", "completion_ids_list")
    ]
    assert parameters(GRPOTrainer._compute_loss) == ["self", "model", "inputs"]
    logps = parameters(GRPOTrainer._get_per_token_logps_and_entropies)
    assert logps[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert "image_grid_thw" in logps
    assert parameters(GRPOTrainer.log) == parameters(SFTTrainer.log) == ["self", "logs", "start_time"]
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
    assert parameters(_BaseTrainer._send_telemetry) == ["self"]


def test_attributes_of_trl_that_are_read_are_there(tmp_path, tables, policy):
    trainer = grpo_trainer(tmp_path, tables, policy)
    assert trainer.num_iterations == 1
    assert trainer.args.steps_per_generation == 2
    assert trainer._pending_extra_logs == {}
    assert trainer.eos_token_ids == [trainer._tokenizer.eos_token_id]


def passes_of_one_round(trainer):
    """(order of what happens in one round, text passes over whole sequences without gradient)."""
    events = []
    original = trainer.policy.family.text_model(trainer.policy.model)

    def note(module, args, kwargs):
        embeddings = kwargs["inputs_embeds"]
        if embeddings.shape[1] > 1 and kwargs.get("past_key_values") is None:
            events.append("with gradient" if torch.is_grad_enabled() else "without gradient")

    def reward(completions, **columns):
        events.append("rewards")
        return [0.0] * len(completions)

    trainer.reward_funcs[0] = reward
    hook = original.register_forward_pre_hook(note, with_kwargs=True)
    trainer.train()
    hook.remove()
    return events


@pytest.mark.parametrize("recipe", ["accuracy", "saliency_r1", "saliency_loss"])
def test_the_map_rides_on_a_pass_that_is_made_anyway(tmp_path, tables, policy, recipe):
    # One round of 2 micro-batches of 6 completions: the old policy's pass takes two chunks, then two steps.
    trainer = grpo_trainer(tmp_path, tables, policy, recipe=recipe, steps=2)
    assert passes_of_one_round(trainer) == [
        *("without gradient", "without gradient", "rewards", "with gradient", "with gradient")
    ]


@pytest.mark.parametrize(
    ("recipe", "wanted"),
    [
        ("accuracy", ["rewards", "with gradient"]),
        ("saliency_r1", ["without gradient", "rewards", "with gradient"]),
        ("saliency_loss", ["rewards", "with gradient"]),  # its maps ride on the loss's own pass
    ],
)
def test_where_trl_makes_no_such_pass_it_is_asked_for(tmp_path, tables, policy, recipe, wanted):
    trainer = grpo_trainer(tmp_path, tables, policy, recipe=recipe, steps=1, steps_per_generation=1)
    assert passes_of_one_round(trainer) == wanted
    assert trainer.num_iterations == 1


def train_and_remember(trainer):
    """Train; returns the sampled token ids of every completion, in the order in which they are logged."""
    sampled = []
    judge = trainer.reward_funcs[0]

    def remember(completion_ids, **columns):
        sampled.extend(completion_ids)
        return judge(**columns)

    trainer.reward_funcs[0] = remember
    trainer.train()
    return sampled


def largest_difference(policy, lines, ids, tables):
    """Between logged saliency rewards and the masses of the maps that `explain` makes with `policy`.

    Infinite where one has a score and the other has none, or another reason.
    """
    rows = {row.example_id: row for row in rows_from_paths(tables, "train")}
    differences = []
    for line, sampled in zip(lines, ids, strict=True):
        row = rows[line["example_id"]]
        explained = explain(policy, picture(row), row.question, sampled)
        mass, reason = map_mass(explained, row.boxes, (row.width_px, row.height_px), line["completion"])
        if reason != line["unscorable_reason"]:
            differences.append(math.inf)
        elif mass is not None:
            differences.append(abs(line["reward_saliency"] - mass))
    assert len({line["reward_saliency"] for line in lines} - {None}) > 1
    return max(differences)


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 1}, {"gradient_accumulation": 2}])
def test_the_rewarded_map_is_that_of_explain_on_the_same_completion(tmp_path, tables, policy, changes):
    trainer = grpo_trainer(tmp_path, tables, policy, steps=1, prompts_per_step=4, **changes)
    ids = train_and_remember(trainer)
    lines = read_json_lines(tmp_path / COMPLETIONS)
    assert largest_difference(load_policy(policy), lines, ids, tables) < FLOAT32_ORDER


@pytest.mark.parametrize("lora_rank", [0, 2], ids=["full", "lora"])
def test_with_a_reference_policy_the_map_is_still_the_trained_policys(tmp_path, tables, policy, lora_rank):
    # The second round is sampled after step 2, whose weights are kept; the reference has the first ones.
    trainer = grpo_trainer(tmp_path, tables, policy, beta=0.1, lora_rank=lora_rank, prompts_per_step=4)
    ids = train_and_remember(trainer)[24:]
    saved = tmp_path / CHECKPOINTS / "checkpoint-2"
    if lora_rank:
        base = load_policy(policy)
        save_policy(Policy(PeftModel.from_pretrained(base.model, saved), base.processor), tmp_path / "merged")
        saved = tmp_path / "merged"
    second = [line for line in read_json_lines(tmp_path / COMPLETIONS) if line["step"] == 3]
    assert largest_difference(load_policy(str(saved)), second, ids, tables) < FLOAT32_ORDER
    assert largest_difference(load_policy(policy), second, ids, tables) > 10 * FLOAT32_ORDER


def test_what_is_unscorable_is_none_and_counted_and_takes_no_part_in_the_mean(tmp_path, tables, policy):
    trainer = grpo_trainer(tmp_path, tables, policy, steps=2, temperature=1.15)
    trainer.train()
    sampled = read_json_lines(tmp_path / COMPLETIONS)
    refused = [line for line in sampled if line["unscorable_reason"]]
    assert 0 < len(refused) < len(sampled) == 12
    assert all((line["reward_saliency"] is None) == bool(line["unscorable_reason"]) for line in sampled)
    first = read_json_lines(tmp_path / METRICS)[0]
    assert first["n_unscorable"] == len(refused)
    by_reason = {name: n for name, n in first.items() if name.startswith("unscorable_")}
    assert sum(by_reason.values()) == len(refused)
    masses = [line["reward_saliency"] for line in sampled if line["reward_saliency"] is not None]
    assert first["saliency_mean"] == pytest.approx(sum(masses) / len(masses), rel=1e-5)
    # A None adds nothing to the sum; with scale_rewards "none" the advantage is the sum less its group's mean.
    for start in range(0, 12, 3):
        group = sampled[start : start + 3]
        assert len({line["example_id"] for line in group}) == 1
        sums = [
            line["reward_format"] + line["reward_accuracy"] + (line["reward_saliency"] or 0.0)
            for line in group
        ]
        assert [line["reward"] for line in group] == pytest.approx(sums, rel=1e-5)
        wanted = [total - sum(sums) / 3 for total in sums]
        assert [line["advantage"] for line in group] == pytest.approx(wanted, abs=1e-5)


def test_a_policy_that_never_thinks_is_trained_without_a_map(tmp_path, tables):
    save_policy(tiny_policy(seed=1), tmp_path / "random")
    trainer = grpo_trainer(tmp_path / "work", tables, str(tmp_path / "random"), steps=2)
    trainer.train()
    lines = read_json_lines(tmp_path / "work" / METRICS)
    assert lines[0]["n_unscorable"] == 12
    assert lines[0].get("unscorable_no_thought", 0) + lines[0].get("unscorable_truncated", 0) == 12
    assert "saliency_mean" not in lines[0]
    assert "n_unscorable" not in lines[1]  # no new completions in the second step of the round


def test_full_checkpoints_restore_every_weight(tmp_path, tables, policy):
    trainer = grpo_trainer(tmp_path, tables, policy, steps=2)
    trainer.train()
    trained = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    again = grpo_trainer(tmp_path / "again", tables, policy, steps=2)
    again._load_from_checkpoint(str(tmp_path / CHECKPOINTS / "checkpoint-2"))
    restored = again.model.state_dict()
    assert trained.keys() == restored.keys()
    assert all(torch.equal(trained[name], restored[name]) for name in trained)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, tables, policy):
    save_policy(tiny_policy(seed=1, intermediate_size=64), tmp_path / "other")
    trainer = grpo_trainer(tmp_path / "work", tables, policy)
    with pytest.raises(RuntimeError, match="holds other weights than the model"):
        trainer._load_from_checkpoint(str(tmp_path / "other"))


def test_nothing_is_reported_to_anyone(tmp_path, tables, policy, monkeypatch):
    sent = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **report: sent.append(report))
    grpo_trainer(tmp_path, tables, policy)
    assert sent == []


def test_special_tokens_of_a_completion_are_not_hidden(tmp_path, tables, policy):
    trainer = grpo_trainer(tmp_path, tables, policy)
    tokenizer = trainer._tokenizer
    ids = tokenizer("red<|vision_end|> cup<|im_end|>more")["input_ids"]
    assert trainer._decode(ids) == "red<|vision_end|> cup"
    assert Path(trainer.args.output_dir).name == CHECKPOINTS
