"""Looking into a forward pass: the text layers' queries, keys and values, and the final hidden state.

Attaching to a model and leaving it as it was found belongs here, and so do the attention weights of single
rows. What is made of them is `training/methods.py`.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.policy import Policy

IMPLEMENTATION = "saliency_rows"
"""Name of the watched attention; transformers would dispatch on `sdpa`, `flex` or `flash` in it."""


@dataclass(frozen=True)
class LayerPass:
    """One text layer's attention in one pass, read-only.

    query [batch, heads, length, head_dim] and key [batch, key_heads, length, head_dim] after the rotary
    embedding, value [batch, key_heads, length, head_dim] with its bias; `attention` is the module that made
    them (its `o_proj` in particular). output [batch, length, heads, head_dim] is what the attention returned, the very
    tensor that goes on to `o_proj`. biases: what was worked out of a mask, for the layers that share it.
    """

    attention: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float
    output: Tensor
    biases: dict[Any, Any] = field(default_factory=dict, repr=False)

    def weights(self, queries: "Where", keys: "Where | None" = None) -> Tensor:
        """Attention of the rows at `queries` to all keys, or to those at `keys` of all: [batch, heads, rows, keys], at
        least float32.

        The same softmax over all visible keys as in the pass, without dropout. Only these rows are computed, for
        one key head at a time, so that the scores of all heads never lie beside each other.
        """
        bias = self._bias_anew(queries, torch.promote_types(self.query.dtype, torch.float32))
        heads = range(self.key.shape[1])
        return torch.cat([self.weights_of(head, queries, keys, bias) for head in heads], dim=1)

    def weights_of(
        self, key_head: int, queries: "Where", keys: "Where | None" = None, bias: Tensor | None = None
    ) -> Tensor:
        """`weights` of the query heads that share one key head: [batch, heads / key_heads, rows, keys].

        bias: of these rows, as `_bias` gives it, for who has it; otherwise it is kept for the layers to come.
        """
        of_head = self.query.shape[1] // self.key.shape[1]
        mine = slice(key_head * of_head, (key_head + 1) * of_head)
        kind = torch.promote_types(self.query.dtype, torch.float32)
        rows = at_positions(self.query[:, mine], queries).to(kind) * self.scaling
        key = self.key[:, key_head].transpose(1, 2).to(kind)  # [batch, head_dim, length]
        scores = (rows.flatten(1, 2) @ key).view(*rows.shape[:3], key.shape[2])
        bias = self._bias(queries, kind) if bias is None else bias
        scores += bias if bias.shape[1] == 1 else bias[:, mine]
        shares = scores.softmax(dim=-1)
        return shares if keys is None else columns(shares, keys)

    def _bias(self, queries: "Where", kind: torch.dtype) -> Tensor:
        """What the pass's mask adds to the scores of these rows: 0, or the least number where a key is hidden.
        [batch, 1 or heads, rows, length]."""
        place = (queries.start, queries.stop) if isinstance(queries, slice) else id(queries)
        name = (id(self.mask), place, kind)
        if (
            name not in self.biases
        ):  # with what its name stands for, so that no other can take the place in memory
            self.biases[name] = (self.mask, queries, self._bias_anew(queries, kind))
        return cast(Tensor, self.biases[name][2])

    def _bias_anew(self, queries: "Where", kind: torch.dtype) -> Tensor:
        if self.mask is None:
            places = torch.arange(self.key.shape[2], device=self.key.device)
            rows = places[queries][None] if isinstance(queries, slice) else queries
            hidden = places > rows[:, None, :, None]
        else:
            rows = at_positions(self.mask.expand(self.key.shape[0], -1, -1, -1), queries)
            if rows.dtype != torch.bool:
                return rows.to(kind)
            hidden = ~rows
        nothing = torch.zeros((), dtype=kind, device=hidden.device)
        return torch.where(hidden, torch.finfo(kind).min, nothing)


Where = Tensor | slice
"""Positions in a text: [batch, n], or a slice where they are the same unbroken run in every sample (a view will do)."""


def at_positions(heads: Tensor, where: Where) -> Tensor:
    """heads [batch, heads, length, size] at n positions a sample: [batch, heads, n, size]."""
    if isinstance(where, slice):
        return heads[:, :, where]
    sample = torch.arange(where.shape[0], device=where.device)[:, None]
    return heads.transpose(1, 2)[sample, where].transpose(1, 2)


def columns(weights: Tensor, where: Where) -> Tensor:
    """weights [batch, heads, rows, length] at n key positions a sample: [batch, heads, rows, n]."""
    if isinstance(where, slice):
        return weights[..., where]
    return weights.gather(3, where[:, None, None, :].expand(-1, weights.shape[1], weights.shape[2], -1))


class Reader(Protocol):
    """Whoever wants to see a pass. Called outside autocast, and without gradients unless it asks for them."""

    @property
    def differentiable(self) -> bool:
        """Whether what it makes of a pass stays attached to the pass's graph (where the pass has one)."""

    def on_layer(self, index: int, layer: LayerPass) -> None:
        """Text layer `index` (from 0, in order) has computed its attention."""

    def on_final(self, hidden: Tensor) -> None:
        """The last layer is through: hidden [batch, length, hidden], before the final norm."""


class _Watch:
    """One reader on one text model, from `capture` to its end."""

    def __init__(self, text_model: Any, reader: Reader):
        self._index = {id(layer.self_attn): i for i, layer in enumerate(text_model.layers)}
        self._reader = reader
        # Gradient checkpointing calls a layer again during the backward pass, with no forward pass around it.
        self._inside_pass = False
        self.biases: dict[Any, Any] = {}

    def opens(self, *_: Any) -> None:
        self._inside_pass = True

    def closes(self, *_: Any) -> None:
        self._inside_pass = False
        self.biases.clear()

    def attention(self, layer: LayerPass) -> None:
        index = self._index.get(id(layer.attention))
        if index is None or not self._inside_pass:
            return
        n_queries, n_keys = layer.query.shape[2], layer.key.shape[2]
        if n_queries != n_keys:
            raise ValueError(
                f"layer {index}: {n_queries} queries on {n_keys} keys; wanted a pass over the whole text: "
                "call the model with use_cache=False and do not generate inside capture"
            )
        with self._as_asked(layer.query.device.type):
            self._reader.on_layer(index, layer)

    def final(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._inside_pass:
            with self._as_asked(args[0].device.type):
                self._reader.on_final(args[0])

    @contextmanager
    def _as_asked(self, device_type: str) -> Iterator[None]:
        attached = torch.is_grad_enabled() and self._reader.differentiable
        with torch.set_grad_enabled(attached), torch.autocast(device_type, enabled=False):
            yield


_watches: ContextVar[tuple[_Watch, ...]] = ContextVar("saliency_watches", default=())
_registry_lock = threading.Lock()
_registry_users = 0


def _watched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """`sdpa`, unchanged, with the watches of this context looking on."""
    output: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, query, key, value, attention_mask, **kwargs
    )
    for watch in _watches.get():
        scaling = kwargs.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        watch.attention(
            LayerPass(module, query, key, value, attention_mask, scaling, output[0], watch.biases)
        )
    return output


@contextmanager
def _registered() -> Iterator[None]:
    """The implementation's name in both registries, until the last user is through.

    Without the mask registry transformers would hand no mask over, and padding would be attended to. The
    registries have no public way to take a name out again.
    """
    global _registry_users  # noqa: PLW0603 - one registry per process, so one count per process
    with _registry_lock:
        _registry_users += 1
        AttentionInterface.register(IMPLEMENTATION, _watched_attention)
        AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    try:
        yield
    finally:
        with _registry_lock:
            _registry_users -= 1
            if not _registry_users:
                AttentionInterface._global_mapping.pop(IMPLEMENTATION, None)
                AttentionMaskInterface._global_mapping.pop(IMPLEMENTATION, None)


@contextmanager
def capture(policy: Policy, reader: Reader) -> Iterator[None]:
    """Let `reader` see every full-sequence pass of the policy's text layers inside the block.

    Only the text layers' attention implementation is switched, to one that calls `sdpa` and returns its
    result: a model that runs `sdpa` gives bit-equal outputs inside and outside (one that runs another
    implementation gives those of `sdpa` inside). Nothing is read from the model's outputs, so the pass may be
    anybody's, with any head. Adapters count, because modules are watched and not weights. Blocks nest, each
    reader sees the passes inside its own; implementation, registries and hooks are as before at the end, also
    after an exception. Raises ValueError when a pass inside the block continues a key-value cache.
    """
    text_model: Any = policy.family.text_model(policy.model)
    watch = _Watch(text_model, reader)
    with ExitStack() as undo:
        undo.enter_context(_registered())
        before = text_model.config._attn_implementation
        text_model.set_attn_implementation(IMPLEMENTATION)
        undo.callback(text_model.set_attn_implementation, before)
        undo.callback(text_model.register_forward_pre_hook(watch.opens).remove)
        undo.callback(text_model.register_forward_hook(watch.closes, always_call=True).remove)
        undo.callback(text_model.norm.register_forward_pre_hook(watch.final).remove)
        undo.callback(_watches.reset, _watches.set((*_watches.get(), watch)))
        yield
