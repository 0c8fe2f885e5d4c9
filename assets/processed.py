"""The rows as the policy's processor makes them, and which of them training may take.

Made between the base policy and the first training; what is counted of a row is in training/row_fit.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets import checks_rows as checks
from assets.handles import offer, once, rows_behind, table_paths
from assets.metadata import table_spec
from assets.resources import Launch, Profile
from storage.artifacts import policy_id
from storage.code import code_of
from storage.lineage import Artifact, Ledger, LineageError, Work
from storage.provenance import config_sha256

TABLE = "processed_rows"


def observer(context: dg.AssetExecutionContext) -> Callable[[Mapping[str, float]], None]:
    """Passes the numbers of a running stage to the UI, where they plot while the stage runs."""
    partition = context.partition_key if context.has_partition_key else None

    def observe(row: Mapping[str, float]) -> None:
        metadata = {name: dg.MetadataValue.float(value) for name, value in row.items()}
        for key in context.selected_asset_keys:
            context.log_event(dg.AssetObservation(key, partition=partition, metadata=metadata))

    return observe


@dg.asset(
    key=["policy", TABLE],
    ins={"base": dg.AssetIn(["policy", "base"]), "splits": dg.AssetIn(["data", "splits"])},
    group_name="policy",
    owners=["team:training"],
    kinds={"parquet", "huggingface"},
    io_manager_key="handles",
    dagster_type=dg.Any,
    description="Every row through the base's own processor: its tokens, its grid, and whether training can take it. "
    "No weight is loaded and no GPU wanted.",
    metadata=table_spec(TABLE),
    check_specs=[checks.SOME_FIT, checks.ALL_FIT],
)
def processed_rows(
    context: dg.AssetExecutionContext,
    base: Artifact,
    splits: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
    launch: dg.ResourceParam[Launch],
) -> dg.MaterializeResult:
    """Read handles, run the stage `process`, offer the table."""
    settings, rows = process_settings(profile), rows_behind(ledger, splits)
    work = Work(
        producer="training.process_rows",
        name="base",
        config={"settings": settings},
        parents={"policy": base, "splits": splits, **rows},
        seed=profile.seed,
        code=code_of("training.process_rows"),
        outputs=(TABLE,),
    )
    config = {
        "policy": str(ledger.path(base)),
        "policy_name": "base",
        "policy_id": policy_id("base", base.work_key),
        "tables": table_paths(ledger, splits, rows),
        "settings": settings,
    }
    outputs, fresh = once(ledger, work, lambda: launch("process", work, config, observer(context)))
    table = ledger.read_table(outputs[TABLE])
    results = [checks.some_fit(table, needed_splits(profile)), checks.all_fit(table)]
    return offer(
        ledger, outputs[TABLE], fresh=fresh, checks=results, metadata={"do_not_fit": checks.first_rows(table)}
    )


def process_settings(profile: Profile) -> dict[str, Any]:
    """The settings of the stage `process`: what the profile's trainings will do with the rows."""
    stages = profile.stages
    prompts = dict.fromkeys(stages[stage]["system_prompt"] for stage in ("sft", "grpo"))
    return {
        **stages["process"],
        "system_prompts": list(prompts),
        "max_completion_length": stages["grpo"]["max_completion_length"],
        "max_image_tokens": stages["base"]["max_image_tokens"],
    }


def needed_splits(profile: Profile) -> tuple[str, ...]:
    """The sides that the profile's stages read."""
    held_out = ("val",) if profile.stages["sft"]["eval_steps"] else ()
    return tuple(dict.fromkeys(("train", *held_out, profile.stages["evaluate"]["split"])))


@dataclass(frozen=True)
class Rows:
    """What a training reads: the artifacts by role, as parents of its work, and their files by table."""

    parents: Mapping[str, Artifact]
    paths: Mapping[str, list[str]]


def rows_that_fit(ledger: Ledger, profile: Profile, splits: Artifact, processed: Artifact) -> Rows:
    """The rows behind the splits, with the table that says which of them fit.

    Raises LineageError when that table is of other splits, or for a training with other settings.
    """
    ledger.require(processed, kind=TABLE)
    rows = rows_behind(ledger, splits)
    seen = {parent.role: parent.sha256 for parent in processed.parents}
    config = {"settings": process_settings(profile)}
    if seen.get("splits") != splits.sha256 or config_sha256(processed.config) != config_sha256(config):
        raise LineageError(
            "policy/processed_rows was made from other splits, or for other settings of base, sft or grpo, than the "
            "current ones; materialise policy/processed_rows again"
        )
    paths = {**table_paths(ledger, splits, rows), TABLE: [str(ledger.path(processed))]}
    return Rows({TABLE: processed, "splits": splits, **rows}, paths)
