"""Rows of the table token_flows: the flow of one answer as the archive keeps it, or the reason why there is none.

Computing a flow is `training/token_flow.py`; which examples get one is `training/evaluate.py`; drawing is
ops/flow_figure.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from storage.archive import map_id, region_columns
from storage.rows import Row
from training.config import EvaluateSettings
from training.conversation import SYSTEM_PROMPT
from training.policy import Policy
from training.spans import spans
from training.token_flow import TokenFlow, explain_tokens

IDENTITY = ("policy_id", "policy", "example_id", "image_sha256", "completion_sha256")


def flow_row(
    policy: Policy,
    picture: Image.Image,
    row: Row,
    ids: Sequence[int],
    prediction: Mapping[str, Any],
    settings: EvaluateSettings,
) -> dict[str, Any]:
    """One row of token_flows for the completion `ids` about the picture; `prediction` is its row of predictions."""
    how = settings.saliency_rows
    flow = TokenFlow(_refused(policy, ids, bool(prediction["format_valid"])), how)
    if flow.reason is None:
        prompt = settings.system_prompt or SYSTEM_PROMPT
        flow = explain_tokens(policy, picture, row.question, ids, how, prompt)
    return _row(prediction, flow)


def no_flow(prediction: Mapping[str, Any], settings: EvaluateSettings) -> dict[str, Any]:
    """The row of an example that was not measured, by its row of predictions: the reason alone."""
    return _row(prediction, TokenFlow(prediction["unscorable_reason"], settings.saliency_rows))


def _row(prediction: Mapping[str, Any], flow: TokenFlow) -> dict[str, Any]:
    identity = {column: prediction.get(column) for column in IDENTITY}
    who = (prediction["policy_id"], prediction["example_id"], prediction.get("completion_sha256") or "")
    return identity | {
        "flow_id": map_id(*who, f"token_flow:{flow.rows}", "tokens"),
        "rows": flow.rows,
        "unscorable_reason": flow.reason,
        **_arrays(flow),
    }


def _refused(policy: Policy, ids: Sequence[int], format_valid: bool) -> str | None:
    """Why no pass is needed: no thought or answer to explain, or a form that has no map anywhere."""
    found = spans(policy.tokenizer, ids, policy.family.image_token_id(policy.model))
    if isinstance(found, str):
        return found
    return None if format_valid else "format_invalid"


def _arrays(flow: TokenFlow) -> dict[str, Any]:
    """Tokens, grid, region and the three arrays, flat and row-major; nothing where there is a reason."""
    if flow.thought_maps is None or flow.answer_maps is None or flow.thoughts_used is None:
        return {}
    return {
        "thought_tokens": list(flow.thoughts),
        "answer_tokens": list(flow.answers),
        "grid_h": flow.thought_maps.shape[1],
        "grid_w": flow.thought_maps.shape[2],
        **region_columns(flow.region),
        "looked_at": flow.thought_maps.ravel(),
        "thoughts_used": flow.thoughts_used.ravel(),
        "reached_answer": flow.answer_maps.ravel(),
    }
