"""The stage `base`: load the policy that training starts from, hold it against the data, store it as safetensors.

Run by hand: `python -m training.inspect_policy CONFIG.json`. Whether a policy answers well is `training/evaluate.py`'s
business; here it must load, take every size of picture that the data has, and give finite numbers. A row that it
cannot take is passed over; the stage `process` names all of them.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from storage.rows import Row, rows_from_paths
from training.config import InspectSettings, StageConfig
from training.conversation import messages
from training.dataset import PictureError, picture
from training.policy import Policy, load_policy, save_policy
from training.stage import StageError, run_stage, write_result

STAGE = "base"


def rows_of_every_size(rows: Sequence[Row]) -> list[Row]:
    """One row for each size of picture, then all other rows, in the order given."""
    first_of: dict[tuple[int, int], Row] = {}
    for row in rows:
        first_of.setdefault((row.width_px, row.height_px), row)
    chosen = list(first_of.values())
    taken = {row.example_id for row in chosen}
    return chosen + [row for row in rows if row.example_id not in taken]


class RefusedError(Exception):
    """A row that cannot be looked at; the stage `process` names it, here another takes its place."""


def inputs_of(policy: Policy, row: Row) -> Any:
    """The processor's inputs for the row's picture and question. Raises RefusedError."""
    try:
        image = picture(row)
        text = policy.processor.apply_chat_template(
            messages(row.question), add_generation_prompt=True, tokenize=False
        )
        return policy.processor(images=[image], text=[text], padding=True, return_tensors="pt")
    except PictureError as error:
        raise RefusedError(str(error)) from error
    except Exception as error:  # whatever a processor raises for what a data set holds
        raise RefusedError(f"example {row.example_id}: {type(error).__name__}: {error}") from error


@torch.no_grad()
def image_tokens(policy: Policy, row: Row, most: int) -> int:
    """How many image tokens the row's picture becomes, after one forward pass over picture and question.

    Raises StageError when tokens and grid disagree or a logit is not finite, RefusedError as `inputs_of` and for more
    than `most` tokens.
    """
    inputs = inputs_of(policy, row)
    inputs = inputs.to(policy.device)
    layout = policy.layout(inputs, 0, (row.width_px, row.height_px))
    n_tokens = int((inputs["input_ids"] == policy.family.image_token_id(policy.model)).sum())
    where = f"example {row.example_id}, {row.width_px} x {row.height_px} px"
    if layout is None or n_tokens != layout.n_tokens:
        wanted = layout.n_tokens if layout else "as many as its tiles have"
        raise StageError(f"{where}: {n_tokens} image tokens; wanted {wanted}")
    if n_tokens > most:
        raise RefusedError(
            f"{where}: a picture becomes {n_tokens} image tokens; max_image_tokens allows {most}: lower the "
            "processor's longest edge or raise the setting"
        )
    if not torch.isfinite(policy.model(**inputs).logits).all():
        raise StageError(f"{where}: the policy's logits are not finite; look at its weights and precision")
    return n_tokens


def body(config: StageConfig) -> None:
    """Load, look at rows of every size, save, write the result."""
    settings: InspectSettings = config.settings
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    policy = load_policy(config.policy, dtype=dtype)
    unreadable: dict[str, str] = {}
    found = rows_from_paths(config.tables, "train", root=config.root, unreadable=unreadable)
    rows = [row for row in found if row.image_sha256 not in unreadable]
    refused, counts = list(unreadable.values()), []
    total = min(len(rows), settings.max_rows)
    with (config.work_path / "metrics.jsonl").open("w", encoding="utf-8") as log:
        for row in tqdm(rows_of_every_size(rows), desc=STAGE, file=sys.stderr, mininterval=1):
            try:
                counts.append(image_tokens(policy, row, settings.max_image_tokens))
            except RefusedError as problem:
                refused.append(str(problem))
                continue
            line = {"step": len(counts), "total_steps": total, "image_tokens": counts[-1]}
            log.write(json.dumps(line) + "\n")
            if len(counts) == total:
                break
    if not counts:
        raise StageError(
            "no row of the train split can be held against the policy: "
            + "; ".join(refused[:3] or ["it is empty"])
        )
    save_policy(policy, config.work_path / "policy")
    summary = {
        "n_parameters": sum(p.numel() for p in policy.model.parameters()),
        "n_rows_looked_at": len(counts),
        "n_rows_refused": len(refused),
        "image_tokens_min": min(counts),
        "image_tokens_median": statistics.median(counts),
        "image_tokens_max": max(counts),
    }
    write_result(config, {"policy": "policy"}, summary, str(policy.device))


if __name__ == "__main__":
    sys.exit(run_stage(STAGE, body, sys.argv[1:]))
