import numpy as np
import pytest
import torch

from tests.parity.cases import CASES, example, in_precision, written_spans
from tests.parity.models import random_policy
from tests.parity.plain import plain_map
from training.conversation import SYSTEM_PROMPT
from training.methods import METHODS
from training.saliency import ROWS, record_maps
from training.teacher_forcing import teacher_forced


def _expected(policy, dtype, method, rows, gradients=False):
    """The plain map of every case by itself: nothing padded, and the spans found by the tags' ids."""
    for seed, case in enumerate(CASES):
        inputs, start = teacher_forced(policy, [example(case, seed)], SYSTEM_PROMPT)
        ids = inputs["input_ids"][0].tolist()
        picture = policy.family.image_token_id(policy.model)
        image = [p for p, i in enumerate(ids) if i == picture]
        thought, answer = written_spans(case, ids, start, policy.tokenizer)
        yield plain_map(policy, in_precision(inputs, dtype), image, thought, answer, method, rows, gradients)


def _engine(policy, dtype, method, rows):
    """All cases in one batch: prompts padded on the left, completions on the right."""
    inputs, start = teacher_forced(policy, [example(c, i) for i, c in enumerate(CASES)], SYSTEM_PROMPT)
    inputs = in_precision(inputs, dtype)
    assert not inputs["attention_mask"].all()
    with (
        torch.set_grad_enabled(METHODS[method].needs_backward),
        record_maps(policy, inputs, start, method, rows) as recorder,
    ):
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    return recorder


def _largest_error(policy, dtype, method, rows):
    """Largest deviation of any cell of any case, relative to the largest cell of its map."""
    recorder = _engine(policy, dtype, method, rows)
    errors = []
    for signed, expected in zip(recorder.signed, _expected(policy, dtype, method, rows), strict=True):
        assert expected.abs().max() > 0
        errors.append(float((signed.flatten() - expected).abs().max() / expected.abs().max()))
    return max(errors)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", METHODS)
def test_the_engine_equals_the_forward_projection(method, rows):
    # Unpadded against padded: sums of some hundred terms in another order, 1e-16 each.
    assert _largest_error(random_policy(), torch.float64, method, rows) < 1e-9


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", METHODS)
def test_in_single_precision(method, rows):
    policy = random_policy(dtype=torch.float32)
    assert _largest_error(policy, torch.float32, method, rows) < 1e-4


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 6},
        {"num_key_value_heads": 1},
        {"tie_word_embeddings": False},
        {"num_hidden_layers": 1},
        {"lora": ("q_proj",)},
        {"lora": ("k_proj",)},
        {"lora": ("v_proj",)},
        {"lora": ("o_proj",)},
        {"lora": ("q_proj", "k_proj", "v_proj", "o_proj", "lm_head"), "tie_word_embeddings": False},
    ],
    ids=str,
)
def test_whatever_the_model_is_made_of(changes):
    policy = random_policy(seed=3, **changes)
    assert _largest_error(policy, torch.float64, "cot_rollout", "predictor") < 1e-9


def test_an_adapter_changes_the_map():
    """Otherwise the cases with adapters would prove nothing."""
    policy = random_policy(lora=("o_proj",))
    with_adapter = _engine(policy, torch.float64, "cot_rollout", "predictor").signed[0]
    with policy.model.disable_adapter():
        without = _engine(policy, torch.float64, "cot_rollout", "predictor").signed[0]
    assert (with_adapter - without).abs().max() > 0.01 * without.abs().max()


def test_values_are_the_positive_part_on_the_grid():
    policy = random_policy()
    recorder = _engine(policy, torch.float64, "cot_rollout", "predictor")
    for signed, found, ((width, height), *_) in zip(recorder.signed, recorder.maps(), CASES, strict=True):
        assert found.values.dtype == np.float32
        assert found.values.shape == found.grid_hw == tuple(signed.shape)
        assert (found.grid_hw[1] > found.grid_hw[0]) == (width > height)
        assert (signed < 0).any()
        np.testing.assert_array_equal(found.values, signed.clamp(min=0).float().numpy())
