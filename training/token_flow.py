"""From picture through reasoning to answer, token by token: what each thought looked at, and which thoughts each part
of the answer used.

Arrays that an archive can keep and a report can draw. Maps of whole completions are `training/saliency.py`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.capture import capture
from training.conversation import SYSTEM_PROMPT
from training.methods import METHODS, THOUGHTS_USED
from training.overlap import WHOLE, Region
from training.policy import Policy
from training.projection import without_dropout
from training.saliency import MapRecorder, check_names
from training.spans import characters
from training.teacher_forcing import locate, teacher_forced


@dataclass(frozen=True)
class TokenFlow:
    """The flow of one completion, in logits, signed; or the reason why there is none.

    region: the part of the picture that the grid spans (x1, y1, x2, y2, shares). thoughts, answers: the tokens as
    text, one string each. thought_maps: float32 [thoughts, grid_h, grid_w], what the
    picture contributed straight to each thought token (`thought_sum` before its sum). answer_maps: float32
    [answers, grid_h, grid_w], what it contributed to each answer token through the thoughts (`cot_rollout` before its
    sum). thoughts_used: float32 [answers, thoughts], what each thought token contributed straight to each answer token.
    """

    reason: str | None
    rows: str
    grid_hw: tuple[int, int] | None = None
    region: Region = WHOLE
    thoughts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    thought_maps: NDArray[np.float32] | None = None
    answer_maps: NDArray[np.float32] | None = None
    thoughts_used: NDArray[np.float32] | None = None


def explain_tokens(
    policy: Policy,
    image: Any,
    question: str,
    completion: str | Sequence[int],
    rows: str = "predictor",
    system_prompt: str = SYSTEM_PROMPT,
) -> TokenFlow:
    """The flow of one completion about one picture (PIL), in one pass; arguments as in `explain`.

    Raises ValueError for an unknown row convention. Reasons are those of a `cot_rollout` map; a flow of zeros is one.
    """
    check_names("cot_rollout", rows)
    inputs, completion_start = teacher_forced(policy, [(image, question, completion)], system_prompt)
    samples = locate(policy, inputs, completion_start, thought_needed=True, image_sizes_wh=[image.size])
    (sample,) = samples
    region = sample.layout.region if sample.layout else WHOLE
    if sample.reason is not None:
        return TokenFlow(sample.reason, rows, sample.grid_hw, region)
    wanted = (METHODS["thought_sum"], METHODS["cot_rollout"], THOUGHTS_USED)
    recorders = [MapRecorder(policy, samples, method, rows) for method in wanted]
    with ExitStack() as stack, torch.no_grad(), without_dropout(policy.model):
        for recorder in recorders:
            stack.enter_context(capture(policy, recorder))
        policy.model(**inputs, use_cache=False, logits_to_keep=1)
    thought_maps, answer_maps, used = (_array(recorder.per_token[0]) for recorder in recorders)
    return TokenFlow(
        None,
        rows,
        sample.grid_hw,
        region,
        _texts(policy, sample.ids, sample.thought),
        _texts(policy, sample.ids, sample.answer),
        thought_maps,
        answer_maps,
        used,
    )


def _array(shares: Tensor | None) -> NDArray[np.float32]:
    if shares is None or not bool(shares.isfinite().all()):
        raise FloatingPointError("the flow is not finite, so the policy's weights are not")
    return shares.to(torch.float32).cpu().numpy()


def _texts(policy: Policy, ids: Sequence[int], positions: range) -> tuple[str, ...]:
    """What each token adds to the decoded text: some decoders drop the space before a token decoded alone."""
    first = positions[0] if positions else 0
    text, pieces = characters(policy.tokenizer, list(ids[: positions[-1] + 1]) if positions else [])
    return tuple(text[start:stop] for start, stop in pieces[first:])
