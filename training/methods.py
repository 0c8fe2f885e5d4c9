"""Saliency methods: how a pass over a completion becomes one share per target token and image token.

One function or one small accumulator a method, each with its source and our departures, and the registry of them.
How a pass is watched is `training/capture.py`, how a target is projected `training/projection.py`; padding, grids
and reasons are `training/saliency.py`.

Notation: B samples, padded to A answer, T thought and I image tokens; N targets (answer or thought tokens); heads H.
Equations of Saliency-R1 (arXiv 2604.04500, section 3) with the final norm made explicit:

    M[l,h](a,i) = sum over t of attn[l,h](row of a -> t) * attn[l,h](row of t -> i)
    S(i) = relu( sum over a, l, h of
                 M[l,h](a,i) * < W_O[l,h] v[l,h](i), gamma * W_U[y_a] / rms(h_L(row of a)) > )

The target is projected backwards, u = W_O^T (gamma * W_U[y_a]), once per layer and target; each layer then adds one
dot product per image token, head and target, and 1 / rms comes last, when the final hidden state is known. No layer
is kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from training.capture import LayerPass, Where, at_positions, columns
from training.policy import Policy
from training.projection import log_probabilities, pull_back, rms_of, target_covector

ROLLOUT_ROWS = 64
"""Query rows whose attention to everything is computed at once in `attention_rollout`."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a batch are: padded index tensors and, where it matters, which entries are real.

    The four last say again where rows and keys are, as cheaply as it can be said: `training.capture.Where`.
    """

    policy: Policy
    answer_keys: Tensor  # [B, A] positions
    answer_rows: Tensor  # [B, A] query positions
    answer_valid: Tensor  # [B, A]
    thought_keys: Tensor  # [B, T]
    thought_rows: Tensor  # [B, T]
    thought_valid: Tensor  # [B, T]
    image_keys: Tensor  # [B, I]
    image_valid: Tensor  # [B, I]
    target_keys: Tensor  # [B, N]
    target_rows: Tensor  # [B, N]
    target_valid: Tensor  # [B, N]
    target_ids: Tensor  # [B, N]
    input_ids: Tensor  # [B, length]
    answer_rows_at: Where
    thought_at: Where
    thought_rows_at: Where
    image_at: Where


class Layer:
    """What a method sees of one layer, for the query heads that share one key head at a time: G heads.

    So the scores of all heads never lie beside each other, and what is summed over heads stays in the cache. `heads` is
    the number of all of them. `covector` [B, N, hidden] is gamma * W_U[y] of the targets, where asked for.
    """

    def __init__(self, seen: LayerPass, at: Places, covector: Tensor | None, depth: float):
        self.seen, self.at = seen, at
        self.depth = depth  # (index + 1) / number of layers, in (0, 1]
        self.heads, self.key_heads = seen.query.shape[1], seen.key.shape[1]
        self._key_head = 0
        self._pulled = None if covector is None else self._pull_back(covector)

    def _pull_back(self, covector: Tensor) -> Tensor:
        """W_O^T of the covectors: [key_heads, B, G * N, head_dim], the N targets of a group's heads stacked."""
        batch, n_targets = covector.shape[:2]
        head_dim = self.seen.value.shape[3]
        u = pull_back(cast(nn.Module, self.seen.attention.o_proj), covector, self.heads * head_dim)
        u = u.view(batch, n_targets, self.key_heads, -1, head_dim)
        return u.permute(2, 0, 3, 1, 4).reshape(self.key_heads, batch, -1, head_dim)

    def summed(self, share: "Callable[[Layer], Tensor]") -> Tensor:
        """The sum over groups of heads of what `share` makes of each."""
        total: Tensor | None = None
        for key_head in range(self.key_heads):
            self._key_head = key_head
            one = share(self)
            total = one if total is None else total + one
        return cast(Tensor, total)

    @property
    def answer_to_image(self) -> Tensor:
        """Attention of the answer rows to the image tokens: [B, G, A, I]."""
        return self.seen.weights_of(self._key_head, self.at.answer_rows_at, self.at.image_at)

    @property
    def thought_to_image(self) -> Tensor:
        """Attention of the thought rows to the image tokens: [B, G, T, I]."""
        return self.seen.weights_of(self._key_head, self.at.thought_rows_at, self.at.image_at)

    @property
    def answer_to_thought(self) -> Tensor:
        """[B, G, A, T]; zero where a sample has fewer thought tokens."""
        weights = self.seen.weights_of(self._key_head, self.at.answer_rows_at, self.at.thought_at)
        return weights * self.at.thought_valid[:, None, None, :]

    @property
    def hops(self) -> tuple[Tensor, Tensor]:
        """answer_to_thought and thought_to_image; out of one look where all samples have their rows at one place."""
        thought, answer = self.at.thought_rows_at, self.at.answer_rows_at
        if not (isinstance(thought, slice) and isinstance(answer, slice)):
            return self.answer_to_thought, self.thought_to_image
        weights = self.seen.weights_of(self._key_head, slice(thought.start, answer.stop))
        n_between = answer.start - thought.start
        return (
            columns(weights[:, :, n_between:], self.at.thought_at),
            columns(weights[:, :, : thought.stop - thought.start], self.at.image_at),
        )

    def contribution(self, weights: Tensor, keys: Where | None = None) -> Tensor:
        """What flows into each target along `weights` [B, G, N, K]: [B, N, K], but for the 1 / rms.

        `keys` are the K positions that the weights are on; by default the image tokens.
        """
        keys = self.at.image_at if keys is None else keys
        u = cast(Tensor, self._pulled)[self._key_head]
        v = at_positions(self.seen.value[:, self._key_head, None], keys)[:, 0].to(u.dtype)
        return (weights * (u @ v.transpose(1, 2)).view(weights.shape)).sum(dim=1)


def _rows_of(hidden: Tensor, rows: Tensor) -> Tensor:
    """hidden [B, length, hidden] at positions [B, N]: [B, N, hidden], at least float32."""
    kind = torch.promote_types(hidden.dtype, torch.float32)
    return hidden.gather(1, rows[:, :, None].expand(-1, -1, hidden.shape[2])).to(kind)


def target_log_probabilities(at: Places, hidden: Tensor) -> Tensor:
    """Log-probability of each target token at the row that predicted it, whatever the row convention: [B, N]."""
    states = _rows_of(hidden, (at.target_keys - 1).clamp(min=0))
    return log_probabilities(at.policy, states, at.target_ids)


class Accumulator(Protocol):
    """A method at work on one batch."""

    def add(self, layer: Layer) -> None:
        """Take one layer in; layers come in order."""

    def finish(self, hidden: Tensor) -> Tensor:
        """All layers are in; hidden [B, length, hidden] is before the final norm. Shares [B, N, I], signed."""


class _PerLayer:
    """The sum over layers of one layer's share [B, N, I], in logits where `projected`."""

    def __init__(
        self, at: Places, share: Callable[[Layer], Tensor], projected: bool, from_depth: float = 0.0
    ):
        self._at, self._share, self._projected, self._from = at, share, projected, from_depth
        self._total: Tensor | None = None

    def add(self, layer: Layer) -> None:
        if layer.depth > self._from:
            share = layer.summed(self._share)
            self._total = share if self._total is None else self._total + share

    def finish(self, hidden: Tensor) -> Tensor:
        total = cast(Tensor, self._total)
        if not self._projected:
            return total
        return total / rms_of(self._at.policy, _rows_of(hidden, self._at.target_rows))[:, :, None].to(
            total.dtype
        )


def _rollout(layer: Layer) -> Tensor:
    """Attention from the answer through the thoughts to the picture, within each head: [B, G, A, I]."""
    to_thought, to_image = layer.hops
    return to_thought @ to_image


def _cot_rollout(layer: Layer) -> Tensor:
    """Saliency-R1: from the picture through the thoughts to the answer, within each layer and head.

    Departures from the authors' code: spans come from the ids that were sampled, a truncated completion has
    no map, the row convention is chosen by name (theirs is `predictor`), the map is not resampled.
    """
    return layer.contribution(_rollout(layer))


def _cot_rollout_normalised(layer: Layer) -> Tensor:
    """`cot_rollout` with both hops made distributions: over the thoughts of an answer token, over the picture of a
    thought. The paper leaves them as they are, so that words that look at nothing weigh little."""
    to_thought, to_image = layer.hops
    return layer.contribution(_distribution(to_thought) @ _distribution(to_image))


def _distribution(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _cot_rollout_direct(layer: Layer) -> Tensor:
    """`cot_rollout` and `direct` in one sum: through the thoughts and past them."""
    return layer.contribution(_rollout(layer) + layer.answer_to_image)


def _direct(layer: Layer) -> Tensor:
    """Saliency-R1, equation 1: from the picture straight to the answer, past the thoughts."""
    return layer.contribution(layer.answer_to_image)


def _thought_sum(layer: Layer) -> Tensor:
    """Saliency-R1's ablation `-think`: `direct`, for the thoughts."""
    return layer.contribution(layer.thought_to_image)


def _thoughts_used(layer: Layer) -> Tensor:
    """`direct` with the thought tokens in the place of the image tokens: [B, A, T]."""
    return layer.contribution(layer.answer_to_thought, layer.at.thought_at)


def _raw_attention(layer: Layer) -> Tensor:
    """Saliency-R1's ablation `-attn`: the answer's attention to the picture, without values and head.

    How the paper joins layers, heads and tokens is not known; here it is the mean over heads, summed over the
    layers and answer tokens.
    """
    return layer.answer_to_image.sum(dim=1) / layer.heads


class _AttentionRollout:
    """Attention rollout (Abnar and Zuidema, arXiv 2005.00928, section 3): the product over layers of
    (mean over heads + identity) / 2, read at the answer rows and image columns.

    Only the image columns of the product are carried along, [B, length, I], and attention is computed for
    `ROLLOUT_ROWS` rows at a time. The mask keeps rows causal, so no renormalisation is needed.
    """

    def __init__(self, at: Places):
        self._at = at
        self._carried: Tensor | None = None

    def add(self, layer: Layer) -> None:
        batch, _, length, _ = layer.seen.query.shape
        if self._carried is None:
            kind = torch.promote_types(layer.seen.query.dtype, torch.float32)
            self._carried = nn.functional.one_hot(self._at.image_keys, length).to(kind).transpose(1, 2)
        moved = []
        for start in range(0, length, ROLLOUT_ROWS):
            rows = torch.arange(start, min(start + ROLLOUT_ROWS, length), device=self._carried.device)
            moved.append(layer.seen.weights(rows.expand(batch, -1)).mean(dim=1) @ self._carried)
        self._carried = 0.5 * (self._carried + torch.cat(moved, dim=1))

    def finish(self, hidden: Tensor) -> Tensor:
        carried = cast(Tensor, self._carried)
        return carried.gather(1, self._at.target_rows[:, :, None].expand(-1, -1, carried.shape[2]))


class _GradAttention:
    """Gradient-weighted attention after Grad-SAM (Barkan et al., arXiv 2204.11073): sum over layers, heads and rows of
    attn * relu(d log p(answer) / d attn), with one backward pass from the answer's log-probability.

    The derivative with respect to a weight is the dot product of the value that it picks with the derivative
    with respect to the attention's output, so no attention matrix is needed. Departures: rows are those of
    thoughts and answer, in the chosen convention, not all; heads and layers are added, not averaged, which
    changes no ranking. All shares stand on the first target.
    """

    def __init__(self, at: Places):
        self._at = at
        self._layers: list[LayerPass] = []

    def add(self, layer: Layer) -> None:
        if not layer.seen.output.requires_grad:
            layer.seen.output.requires_grad_()  # frozen weights: the graph begins here
        self._layers.append(layer.seen)

    def finish(self, hidden: Tensor) -> Tensor:
        at = self._at
        said = (target_log_probabilities(at, hidden) * at.target_valid).sum()
        slopes = torch.autograd.grad(said, [seen.output for seen in self._layers], retain_graph=True)
        rows = torch.cat([at.thought_rows, at.answer_rows], dim=1)
        valid = torch.cat([at.thought_valid, at.answer_valid], dim=1)
        with torch.no_grad():
            shares = [self._share(s, g, rows, valid) for s, g in zip(self._layers, slopes, strict=True)]
            total = torch.stack(shares).sum(dim=0)
        out = torch.zeros(
            (*at.target_rows.shape, at.image_keys.shape[1]), dtype=total.dtype, device=total.device
        )
        out[:, :1] = total[:, None]
        return out

    def _share(self, seen: LayerPass, slope: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        weights = seen.weights(rows, self._at.image_keys)  # [B, H, rows, I]
        groups = seen.query.shape[1] // seen.key.shape[1]
        v = at_positions(seen.value, self._at.image_keys).repeat_interleave(groups, dim=1).to(weights.dtype)
        slopes = at_positions(slope.transpose(1, 2), rows).to(weights.dtype) @ v.transpose(2, 3)
        return (weights * slopes.relu() * valid[:, None, :, None]).sum(dim=(1, 2))


class _Tam:
    """Token Activation Map (Li et al., arXiv 2506.23270): how strongly the final hidden state of each image token
    speaks for the target, less what the completion's earlier tokens explain of it.

    Activation of token p for y: relu of y's logit at p. Interference: activations for the earlier tokens of the
    completion (other words only), weighted by the target's activation at them, scaled by least squares.
    Departures: context is thought and answer, not the question; no rank filter (that is a smoothing of any map).
    """

    def __init__(self, at: Places):
        self._at = at

    def add(self, layer: Layer) -> None:
        """Only the last hidden state counts."""

    def finish(self, hidden: Tensor) -> Tensor:
        at = self._at
        said = torch.cat([at.thought_keys, at.answer_keys], dim=1)  # [B, C]
        valid = torch.cat([at.thought_valid, at.answer_valid], dim=1)
        words = at.input_ids.gather(1, said)
        image = self._activation(hidden, at.image_keys, words)  # [B, C, I]
        text = self._activation(hidden, said, at.target_ids)  # [B, N, C]
        earlier = said[:, None, :] < at.target_keys[:, :, None]
        other = words[:, None, :] != at.target_ids[:, :, None]
        weight = text * (earlier & other & valid[:, None, :])
        own = self._activation(hidden, at.image_keys, at.target_ids)  # [B, N, I]
        context = (weight @ image) * at.image_valid[:, None]  # filler would count in the least squares
        scale = (own * context).sum(-1) / context.square().sum(-1).clamp(min=torch.finfo(own.dtype).tiny)
        return own - scale[:, :, None] * context

    def _activation(self, hidden: Tensor, positions: Tensor, ids: Tensor) -> Tensor:
        """relu of the logits of ids [B, N] at positions [B, P]: [B, N, P]."""
        states = _rows_of(hidden, positions)
        scaled = states / rms_of(self._at.policy, states)[..., None]
        return (target_covector(self._at.policy, ids).to(scaled.dtype) @ scaled.transpose(1, 2)).relu()


def _sum(grids: Tensor, probabilities: Tensor) -> Tensor:
    return grids.sum(dim=0)


def _sum_of_positive(grids: Tensor, probabilities: Tensor) -> Tensor:
    return grids.relu().sum(dim=0)


def _sum_by_probability(grids: Tensor, probabilities: Tensor) -> Tensor:
    return (grids * probabilities[:, None, None]).sum(dim=0)


@dataclass(frozen=True)
class Method:
    """One way to make a map.

    join makes the map [grid_h, grid_w] from those of the targets [N, grid_h, grid_w] and the probabilities [N]
    that the policy gave them. projected: its layers ask for the targets' covectors. needs_backward: the pass must
    build its graph, so the method cannot ride on one without.
    """

    start: Callable[[Places], Accumulator]
    targets: Literal["answer", "thought"] = "answer"
    over: Literal["image", "thought"] = "image"
    thought_needed: bool = True
    projected: bool = True
    needs_backward: bool = False
    needs_probability: bool = False
    join: Callable[[Tensor, Tensor], Tensor] = _sum


def _per_layer(share: Callable[[Layer], Tensor], *, projected: bool = True, from_depth: float = 0.0) -> Any:
    return lambda at: _PerLayer(at, share, projected, from_depth)


METHODS: Mapping[str, Method] = {
    "cot_rollout": Method(_per_layer(_cot_rollout)),
    "direct": Method(_per_layer(_direct), thought_needed=False),
    "thought_sum": Method(_per_layer(_thought_sum), targets="thought"),
    "raw_attention": Method(
        _per_layer(_raw_attention, projected=False), thought_needed=False, projected=False
    ),
    "attention_rollout": Method(_AttentionRollout, thought_needed=False, projected=False),
    "grad_attention": Method(_GradAttention, thought_needed=False, projected=False, needs_backward=True),
    "tam": Method(_Tam, thought_needed=False, projected=False, join=_sum_of_positive),
    # Variants of cot_rollout, by the one thing that each changes.
    "cot_rollout_positive": Method(_per_layer(_cot_rollout), join=_sum_of_positive),
    "cot_rollout_normalised": Method(_per_layer(_cot_rollout_normalised)),
    "cot_rollout_late": Method(_per_layer(_cot_rollout, from_depth=0.5)),
    "cot_rollout_confident": Method(
        _per_layer(_cot_rollout), needs_probability=True, join=_sum_by_probability
    ),
    "cot_rollout_direct": Method(_per_layer(_cot_rollout_direct)),
}

THOUGHTS_USED = Method(_per_layer(_thoughts_used), over="thought")
"""Not a map: how much each thought token contributed to each answer token."""
