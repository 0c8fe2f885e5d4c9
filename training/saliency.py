"""Saliency maps: which image tokens an answer, or the thoughts before it, was drawn from.

The methods, and the maps that they make of a pass, belong here. How a pass is watched is
`training/capture.py`, how the answer is projected `training/projection.py`, where its tokens are
`training/teacher_forcing.py`, how a map is held against boxes `training/overlap.py`.
Equations of Saliency-R1 (arXiv 2604.04500, section 3) with the final norm made explicit:

    M[l,h](a,i) = sum over t of attn[l,h](row of a -> t) * attn[l,h](row of t -> i)
    S(i) = relu( sum over a, l, h of
                 M[l,h](a,i) * < W_O[l,h] v[l,h](i), gamma * W_U[y_a] / rms(h_L(row of a)) > )

for answer tokens a, thought tokens t, image tokens i, layers l, heads h. The answer is projected backwards,
u = W_O^T (gamma * W_U[y_a]), once per layer and answer token; each layer then adds one dot product per image
token, head and answer token, and 1 / rms comes last, when the final hidden state is known. No layer is kept.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from training.capture import LayerPass, capture
from training.conversation import SYSTEM_PROMPT
from training.policy import Policy
from training.projection import pull_back, target_covector, without_dropout
from training.teacher_forcing import Located, locate, teacher_forced

ROWS = ("predictor", "state")
"""Row of token x: of the query that predicted it, at x - 1, or of the query at x."""


@dataclass(frozen=True)
class SaliencyMap:
    """A map on the grid of image tokens, or the reason why there is none.

    values: float32 [grid_h, grid_w], not negative, before any up-sampling. Positions are absolute, in row
    `sample` of the batch, padding counted. inputs: the batch, where the engine gave it to the model.
    """

    values: NDArray[np.float32] | None
    reason: str | None
    grid_hw: tuple[int, int] | None
    image_wh: tuple[int, int] | None
    method: str
    rows: str
    thought_positions: tuple[int, ...] = ()
    answer_positions: tuple[int, ...] = ()
    inputs: Mapping[str, Any] | None = None
    sample: int = 0


@dataclass(frozen=True)
class _Layer:
    """What a method sees of one layer: B samples, padded to A answer, T thought and I image tokens."""

    seen: LayerPass
    answer_rows: Tensor  # [B, A] query positions
    thought_rows: Tensor  # [B, T] query positions
    thought_keys: Tensor  # [B, T] key positions
    thought_valid: Tensor  # [B, T]
    image_keys: Tensor  # [B, I] key positions
    covector: Tensor  # [B, N, hidden]: gamma * W_U[y] of the N targets (answer or thought tokens)

    @cached_property
    def answer(self) -> Tensor:
        """Attention of the answer rows to all keys: [B, heads, A, length]."""
        return self.seen.weights(self.answer_rows)

    @property
    def thought(self) -> Tensor:
        """Attention of the thought rows to all keys: [B, heads, T, length]."""
        return self.seen.weights(self.thought_rows)

    @property
    def answer_to_thought(self) -> Tensor:
        """[B, heads, A, T]; zero where a sample has fewer thought tokens."""
        return _columns(self.answer, self.thought_keys) * self.thought_valid[:, None, None, :]

    def at_image(self, weights: Tensor) -> Tensor:
        """Weights on all keys [B, heads, rows, length] at the image tokens: [B, heads, rows, I]."""
        return _columns(weights, self.image_keys)

    def contribution(self, weights: Tensor) -> Tensor:
        """What flows into each target along `weights` [B, heads, N, I]: [B, N, I], but for the 1 / rms."""
        batch, heads, n_targets, n_image = weights.shape
        key_heads, head_dim = self.seen.value.shape[1], self.seen.value.shape[3]
        u = pull_back(cast(nn.Module, self.seen.attention.o_proj), self.covector, heads * head_dim)
        # [B, N, heads * head_dim] -> the N targets of all heads that share a key head, stacked.
        u = u.view(batch, n_targets, heads, head_dim).transpose(1, 2).reshape(batch, key_heads, -1, head_dim)
        index = self.image_keys[:, None, :, None].expand(-1, key_heads, -1, head_dim)
        v = self.seen.value.gather(2, index).to(u.dtype)
        return (weights * (u @ v.transpose(2, 3)).view(batch, heads, n_targets, n_image)).sum(dim=1)


def _cot_rollout(layer: _Layer) -> Tensor:
    """Saliency-R1: from the picture through the thoughts to the answer, within each layer and head.

    Departures from the authors' code: spans come from the ids that were sampled, a truncated completion has
    no map, the row convention is chosen by name (theirs is `predictor`), the map is not resampled.
    """
    return layer.contribution(layer.at_image(layer.answer_to_thought @ layer.thought))


def _direct(layer: _Layer) -> Tensor:
    """Saliency-R1, equation 1: from the picture straight to the answer, past the thoughts."""
    return layer.contribution(layer.at_image(layer.answer))


def _thought_sum(layer: _Layer) -> Tensor:
    """Saliency-R1's ablation `-think`: `direct`, for the thoughts."""
    return layer.contribution(layer.at_image(layer.thought))


def _raw_attention(layer: _Layer) -> Tensor:
    """Saliency-R1's ablation `-attn`: the answer's attention to the picture, without values and head.

    How the paper joins layers, heads and tokens is not known; here it is the mean over heads, summed over the
    layers and answer tokens.
    """
    return layer.at_image(layer.answer).mean(dim=1)


@dataclass(frozen=True)
class _Method:
    layer: Callable[[_Layer], Tensor]  # one layer's share [B, N, I]
    targets: Literal["answer", "thought"]
    thought_needed: bool
    projected: bool  # whether shares are logits still to be divided by the target's rms


METHODS: Mapping[str, _Method] = {
    "cot_rollout": _Method(_cot_rollout, "answer", thought_needed=True, projected=True),
    "direct": _Method(_direct, "answer", thought_needed=False, projected=True),
    "thought_sum": _Method(_thought_sum, "thought", thought_needed=True, projected=True),
    "raw_attention": _Method(_raw_attention, "answer", thought_needed=False, projected=False),
}


class _Chunk:
    """The samples of one forward pass as padded index tensors, and the sum over the layers seen so far."""

    def __init__(self, samples: Sequence[Located], method: _Method, rows: str, policy: Policy, device: Any):
        self.samples = samples
        self.method = method
        shift = 1 if rows == "predictor" else 0
        self.image_keys, _ = _padded([s.image if s.reason is None else [] for s in samples], device)
        self.answer_keys, _ = _padded([s.answer for s in samples], device)
        self.thought_keys, self.thought_valid = _padded([s.thought for s in samples], device)
        self.answer_rows = (self.answer_keys - shift).clamp(min=0)
        self.thought_rows = (self.thought_keys - shift).clamp(min=0)
        self.targets = [s.answer if method.targets == "answer" else s.thought for s in samples]
        self.target_rows = self.answer_rows if method.targets == "answer" else self.thought_rows
        ids, _ = _padded([[s.ids[p] for p in t] for s, t in zip(samples, self.targets, strict=True)], device)
        self.covector = target_covector(policy, ids) if method.projected else ids
        self.total: Tensor | None = None

    def add(self, seen: LayerPass) -> None:
        layer = _Layer(
            seen, self.answer_rows, self.thought_rows, self.thought_keys, self.thought_valid, self.image_keys,
            self.covector,
        )  # fmt: skip
        share = self.method.layer(layer)
        self.total = share if self.total is None else self.total.add_(share)

    def signed(self, hidden: Tensor, eps: float) -> list[Tensor | None]:
        """Per sample the signed map [grid_h, grid_w] once all layers are in; None where there is a reason."""
        if self.total is None:
            return [None] * len(self.samples)
        total = self.total
        if self.method.projected:
            index = self.target_rows[:, :, None].expand(-1, -1, hidden.shape[2])
            final = hidden.gather(1, index).to(total.dtype)
            total = total / (final.square().mean(dim=2) + eps).sqrt()[:, :, None]
        return [
            total[i, : len(self.targets[i]), : len(s.image)].sum(dim=0).view(s.grid_hw)
            if s.grid_hw and s.reason is None
            else None
            for i, s in enumerate(self.samples)
        ]


class MapRecorder:
    """Makes the maps of one batch while passes over it go by, in as many chunks as the caller likes."""

    def __init__(
        self, policy: Policy, samples: Sequence[Located], method: str, rows: str, image_sizes_wh: Any
    ):
        self._policy = policy
        self._samples = samples
        self._method = method
        self._rows = rows
        self._image_sizes_wh = image_sizes_wh
        self._started = 0
        self._chunk: _Chunk | None = None
        self.signed: list[Tensor | None] = []
        """Per sample seen so far the map before relu, in the precision of the computation."""

    def on_layer(self, index: int, layer: LayerPass) -> None:
        """Add one layer's share; the first layer of a pass opens the next chunk of samples."""
        if index == 0:
            start, n = self._started, layer.query.shape[0]
            if start + n > len(self._samples):
                raise RuntimeError(
                    f"a pass over {n} more samples after {start}, but the batch has {len(self._samples)}; "
                    "wanted one pass over the batch, whole or in chunks, and no other inside the block"
                )
            self._started += n
            self._chunk = _Chunk(
                self._samples[start : start + n],
                METHODS[self._method],
                self._rows,
                self._policy,
                layer.query.device,
            )
        if self._chunk is not None and any(s.reason is None for s in self._chunk.samples):
            self._chunk.add(layer)

    def on_final(self, hidden: Tensor) -> None:
        """Close the chunk."""
        if self._chunk is not None:
            text_model: Any = self._policy.family.text_model(self._policy.model)
            self.signed += self._chunk.signed(hidden, float(text_model.norm.variance_epsilon))
            self._chunk = None

    def maps(self) -> list[SaliencyMap]:
        """One map per sample of the batch, in its order.

        Raises RuntimeError when the passes did not cover the batch, FloatingPointError for a map that is not
        finite.
        """
        if len(self.signed) != len(self._samples):
            raise RuntimeError(
                f"passes over {len(self.signed)} of {len(self._samples)} samples were seen; wanted one "
                "pass over the whole batch, by the policy's own model, inside the block"
            )
        return [self._map(i) for i in range(len(self._samples))]

    def _map(self, i: int) -> SaliencyMap:
        sample, signed = self._samples[i], self.signed[i]
        values, reason = None, sample.reason
        if signed is not None:
            if not bool(signed.isfinite().all()):
                raise FloatingPointError(
                    f"sample {i}: the {self._method} map is not finite, so the policy's weights are not"
                )
            values = signed.relu().to(torch.float32).cpu().numpy()
            if not values.any():
                values, reason = None, "zero_map"
        return SaliencyMap(
            values=values,
            reason=reason,
            grid_hw=sample.grid_hw,
            image_wh=self._image_sizes_wh[i] if self._image_sizes_wh is not None else None,
            method=self._method,
            rows=self._rows,
            thought_positions=tuple(sample.thought),
            answer_positions=tuple(sample.answer),
            sample=i,
        )


@contextmanager
def record_maps(
    policy: Policy,
    inputs: Mapping[str, Any],
    completion_start: int,
    method: str = "cot_rollout",
    rows: str = "predictor",
    image_sizes_wh: Sequence[tuple[int, int]] | None = None,
) -> Iterator[MapRecorder]:
    """Make the maps of a batch during a pass that somebody else makes; afterwards `recorder.maps()`.

    inputs: of the whole batch, `input_ids` and `attention_mask` [batch, length] (prompts padded on the left,
    completions on the right) and what the family reads the grid from. completion_start: position of the
    completions' first token. The block must hold one pass over the batch with the policy's model, whole or in
    chunks in order, with or without gradients (maps carry none). In each layer scores of shape
    [chunk, heads, thought tokens, length] come and go; what is kept is one sum of shape
    [chunk, answer tokens, image tokens]. Raises ValueError for an unknown method or row convention, and
    PolicyError for several pictures a sample.
    """
    if method not in METHODS:
        raise ValueError(f"saliency method {method!r}; wanted one of {', '.join(METHODS)}")
    if rows not in ROWS:
        raise ValueError(f"rows {rows!r}; wanted one of {', '.join(ROWS)}")
    recorder = MapRecorder(
        policy,
        locate(policy, inputs, completion_start, METHODS[method].thought_needed),
        method,
        rows,
        image_sizes_wh,
    )
    with capture(policy, recorder):
        yield recorder


def explain(
    policy: Policy,
    image: Any,
    question: str,
    completion: str | Sequence[int],
    method: str = "cot_rollout",
    rows: str = "predictor",
    system_prompt: str = SYSTEM_PROMPT,
) -> SaliencyMap:
    """The saliency map of one completion about one picture (PIL).

    completion: text, to which the end token is added, or the token ids as sampled with their end token; ids
    without one are `truncated`. The system prompt is the one that the completion was sampled under.
    """
    return explain_batch(policy, [(image, question, completion)], method, rows, system_prompt)[0]


def explain_batch(
    policy: Policy,
    examples: Sequence[tuple[Any, str, str | Sequence[int]]],
    /,
    method: str = "cot_rollout",
    rows: str = "predictor",
    system_prompt: str = SYSTEM_PROMPT,
    batch_size: int = 8,
) -> list[SaliencyMap]:
    """Maps of many (picture, question, completion), in order; the same numbers as one by one."""
    found: list[SaliencyMap] = []
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        inputs, completion_start = teacher_forced(policy, part, system_prompt)
        sizes = [picture.size for picture, _, _ in part]
        with (
            torch.no_grad(),
            without_dropout(policy.model),
            record_maps(policy, inputs, completion_start, method, rows, sizes) as recorder,
        ):
            policy.model(**inputs, use_cache=False, logits_to_keep=1)
        found += [dataclasses.replace(m, inputs=inputs) for m in recorder.maps()]
    return found


def _columns(weights: Tensor, keys: Tensor) -> Tensor:
    """weights [B, heads, rows, length] at key positions [B, n]: [B, heads, rows, n]."""
    return weights.gather(3, keys[:, None, None, :].expand(-1, weights.shape[1], weights.shape[2], -1))


def _padded(lists: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Lists of positions as one tensor [B, longest], and which of its entries are real."""
    tensors = [torch.tensor(list(entries), dtype=torch.long) for entries in lists]
    real = [torch.ones(len(entries), dtype=torch.bool) for entries in lists]
    return pad_sequence(tensors, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)
