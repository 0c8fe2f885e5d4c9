"""The map as a loss: worked examples, what earns nothing, and where its gradient goes."""

import numpy as np
import pytest
import torch

from tests.parity.cases import CASES, example, in_precision
from tests.parity.models import random_policy
from tests.parity.test_maps import _expected
from training.conversation import SYSTEM_PROMPT
from training.map_loss import contrast, has_map
from training.methods import METHODS
from training.saliency import record_maps
from training.teacher_forcing import teacher_forced

# Two rows, three columns; the box covers one cell wholly and half of the next: weights 2/3 and 1/3 inside, the rest
# (1/2, 1, 1, 1, 1) / 4.5 outside.
COVERED = np.array([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
SIGNED = torch.tensor([[3.0, -3.0, 0.0], [9.0, 0.0, -9.0]], dtype=torch.float64)


def test_a_contrast_worked_by_hand():
    """inside: 3 * 2/3 - 3 * 1/3 = 1; outside: (-1.5 + 9 - 9) / 4.5 = -1/3. Sizes: 2 + 1 = 3 and 19.5 / 4.5 = 13/3."""
    assert contrast(SIGNED, COVERED).item() == pytest.approx((1 + 1 / 3) / (3 + 13 / 3))


def test_all_on_the_evidence_is_one_and_all_against_it_minus_one():
    inside = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    covered = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert contrast(inside, covered).item() == pytest.approx(1)
    assert contrast(-inside, covered).item() == pytest.approx(-1)


def test_size_of_the_map_and_area_of_the_box_earn_nothing():
    assert contrast(7 * SIGNED, COVERED).item() == pytest.approx(contrast(SIGNED, COVERED).item())
    uniform = torch.full((2, 3), 2.0)
    for covered in (COVERED, 1 - COVERED):
        assert contrast(uniform, covered).item() == pytest.approx(0, abs=1e-7)


def test_a_map_that_is_only_negative_is_dead_though_its_contrast_may_be_one():
    signed = torch.tensor([[0.0, -1.0], [-1.0, -1.0]])
    covered = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert contrast(signed, covered).item() == pytest.approx(1)
    assert not has_map(signed)
    assert has_map(signed + 1e-3)
    with pytest.raises(FloatingPointError):
        contrast(signed / 0, covered)


def test_a_map_without_anything_positive_still_has_a_gradient():
    signed = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    contrast(signed, COVERED).backward()
    assert (signed.grad[0, :2] > 0).all()


@pytest.mark.parametrize(
    ("signed", "covered", "reason"),
    [
        (SIGNED, np.zeros((2, 3)), "no_boxes"),
        (SIGNED, np.ones((2, 3)), "box_covers_everything"),
        (0 * SIGNED, COVERED, "zero_map"),
    ],
)
def test_no_number_but_a_reason(signed, covered, reason):
    assert contrast(signed, covered) == reason


def _weights(n_maps):
    """Fixed, arbitrary numbers, so that one number can be made of all cells of all maps."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(400, generator=generator, dtype=torch.float64) for _ in range(n_maps)]


def _gradients(policy, maps):
    policy.model.zero_grad()
    weights = _weights(len(CASES))
    sum((m.flatten() * w[: m.numel()]).sum() for m, w in zip(maps, weights, strict=True)).backward()
    return {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "grad_attention"])
def test_the_gradient_of_the_maps_is_that_of_the_plain_ones(method):
    """Oracle: the maps written out plainly, one sample at a time, through torch's own derivatives; every weight."""
    policy = random_policy(seed=5, lora=("q_proj", "o_proj"))
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    inputs, start = teacher_forced(policy, [example(c, i) for i, c in enumerate(CASES)], SYSTEM_PROMPT)
    inputs = in_precision(inputs, torch.float64)
    with record_maps(policy, inputs, start, method, differentiable=True) as recorder:
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    found = _gradients(policy, recorder.signed)
    expected = _gradients(policy, list(_expected(policy, torch.float64, method, "predictor", gradients=True)))
    assert set(found) == set(expected)
    assert any("k_proj" in name for name in found) and any("lora_A" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-8 * float(gradient.abs().max()))


def test_maps_with_gradients_where_there_can_be_none():
    policy = random_policy(dtype=torch.float32)
    inputs, start = teacher_forced(policy, [example(CASES[0], 0)], SYSTEM_PROMPT)
    attached = record_maps(policy, inputs, start, differentiable=True)
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"), attached:
        pass
    policy.model.gradient_checkpointing_enable()
    policy.model.train()
    attached = record_maps(policy, inputs, start, differentiable=True)
    with pytest.raises(ValueError, match="gradient_checkpointing off"), attached:
        pass
