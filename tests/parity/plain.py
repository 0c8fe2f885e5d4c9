"""The maps written down plainly, as an oracle: eager attention, every image token forwards through the output
projection, the frozen norm and the whole head. Slow and large on purpose, and nothing of the engine is used.
"""

from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

NAME = "written_out"


def _written_out(seen):
    """Attention with every weight in the model's own precision (the library's eager softmax is float32)."""

    def attention(module, query, key, value, attention_mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        scores = query @ key.transpose(2, 3) * scaling + attention_mask
        weights = scores.softmax(dim=-1)
        seen.append((module, weights, value))
        return (weights @ value).transpose(1, 2).contiguous(), weights

    return attention


@contextmanager
def _switched(text_model, seen):
    before = text_model.config._attn_implementation
    AttentionInterface.register(NAME, _written_out(seen))
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    text_model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        text_model.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop(NAME)
        AttentionMaskInterface._global_mapping.pop(NAME)


def _parts(model):
    """Text model and head, found by what they are called inside the model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    wanted = ("embed_tokens", "layers", "norm")
    return next(m for m in base.modules() if all(hasattr(m, name) for name in wanted)), base.lm_head


def _gain(norm):
    """Gemma's norms multiply by 1 + weight, the others by weight."""
    return 1 + norm.weight if type(norm).__name__ == "Gemma3RMSNorm" else norm.weight


def _rms(norm, states):
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return (states.square().mean(-1, keepdim=True) + eps).sqrt()


class Pass:
    """One eager pass over a batch of one, with everything kept: per layer weights [heads, length, length]."""

    def __init__(self, policy, inputs, without=()):
        self.without = without
        self.policy, self.ids = policy, inputs["input_ids"][0]
        text_model, self.head = _parts(policy.model)
        self.norm, self.decoder_layers = text_model.norm, text_model.layers
        self.layers, finals, self.written = [], [], []
        hooks = [text_model.norm.register_forward_pre_hook(lambda _, args: finals.append(args[0][0]))]
        for layer in text_model.layers:
            hook = layer.self_attn.register_forward_hook(lambda *args: self.written.append(args[2][0][0]))
            hooks.append(hook)
        with _switched(text_model, self.layers):
            policy.model(**inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
        self.hidden = finals[0]

    def normed(self, states):
        """The final norm written out; the library's goes through float32."""
        return states * _gain(self.norm) / _rms(self.norm, states)

    def project(self, shares, row, target):
        """What image tokens write along shares (one [heads, keys] per layer, keys as positions) towards a token."""
        stream = 0
        for index, ((module, _, value), (share, keys)) in enumerate(zip(self.layers, shares, strict=True)):
            heads = (
                (share[:, :, None] * value[0][:, keys]).transpose(0, 1).flatten(1)
            )  # [keys, heads * head_dim]
            written = module.o_proj(heads) - module.o_proj(
                torch.zeros_like(heads)
            )  # a bias is nobody's share
            layer = self.decoder_layers[index]
            if (
                type(layer).__name__ == "Gemma3DecoderLayer" and "norm after attention" not in self.without
            ):  # its norm comes before the residual stream
                after = layer.post_attention_layernorm
                written = written * _gain(after) / _rms(after, self.written[index][row])
            stream = stream + written
        gamma = 1 if "gamma" in self.without else _gain(self.norm)
        rms = 1 if "rms" in self.without else _rms(self.norm, self.hidden[row])
        return self.head(stream * gamma / rms)[:, self.ids[target]]

    def probability(self, target):
        return self.head(self.normed(self.hidden[target - 1])).softmax(-1)[self.ids[target]]


def plain_map(
    policy,
    inputs,
    image,
    thought,
    answer,
    method,
    rows,
    gradients=False,
    spread=lambda values: values,
    without=(),
):
    """The signed map of a batch of one; image, thought and answer are lists of positions.

    One value for each image token, or what `spread` makes of them: a map, of each target's share by itself. `without`
    leaves factors of the projection out, to see whether a comparison would notice: gamma, rms, norm after attention.
    """
    with torch.set_grad_enabled(gradients or method == "grad_attention"):
        seen, shift = Pass(policy, inputs, without), 1 if rows == "predictor" else 0
        if method in ("attention_rollout", "raw_attention"):
            return spread(_of_attention(seen, image, answer, method, shift))
        if method == "grad_attention":
            return spread(_of_gradient(seen, image, thought, answer, shift))
        if method == "tam":
            return _of_states(seen, image, thought, answer, spread)
        total = 0
        for target in thought if method == "thought_sum" else answer:
            share = spread(_projected(seen, image, thought, target, method, shift))
            if method == "cot_rollout_positive":
                share = share.clamp(min=0)
            if method == "cot_rollout_confident":
                share = share * seen.probability(target)
            total = total + share
        return total


def _projected(seen, image, thought, target, method, shift):
    row, shares = target - shift, []
    for index, (_, weights, _) in enumerate(seen.layers):
        attn = weights[0]
        share = torch.zeros(attn.shape[0], len(image), dtype=attn.dtype)
        if method in ("direct", "thought_sum", "cot_rollout_direct"):
            share += attn[:, row, image]
        if method.startswith("cot_rollout") and not (
            method == "cot_rollout_late" and index + 1 <= len(seen.layers) / 2
        ):
            for t in thought:
                to_thought, to_image = attn[:, row, t, None], attn[:, t - shift, image]
                if method == "cot_rollout_normalised":
                    to_thought = to_thought / attn[:, row, thought].sum(-1, keepdim=True)
                    to_image = to_image / to_image.sum(-1, keepdim=True)
                    to_image = to_image.nan_to_num(0.0)  # a thought whose window ends before the picture
                share += to_thought * to_image
        shares.append((share, image))
    return seen.project(shares, row, target)


def _of_attention(seen, image, answer, method, shift):
    rows = [a - shift for a in answer]
    if method == "raw_attention":
        return sum(weights[0].mean(0)[rows][:, image].sum(0) for _, weights, _ in seen.layers)
    product = torch.eye(len(seen.ids), dtype=seen.hidden.dtype)
    for _, weights, _ in seen.layers:
        product = 0.5 * (weights[0].mean(0) + torch.eye(len(seen.ids), dtype=seen.hidden.dtype)) @ product
    return product[rows][:, image].sum(0)


def _of_gradient(seen, image, thought, answer, shift):
    said = sum(seen.probability(target).log() for target in answer)
    slopes = torch.autograd.grad(said, [weights for _, weights, _ in seen.layers])
    rows = [p - shift for p in (*thought, *answer)]
    shares = [
        (weights[0] * slope[0].clamp(min=0))[:, rows][:, :, image].sum((0, 1))
        for (_, weights, _), slope in zip(seen.layers, slopes, strict=True)
    ]
    return sum(shares).detach()


def _of_states(seen, image, thought, answer, spread):
    """TAM, one answer token at a time: own activation less the scaled interference of the earlier words."""

    def activation(word, position):
        return seen.head(seen.normed(seen.hidden[position]))[word].clamp(min=0)

    total = 0
    for target in answer:
        word = int(seen.ids[target])
        own = torch.stack([activation(word, i) for i in image])
        context = torch.zeros_like(own)
        for p in (p for p in (*thought, *answer) if p < target and int(seen.ids[p]) != word):
            earlier = torch.stack([activation(int(seen.ids[p]), i) for i in image])
            context = context + activation(word, p) * earlier
        scale = (own @ context) / (context @ context) if context.any() else 0.0
        total = total + spread(own - scale * context).clamp(min=0)
    return total


def plain_thoughts_used(policy, inputs, thought, answer, rows):
    """How much each thought token contributed to each answer token: [answer tokens, thought tokens]."""
    shift = 1 if rows == "predictor" else 0
    with torch.no_grad():
        seen = Pass(policy, inputs)
        return torch.stack(
            [
                seen.project(
                    [(w[0][:, a - shift, thought], thought) for _, w, _ in seen.layers], a - shift, a
                )
                for a in answer
            ]
        )
