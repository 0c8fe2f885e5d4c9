"""Asset checks: the specs that the graph shows, and what each looks at.

Every check reads what was stored, not what the asset meant to store. A check of severity ERROR is blocking:
its artifact is kept, but is not made current, and nothing downstream runs. Counting is by column, in Arrow.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetCheckResult

from storage.lineage import Artifact, Ledger
from training.recipes import RECIPES

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
UNSCORABLE_LIMIT = 0.5


def blocking(name: str, asset: Sequence[str], description: str) -> dg.AssetCheckSpec:
    """A check that stops what comes after."""
    return dg.AssetCheckSpec(name, asset=list(asset), description=description, blocking=True)


def warning(name: str, asset: Sequence[str], description: str) -> dg.AssetCheckSpec:
    """A check that only tells."""
    return dg.AssetCheckSpec(name, asset=list(asset), description=description)


def outcome(
    spec: dg.AssetCheckSpec, problems: Sequence[str], said: str = "", **facts: Any
) -> AssetCheckResult:
    """The result of a check: passed when there are no problems; all of them are named."""
    return AssetCheckResult(
        check_name=spec.name,
        asset_key=spec.asset_key,
        passed=not problems,
        severity=ERROR if spec.blocking else WARN,
        description="; ".join(problems) or said or None,
        metadata=dict(facts),
    )


LOADS_AND_FITS = blocking(
    "loads_and_fits",
    ["policy", "base"],
    "The policy loads, and its processor takes the picture sizes of the data; rows that it refuses are passed over "
    "here and named by policy/processed_rows.",
)
FINITE_LOSS = blocking("finite_loss", ["policy", "cold_start"], "Every logged loss is a finite number.")
BETTER_THAN_BASE = warning(
    "better_than_base",
    ["policy", "cold_start"],
    "Token accuracy on the written reasonings is higher at the end of the training than it was at the start.",
)
GRPO_FINITE = blocking("finite_loss", ["policy", "grpo"], "Every logged loss is a finite number.")
REWARDS_ALIVE = blocking(
    "rewards_not_degenerate",
    ["policy", "grpo"],
    "Every reward of the recipe was given and varies between completions (format may be learned already), and not "
    "every group was without contrast.",
)
UNSCORABLE_SHARE = warning(
    "unscorable_share",
    ["policy", "grpo"],
    f"At most {UNSCORABLE_LIMIT:.0%} of the completions have no map to be rewarded for or to learn from.",
)


def loads_and_fits(ledger: Ledger, policy: Artifact, most_tokens: int) -> AssetCheckResult:
    """Look at the stored folder, and at what the stage measured with pictures of every size of the data."""
    names = {path.name for path in ledger.path(policy).rglob("*") if path.is_file()}
    looked_at = policy.summary.get("n_rows_looked_at", 0)
    tokens = policy.summary.get("image_tokens_max", 0)
    problems = []
    if not any(name.endswith(".safetensors") for name in names):
        problems.append(f"no safetensors file among {sorted(names)[:8]}")
    if not looked_at:
        problems.append("it was held against no picture")
    if tokens > most_tokens:
        problems.append(f"a picture becomes {tokens} image tokens, {most_tokens} are allowed")
    said = f"held against {looked_at} pictures, at most {tokens} image tokens each"
    return outcome(LOADS_AND_FITS, problems, said, files=len(names), image_tokens_max=tokens)


def finite_loss(steps: pa.Table, asset: str) -> AssetCheckResult:
    """Look at the losses of the training steps; at least one must have been logged."""
    losses = steps["loss"].drop_null()
    wrong = len(losses) - (pc.sum(pc.is_finite(losses)).as_py() or 0)
    problems = [f"{wrong} of {len(losses)} logged losses are not finite"] if wrong else []
    if not len(losses):
        problems.append("no loss was logged")
    spec = FINITE_LOSS if asset == "cold_start" else GRPO_FINITE
    return outcome(spec, problems, f"{len(losses)} finite losses", n_losses=len(losses))


def better_than_base(steps: pa.Table, policy: Artifact) -> AssetCheckResult:
    """The first logged steps are the base's own level, the last ones the cold start's."""
    column = "token_accuracy" if steps["token_accuracy"].null_count < steps.num_rows else "loss"
    values = [value for value in steps[column].to_pylist() if value is not None]
    if len(values) < 2:
        return outcome(
            BETTER_THAN_BASE, [f"only {len(values)} logged values of {column}; cannot be compared"]
        )
    few = max(1, len(values) // 10)
    first, last = sum(values[:few]) / few, sum(values[-few:]) / few
    rose = last > first if column == "token_accuracy" else last < first
    said = f"{column} {first:.4g} at the start, {last:.4g} at the end"
    return outcome(BETTER_THAN_BASE, [] if rose else [said], said, first=first, last=last)


def rewards_alive(steps: pa.Table, completions: pa.Table, recipe: str) -> AssetCheckResult:
    """A reward that is the same for every completion teaches nothing; so do groups without contrast."""
    problems, spreads = [], {}
    for reward in RECIPES[recipe].rewards:
        values = completions[f"reward_{reward}"].drop_null()
        spread = pc.stddev(values).as_py() if len(values) else None
        spreads[f"std_{reward}"] = -1.0 if spread is None else spread
        if spread is None:
            problems.append(f"reward {reward} was never given")
        elif spread == 0 and reward != "format":  # a policy whose form is always right is no failure
            problems.append(f"reward {reward} was {values[0].as_py():g} for all {len(values)} completions")
    flat = pc.mean(steps["frac_zero_std"]).as_py()
    if flat is not None and flat >= 1.0:
        problems.append("in no step did the completions of a group differ in reward")
    return outcome(
        REWARDS_ALIVE, problems, "rewards vary", frac_zero_std=-1.0 if flat is None else flat, **spreads
    )


def unscorable_share(steps: pa.Table, completions: pa.Table, recipe: str) -> AssetCheckResult:
    """Share of completions without the map that the recipe wants, by reason; says so where it wants none.

    A recipe that rewards the map wants one of every completion; one whose loss is the map, of every right one.
    """
    if RECIPES[recipe].loss_weight:
        by_reason: Counter[str] = Counter()
        for told in steps["unscorable_by_reason"].drop_null().to_pylist():
            by_reason.update(json.loads(told))
        n_wanted = by_reason.total() + (pc.sum(steps["n_maps"]).as_py() or 0)
    elif "saliency" in RECIPES[recipe].rewards:
        by_reason = Counter(completions["unscorable_reason"].drop_null().to_pylist())
        n_wanted = completions.num_rows
    else:
        return outcome(UNSCORABLE_SHARE, [], f"{recipe} wants no map")
    if not n_wanted:
        return outcome(UNSCORABLE_SHARE, [f"{recipe} wants maps, and no completion was there to have one"])
    share = by_reason.total() / n_wanted
    said = f"{share:.1%} of {n_wanted} unscorable {json.dumps(dict(sorted(by_reason.items())))}"
    return outcome(UNSCORABLE_SHARE, [said] if share > UNSCORABLE_LIMIT else [], said, share=share)
