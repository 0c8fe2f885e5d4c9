"""Evidence: what each policy answers on held-out examples and where it looked, and all of them compared."""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from assets import checks_evidence as checks
from assets.handles import offer, once, rows_behind, table_paths
from assets.metadata import table_spec
from assets.partitions import POLICIES
from assets.processed import observer
from assets.resources import Launch, Profile
from ops.comparison import compare
from storage.artifacts import policy_id
from storage.code import code_of
from storage.lineage import Artifact, Ledger, LineageError, Work
from training.recipes import RECIPES

RECIPE_TO_POLICY = dg.StaticPartitionMapping({name: name for name in RECIPES})
EVALUATED = ("predictions", "saliency_maps", "token_flows")


def table_out(name: str, description: str) -> dg.AssetOut:
    """An output that is one table of the catalogue."""
    return dg.AssetOut(
        key=["evidence", name],
        group_name="evidence",
        owners=["team:evaluation"],
        kinds={"parquet", "pytorch"},
        io_manager_key="handles",
        description=description,
        metadata=table_spec(name),
    )


@dg.multi_asset(
    name="evaluated",
    partitions_def=POLICIES,
    ins={"splits": dg.AssetIn(["data", "splits"])},
    deps=[
        dg.AssetDep(["policy", "base"]),
        dg.AssetDep(["policy", "cold_start"]),
        dg.AssetDep(["policy", "grpo"], partition_mapping=RECIPE_TO_POLICY),
    ],
    outs={
        "predictions": table_out("predictions", "One answer of the policy to each held-out example, scored."),
        "saliency_maps": table_out(
            "saliency_maps", "The archive: one saliency map for each scorable answer."
        ),
    },
    check_specs=[checks.ANSWERED, checks.ONE_MAP, checks.ONE_FLOW],
    pool="gpu",
)
def evaluated(
    context: dg.AssetExecutionContext,
    splits: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
    launch: dg.ResourceParam[Launch],
) -> Iterator[dg.MaterializeResult]:
    """Read handles, run the stage `evaluate` for the partition's policy, offer answers and maps; flows lie beside."""
    name, settings = context.partition_key, profile.stages["evaluate"]
    policy, rows = current_policy(ledger, name), rows_behind(ledger, splits)
    work = Work(
        producer="training.evaluate",
        name=name,
        config={"settings": settings},
        parents={"policy": policy, "splits": splits, **rows},
        seed=profile.seed,
        code=code_of("training.evaluate"),
        outputs=EVALUATED,
    )
    config = {
        "policy": str(ledger.path(policy)),
        "policy_name": name,
        "policy_id": policy_id(name, policy.work_key),
        "tables": table_paths(ledger, splits, rows),
        "settings": settings,
    }
    outputs, fresh = once(ledger, work, lambda: launch("evaluate", work, config, observer(context)))
    answers, maps, flows = (ledger.read_table(outputs[table]) for table in EVALUATED)
    first = checks.answered(answers, ledger.read_table(splits), settings["split"], settings["max_rows"])
    second = [checks.one_map(answers, maps), checks.one_flow(answers, flows, settings["token_flow_rows"])]
    for table, own, others in (("predictions", [first], second), ("saliency_maps", second, [first])):
        yield offer(
            ledger,
            outputs[table],
            fresh=fresh,
            checks=own,
            together_with=others,
            key=["evidence", table],
        )


@dg.asset(
    key=["evidence", "comparison"],
    deps=[["evidence", "predictions"], ["evidence", "saliency_maps"]],
    group_name="evidence",
    owners=["team:evaluation"],
    kinds={"parquet"},
    io_manager_key="handles",
    dagster_type=dg.Any,
    description="Every metric of every policy with interval, n and chance value, and the paired differences.",
    metadata=table_spec("evaluations"),
    check_specs=[checks.UNBROKEN, checks.CHANCE_BESIDE],
)
def comparison(ledger: dg.ResourceParam[Ledger], profile: dg.ResourceParam[Profile]) -> dg.MaterializeResult:
    """Read the answers of all policies of the profile, compare, offer the evaluations."""
    splits = current_splits(ledger)
    answers = answers_of(ledger, profile, splits)
    rows = {
        role: table for role, table in rows_behind(ledger, splits).items() if role.startswith("examples:")
    }
    work = Work(
        producer="ops.comparison",
        config={"draws": profile.draws},
        parents={"splits": splits, **rows, **answers},
        seed=profile.seed,
        code=code_of("ops.comparison"),
        outputs=("evaluations",),
    )

    def make() -> dict[str, Artifact]:
        table = compare(
            together(ledger, answers),
            together(ledger, rows),
            ledger.read_table(splits),
            seed=profile.seed,
            draws=profile.draws,
        )
        return {"evaluations": ledger.put_table(work, "evaluations", "evaluations", table, summary_of(table))}

    outputs, fresh = once(ledger, work, make)
    scores = ledger.read_table(outputs["evaluations"])
    results = [checks.lineage_unbroken(ledger), checks.chance_beside(scores)]
    return offer(ledger, outputs["evaluations"], fresh=fresh, checks=results)


def current_splits(ledger: Ledger) -> Artifact:
    """The current splits. Raises LineageError when there are none."""
    return ledger.require(ledger.current("data/splits"), kind="splits")


def current_policy(ledger: Ledger, name: str) -> Artifact:
    """The current policy of a partition. Raises LineageError when there is none."""
    alone = name in ("base", "cold_start")
    key = f"policy/{name}" if alone else "policy/grpo"
    found = ledger.current(key, "" if alone else name)
    if found is None:
        raise LineageError(
            f"{key}{'' if alone else f' [{name}]'} has not been made yet; materialise it first"
        )
    return found


def answers_of(
    ledger: Ledger, profile: Profile, splits: Artifact, table: str = "predictions"
) -> dict[str, Artifact]:
    """The current table of each policy of the profile, by role, made from the current policy and splits.

    Raises LineageError naming every policy that has to be evaluated (again).
    """
    found, missing = {}, []
    for name in profile.policies:
        artifact = ledger.current(f"evidence/{table}", name)
        parents = {parent.role: parent.sha256 for parent in artifact.parents} if artifact else {}
        current = (current_policy(ledger, name).sha256, splits.sha256)
        if artifact is None or (parents.get("policy"), parents.get("splits")) != current:
            missing.append(name)
        else:
            found[f"{table}:{name}"] = artifact
    if missing:
        raise LineageError(
            f"evidence/{table} of {', '.join(missing)}: missing, or older than its policy or the splits; "
            "materialise these partitions first"
        )
    return found


def together(ledger: Ledger, artifacts: dict[str, Artifact]) -> pa.Table:
    """The rows of several artifacts of one table, in the order of their roles."""
    return pa.concat_tables([ledger.read_table(artifact) for _, artifact in sorted(artifacts.items())])


def summary_of(evaluations: pa.Table) -> dict[str, float]:
    """Accuracy and lift of every policy over all examples: what the UI plots."""
    return {
        f"{row['metric']}.{row['policy']}": row["value"]
        for row in evaluations.to_pylist()
        if row["subset"] == "all" and row["versus"] is None and row["metric"] in ("accuracy", "lift")
    }
