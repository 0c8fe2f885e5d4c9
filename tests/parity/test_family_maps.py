"""The engine against the plain forward projection, on the very model class of every family."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AttentionInterface, AttentionMaskInterface

from tests.parity.family_models import BUILDERS, family_policy
from tests.parity.plain import plain_map
from training.capture import IMPLEMENTATION, capture
from training.conversation import SYSTEM_PROMPT
from training.saliency import METHODS, ROWS, record_maps
from training.teacher_forcing import teacher_forced

# Wide, high and square pictures, prompts and words of different lengths: padded on both sides in a batch.
CASES = [
    ((230, 150), "what is it", "the red ball", "ball"),
    ((120, 290), "look at the picture what is it", "red", "red ball"),
    ((170, 170), "it", "it is the red ball", "the red ball"),
]
SIZES = [case[0] for case in CASES]


def _example(case, seed):
    (width, height), question, thought, answer = case
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels), question, f"<think>{thought}</think>{answer}"


def _inputs(policy, cases, dtype):
    """A batch in `dtype`. Positions are counted without the padding, where the model does not do it itself.

    The angles are float32 in any model, so left padding would otherwise move them by 1e-7.
    """
    inputs, start = teacher_forced(policy, [_example(case, seed) for seed, case in cases], SYSTEM_PROMPT)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    if "image_grid_thw" not in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    return inputs, start


def _spans(policy, ids, start):
    """Positions of image, thought and answer, by the tags' ids."""
    opening, closing, end = (
        ids.index(policy.tokenizer.convert_tokens_to_ids(tag), start)
        for tag in ("<think>", "</think>", "<|im_end|>")
    )
    known = policy.tokenizer.get_vocab()
    token = next(
        known[t] for t in ("<image>", "<image_soft_token>", "<IMG_CONTEXT>", "<|image_pad|>") if t in known
    )
    image = [p for p, i in enumerate(ids) if i == token]
    return image, list(range(opening + 1, closing)), list(range(closing + 1, end))


def _expected(policy, name, dtype, method, rows):
    """The plain map of every case by itself, unpadded."""
    for seed, case in enumerate(CASES):
        inputs, start = _inputs(policy, [(seed, case)], dtype)
        image, thought, answer = _spans(policy, inputs["input_ids"][0].tolist(), start)
        assert (len(thought), len(answer)) == (len(case[2].split()), len(case[3].split()))
        tiles = TILES.get(name)
        spread = partial(_on_grid, tiles_hw=tiles[seed], side=2) if tiles else (lambda values: values)
        yield plain_map(policy, inputs, image, thought, answer, method, rows, spread=spread)


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


def _largest_error(policy, name, dtype, method, rows):
    """Largest deviation of any cell of any case, relative to the largest cell of its map."""
    inputs, start = _inputs(policy, list(enumerate(CASES)), dtype)
    assert not inputs["attention_mask"].all()
    graph = torch.set_grad_enabled(METHODS[method].needs_backward)
    with graph, record_maps(policy, inputs, start, method, rows, SIZES) as recorder:
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    policy.model.to(torch.float64)  # the oracle is exact in any case
    exact = list(_expected(policy, name, torch.float64, method, rows))
    policy.model.to(dtype)
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


@pytest.mark.parametrize("name", ["gemma3", "internvl", "idefics3"])
@pytest.mark.parametrize("lora", [("q_proj",), ("k_proj",), ("v_proj",), ("o_proj",)])
def test_adapters_on_any_of_the_four(name, lora):
    policy = family_policy(name, lora=lora)
    assert _largest_error(policy, name, torch.float64, "cot_rollout", "predictor") < 1e-9


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_in_bfloat16_stay_near_single_precision(name):
    """bfloat16 keeps 8 bits: some per cent on a map of hundreds of terms."""
    maps = []
    for dtype in (torch.float32, torch.bfloat16):
        policy = family_policy(name, dtype=torch.bfloat16)  # the same rounded weights in both
        policy.model.to(dtype)
        inputs, start = _inputs(policy, list(enumerate(CASES)), dtype)
        with torch.no_grad(), record_maps(policy, inputs, start, "direct", "predictor", SIZES) as recorder:
            policy.model(**inputs, use_cache=False)
        maps.append(recorder.signed)
    for exact, rough in zip(*maps, strict=True):
        assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten().float(), dim=0) > 0.97


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
    inputs, start = _inputs(policy, list(enumerate(CASES)), torch.float32)
    masks = {}

    class Reader:
        differentiable = False

        def on_layer(self, index, layer):
            masks[index] = layer.mask

        def on_final(self, hidden):
            pass

    with torch.no_grad(), capture(policy, Reader()):
        policy.model(**inputs, use_cache=False)
    image, *_ = _spans(policy, inputs["input_ids"][0].tolist(), start)
    first, last = image[0], image[-1]
    assert not torch.equal(masks[0], masks[1])
    assert masks[1][0, 0, first, last]  # forwards, among the tokens of the picture
    assert masks[1][0, 0, -1, first] and not masks[0][0, 0, -1, first]  # beyond the window of 7
