"""The map as a loss: worked examples, what earns nothing, and where its gradient goes."""

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
WIDE = (60, 20)
BOX = [(0, 0, 30, 10)]
THE_REST = [(30, 0, 60, 10), (0, 10, 60, 20)]
SIGNED = torch.tensor([[3.0, -3.0, 0.0], [9.0, 0.0, -9.0]], dtype=torch.float64)


def test_a_contrast_worked_by_hand():
    """inside: 3 * 2/3 - 3 * 1/3 = 1; outside: (-1.5 + 9 - 9) / 4.5 = -1/3. Sizes: 2 + 1 = 3 and 19.5 / 4.5 = 13/3."""
    assert contrast(SIGNED, BOX, WIDE).item() == pytest.approx((1 + 1 / 3) / (3 + 13 / 3))


def test_all_on_the_evidence_is_one_and_all_against_it_minus_one():
    inside = torch.tensor([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    first_cell = [(0, 0, 20, 10)]
    assert contrast(inside, first_cell, WIDE).item() == pytest.approx(1)
    assert contrast(-inside, first_cell, WIDE).item() == pytest.approx(-1)


def test_size_of_the_map_and_area_of_the_box_earn_nothing():
    plain = contrast(SIGNED, BOX, WIDE).item()
    for scaled in (7 * SIGNED, 1e300 * SIGNED, (1e-3 * SIGNED).half(), (3e37 * SIGNED).float()):
        # float16 has 11 bits
        assert contrast(scaled, BOX, WIDE).item() == pytest.approx(plain, rel=2e-3)
    uniform = torch.full((2, 3), 2.0)
    for boxes in (BOX, THE_REST):
        assert contrast(uniform, boxes, WIDE).item() == pytest.approx(0, abs=1e-7)


def test_a_map_that_is_only_negative_is_dead_though_its_contrast_may_be_one():
    signed = torch.tensor([[0.0, -1.0], [-1.0, -1.0]])
    first_cell = ([(0, 0, 10, 20)], (20, 40))
    assert contrast(signed, *first_cell).item() == pytest.approx(1)
    assert not has_map(signed)
    assert has_map(signed + 1e-3)
    with pytest.raises(FloatingPointError):
        contrast(signed / 0, *first_cell)
    with pytest.raises(ValueError, match="map of shape"):
        contrast(signed.flatten(), *first_cell)


def test_a_map_without_anything_positive_still_has_a_gradient():
    signed = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    contrast(signed, BOX, WIDE).backward()
    assert (signed.grad[0, :2] > 0).all()


@pytest.mark.parametrize(
    ("signed", "boxes", "reason"),
    [
        (SIGNED, [], "no_boxes"),
        (SIGNED, [(60, 0, 90, 20)], "no_boxes"),
        (SIGNED, BOX + THE_REST, "box_covers_everything"),
        (0 * SIGNED, BOX, "zero_map"),
    ],
)
def test_no_number_but_a_reason(signed, boxes, reason):
    assert contrast(signed, boxes, WIDE) == reason


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
