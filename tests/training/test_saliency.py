import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from storage.schema import UNSCORABLE
from tests.parity.models import random_policy, words
from training.capture import LayerPass
from training.config import REWARDED_METHODS, SALIENCY_METHODS
from training.conversation import SYSTEM_PROMPT
from training.families import FAMILIES
from training.methods import METHODS, Layer, Places
from training.policy import PolicyError
from training.projection import pull_back
from training.saliency import ROWS, explain, explain_batch, explain_batch_by, record_maps
from training.teacher_forcing import teacher_forced

GOOD = "<think>the red ball</think>the ball"


def _picture(width=230, height=150, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def policy():
    return random_policy(dtype=torch.float32)


def _attention(weights):
    """One head of a layer whose attention is `weights` [rows, keys]: keys are unit vectors, queries their logarithms.

    The value of key i is (i + 1, 10 * (i + 1)); the output projection swaps the two, and doubles the second.
    """
    n = len(weights)
    query = torch.tensor(weights, dtype=torch.float64).log().clamp(min=-1e9)[None, None]
    value = torch.zeros(1, 1, n, n, dtype=torch.float64)
    value[0, 0, :, 0] = torch.arange(1, n + 1)
    value[0, 0, :, 1] = 10 * torch.arange(1, n + 1)
    o_proj = nn.Linear(n, 2, bias=False, dtype=torch.float64)
    o_proj.weight.data.zero_()
    o_proj.weight.data[0, 1], o_proj.weight.data[1, 0] = 1.0, 2.0
    return LayerPass(
        SimpleNamespace(o_proj=o_proj),
        query,
        torch.eye(n, dtype=torch.float64)[None, None],
        value,
        None,
        1.0,
        output=torch.empty(1, n, 1, n, dtype=torch.float64),
    )


# Keys: image 0, image 1, thoughts 2 and 3, answer 4, and one more token 5. Row 1 predicts thought 2, and so on.
WEIGHTS = [
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.75, 0.25, 0.0, 0.0, 0.0, 0.0],
    [0.2, 0.3, 0.5, 0.0, 0.0, 0.0],
    [0.1, 0.4, 0.2, 0.3, 0.0, 0.0],
    [0.1, 0.2, 0.1, 0.1, 0.5, 0.0],
    [0.2, 0.2, 0.2, 0.2, 0.1, 0.1],
]


def _worked(method, answer_row, thought_rows, n_targets=1, thought_keys=(2, 3), valid=(True, True)):
    def positions(*p):
        return torch.tensor([p])

    answer = method != "thought_sum"
    places = Places(
        policy=None,
        answer_keys=positions(4),
        answer_rows=positions(answer_row),
        answer_valid=positions(True),
        thought_keys=positions(*thought_keys),
        thought_rows=positions(*thought_rows),
        thought_valid=positions(*valid).bool(),
        image_keys=positions(0, 1),
        image_valid=positions(True, True),
        target_keys=positions(4) if answer else positions(*thought_keys),
        target_rows=positions(answer_row) if answer else positions(*thought_rows),
        target_valid=positions(True) if answer else positions(*valid).bool(),
        target_ids=positions(*[0] * n_targets),
        input_ids=positions(*[0] * 6),
        answer_rows_at=positions(answer_row),
        thought_at=positions(*thought_keys),
        thought_rows_at=positions(*thought_rows),
        image_at=slice(0, 2),
    )
    # Target direction (1, 3): an image token of value (v, 10 v) writes (10 v, 2 v), which is worth 16 v.
    covector = torch.tensor([[[1.0, 3.0]] * n_targets], dtype=torch.float64)
    at_work = METHODS[method].start(places)
    at_work.add(Layer(_attention(WEIGHTS), places, covector, depth=1.0))
    # A final state of (4, 3) has the rms sqrt(12.5), by which projected shares are divided at the end.
    norm = SimpleNamespace(variance_epsilon=0.0)
    object.__setattr__(
        places,
        "policy",
        SimpleNamespace(
            model=None,
            family=SimpleNamespace(
                text_model=lambda _: SimpleNamespace(norm=norm), norm=FAMILIES["qwen2_5_vl"].norm
            ),
        ),
    )
    share = at_work.finish(torch.tensor([4.0, 3.0], dtype=torch.float64).expand(1, 6, 2))[0].detach()
    return share * 12.5**0.5 if METHODS[method].projected else share


@pytest.mark.parametrize(
    ("method", "rows", "expected"),
    [
        # Row 3 predicts the answer: 0.2 to thought 2 and 0.3 to thought 3, which rows 1 and 2 predict.
        # image 0: 0.2 * 0.75 + 0.3 * 0.2 = 0.21, worth 16; image 1: 0.2 * 0.25 + 0.3 * 0.3 = 0.14, worth 32.
        ("cot_rollout", (3, (1, 2)), [[0.21 * 16, 0.14 * 32]]),
        # Row 4 is the answer's own: 0.1 to each thought; rows 2 and 3 are the thoughts' own.
        # image 0: 0.1 * (0.2 + 0.1); image 1: 0.1 * (0.3 + 0.4).
        ("cot_rollout", (4, (2, 3)), [[0.03 * 16, 0.07 * 32]]),
        ("direct", (3, (1, 2)), [[0.1 * 16, 0.4 * 32]]),
        ("direct", (4, (2, 3)), [[0.1 * 16, 0.2 * 32]]),
        ("thought_sum", (3, (1, 2)), [[0.75 * 16, 0.25 * 32], [0.2 * 16, 0.3 * 32]]),
        ("thought_sum", (4, (2, 3)), [[0.2 * 16, 0.3 * 32], [0.1 * 16, 0.4 * 32]]),
        ("raw_attention", (3, (1, 2)), [[0.1, 0.4]]),
        ("raw_attention", (4, (2, 3)), [[0.1, 0.2]]),
        # Hops made distributions: row 3 gives the thoughts 0.2 and 0.3, so 0.4 and 0.6; row 2 gives the picture 0.2 and
        # 0.3, so 0.4 and 0.6. image 0: 0.4 * 0.75 + 0.6 * 0.4 = 0.54; image 1: 0.4 * 0.25 + 0.6 * 0.6 = 0.46.
        ("cot_rollout_normalised", (3, (1, 2)), [[0.54 * 16, 0.46 * 32]]),
        # Through the thoughts (0.21, 0.14) and past them (0.1, 0.4).
        ("cot_rollout_direct", (3, (1, 2)), [[0.31 * 16, 0.54 * 32]]),
        # One layer of (attention + identity) / 2: row 3 looks at the images with 0.1 and 0.4.
        ("attention_rollout", (3, (1, 2)), [[0.05, 0.2]]),
    ],
)
def test_one_layer_worked_by_hand(method, rows, expected):
    np.testing.assert_allclose(_worked(method, *rows, n_targets=len(expected)), expected, rtol=1e-12)


def test_filler_of_a_shorter_thought_carries_nothing():
    # The filler's row 0 looks at image 0 alone, and the answer's row 3 looks at key 0: 0.1 * 1 if it counted.
    padded = _worked("cot_rollout", 3, (1, 2, 0), thought_keys=(2, 3, 0), valid=(True, True, False))
    np.testing.assert_allclose(padded, [[0.21 * 16, 0.14 * 32]], rtol=1e-12)


def test_a_map_and_where_it_comes_from(policy):
    found = explain(policy, _picture(), "what is it", GOOD)
    assert (found.reason, found.method, found.rows) == (None, "cot_rollout", "predictor")
    assert (found.image_wh, found.grid_hw) == ((230, 150), (5, 8))
    assert found.values.shape == (5, 8)
    assert found.values.dtype == np.float32
    ids = found.inputs["input_ids"][found.sample].tolist()
    assert words().decode([ids[p] for p in found.thought_positions]) == "the red ball"
    assert words().decode([ids[p] for p in found.answer_positions]) == "the ball"


def test_text_and_the_ids_that_it_stands_for_are_the_same_completion(policy):
    ids = [*words()(GOOD, add_special_tokens=False)["input_ids"], words().eos_token_id]
    by_text = explain(policy, _picture(), "what is it", GOOD)
    by_text_with_end = explain(policy, _picture(), "what is it", GOOD + "<|im_end|>")
    by_ids = explain(policy, _picture(), "what is it", ids)
    assert np.array_equal(by_text.values, by_ids.values)
    assert np.array_equal(by_text.values, by_text_with_end.values)
    for other in (by_text_with_end, by_ids):
        assert torch.equal(by_text.inputs["input_ids"], other.inputs["input_ids"])
    assert explain(policy, _picture(), "what is it", ids[:-1]).reason == "truncated"


@pytest.mark.parametrize("method", METHODS)
def test_many_give_the_same_numbers_as_one_by_one(policy, method):
    examples = [
        (_picture(), "what is it", GOOD),
        (_picture(120, 290, 1), "look at the picture", "<think>it is the red ball</think>ball"),
        (_picture(170, 170, 2), "it", "ball <think>"),
        (_picture(200, 90, 3), "what", "<think>it</think>the red red ball"),
        (_picture(90, 200, 4), "it", "<think>red</think>it"),
        (_picture(84, 112, 5), "it", "red ball"),  # its first token is predicted by the prompt's last one
    ]
    bare = "no_thought" if METHODS[method].thought_needed else None
    alone = [explain(policy, *example, method=method) for example in examples]
    for batch_size in (2, 8):
        many = explain_batch(policy, examples, method=method, batch_size=batch_size)
        assert [m.reason for m in many] == [None, None, "format_invalid", None, None, bare]
        for one, other in zip(alone, many, strict=True):
            assert (one.grid_hw, one.image_wh) == (other.grid_hw, other.image_wh)
            ids = other.inputs["input_ids"][other.sample]
            assert torch.equal(
                one.inputs["input_ids"][0, list(one.thought_positions)], ids[list(other.thought_positions)]
            )
            if one.values is not None:
                np.testing.assert_allclose(one.values, other.values, atol=1e-5 * one.values.max())


def test_all_kinds_from_one_pass_are_bit_for_bit_those_of_a_pass_each(policy):
    examples = [
        (_picture(), "what is it", GOOD),
        (_picture(120, 290, 1), "look at the picture", "<think>it is the red ball</think>ball"),
        (_picture(84, 112, 5), "it", "red ball"),
    ]
    kinds = [(method, rows) for method in METHODS for rows in ROWS]
    passes = []
    watched = policy.model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    together = explain_batch_by(policy, examples, kinds, batch_size=2)
    watched.remove()
    assert passes == [False, True] * 2  # two batches, and a pass with gradients only for grad_attention
    assert list(together) == kinds
    for (method, rows), of in together.items():
        alone = explain_batch(policy, examples, method=method, rows=rows, batch_size=2)
        assert [(m.method, m.rows, m.reason) for m in of.maps] == [(method, rows, m.reason) for m in alone]
        for one, other in zip(alone, of.maps, strict=True):
            assert (one.values is None) == (other.values is None)
            assert one.values is None or np.array_equal(one.values, other.values), (method, rows)
        assert of.processor_seconds > 0
    assert torch.is_grad_enabled()


def test_chunks_in_order_give_the_same_maps_as_the_whole_batch(policy):
    thoughts = ("red", "it is", "the red ball")
    examples = [
        (_picture(140, 84, i), "what is it", f"<think>{t}</think>ball") for i, t in enumerate(thoughts)
    ]
    inputs, start = teacher_forced(policy, examples, SYSTEM_PROMPT)
    with torch.no_grad(), record_maps(policy, inputs, start) as whole:
        policy.model(**inputs, use_cache=False)
    with torch.no_grad(), record_maps(policy, inputs, start) as parts:
        patches = inputs["image_grid_thw"].prod(dim=1)
        for a, b in ((0, 2), (2, 3)):
            one_part = {k: v[a:b] for k, v in inputs.items()}
            one_part["pixel_values"] = inputs["pixel_values"][patches[:a].sum() : patches[:b].sum()]
            policy.model(**one_part, use_cache=False)
    assert len(parts.maps()) == 3
    for one, other in zip(whole.maps(), parts.maps(), strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-5 * one.values.max())
        assert (one.image_wh, one.inputs) == (None, None)


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("ball", "no_thought"),
        ("<think> </think>ball", "no_thought"),
        ("<think>red</think>", "empty_answer"),
        ("<think>red ball", "format_invalid"),
        ("<think>red <|image_pad|></think>ball", "image_token_emitted"),
    ],
)
def test_no_map_but_a_reason(policy, completion, reason):
    # The image token that a policy emits has no picture behind it, so such a batch is not run through the model.
    inputs, start = teacher_forced(policy, [(_picture(), "it", completion)], SYSTEM_PROMPT)
    with torch.no_grad(), record_maps(policy, inputs, start) as recorder:
        policy.family.text_model(policy.model)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
    (found,) = recorder.maps()
    assert (found.values, found.reason) == (None, reason)
    assert reason in UNSCORABLE


def test_an_image_token_that_the_policy_emits_costs_its_own_map_and_no_other(policy):
    odd = (_picture(), "it", "<think>red <|image_pad|></think>ball")
    found = explain_batch(policy, [odd, (_picture(), "it", GOOD)])
    assert [each.reason for each in found] == ["image_token_emitted", None]
    alone = explain(policy, _picture(), "it", GOOD).values
    np.testing.assert_allclose(found[1].values, alone, atol=1e-5 * alone.max())


def test_the_settings_name_every_method():
    assert set(SALIENCY_METHODS) == set(METHODS)
    assert set(REWARDED_METHODS) == {name for name, each in METHODS.items() if not each.needs_backward}


def test_a_completion_that_the_trainer_blanked_is_truncated(policy):
    """GRPO can mask a truncated completion; its tokens are still there, another sample's length long."""
    inputs, start = teacher_forced(policy, [(_picture(), "it", GOOD)], SYSTEM_PROMPT)
    inputs["attention_mask"][0, start:] = 0
    with torch.no_grad(), record_maps(policy, inputs, start) as recorder:
        policy.model(**inputs, use_cache=False)
    assert recorder.maps()[0].reason == "truncated"


def test_an_answer_without_a_thought_has_a_direct_map(policy):
    assert explain(policy, _picture(), "it", "ball", method="direct").values.max() > 0
    assert explain(policy, _picture(), "it", "ball", method="raw_attention").values.max() > 0
    assert explain(policy, _picture(), "it", "ball", method="thought_sum").reason == "no_thought"


def test_a_map_of_zeros_is_no_map():
    blank = random_policy(dtype=torch.float32)
    for layer in blank.family.text_model(blank.model).layers:
        layer.self_attn.v_proj.weight.data.zero_()
        layer.self_attn.v_proj.bias.data.zero_()
    found = explain(blank, _picture(), "it", GOOD)
    assert (found.values, found.reason) == (None, "zero_map")


def test_weights_that_are_not_finite_are_an_error():
    broken = random_policy(dtype=torch.float32)
    broken.family.text_model(broken.model).layers[1].self_attn.v_proj.bias.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="sample 0"):
        explain(broken, _picture(), "it", GOOD)


def test_a_prompt_that_lost_image_tokens(policy):
    inputs, start = teacher_forced(policy, [(_picture(), "it", GOOD)], SYSTEM_PROMPT)
    told = {k: inputs[k].clone() for k in ("input_ids", "attention_mask", "image_grid_thw")}
    first = inputs["input_ids"][0].tolist().index(policy.family.image_token_id(policy.model))
    told["attention_mask"][0, first] = 0
    with torch.no_grad(), record_maps(policy, told, start) as recorder:
        policy.model(**inputs, use_cache=False)
    assert recorder.maps()[0].reason == "image_tokens_cut"
    smaller = inputs | {"image_grid_thw": inputs["image_grid_thw"] - torch.tensor([[0, 2, 0]])}
    with pytest.raises(PolicyError, match="one picture"), record_maps(policy, smaller, start):
        pass


def test_wrong_settings_are_named(policy):
    inputs, _ = teacher_forced(policy, [(_picture(), "it", GOOD)], SYSTEM_PROMPT)
    with pytest.raises(ValueError, match=r"'gradcam'.*cot_rollout, direct"):
        explain(policy, _picture(), "it", GOOD, method="gradcam")
    with pytest.raises(ValueError, match=r"'key'.*predictor, state"):
        explain(policy, _picture(), "it", GOOD, rows="key")
    for bad in (0, inputs["input_ids"].shape[1] + 1):
        with pytest.raises(ValueError, match="completions start"), record_maps(policy, inputs, bad):
            pass


def test_passes_that_are_not_one_pass_over_the_batch(policy):
    inputs, start = teacher_forced(policy, [(_picture(), "it", GOOD)], SYSTEM_PROMPT)
    with record_maps(policy, inputs, start) as recorder:
        pass
    with pytest.raises(RuntimeError, match="0 of 1 samples"):
        recorder.maps()
    with record_maps(policy, inputs, start), torch.no_grad():
        policy.model(**inputs, use_cache=False)
        with pytest.raises(RuntimeError, match="1 more samples after 1"):
            policy.model(**inputs, use_cache=False)


def test_explain_is_without_dropout_and_without_gradient_and_puts_the_mode_back():
    dropping = random_policy(dtype=torch.float32, lora=("q_proj", "v_proj", "o_proj"))
    calm = explain(dropping, _picture(), "it", GOOD).values
    dropping.model.train()
    with_gradient = []
    dropping.model.register_forward_pre_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    odd_one_out = dropping.family.text_model(dropping.model).layers[0].mlp.eval()
    again = explain(dropping, _picture(), "it", GOOD).values
    assert np.array_equal(calm, again)
    assert with_gradient == [False]
    assert dropping.model.training
    assert not odd_one_out.training
    assert all(p.grad is None for p in dropping.model.parameters())


def test_maps_in_a_pass_with_gradients_and_dropout_are_detached_and_leave_the_gradients_alone():
    trained = random_policy(dtype=torch.float32, lora=("v_proj", "o_proj"))
    inputs, start = teacher_forced(trained, [(_picture(), "it", GOOD)], SYSTEM_PROMPT)
    trained.model.train()

    def gradients(record):
        torch.manual_seed(4)
        trained.model.zero_grad()
        if record:
            with record_maps(trained, inputs, start) as recorder:
                loss = trained.model(**inputs, use_cache=False).logits.square().mean()
            assert not recorder.signed[0].requires_grad
            assert recorder.maps()[0].values is not None
        else:
            loss = trained.model(**inputs, use_cache=False).logits.square().mean()
        loss.backward()
        return [p.grad.clone() for p in trained.model.parameters() if p.grad is not None]

    plain, recorded = gradients(False), gradients(True)
    assert len(plain) == len(recorded) > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, recorded, strict=True))


@pytest.mark.parametrize("width", [1, 5])
def test_pull_back_is_the_transposed_map(width):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(4, 7, dtype=torch.float64)
    covector = torch.randn(2, width, 7, dtype=torch.float64, generator=generator)
    x = torch.randn(2, width, 4, dtype=torch.float64, generator=generator)
    by_hand = torch.einsum("bnh,hd->bnd", covector, linear.weight)
    wrapped = nn.Sequential(nn.Dropout(0.5), linear).train()
    for module in (linear, wrapped):
        np.testing.assert_allclose(pull_back(module, covector, 4).detach(), by_hand.detach(), rtol=1e-12)
    # <c, W x> = <W^T c, x>, whatever the bias
    forwards = (covector * (linear(x) - linear.bias)).sum()
    assert forwards.item() == pytest.approx((pull_back(linear, covector, 4) * x).sum().item())
    assert wrapped.training


def test_saliency_map_cannot_be_changed(policy):
    with pytest.raises(dataclasses.FrozenInstanceError):
        explain(policy, _picture(), "it", GOOD).reason = "none"
