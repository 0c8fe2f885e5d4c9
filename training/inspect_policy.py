"""The stage `base`: load the policy that training starts from, hold it against the data, store it as safetensors.

Run by hand: `python -m training.inspect_policy CONFIG.json`. Whether a policy answers well is `training/evaluate.py`'s
business; here it must load, take every size of picture that the data has, and give finite numbers.
"""

import json
import statistics
import sys
from collections.abc import Sequence

import torch
from tqdm import tqdm

from storage.rows import Row, rows_from_paths
from training.config import InspectSettings, StageConfig
from training.conversation import messages
from training.dataset import picture
from training.policy import Policy, load_policy, save_policy
from training.stage import StageError, run_stage, write_result

STAGE = "base"


def rows_of_every_size(rows: Sequence[Row], most: int) -> list[Row]:
    """One row for each size of picture, then further rows, at most `most`, in the order given."""
    first_of: dict[tuple[int, int], Row] = {}
    for row in rows:
        first_of.setdefault((row.width_px, row.height_px), row)
    chosen = list(first_of.values())
    taken = {row.example_id for row in chosen}
    return (chosen + [row for row in rows if row.example_id not in taken])[:most]


@torch.no_grad()
def image_tokens(policy: Policy, row: Row) -> int:
    """How many image tokens the row's picture becomes, after one forward pass over picture and question.

    Raises StageError when tokens and grid disagree or a logit is not finite.
    """
    text = policy.processor.apply_chat_template(
        messages(row.question), add_generation_prompt=True, tokenize=False
    )
    inputs = policy.processor(images=[picture(row)], text=[text], padding=True, return_tensors="pt")
    inputs = inputs.to(policy.device)
    layout = policy.layout(inputs, 0, (row.width_px, row.height_px))
    n_tokens = int((inputs["input_ids"] == policy.family.image_token_id(policy.model)).sum())
    where = f"example {row.example_id}, {row.width_px} x {row.height_px} px"
    if layout is None or n_tokens != layout.n_tokens:
        wanted = layout.n_tokens if layout else "as many as its tiles have"
        raise StageError(f"{where}: {n_tokens} image tokens; wanted {wanted}")
    if not torch.isfinite(policy.model(**inputs).logits).all():
        raise StageError(f"{where}: the policy's logits are not finite; look at its weights and precision")
    return n_tokens


def body(config: StageConfig) -> None:
    """Load, look at rows of every size, save, write the result."""
    settings: InspectSettings = config.settings
    dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    policy = load_policy(config.policy, dtype=dtype)
    rows = rows_of_every_size(rows_from_paths(config.tables, "train"), settings.max_rows)
    if not rows:
        raise StageError("the train split has no row; the policy cannot be held against the data")
    counts = []
    with (config.work_path / "metrics.jsonl").open("w", encoding="utf-8") as log:
        for step, row in enumerate(tqdm(rows, desc=STAGE, file=sys.stderr, mininterval=1), start=1):
            counts.append(image_tokens(policy, row))
            line = {"step": step, "total_steps": len(rows), "image_tokens": counts[-1]}
            log.write(json.dumps(line) + "\n")
    if max(counts) > settings.max_image_tokens:
        raise StageError(
            f"a picture becomes {max(counts)} image tokens; max_image_tokens allows {settings.max_image_tokens}: "
            "lower the processor's longest edge or raise the setting"
        )
    save_policy(policy, config.work_path / "policy")
    summary = {
        "n_parameters": sum(p.numel() for p in policy.model.parameters()),
        "n_rows_looked_at": len(rows),
        "image_tokens_min": min(counts),
        "image_tokens_median": statistics.median(counts),
        "image_tokens_max": max(counts),
    }
    write_result(config, {"policy": "policy"}, summary, str(policy.device))


if __name__ == "__main__":
    sys.exit(run_stage(STAGE, body, sys.argv[1:]))
