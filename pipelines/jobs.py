"""The jobs, and the order in which a job works through its partitions.

One Dagster run holds one partition. `steps_of` gives the runs of a job in order; the headless runner works
through them. Ops that are no assets (upkeep, retraining) are jobs of their own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg

from ops.steps import work_through
from ops.upkeep import clear_scratch, verify_lineage

RAW_AND_DATA = (
    *("raw/files", "data/images", "data/examples", "data/boxes", "data/quarantine"),
    "data/profile",
)
EVALUATED = ("evidence/predictions", "evidence/saliency_maps")
COMPARED = ("evidence/comparison", "product/champion", "product/report")
CATALOG = "data/catalog"
JOB_NAMES = ("prepare_data", "train", "evaluate", "everything")


def selection(*groups: str) -> dg.AssetSelection:
    """The assets of some groups, and the catalogue, which every job rebuilds."""
    return dg.AssetSelection.groups(*groups) | dg.AssetSelection.assets(dg.AssetKey(CATALOG.split("/")))


prepare_data = dg.define_asset_job(
    "prepare_data",
    selection("raw", "data"),
    description="Raw files of a source to normalised tables and profile; then splits and catalogue over all.",
)
train = dg.define_asset_job(
    "train", selection("policy"), description="Base, cold start, then one policy a recipe by GRPO."
)
evaluate = dg.define_asset_job(
    "evaluate",
    selection("evidence", "product"),
    description="Held-out answers and maps of every policy; comparison, decision and report.",
)


@dg.job(description="Work through all jobs in order, partition by partition, as `make run` does.")
def retrain() -> None:
    """Started by the schedule and the sensor."""
    work_through()


@dg.job(description="Hash everything that is stored again, and remove scratch of finished work.")
def upkeep() -> None:
    """For the operator."""
    clear_scratch(verify_lineage())


JOBS: list[Any] = [prepare_data, train, evaluate, retrain, upkeep]


@dataclass(frozen=True)
class Step:
    """One Dagster run: some assets of a job, of one partition or of none."""

    job: str
    assets: tuple[str, ...]
    partition: str | None = None

    @property
    def title(self) -> str:
        """How the terminal names it."""
        names = ", ".join(self.assets)
        return f"{names} [{self.partition}]" if self.partition else names


def steps_of(job: str, sources: Iterable[str], policies: Iterable[str]) -> list[Step]:
    """The runs of a job, each building on those before. policies: base, cold_start, recipes."""
    policies = tuple(policies)
    parts = {
        "prepare_data": [
            *(Step("prepare_data", RAW_AND_DATA, source) for source in sources),
            Step("prepare_data", ("data/splits", CATALOG)),
        ],
        "train": [
            Step("train", ("policy/base", "policy/processed_rows", "policy/cold_start")),
            *(Step("train", ("policy/grpo",), recipe) for recipe in policies[2:]),
            Step("train", (CATALOG,)),
        ],
        "evaluate": [
            *(Step("evaluate", EVALUATED, policy) for policy in policies),
            Step("evaluate", (*COMPARED, CATALOG)),
        ],
    }
    names = parts if job == "everything" else [job]
    return [step for name in names for step in parts[name]]
