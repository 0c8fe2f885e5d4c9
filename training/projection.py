"""Going backwards through a policy's own linear maps: output projections, final norm and head.

What is projected and why belongs to `training/methods.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.policy import Policy


def pull_back(linear: nn.Module, covector: Tensor, in_features: int) -> Tensor:
    """The transposed linear map: covector [..., out] -> [..., in]; a bias plays no part.

    A plain `nn.Linear` is its weight. Anything else (an adapter round it, a quantised layer) is asked for its
    vector-Jacobian product, so that it counts as it computes, dropout aside. The result keeps its graph where gradients
    are enabled.
    """
    attached = torch.is_grad_enabled()
    if type(linear) is nn.Linear:
        return covector @ linear.weight.to(covector.dtype)
    with without_dropout(linear), torch.enable_grad():
        x = torch.zeros(
            (*covector.shape[:-1], in_features),
            dtype=_weight_dtype(linear),
            device=covector.device,
            requires_grad=True,
        )
        y = linear(x)
        pulled = torch.autograd.grad(y, x, covector.to(y.dtype), create_graph=attached)[0]
        return pulled.to(covector.dtype)


def _weight_dtype(linear: nn.Module) -> torch.dtype:
    """Precision of what the layer takes in outside autocast: that of its first weights, under any adapter."""
    return next(p.dtype for p in linear.parameters() if p.is_floating_point())


def target_covector(policy: Policy, ids: Tensor) -> Tensor:
    """gamma * W_U[y] for token ids [B, N]: [B, N, hidden], at least float32."""
    head: Any = policy.family.head(policy.model)
    text_model: Any = policy.family.text_model(policy.model)
    gamma = policy.family.norm.gain(text_model.norm)
    kind = gamma.dtype
    if type(head) is nn.Linear:
        return head.weight[ids].to(kind) * gamma
    one_hot = nn.functional.one_hot(ids, head.out_features).to(kind)
    return pull_back(head, one_hot, gamma.shape[0]) * gamma


def through_attention_norm(
    policy: Policy, index: int, output: Tensor, target_rows: Tensor, covector: Tensor
) -> Tensor:
    """The covector [B, N, hidden] pulled back through the norm that layer `index` puts after its attention.

    output: of the layer's attention, before `o_proj`, [B, length, heads, head_dim]; target_rows [B, N]: where the
    targets are read. The norm counts as the linear map that it is at those rows, gain / rms.
    Without such a norm the covector comes back as it is.
    """
    text_model: Any = policy.family.text_model(policy.model)
    layer = text_model.layers[index]
    norm = policy.family.norm_after_attention(layer)
    if norm is None:
        return covector
    o_proj = layer.self_attn.o_proj
    rows = output.flatten(2)
    rows = rows.gather(1, target_rows[:, :, None].expand(-1, -1, rows.shape[2]))
    with without_dropout(o_proj):
        # Under autocast the pass's rows are not in the weights' precision, and here nothing casts them.
        seen = o_proj(rows.to(_weight_dtype(o_proj))).to(covector.dtype)
    rms = (seen.square().mean(dim=2, keepdim=True) + policy.family.norm.eps(norm)).sqrt()
    return covector * (policy.family.norm.gain(norm).to(covector.dtype) / rms)


def rms_of(policy: Policy, states: Tensor) -> Tensor:
    """Root mean square [...] by which the final norm divides states [..., hidden]."""
    text_model: Any = policy.family.text_model(policy.model)
    return (states.square().mean(dim=-1) + policy.family.norm.eps(text_model.norm)).sqrt()


def log_probabilities(policy: Policy, states: Tensor, ids: Tensor) -> Tensor:
    """Log-probability [B, N] of tokens ids [B, N] by states [B, N, hidden] before the final norm.

    The norm is written out: calling the module would be seen by whoever watches the pass.
    """
    norm = policy.family.text_model(policy.model).norm
    head: Any = policy.family.head(policy.model)
    normed = states / rms_of(policy, states)[..., None] * policy.family.norm.gain(norm).to(states.dtype)
    logits = head(normed.to(norm.weight.dtype)).to(states.dtype)
    return logits.log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]


@contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards every part back in the mode that it was in."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True
