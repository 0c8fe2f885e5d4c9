import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from trl.trainer.utils import add_fused_lm_head

from tests.parity.models import random_policy
from training import capture as capture_module
from training.capture import IMPLEMENTATION, capture
from training.conversation import SYSTEM_PROMPT
from training.teacher_forcing import teacher_forced


class Rows:
    """Keeps the attention of chosen rows, the values and the final hidden states."""

    differentiable = False

    def __init__(self, positions):
        self.positions = torch.tensor(positions)
        self.weights, self.values, self.finals, self.grads = [], [], [], []

    def on_layer(self, index, layer):
        assert index == len(self.weights) % 3
        self.weights.append(layer.weights(self.positions))
        self.values.append(layer.value.clone())
        self.grads.append(self.weights[-1].requires_grad)

    def on_final(self, hidden):
        self.finals.append(hidden.clone())


class Nothing(Rows):
    def __init__(self):
        super().__init__([[0]])

    def on_layer(self, index, layer):
        self.weights.append(index)


def _batch(policy, n=2):
    """Prompts and completions of different lengths, pictures of different shapes."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    examples = [
        (Image.fromarray(noise[:150, :230]), "what is it", "<think>the red ball</think>ball"),
        (Image.fromarray(noise[:290, :120]), "it", "<think>it is the red ball</think>the red ball"),
    ]
    inputs, _ = teacher_forced(policy, examples[:n], SYSTEM_PROMPT)
    floats = {"pixel_values": inputs["pixel_values"].to(next(policy.model.parameters()).dtype)}
    return {**inputs, **floats}


def _state(policy):
    """Everything that capture touches."""
    text_model = policy.family.text_model(policy.model)
    vision = policy.model.config.vision_config
    return {
        "attention": dict(AttentionInterface._global_mapping),
        "local attention": dict(AttentionInterface()._local_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "text": text_model.config._attn_implementation,
        "top": policy.model.config._attn_implementation,
        "vision": vision._attn_implementation,
        "config": copy.deepcopy(policy.model.config.to_dict()),
        "watches": capture_module._watches.get(),
        "hooks": [
            (name, len(m._forward_pre_hooks), len(m._forward_hooks), len(m._forward_hooks_always_called))
            for name, m in policy.model.named_modules()
        ],
    }


@pytest.fixture
def policy():
    return random_policy(dtype=torch.float32)


@pytest.mark.parametrize("n", [1, 2], ids=["causal flag alone", "padding mask"])
def test_logits_are_bit_equal_with_and_without(policy, n):
    inputs = _batch(policy, n)
    with torch.no_grad():
        before = policy.model(**inputs, use_cache=False).logits
        with capture(policy, Rows([[7, 150, 3]] * n)):
            during = policy.model(**inputs, use_cache=False).logits
        after = policy.model(**inputs, use_cache=False).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)


@pytest.mark.parametrize("n", [1, 2], ids=["causal flag alone", "padding mask"])
def test_rows_equal_eager_attention(policy, n):
    inputs = _batch(policy, n)
    length = inputs["input_ids"].shape[1]
    rows = [[length - 1, 60, length // 2, length - 9]] * n
    reader = Rows(rows)
    with torch.no_grad():
        with capture(policy, reader):
            policy.model(**inputs, use_cache=False)
        policy.model.set_attn_implementation("eager")
        eager = policy.model(**inputs, use_cache=False, output_attentions=True).attentions
    assert len(reader.weights) == len(eager) == 3
    for seen, full in zip(reader.weights, eager, strict=True):
        assert seen.shape == (n, 6, 4, length)
        for sample in range(n):
            keep = inputs["attention_mask"][sample, rows[sample]].bool()
            assert keep.sum() >= 3
            wanted = full[sample][:, rows[sample]]
            # float32 softmax twice over, of up to 200 terms
            torch.testing.assert_close(seen[sample][:, keep], wanted[:, keep], atol=2e-6, rtol=1e-4)


def test_rows_under_a_mask_of_numbers(policy):
    """A caller may hand over a ready mask to be added: here one that hides key 5 and dims key 9."""
    inputs = _batch(policy, 1)
    n = inputs["input_ids"].shape[1]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
    mask[:, 5] = torch.finfo(torch.float32).min
    mask[:, 9] -= 1.5
    mask = mask.clamp(min=torch.finfo(torch.float32).min)[None, None]
    embeds = policy.model.get_input_embeddings()(inputs["input_ids"])
    text_model = policy.family.text_model(policy.model)
    reader = Rows([[n - 1, 30]])
    with torch.no_grad():
        with capture(policy, reader):
            text_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        policy.model.set_attn_implementation("eager")
        eager = text_model(
            inputs_embeds=embeds, attention_mask=mask, use_cache=False, output_attentions=True
        ).attentions
    for seen, full in zip(reader.weights, eager, strict=True):
        torch.testing.assert_close(seen[0], full[0][:, [n - 1, 30]], atol=2e-6, rtol=1e-4)
        assert seen[0][..., 5].max() == 0


def test_the_final_state_and_the_values_are_those_of_the_modules(policy):
    inputs = _batch(policy)
    text_model = policy.family.text_model(policy.model)
    outputs, reader = [], Rows([[0], [0]])
    hooks = [
        layer.self_attn.v_proj.register_forward_hook(lambda *a: outputs.append(a[2]))
        for layer in text_model.layers
    ]
    hooks.append(text_model.layers[-1].register_forward_hook(lambda *a: outputs.append(a[2])))
    with torch.no_grad(), capture(policy, reader):
        policy.model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    *values, final = outputs
    for seen, value in zip(reader.values, values, strict=True):
        assert torch.equal(seen, value.view(2, -1, 2, 8).transpose(1, 2))  # two key heads of eight
    assert torch.equal(reader.finals[0], final)


def test_only_the_text_layers_are_switched(policy):
    with capture(policy, Nothing()):
        assert policy.family.text_model(policy.model).config._attn_implementation == IMPLEMENTATION
        assert policy.model.config.vision_config._attn_implementation == "sdpa"
        assert ALL_MASK_ATTENTION_FUNCTIONS[IMPLEMENTATION] is ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    assert not any(word in IMPLEMENTATION for word in ("sdpa", "flex", "flash"))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_leaves_no_trace_after_success(policy, implementation):
    policy.model.set_attn_implementation(implementation)
    before = _state(policy)
    for _ in range(2):
        with capture(policy, Nothing()):
            policy.model(**_batch(policy, 1), use_cache=False)
            assert _state(policy) != before
        assert _state(policy) == before


def test_leaves_no_trace_after_an_exception(policy):
    class Breaks(Nothing):
        def on_layer(self, index, layer):
            raise ArithmeticError("reader")

    before = _state(policy)
    with pytest.raises(ArithmeticError), capture(policy, Breaks()):
        policy.model(**_batch(policy, 1), use_cache=False)
    assert _state(policy) == before
    reader = Nothing()
    with pytest.raises(KeyError), capture(policy, reader):
        raise KeyError("caller")
    assert _state(policy) == before
    policy.model(**_batch(policy, 1), use_cache=False)
    assert reader.weights == []


def test_a_pass_that_fails_does_not_stay_open(policy):
    """What the layers do after a failed pass is not part of any pass."""
    inputs, reader = _batch(policy, 1), Nothing()
    text_model = policy.family.text_model(policy.model)
    layer = text_model.layers[2]
    with capture(policy, reader):
        refuse = layer.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            policy.model(**inputs, use_cache=False)
        refuse.remove()
        assert reader.weights == [0, 1]
        hidden = torch.zeros(1, 4, 48)
        angles = text_model.rotary_emb(hidden, torch.arange(4).view(1, 1, 4).expand(3, 1, 4))
        text_model.layers[0](hidden, position_embeddings=angles)
        assert reader.weights == [0, 1]


def test_nests(policy):
    inputs, outer, inner = _batch(policy, 1), Rows([[100]]), Rows([[100]])
    before = _state(policy)
    with torch.no_grad(), capture(policy, outer):
        within = _state(policy)
        with capture(policy, inner):
            policy.model(**inputs, use_cache=False)
        assert _state(policy) == within
        policy.model(**inputs, use_cache=False)
    assert _state(policy) == before
    assert (len(outer.finals), len(inner.finals)) == (2, 1)
    assert len(outer.weights) == 2 * len(inner.weights) == 6
    assert torch.equal(outer.weights[1], inner.weights[1])


def test_two_policies_at_once_are_kept_apart(policy):
    other = random_policy(seed=5, dtype=torch.float32)
    inputs, first, second = _batch(policy, 1), Rows([[100]]), Rows([[100]])
    with torch.no_grad(), capture(policy, first), capture(other, second):
        policy.model(**inputs, use_cache=False)
        assert (len(first.finals), len(second.finals)) == (1, 0)
        other.model(**inputs, use_cache=False)
    assert (len(first.finals), len(second.finals)) == (1, 1)
    assert not torch.equal(first.weights[0], second.weights[0])


def test_checkpointed_layers_are_seen_once_and_without_gradients(policy):
    inputs, reader = _batch(policy, 1), Rows([[100]])
    policy.model.train()
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    hook = (
        policy.family.text_model(policy.model)
        .layers[0]
        .self_attn.register_forward_hook(lambda *_: calls.append(1))
    )
    with capture(policy, reader):
        policy.model(**inputs, use_cache=False).logits.sum().backward()
    hook.remove()
    assert len(calls) == 2  # the backward pass did compute the layer again
    assert (len(reader.weights), len(reader.finals)) == (3, 1)
    assert reader.grads == [False] * 3


def test_sees_the_pass_behind_a_fused_head(policy):
    """As GRPO makes it: the backbone's outputs never leave the patched forward."""
    inputs = _batch(policy)
    expected, reader = Rows([[100, 150]] * 2), Rows([[100, 150]] * 2)
    with torch.no_grad():
        with capture(policy, expected):
            policy.model(**inputs, use_cache=False)
        add_fused_lm_head(policy.model)
        plain = policy.model(**inputs, labels=inputs["input_ids"], fused_lm_head=True)
        with capture(policy, reader):
            fused = policy.model(**inputs, labels=inputs["input_ids"], fused_lm_head=True)
    assert torch.equal(plain.log_probs, fused.log_probs)
    assert all(torch.equal(a, b) for a, b in zip(expected.weights, reader.weights, strict=True))
    assert torch.equal(expected.finals[0], reader.finals[0])


def test_mixed_precision_does_not_reach_the_reader(policy):
    reader = Rows([[100]])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), capture(policy, reader):
        policy.model(**_batch(policy, 1), use_cache=False)
    assert {w.dtype for w in reader.weights} == {torch.float32}
    # Rows of a softmax in float32 add up to one far better than bfloat16 could.
    assert max((w.sum(dim=-1) - 1).abs().max() for w in reader.weights) < 1e-5


def test_a_pass_that_continues_a_cache_is_refused(policy):
    inputs = _batch(policy, 1)
    before = _state(policy)
    with pytest.raises(ValueError, match="1 queries on"), capture(policy, Nothing()), torch.no_grad():
        policy.model.generate(**inputs, max_new_tokens=3)
    assert _state(policy) == before
