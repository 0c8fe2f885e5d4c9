"""Saliency maps: which image tokens an answer, or the thoughts before it, was drawn from.

Making the maps of a batch while a pass over it goes by belongs here: padding, chunks, grids, reasons. The methods are
in `training/methods.py`, how a pass is watched in `training/capture.py`, where the tokens are in
`training/teacher_forcing.py`, how a map is held against boxes in `training/overlap.py`, and maps of single tokens in
`training/token_flow.py`.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.capture import LayerPass, capture
from training.conversation import SYSTEM_PROMPT
from training.methods import METHODS, Accumulator, Layer, Method, Places, target_log_probabilities
from training.overlap import WHOLE, Region
from training.policy import Policy
from training.projection import target_covector, through_attention_norm, without_dropout
from training.teacher_forcing import Located, locate, teacher_forced

ROWS = ("predictor", "state")
"""Row of token x: of the query that predicted it, at x - 1, or of the query at x."""


@dataclass(frozen=True)
class SaliencyMap:
    """A map on the grid of image tokens, or the reason why there is none.

    values: float32 [grid_h, grid_w], not negative, before any up-sampling. Positions are absolute, in row
    `sample` of the batch, padding counted. inputs: the batch, where the engine gave it to the model. region: the
    part of the upright picture that the grid spans, x1, y1, x2, y2 as shares of its width and height.
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
    region: Region = WHOLE


class _Chunk:
    """The samples of one forward pass as padded index tensors, and the method at work on them."""

    def __init__(self, samples: Sequence[Located], method: Method, rows: str, policy: Policy, device: Any):
        self.samples, self.method, self.policy = samples, method, policy
        shift = 1 if rows == "predictor" else 0
        image, image_valid = _padded([s.image if s.reason is None else [] for s in samples], device)
        answer, answer_valid = _padded([s.answer for s in samples], device)
        thought, thought_valid = _padded([s.thought for s in samples], device)
        of_answer = method.targets == "answer"
        self.targets = [s.answer if of_answer else s.thought for s in samples]
        keys, valid = (answer, answer_valid) if of_answer else (thought, thought_valid)
        input_ids = torch.tensor([s.ids for s in samples], device=device)
        self.at = Places(
            policy=policy,
            answer_keys=answer,
            answer_rows=(answer - shift).clamp(min=0),
            answer_valid=answer_valid,
            thought_keys=thought,
            thought_rows=(thought - shift).clamp(min=0),
            thought_valid=thought_valid,
            image_keys=image,
            image_valid=image_valid,
            target_keys=keys,
            target_rows=(keys - shift).clamp(min=0),
            target_valid=valid,
            target_ids=input_ids.gather(1, keys),
            input_ids=input_ids,
            answer_rows_at=_unbroken([s.answer for s in samples], -shift) or (answer - shift).clamp(min=0),
            thought_at=_unbroken([s.thought for s in samples]) or thought,
            thought_rows_at=_unbroken([s.thought for s in samples], -shift) or (thought - shift).clamp(min=0),
            image_at=_unbroken([s.image for s in samples]) or image,
        )
        self.covector = target_covector(policy, self.at.target_ids) if method.projected else None
        self.accumulator: Accumulator = method.start(self.at)
        self.n_layers = len(policy.family.text_model(policy.model).layers)

    @property
    def scorable(self) -> bool:
        """Whether any sample can have a map."""
        return any(s.reason is None for s in self.samples)

    def add(self, index: int, seen: LayerPass) -> None:
        covector = self.covector
        if covector is not None:
            covector = through_attention_norm(self.policy, index, seen.output, self.at.target_rows, covector)
        self.accumulator.add(Layer(seen, self.at, covector, (index + 1) / self.n_layers))

    def signed(self, hidden: Tensor) -> list[tuple[Tensor, Tensor] | None]:
        """Per sample, once all layers are in: the targets' shares [N, ...] and the joined map; None without."""
        if not self.scorable:
            return [None] * len(self.samples)
        total = self.accumulator.finish(hidden)
        said = (
            target_log_probabilities(self.at, hidden).exp()
            if self.method.needs_probability
            else self.at.target_valid
        )
        return [
            self._of_sample(s, total[i], said[i]) if s.reason is None else None
            for i, s in enumerate(self.samples)
        ]

    def _of_sample(self, sample: Located, total: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        n = len(sample.answer if self.method.targets == "answer" else sample.thought)
        if self.method.over == "thought":
            used = total[:n, : len(sample.thought)]
            return used, used.sum(dim=0)
        grids = sample.on_grid(total[:n, : len(sample.image)])
        return grids, self.method.join(grids, said[:n].to(total.dtype))


class MapRecorder:
    """Makes the maps of one batch while passes over it go by, in as many chunks as the caller likes."""

    def __init__(
        self,
        policy: Policy,
        samples: Sequence[Located],
        method: Method,
        rows: str,
        *,
        name: str = "",
        image_sizes_wh: Any = None,
        differentiable: bool = False,
    ):
        self.differentiable = differentiable or method.needs_backward
        self._policy = policy
        self.samples = samples
        self._method = method
        self._name = name
        self._rows = rows
        self._image_sizes_wh = image_sizes_wh
        self._started = 0
        self._chunk: _Chunk | None = None
        self.processor_seconds = 0.0
        """What making the maps has cost so far, a backward pass of their own included, the pass itself not."""
        self.signed: list[Tensor | None] = []
        """Per sample seen so far the map before relu, in the precision of the computation; None without a map."""
        self.per_token: list[Tensor | None] = []
        """Per sample seen so far the signed shares of its target tokens, [N, grid_h, grid_w]."""

    def on_layer(self, index: int, layer: LayerPass) -> None:
        """Add one layer's share; the first layer of a pass opens the next chunk of samples."""
        begun = time.process_time()
        if index == 0:
            start, n = self._started, layer.query.shape[0]
            if start + n > len(self.samples):
                raise RuntimeError(
                    f"a pass over {n} more samples after {start}, but the batch has {len(self.samples)}; "
                    "wanted one pass over the batch, whole or in chunks, and no other inside the block"
                )
            self._started += n
            part = self.samples[start : start + n]
            self._chunk = _Chunk(part, self._method, self._rows, self._policy, layer.query.device)
        if self._chunk is not None and self._chunk.scorable:
            self._chunk.add(index, layer)
        self.processor_seconds += time.process_time() - begun

    def on_final(self, hidden: Tensor) -> None:
        """Close the chunk."""
        begun = time.process_time()
        if self._chunk is not None:
            made = self._chunk.signed(hidden)
            self.per_token += [each and each[0] for each in made]
            self.signed += [each and each[1] for each in made]
            self._chunk = None
        self.processor_seconds += time.process_time() - begun

    def maps(self) -> list[SaliencyMap]:
        """One map per sample of the batch, in its order.

        Raises RuntimeError when the passes did not cover the batch, FloatingPointError for a map that is not
        finite.
        """
        if len(self.signed) != len(self.samples):
            raise RuntimeError(
                f"passes over {len(self.signed)} of {len(self.samples)} samples were seen; wanted one "
                "pass over the whole batch, by the policy's own model, inside the block"
            )
        return [self._map(i) for i in range(len(self.samples))]

    def _map(self, i: int) -> SaliencyMap:
        sample, signed = self.samples[i], self.signed[i]
        values, reason = None, sample.reason
        if signed is not None:
            if not bool(signed.isfinite().all()):
                raise FloatingPointError(
                    f"sample {i}: the {self._name} map is not finite, so the policy's weights are not"
                )
            values = signed.detach().relu().to(torch.float32).cpu().numpy()
            if not values.any():
                values, reason = None, "zero_map"
        return SaliencyMap(
            values=values,
            reason=reason,
            grid_hw=sample.grid_hw,
            image_wh=self._image_sizes_wh[i] if self._image_sizes_wh is not None else None,
            method=self._name,
            rows=self._rows,
            thought_positions=tuple(sample.thought),
            answer_positions=tuple(sample.answer),
            sample=i,
            region=sample.layout.region if sample.layout else WHOLE,
        )


@contextmanager
def record_maps(
    policy: Policy,
    inputs: Mapping[str, Any],
    completion_start: int,
    method: str = "cot_rollout",
    rows: str = "predictor",
    image_sizes_wh: Sequence[tuple[int, int]] | None = None,
    differentiable: bool = False,
) -> Iterator[MapRecorder]:
    """Make the maps of a batch during a pass that somebody else makes; afterwards `recorder.maps()`.

    inputs: of the whole batch, `input_ids` and `attention_mask` [batch, length] (prompts padded on the left,
    completions on the right) and what the family reads the grid from. completion_start: position of the
    completions' first token. The block must hold one pass over the batch with the policy's model, whole or in
    chunks in order, with or without gradients. In each layer scores of shape [chunk, heads, thought tokens, length]
    come and go; what is kept is one sum of shape [chunk, answer tokens, image tokens].

    differentiable: `recorder.signed` stays attached to the graph of a pass with gradients, through attention, values,
    output projections, head and final hidden state alike; the graph keeps the scores of every layer until its
    backward pass. Otherwise maps carry no gradient.

    Raises ValueError for an unknown method or row convention, for gradients from layers that are checkpointed, and for
    a method with a backward pass of its own where none can be made; PolicyError for several pictures a sample.
    """
    _check(policy, method, rows, differentiable)
    recorder = MapRecorder(
        policy,
        locate(policy, inputs, completion_start, METHODS[method].thought_needed, image_sizes_wh),
        METHODS[method],
        rows,
        name=method,
        image_sizes_wh=image_sizes_wh,
        differentiable=differentiable,
    )
    with capture(policy, recorder):
        yield recorder


def check_names(method: str, rows: str) -> None:
    """Raises ValueError, with what is known, for an unknown method or row convention."""
    if method not in METHODS:
        raise ValueError(f"saliency method {method!r}; wanted one of {', '.join(METHODS)}")
    if rows not in ROWS:
        raise ValueError(f"rows {rows!r}; wanted one of {', '.join(ROWS)}")


def _check(policy: Policy, method: str, rows: str, differentiable: bool) -> None:
    check_names(method, rows)
    attached = differentiable or METHODS[method].needs_backward
    if attached and not torch.is_grad_enabled():
        raise ValueError(
            f"method {method!r} with gradients inside torch.no_grad(); wanted a pass that keeps its graph"
        )
    if attached and policy.model.training and getattr(policy.model, "is_gradient_checkpointing", False):
        raise ValueError(
            "maps with gradients from layers under gradient checkpointing, which are computed twice and kept nowhere; "
            "switch gradient_checkpointing off"
        )


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
    return explain_batch_by(policy, examples, [(method, rows)], system_prompt, batch_size)[method, rows].maps


@dataclass
class Explained:
    """The maps of one kind, in the examples' order, and the processor time of making them, in seconds."""

    maps: list[SaliencyMap] = dataclasses.field(default_factory=list)
    processor_seconds: float = 0.0


def explain_batch_by(
    policy: Policy,
    examples: Sequence[tuple[Any, str, str | Sequence[int]]],
    kinds: Sequence[tuple[str, str]],
    /,
    system_prompt: str = SYSTEM_PROMPT,
    batch_size: int = 8,
) -> dict[tuple[str, str], Explained]:
    """As `explain_batch`, by kind of map (method, rows): one pass for all kinds, and one with gradients for those that
    need them. The time is that of the maps alone: the pass, which all share, is not in it."""
    for kind in kinds:
        check_names(*kind)
    found = {kind: Explained() for kind in kinds}
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        inputs, completion_start = teacher_forced(policy, part, system_prompt)
        given = _without_emitted(policy, inputs, completion_start)
        sizes = [picture.size for picture, _, _ in part]
        for attached, together in groupby(sorted(found, key=_needs_backward), key=_needs_backward):
            with torch.set_grad_enabled(attached), without_dropout(policy.model), ExitStack() as blocks:
                recorders = {
                    kind: blocks.enter_context(record_maps(policy, inputs, completion_start, *kind, sizes))
                    for kind in together
                }
                policy.model(**given, use_cache=False, logits_to_keep=1)
            for kind, recorder in recorders.items():
                found[kind].maps += [dataclasses.replace(m, inputs=given) for m in recorder.maps()]
                found[kind].processor_seconds += recorder.processor_seconds
    return found


def _needs_backward(kind: tuple[str, str]) -> bool:
    return METHODS[kind[0]].needs_backward


def _without_emitted(policy: Policy, inputs: dict[str, Any], completion_start: int) -> dict[str, Any]:
    """The batch with other tokens in the place of image tokens that a completion holds: no picture stands behind them,
    so no model takes them, and their sample has a reason and no map."""
    emitted = inputs["input_ids"] == policy.family.image_token_id(policy.model)
    emitted[:, :completion_start] = False
    return {**inputs, "input_ids": inputs["input_ids"].masked_fill(emitted, policy.tokenizer.eos_token_id)}


def _unbroken(lists: Sequence[Sequence[int]], shift: int = 0) -> slice | None:
    """The run of positions, moved by `shift`, that all samples share without a gap; None where there is none."""
    first = lists[0]
    if not first or any(list(each) != list(range(first[0], first[0] + len(first))) for each in lists):
        return None
    return slice(first[0] + shift, first[0] + shift + len(first))


def _padded(lists: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """Lists of positions as one tensor [B, longest], and which of its entries are real."""
    tensors = [torch.tensor(list(entries), dtype=torch.long) for entries in lists]
    real = [torch.ones(len(entries), dtype=torch.bool) for entries in lists]
    return pad_sequence(tensors, batch_first=True).to(device), pad_sequence(real, batch_first=True).to(device)
