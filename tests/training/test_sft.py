import json
import shutil
from pathlib import Path

import pytest
import torch

from storage.rows import rows_from_paths
from storage.tables import read_table
from tests.training.small_run import (
    run_and_interrupt,
    run_from_file,
    save_speaking_policy,
    stage_config,
    weights,
    without_seconds,
    write_tables,
)
from training import sft
from training.checkpoints import CHECKPOINTS, latest_checkpoint, steps_of
from training.dataset import sft_dataset
from training.policy import load_policy
from training.progress import METRICS, Progress, read_json_lines
from training.stage import RESULT

SETTINGS = {"max_steps": 8, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-3, "lr_scheduler": "cosine"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_speaking_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("lora_rank", [0, 2], ids=["full", "lora"])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, tables, policy, lora_rank):
    through = stage_config("sft", tmp_path / "through", tables, policy, **SETTINGS, lora_rank=lora_rank)
    assert run_from_file(sft, through, tmp_path) == 0

    broken = stage_config("sft", tmp_path / "broken", tables, policy, **SETTINGS, lora_rank=lora_rank)
    assert run_and_interrupt(sft, broken, tmp_path, after_step=3) == 130
    assert not (broken.work_path / RESULT).exists()
    assert 2 <= steps_of(latest_checkpoint(broken.work_path / CHECKPOINTS)) < 8
    assert run_from_file(sft, broken, tmp_path) == 0

    before = weights(Path(policy))
    wanted, found = weights(through.work_path / "policy"), weights(broken.work_path / "policy")
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in wanted.items())
    lines = read_json_lines(broken.work_path / METRICS)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert without_seconds(lines) == without_seconds(read_json_lines(through.work_path / METRICS))


def test_a_run_that_lost_only_its_result_does_not_train_again(tmp_path, tables, policy):
    config = stage_config("sft", tmp_path / "work", tables, policy, **SETTINGS | {"max_steps": 3})
    assert run_from_file(sft, config, tmp_path) == 0
    before, lines = weights(config.work_path / "policy"), read_json_lines(config.work_path / METRICS)
    (config.work_path / RESULT).unlink()
    shutil.rmtree(config.work_path / "policy")
    assert run_from_file(sft, config, tmp_path) == 0
    after = weights(config.work_path / "policy")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert read_json_lines(config.work_path / METRICS) == lines


def test_outputs(tmp_path, tables, policy):
    config = stage_config("sft", tmp_path, tables, policy, **SETTINGS | {"max_steps": 4, "eval_steps": 2})
    sft.run(config)
    result = json.loads((tmp_path / RESULT).read_text())
    assert result["outputs"] == {"policy": "policy", "training_steps": "training_steps.parquet"}
    assert result["device"] == "cpu"
    assert result["versions"]["trl"].startswith("1.16")
    summary = result["summary"]
    assert (summary["n_rows"], summary["n_steps"], summary["n_rows_without_reasoning"]) == (10, 4, 0)
    assert summary["eval_loss_last"] > 0
    steps = read_table(tmp_path / "training_steps.parquet").to_pylist()
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert {row["policy_id"] for row in steps} == {"small@0123456789ab"}
    assert {row["stage"] for row in steps} == {"sft"}
    assert all(row["loss"] > 0 and 0 <= row["token_accuracy"] <= 1 and row["seconds"] > 0 for row in steps)
    assert load_policy(str(tmp_path / "policy")).family.name == "qwen2_5_vl"


def test_the_loss_falls_on_the_completion_alone(tmp_path, tables, policy):
    config = stage_config("sft", tmp_path, tables, policy, **SETTINGS)
    loaded = load_policy(policy)
    rows = rows_from_paths(tables, "train")[:3]  # pictures of three sizes, so prompts of several lengths
    trainer = sft.make_trainer(config, loaded, rows, Progress(tmp_path, "sft", 0))
    batch = trainer.data_collator([sft_dataset(rows)[index] for index in range(3)])
    for labels, row in zip(batch["labels"], rows, strict=True):
        text = loaded.tokenizer.decode(labels[labels != -100])
        assert text == f"<think>\nThe cup.\n</think>\n{row.answer}<|im_end|>\n"


def test_adapters_go_to_the_text_layers_alone(tmp_path, tables, policy):
    config = stage_config("sft", tmp_path, tables, policy, **SETTINGS, lora_rank=2)
    rows = rows_from_paths(tables, "train")
    trainer = sft.make_trainer(config, load_policy(policy), rows, Progress(tmp_path, "sft", 0))
    trained = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad]
    # 3 layers x 7 linear maps x A and B; the vision tower has gate_proj, up_proj and down_proj too.
    assert len(trained) == 3 * 7 * 2
    assert all("language_model.layers" in name and "lora_" in name for name in trained)


def test_a_lora_target_that_is_not_there_is_named(tmp_path, tables, policy):
    settings = SETTINGS | {"lora_rank": 2, "lora_targets": ["q_proj", "c_attn"]}
    with pytest.raises(RuntimeError, match=r"no linear map is named c_attn .* there are .*q_proj"):
        sft.run(stage_config("sft", tmp_path, tables, policy, **settings))


def test_rows_without_reasoning_are_an_error_that_says_so(tmp_path, policy, capsys):
    tables = write_tables(tmp_path / "tables", with_reasoning=False)
    config = stage_config("sft", tmp_path / "work", tables, policy, **SETTINGS)
    assert run_from_file(sft, config, tmp_path) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("sft failed: StageError: none of the 10 rows of the split train has a reasoning")
    assert not (config.work_path / RESULT).exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, tables, policy, capsys):
    settings = SETTINGS | {"learning_rate": 1.0, "max_grad_norm": 1e30, "weight_decay": 1e30}
    config = stage_config("sft", tmp_path / "work", tables, policy, **settings)
    assert run_from_file(sft, config, tmp_path) == 1
    assert "the loss is nan with learning_rate 1; use a smaller one" in capsys.readouterr().err
    assert not (config.work_path / RESULT).exists()


def test_a_stage_refuses_the_configuration_of_another(tmp_path, tables, policy, capsys):
    config = stage_config("grpo", tmp_path, tables, policy)
    (tmp_path / RESULT).write_text("{}")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    assert sft.run_stage("sft", sft.run, [str(path)]) == 2
    assert "stage is 'grpo'; this is the stage 'sft'" in capsys.readouterr().err
