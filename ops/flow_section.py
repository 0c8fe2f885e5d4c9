"""The report's section on flows: the chosen ones with their pictures, boxes, figures and numbers.

The choice and the drawing of one figure are ops/flow_figure.py.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ops import flow_figure, gallery

Row = Mapping[str, Any]
_LONG_SIDE_PX = 320


def pictures_needed(policy: str, seed: int, tables: Mapping[str, pa.Table]) -> list[str]:
    """image_sha256 of the pictures that the section shows."""
    flows, said, examples = tables["token_flows"], tables["predictions"], tables["examples"]
    return [row["image_sha256"] for row in flow_figure.chosen(flows, said, examples, policy, seed)]


def figures(
    policy: str,
    seed: int,
    token_flows: pa.Table,
    predictions: pa.Table,
    examples: pa.Table,
    boxes: pa.Table,
    images: pa.Table,
    pictures: Mapping[str, bytes],
) -> list[dict[str, Any]]:
    """The figures of the champion as the template wants them; a picture that is not at hand leaves its place empty."""
    rows = flow_figure.chosen(token_flows, predictions, examples, policy, seed)
    example_of = {row["example_id"]: row for row in examples.to_pylist()}
    boxes_of: dict[str, list[Row]] = defaultdict(list)
    for box in boxes.to_pylist():
        boxes_of[box["example_id"]].append(box)
    columns = ["image_sha256", "width_px", "height_px"]
    size_of = {r["image_sha256"]: (r["width_px"], r["height_px"]) for r in images.select(columns).to_pylist()}
    out = []
    for number, row in enumerate(rows, start=1):
        example, found = example_of[row["example_id"]], boxes_of[row["example_id"]]
        corners = [tuple(box[edge] for edge in ("x1_px", "y1_px", "x2_px", "y2_px")) for box in found]
        size_wh, data = size_of[row["image_sha256"]], pictures.get(row["image_sha256"])
        out.append(
            {
                "policy": policy,
                "flow_id": row["flow_id"],
                "example": example,
                "answer": "".join(row["answer_tokens"]).strip(),
                "labels": list(dict.fromkeys(box["label"] for box in found if box["label"])),
                "picture_uri": None if data is None else gallery.picture_uri(data, _LONG_SIDE_PX),
                "size_wh": size_wh,
                "answers": flow_figure.answers_of(row),
                "figure": flow_figure.figure(row, example, corners, size_wh, number),
                "numbers": flow_figure.numbers(row),
            }
        )
    return out
