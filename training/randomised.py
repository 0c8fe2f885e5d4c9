"""A policy whose weights are lost layer by layer, from the head down: a map that stays the same explains nothing.

After Adebayo et al., Sanity Checks for Saliency Maps (arXiv 1810.03292): cascading randomisation, and the rank
correlation of each map with the original one. A lost tensor keeps its entries, in a random order: its mean and
scale stay, what was learnt is gone. Whose answers hold under a masked picture is `training/faithfulness.py`.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.policy import Policy

HEAD = "head"


def losing_layers(policy: Policy, seed: int = 0) -> Iterator[tuple[str, Policy]]:
    """The same copy of the policy again and again, with more and more lost: `head`, `layer_4`, ..., `layer_0`.

    `head` is the unembedding with the final norm; a head tied to the embeddings is untied, the embeddings stay.
    The policy itself is left as it was. Adapters inside a layer are lost with it.
    """
    model = copy.deepcopy(policy.model)
    generator = torch.Generator().manual_seed(seed)
    text: Any = policy.family.text_model(model)
    head: Any = policy.family.head(model)
    head.weight = nn.Parameter(_shuffled(head.weight, generator), requires_grad=False)
    _lose(text.norm, generator)
    lost = Policy(model, policy.processor)
    yield HEAD, lost
    for index in range(len(text.layers) - 1, -1, -1):
        _lose(text.layers[index], generator)
        yield f"layer_{index}", lost


def depths_of(policy: Policy) -> list[str]:
    """Names that `losing_layers` gives, in its order."""
    text: Any = policy.family.text_model(policy.model)
    return [HEAD, *(f"layer_{index}" for index in range(len(text.layers) - 1, -1, -1))]


def _lose(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(_shuffled(parameter, generator))


def _shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.detach().flatten()[order].view_as(tensor).clone()


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float | None:
    """Rank correlation of two maps of one shape, cell by cell, in [-1, 1]; equal values share their mean rank.

    None where one of them is constant: it has no order. Raises ValueError for two shapes.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(f"maps of shapes {np.shape(first)} and {np.shape(second)}; wanted the same")
    a, b = (_ranks(np.asarray(each, dtype=np.float64).ravel()) for each in (first, second))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return None if scale == 0.0 else float((a * b).sum() / scale)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)
