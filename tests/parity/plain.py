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


@torch.no_grad()
def plain_map(policy, inputs, image, thought, answer, method, rows):
    """The signed map [image tokens] of a batch of one; image, thought and answer are lists of positions."""
    text_model, head = policy.family.text_model(policy.model), policy.family.head(policy.model)
    seen, finals = [], []
    hook = text_model.norm.register_forward_pre_hook(lambda _, args: finals.append(args[0][0]))
    with _switched(text_model, seen):
        policy.model(**inputs, use_cache=False)
    hook.remove()
    ids, hidden, norm = inputs["input_ids"][0], finals[0], text_model.norm
    shift = 1 if rows == "predictor" else 0
    total = torch.zeros(len(image), dtype=hidden.dtype)
    for target in thought if method == "thought_sum" else answer:
        row = target - shift
        stream = torch.zeros(len(image), hidden.shape[1], dtype=hidden.dtype)
        for module, weights, value in seen:
            attn, v = weights[0], value[0]  # [heads, length, length], [heads, length, head_dim]
            if method == "cot_rollout":
                share = torch.zeros(attn.shape[0], len(image), dtype=attn.dtype)
                for t in thought:
                    share += attn[:, row, t, None] * attn[:, t - shift, image]
            else:
                share = attn[:, row, image]
            if method == "raw_attention":
                total += share.mean(dim=0)
                continue
            heads = share[:, :, None] * v[:, image]  # [heads, image tokens, head_dim]
            stream += module.o_proj(heads.transpose(0, 1).flatten(1))
        if method != "raw_attention":
            rms = (hidden[row].square().mean() + norm.variance_epsilon).sqrt()
            logits = head(stream * norm.weight / rms)  # [image tokens, vocabulary]
            total += logits[:, ids[target]]
    return total
