"""The engine against the plain forward projection, on the very model class of every family."""

from functools import partial

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from tests.parity.cases import CASES, example, in_precision, written_spans
from tests.parity.family_models import BUILDERS, family_policy
from tests.parity.plain import plain_map
from training.capture import IMPLEMENTATION, capture
from training.conversation import SYSTEM_PROMPT
from training.saliency import METHODS, ROWS, record_maps
from training.teacher_forcing import teacher_forced

SIZES = [case[0] for case in CASES]


def _inputs(policy, cases, dtype):
    """A batch in `dtype`. Positions are counted without the padding, where the model does not do it itself.

    The angles are float32 in any model, so left padding would otherwise move them by 1e-7.
    """
    inputs, start = teacher_forced(policy, [example(case, seed) for seed, case in cases], SYSTEM_PROMPT)
    inputs = in_precision(inputs, dtype)
    if "image_grid_thw" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return inputs, start


def _image(policy, ids):
    """Positions of the image tokens, by what each family writes for one."""
    known = policy.tokenizer.get_vocab()
    token = next(
        known[t] for t in ("<image>", "<image_soft_token>", "<IMG_CONTEXT>", "<|image_pad|>") if t in known
    )
    return [p for p, i in enumerate(ids) if i == token]


def _expected(policy, name, dtype, method, rows, without=()):
    """The plain map of every case by itself, unpadded."""
    for seed, case in enumerate(CASES):
        inputs, start = _inputs(policy, [(seed, case)], dtype)
        ids = inputs["input_ids"][0].tolist()
        thought, answer = written_spans(case, ids, start, policy.tokenizer)
        tiles = TILES.get(name)
        spread = partial(_on_grid, tiles_hw=tiles[seed], side=2) if tiles else (lambda values: values)
        yield plain_map(
            policy, inputs, _image(policy, ids), thought, answer, method, rows, spread=spread, without=without
        )


def _on_grid(values, tiles_hw, side):
    """Tiles of side x side tokens row by row, then the whole picture, whose tokens are shared out: written out."""
    rows, columns = tiles_hw
    grid = torch.zeros(rows * side, columns * side, dtype=values.dtype)
    for index, value in enumerate(values):
        tile, token = divmod(index, side * side)
        i, j = divmod(token, side)
        if tile < rows * columns:
            grid[tile // columns * side + i, tile % columns * side + j] += value
        else:
            grid[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] += value / (rows * columns)
    return grid


# Tiles of the three pictures, by hand. Idefics3: the longest edge becomes 48, the other is rounded up to
# tiles of 16: 48 x 31.3 -> 3 x 2, 19.9 x 48 -> 2 x 3, 48 x 48 -> 3 x 3. InternVL takes the nearest aspect
# ratio among at most six tiles: 1.53 -> 3 x 2 (1.5), 0.41 -> 1 x 2 (0.5) or 1 x 3 (0.33): 0.5 is 0.09 away
# and 0.33 is 0.08, so 1 x 3; 1 -> 2 x 2 (a large picture takes the larger of 1 x 1 and 2 x 2). Rows first:
TILES = {
    "idefics3": [(2, 3), (3, 2), (3, 3)],
    "smolvlm": [(2, 3), (3, 2), (3, 3)],
    "internvl": [(2, 3), (3, 1), (2, 2)],
}


def _recorded(policy, dtype, method, rows):
    """The engine over all cases in one padded batch."""
    inputs, start = _inputs(policy, list(enumerate(CASES)), dtype)
    assert not inputs["attention_mask"].all()
    graph = torch.set_grad_enabled(METHODS[method].needs_backward)
    with graph, record_maps(policy, inputs, start, method, rows, SIZES) as recorder:
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    return recorder


def _exact(policy, name, dtype, method, rows, without=()):
    """The plain maps of all cases by the same weights in double precision."""
    policy.model.to(torch.float64)
    exact = list(_expected(policy, name, torch.float64, method, rows, without))
    policy.model.to(dtype)
    return exact


def _largest_error(policy, name, dtype, method, rows):
    """Largest deviation of any cell of any case, relative to the largest cell of its map."""
    recorder = _recorded(policy, dtype, method, rows)
    exact = _exact(policy, name, dtype, method, rows)
    # A map of positive shares may be zero as a whole; then ours must be, and another case must not be.
    assert any(expected.any() for expected in exact)
    errors = []
    for signed, expected in zip(recorder.signed, exact, strict=True):
        scale = expected.abs().max() if expected.any() else 1e-30
        errors.append(float((signed.detach().flatten() - expected.flatten()).abs().max() / scale))
    return max(errors)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BUILDERS)
def test_the_engine_equals_the_forward_projection(name, method, rows):
    assert _largest_error(family_policy(name), name, torch.float64, method, rows) < 1e-9


@pytest.mark.parametrize("name", BUILDERS)
def test_in_single_precision(name):
    policy = family_policy(name, dtype=torch.float32)
    for method in METHODS:
        assert _largest_error(policy, name, torch.float32, method, "predictor") < 1e-4


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("tie", [True, False])
def test_tied_and_untied_heads(name, tie):
    policy = family_policy(name, tie=tie, seed=3)
    assert (policy.model.lm_head.weight is policy.model.get_input_embeddings().weight) == tie
    assert _largest_error(policy, name, torch.float64, "cot_rollout", "state") < 1e-9


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("lora", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_adapters_on_any_of_the_four(name, lora):
    policy = family_policy(name, lora=(lora,))
    n_layers = len(policy.family.text_model(policy.model).layers)
    adapters = [p for n, p in policy.model.named_parameters() if f"{lora}.lora_" in n]
    assert len(adapters) == 2 * n_layers == 6
    assert all(p.count_nonzero() == p.numel() for p in adapters)
    assert _largest_error(policy, name, torch.float64, "cot_rollout", "predictor") < 1e-9
    with_adapter = _recorded(policy, torch.float64, "cot_rollout", "predictor").signed[0]
    with policy.model.disable_adapter():
        without = _recorded(policy, torch.float64, "cot_rollout", "predictor").signed[0]
    # Otherwise the parity would prove nothing.
    assert (with_adapter - without).abs().max() > 0.01 * without.abs().max()


BFLOAT16 = 0.05
"""bfloat16 keeps 8 bits, 0.4 per cent at each of some ten steps; a factor left out is to be seen."""


def _distance(maps, others):
    """Of all maps together, as a part of the size of the others."""
    ours, theirs = (torch.cat([m.flatten().double() for m in each]) for each in (maps, others))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", [*BUILDERS, "qwen2_5_vl"])
def test_weights_in_bfloat16(name):
    """Against the exact map by the same rounded weights; and each mistake in the exact map is far beyond tolerance."""
    policy = family_policy(name, dtype=torch.bfloat16)
    gain = policy.family.text_model(policy.model).norm.weight
    gain.data += 0.5 * (-1) ** torch.arange(len(gain))  # a gain that is plainly not one number
    found = _recorded(policy, torch.bfloat16, "cot_rollout", "predictor").signed
    mistakes = ["gamma", "rms", *(["norm after attention"] if name == "gemma3" else [])]
    right, *wrong = (
        _distance(found, _exact(policy, name, torch.bfloat16, "cot_rollout", "predictor", without))
        for without in ((), *((mistake,) for mistake in mistakes))
    )
    assert right < BFLOAT16
    assert min(wrong) > 1.5 * BFLOAT16


# What is float32 and what bfloat16; an adapter of peft is float32 on a bfloat16 model.
PRECISIONS = {
    "float32": lambda name: torch.float32,
    "bfloat16": lambda name: torch.bfloat16,
    "o_proj in bfloat16": lambda name: torch.bfloat16 if "o_proj" in name else torch.float32,
    "adapters in float32": lambda name: torch.float32 if "lora_" in name else torch.bfloat16,
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_a_pass_in_mixed_precision_gives_the_map_of_a_plain_one(name, precision):
    """Rows of the attention come in the pass's precision, whatever that of the weights; gemma3 projects them again."""
    policy = family_policy(name, dtype=torch.bfloat16, lora=("o_proj",))
    for each, parameter in policy.model.named_parameters():
        parameter.data = parameter.data.to(PRECISIONS[precision](each))
    dtype = policy.model.get_input_embeddings().weight.dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _recorded(policy, dtype, "cot_rollout", "predictor").signed
    assert _distance(found, _exact(policy, name, dtype, "cot_rollout", "predictor")) < BFLOAT16


@pytest.mark.parametrize("name", BUILDERS)
def test_logits_are_bit_equal_and_nothing_is_left_behind(name):
    policy = family_policy(name, dtype=torch.float32)
    inputs, start = _inputs(policy, list(enumerate(CASES)), torch.float32)
    before = {
        n: m.config._attn_implementation for n, m in policy.model.named_modules() if hasattr(m, "config")
    }

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in policy.model.modules())

    with torch.no_grad():
        bare = policy.model(**inputs, use_cache=False).logits
        n_hooks = hooks()  # transformers itself leaves some on its vision towers, in the first pass
        with record_maps(policy, inputs, start, image_sizes_wh=SIZES):
            watched = policy.model(**inputs, use_cache=False).logits
    assert torch.equal(bare, watched)
    assert hooks() == n_hooks
    after = {
        n: m.config._attn_implementation for n, m in policy.model.named_modules() if hasattr(m, "config")
    }
    assert after == before
    assert IMPLEMENTATION not in AttentionInterface._global_mapping
    assert IMPLEMENTATION not in AttentionMaskInterface._global_mapping


def test_gemma_layers_see_windows_and_whole_pictures():
    """Otherwise the parity of gemma3 would prove nothing about its masks."""
    policy = family_policy("gemma3", dtype=torch.float32)
    inputs, _ = _inputs(policy, list(enumerate(CASES)), torch.float32)
    masks = {}

    class Reader:
        differentiable = False

        def on_layer(self, index, layer):
            masks[index] = layer.mask

        def on_final(self, hidden):
            pass

    with torch.no_grad(), capture(policy, Reader()):
        policy.model(**inputs, use_cache=False)
    image = _image(policy, inputs["input_ids"][0].tolist())
    first, last = image[0], image[-1]
    assert not torch.equal(masks[0], masks[1])
    assert masks[1][0, 0, first, last]  # forwards, among the tokens of the picture
    assert masks[1][0, 0, -1, first] and not masks[0][0, 0, -1, first]  # beyond the window of 7
