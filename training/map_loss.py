"""The saliency map as a loss: evidence against the rest of a signed map, with its gradient into attention.

Only the number and its reasons belong here; when it is added to what is `training/trainer.py`, how a map keeps its
graph `training/saliency.py`. The map before relu is compared, never its positive part: where nothing is positive, that
part has no gradient, and a policy that once lost its map could not find it again.

Cost, as `python -m tests.benchmarks.map_loss_cost` measures it on one CPU thread: a step forward and backward takes
1.15 times as long as without the map, and no more memory at its peak (that is the head's gradient). Until the backward
pass the graph keeps, for each layer, heads x (thought + answer tokens) x length weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.overlap import WHOLE, BoxXyxy, Region, evidence_on_grid


def contrast(
    signed: Tensor,
    boxes_xyxy_px: Sequence[BoxXyxy],
    image_wh: tuple[float, float],
    region: Region = WHOLE,
) -> Tensor | str:
    """How much a signed map prefers the evidence: a number in [-1, 1] with its graph, or the reason why there is none.

    signed: [grid_h, grid_w], before relu. boxes, image_wh, region: as of `training.overlap.score`. With c the share of
    each cell that the boxes cover, S the map and means weighted by c and by 1 - c,

        contrast = (mean_c S - mean_(1-c) S) / (mean_c |S| + mean_(1-c) |S|)

    Means, not sums: a large box is not paid for its area, a uniform map has 0. The ratio does not change when the whole
    map grows, so growing it earns nothing. It is also 1 where the evidence is nothing and all else negative: whoever
    counts maps asks `has_map`. Computed in float32 at least. Reasons: those of `training.overlap.evidence_on_grid` and
    `zero_map` (zero everywhere). Raises ValueError for a map that is no grid and FloatingPointError for one that is not
    finite.
    """
    if signed.ndim != 2 or not signed.numel():
        raise ValueError(
            f"map of shape {tuple(signed.shape)}: wanted [grid_h, grid_w] with at least one cell"
        )
    if not bool(signed.isfinite().all()):
        raise FloatingPointError("a map in the loss is not finite, so the policy's weights are not")
    covered = evidence_on_grid(boxes_xyxy_px, image_wh, (signed.shape[0], signed.shape[1]), region)
    if isinstance(covered, str):
        return covered
    largest = signed.detach().abs().max()
    if not bool(largest > 0):
        return "zero_map"
    exact = torch.promote_types(signed.dtype, torch.float32)
    # Its size does not matter to the ratio, but to what can be added up.
    share = signed.to(exact) / largest.to(exact)
    weighed = [
        torch.as_tensor(weight / weight.sum(), dtype=exact, device=signed.device)
        for weight in (covered, 1 - covered)
    ]
    size = sum((share.abs() * weight).sum() for weight in weighed)
    return (share * (weighed[0] - weighed[1])).sum() / size


def has_map(signed: Tensor) -> bool:
    """Whether anything is left after relu: where nothing is positive, the map that people see is dead."""
    return bool((signed > 0).any())
