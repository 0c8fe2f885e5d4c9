"""Random policies for the tests of the engine, with a tokenizer that knows a few words."""

import dataclasses
from functools import cache

import peft
import torch

from training.architecture import build_policy, build_tokenizer

# Hidden 48, feed-forward 40, heads of 8 (so mrope 1 + 1 + 2 pairs), three layers: no two axes are alike.
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    "vision": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
    },
}


@cache
def words():
    """Both tags and a few words, at the start or after a space, are one token each."""
    sentences = ["<think>the red ball look at it is</think>red ball what picture", "ball the", "it"]
    return build_tokenizer(sentences * 99, vocab_size=400)


def random_policy(seed=0, dtype=torch.float64, lora=(), **changes):
    """A policy whose every parameter, biases and norms too, is moved off its initial value."""
    policy = build_policy(words(), seed, **{**SHAPE, **changes})
    return moved_off(policy, seed, dtype, list(lora))


def moved_off(policy, seed, dtype, lora_targets):
    """The policy, with adapters on `lora_targets` if there are any, and every parameter off its initial value."""
    if lora_targets:
        config = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=0.4, target_modules=lora_targets)
        policy = dataclasses.replace(policy, model=peft.get_peft_model(policy.model, config).eval())
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    policy.model.to(dtype)
    return policy
