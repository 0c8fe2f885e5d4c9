"""The policies: the base as given, the cold start, and one policy a recipe.

Each asset names its work and launches one stage; what a stage does is in training/.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import checks
from assets.handles import offer, once, rows_behind, table_paths
from assets.partitions import RECIPE_NAMES
from assets.processed import Rows, observer, rows_that_fit
from assets.resources import Launch, Profile
from storage.artifacts import policy_id
from storage.code import code_of
from storage.lineage import Artifact, Ledger, Work
from storage.objects import sha256_folder
from training.config import local_folder_of

LOOK: dict[str, Any] = {
    "group_name": "policy",
    "owners": ["team:training"],
    "io_manager_key": "handles",
    "dagster_type": dg.Any,
    "pool": "gpu",
}


def weights_of(policy: str) -> str:
    """What stands for the weights of a named policy in the identity of work: their hash, or the hub name."""
    folder = local_folder_of(policy)
    return sha256_folder(folder) if folder and folder.is_dir() else policy


@dg.asset(
    key=["policy", "base"],
    ins={"splits": dg.AssetIn(["data", "splits"])},
    description="The policy that training starts from: embedded, a folder or a hub name. Loaded once, held "
    "against the sizes of the pictures, stored as safetensors.",
    kinds={"pytorch", "huggingface"},
    check_specs=[checks.LOADS_AND_FITS],
    **LOOK,
)
def base(
    context: dg.AssetExecutionContext,
    splits: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
    launch: dg.ResourceParam[Launch],
) -> dg.MaterializeResult:
    """Read handles, run the stage `base`, offer the policy."""
    settings, rows = profile.stages["base"], rows_behind(ledger, splits)
    work = Work(
        producer="training.inspect_policy",
        name="base",
        config={"settings": settings, "weights": weights_of(profile.policy)},
        parents={"splits": splits, **rows},
        seed=profile.seed,
        code=code_of("training.inspect_policy"),
        outputs=("policy",),
    )
    config = {
        "policy": profile.policy,
        "policy_name": "base",
        "policy_id": policy_id("base", work.key),
        "tables": table_paths(ledger, splits, rows),
        "settings": settings,
    }
    outputs, fresh = once(ledger, work, lambda: launch("base", work, config, observer(context)))
    policy = outputs["policy"]
    check = checks.loads_and_fits(ledger, policy, settings["max_image_tokens"])
    return offer(ledger, policy, fresh=fresh, checks=[check])


@dg.asset(
    key=["policy", "cold_start"],
    ins={
        "base": dg.AssetIn(["policy", "base"]),
        "processed": dg.AssetIn(["policy", "processed_rows"]),
        "splits": dg.AssetIn(["data", "splits"]),
    },
    description="The base taught to think aloud before it answers: SFT on the train split's written "
    "reasonings.",
    kinds={"pytorch", "huggingface"},
    check_specs=[checks.FINITE_LOSS, checks.BETTER_THAN_BASE],
    **LOOK,
)
def cold_start(
    context: dg.AssetExecutionContext,
    base: Artifact,
    processed: Artifact,
    splits: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
    launch: dg.ResourceParam[Launch],
) -> dg.MaterializeResult:
    """Read handles, run the stage `sft` on the rows that fit, offer the policy."""
    names = ("policy", "training_steps")
    rows = rows_that_fit(ledger, profile, splits, processed)
    work, config = training("sft", "cold_start", base, rows, ledger, profile, {}, names)
    outputs, fresh = once(ledger, work, lambda: launch("sft", work, config, observer(context)))
    steps = ledger.read_table(outputs["training_steps"])
    results = [checks.finite_loss(steps, "cold_start"), checks.better_than_base(steps, outputs["policy"])]
    return offer(ledger, outputs["policy"], fresh=fresh, checks=results)


@dg.asset(
    key=["policy", "grpo"],
    partitions_def=RECIPE_NAMES,
    ins={
        "cold_start": dg.AssetIn(["policy", "cold_start"]),
        "processed": dg.AssetIn(["policy", "processed_rows"]),
        "splits": dg.AssetIn(["data", "splits"]),
    },
    description="The cold start trained by GRPO with the rewards of one recipe.",
    kinds={"pytorch", "huggingface"},
    check_specs=[checks.GRPO_FINITE, checks.REWARDS_ALIVE, checks.UNSCORABLE_SHARE],
    **LOOK,
)
def grpo(
    context: dg.AssetExecutionContext,
    cold_start: Artifact,
    processed: Artifact,
    splits: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
    launch: dg.ResourceParam[Launch],
) -> dg.MaterializeResult:
    """Read handles, run the stage `grpo` with the partition's recipe on the rows that fit, offer the policy."""
    recipe = context.partition_key
    names = ("policy", "training_steps", "completions")
    rows = rows_that_fit(ledger, profile, splits, processed)
    work, config = training("grpo", recipe, cold_start, rows, ledger, profile, {"recipe": recipe}, names)
    outputs, fresh = once(ledger, work, lambda: launch("grpo", work, config, observer(context)))
    steps = ledger.read_table(outputs["training_steps"])
    completions = ledger.read_table(outputs["completions"])
    results = [
        checks.finite_loss(steps, "grpo"),
        checks.rewards_alive(steps, completions, recipe),
        checks.unscorable_share(steps, completions, recipe),
    ]
    return offer(ledger, outputs["policy"], fresh=fresh, checks=results)


def training(
    stage: str,
    name: str,
    policy: Artifact,
    rows: Rows,
    ledger: Ledger,
    profile: Profile,
    fixed: Mapping[str, Any],
    outputs: tuple[str, ...],
) -> tuple[Work, dict[str, Any]]:
    """The work of a training stage and what its process is told."""
    ledger.require(policy, kind="policy")
    settings = {**profile.stages[stage], **fixed}
    work = Work(
        producer=f"training.{stage}",
        name=name,
        config={"settings": settings},
        parents={"policy": policy, **rows.parents},
        seed=profile.seed,
        code=code_of(f"training.{stage}"),
        outputs=outputs,
    )
    config = {
        "policy": str(ledger.path(policy)),
        "policy_name": name,
        "policy_id": policy_id(name, work.key),
        "tables": rows.paths,
        "settings": settings,
    }
    return work, config
