"""The saliency map as a loss: evidence against the rest of a signed map, with its gradient into attention.

Only the number and its reasons belong here; when it is added to what is `training/trainer.py`, how a map keeps its
graph `training/saliency.py`. The map before relu is compared, never its positive part: where nothing is positive, that
part has no gradient, and a policy that once lost its map could not find it again.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROUNDING = 1e-9


def contrast(signed: Tensor, covered: NDArray[np.float64]) -> Tensor | str:
    """How much a signed map prefers the evidence: a number in [-1, 1] with its graph, or the reason why there is none.

    signed: [grid_h, grid_w], before relu. covered: float64 [grid_h, grid_w], the share of each cell that the evidence
    covers (`training.overlap.coverage_in_region`). With c = covered and means weighted by c and by 1 - c,

        contrast = (mean_c S - mean_(1-c) S) / (mean_c |S| + mean_(1-c) |S|)

    Means, not sums: a large box is not paid for its area, a uniform map has 0. The ratio does not change when the whole
    map grows, so growing it earns nothing. It is also 1 where the evidence is nothing and all else negative: whoever
    counts maps asks `has_map`. Reasons: `no_boxes`, `box_covers_everything`, `zero_map` (zero everywhere). Raises
    FloatingPointError for a map that is not finite.
    """
    if not bool(signed.isfinite().all()):
        raise FloatingPointError("a map in the loss is not finite, so the policy's weights are not")
    share = float(covered.mean())
    if share <= 0:
        return "no_boxes"
    if share >= 1 - _ROUNDING:
        return "box_covers_everything"
    inside = torch.as_tensor(covered, dtype=signed.dtype, device=signed.device)
    outside = 1 - inside
    weighed = [weight / weight.sum() for weight in (inside, outside)]
    size = sum((signed.abs() * weight).sum() for weight in weighed)
    if not bool(size > 0):
        return "zero_map"
    difference = (signed * (weighed[0] - weighed[1])).sum()
    return difference / size


def has_map(signed: Tensor) -> bool:
    """Whether anything is left after relu: where nothing is positive, the map that people see is dead."""
    return bool((signed > 0).any())
