"""Maps of single tokens: they are the plain ones, add up to the maps of completions, and say which token is which."""

import numpy as np
import pytest
import torch

from tests.parity.cases import CASES, example, in_precision
from tests.parity.family_models import family_policy
from tests.parity.models import random_policy
from tests.parity.plain import plain_map, plain_thoughts_used
from training.conversation import SYSTEM_PROMPT
from training.saliency import ROWS, explain
from training.teacher_forcing import locate, teacher_forced
from training.token_flow import explain_tokens

WIDE = CASES[
    2
]  # thought: it is the red ball (5 tokens), answer: the red ball (3), 170 x 170 px: a grid of 6 x 6


@pytest.fixture(scope="module")
def policy():
    return random_policy(dtype=torch.float32)


@pytest.mark.parametrize("rows", ROWS)
def test_every_token_s_map_is_the_plain_one(policy, rows):
    picture, question, completion = example(CASES[0], 0)
    flow = explain_tokens(policy, picture, question, completion, rows)
    assert flow.thoughts == ("the", " red", " ball")
    assert flow.answers == ("ball",)
    assert (flow.thought_maps.shape, flow.answer_maps.shape) == ((3, 5, 8), (1, 5, 8))
    inputs, start = teacher_forced(policy, [(picture, question, completion)], SYSTEM_PROMPT)
    inputs = in_precision(inputs, torch.float32)
    (at,) = locate(policy, inputs, start, True)
    for found, token in zip(flow.thought_maps, at.thought, strict=True):
        expected = plain_map(policy, inputs, at.image, [token], list(at.answer), "thought_sum", rows)
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-4 * float(expected.abs().max()))
    used = plain_thoughts_used(policy, inputs, list(at.thought), list(at.answer), rows)
    np.testing.assert_allclose(flow.thoughts_used, used, atol=1e-4 * float(used.abs().max()))


def test_tokens_add_up_to_the_maps_of_the_completion(policy):
    picture, question, completion = example(WIDE, 2)
    flow = explain_tokens(policy, picture, question, completion)
    assert flow.thoughts_used.shape == (3, 5)
    for method, maps in (("cot_rollout", flow.answer_maps), ("thought_sum", flow.thought_maps)):
        whole = explain(policy, picture, question, completion, method=method).values
        np.testing.assert_allclose(maps.sum(axis=0).clip(min=0), whole, atol=1e-5 * whole.max())
        assert (maps < 0).any()  # signed: what speaks against a token stays


def test_no_flow_but_a_reason(policy):
    picture, question, _ = example(CASES[0], 0)
    flow = explain_tokens(policy, picture, question, "ball")
    assert (flow.reason, flow.thought_maps, flow.thoughts_used) == ("no_thought", None, None)
    with pytest.raises(ValueError, match="'key'"):
        explain_tokens(policy, picture, question, "ball", rows="key")


@pytest.mark.parametrize("name", ["llava_clip", "internvl", "idefics3"])
def test_crops_and_tiles_lie_on_the_grid_too(name):
    tiled = family_policy(name, dtype=torch.float32)
    picture, question, completion = example(CASES[0], 0)
    flow = explain_tokens(tiled, picture, question, completion)
    whole = explain(tiled, picture, question, completion, method="thought_sum")
    assert (flow.reason, flow.grid_hw, flow.region) == (None, whole.grid_hw, whole.region)
    assert (flow.region == (0.0, 0.0, 1.0, 1.0)) == (
        name != "llava_clip"
    )  # CLIP's processor cuts the sides off
    np.testing.assert_allclose(
        flow.thought_maps.sum(axis=0).clip(min=0), whole.values, atol=1e-5 * whole.values.max()
    )
