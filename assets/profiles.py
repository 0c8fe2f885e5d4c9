"""The profile of each source: figures, what looks wrong with its boxes, and a contact sheet of them."""

from dataclasses import asdict

import dagster as dg
import pyarrow as pa

from assets import checks_data as checks
from assets.handles import offer, once
from assets.metadata import pictures, table_spec
from assets.partitions import SOURCES
from assets.raw import Sources
from ops.source_profile import profile
from ops.source_sheet import sheet_of
from ops.source_warnings import warnings_of
from ops.sources import Source
from storage.code import code_of
from storage.lineage import Artifact, Ledger, LineageError, Work

OUTPUTS = ("source_profiles", "source_warnings", "contact_sheet")


@dg.asset(
    key=["data", "profile"],
    partitions_def=SOURCES,
    ins={name: dg.AssetIn(["data", name]) for name in checks.TABLES},
    group_name="data",
    owners=["team:data"],
    kinds={"parquet"},
    io_manager_key="handles",
    dagster_type=dg.Any,
    description="What is in a source, in figures; signs that its boxes were read by the wrong convention; and a "
    "contact sheet of drawn boxes, on which people see it.",
    metadata=table_spec("source_profiles"),
    check_specs=[checks.CONVENTION],
)
def source_profile(
    context: dg.AssetExecutionContext,
    images: Artifact,
    examples: Artifact,
    boxes: Artifact,
    quarantine: Artifact,
    ledger: dg.ResourceParam[Ledger],
    sources: dg.ResourceParam[Sources],
) -> dg.MaterializeResult:
    """Tell of one source; offer the figures, with the sheet beside them."""
    source = sources[context.partition_key]
    tables = {"images": images, "examples": examples, "boxes": boxes, "quarantine": quarantine}
    work = profiling(source, tables)
    outputs, fresh = once(ledger, work, lambda: store_profile(ledger, work, source, tables))
    sheet = (f"boxes of {source.name}", ledger.read_bytes(outputs["contact_sheet"]), "image/webp")
    check = checks.convention_looks_right(ledger.read_table(outputs["source_warnings"]))
    told = {"contact_sheet": pictures([sheet])}
    return offer(ledger, outputs["source_profiles"], fresh=fresh, checks=[check], metadata=told)


def profiling(source: Source, tables: dict[str, Artifact]) -> Work:
    """The work of telling of one source."""
    return Work(
        producer="ops.source_profile",
        name=source.name,
        config=asdict(source),
        parents=tables,
        code=code_of("ops.source_profile", "ops.source_warnings", "ops.source_sheet"),
        outputs=OUTPUTS,
    )


def store_profile(
    ledger: Ledger, work: Work, source: Source, artifacts: dict[str, Artifact]
) -> dict[str, Artifact]:
    """Work out figures, warnings and sheet, and store them."""
    tables = {name: [ledger.path(artifacts[name])] for name in checks.TABLES}
    figures, warnings = profile(source.name, tables), warnings_of(source, tables)
    sheet = sheet_of(source, tables, [str(path) for path in tables["images"]], ledger.store)
    summary = {**headline(figures), "warnings": warnings.num_rows}
    return {
        "source_profiles": ledger.put_table(work, "source_profiles", "source_profiles", figures, summary),
        "source_warnings": ledger.put_table(work, "source_warnings", "source_warnings", warnings),
        "contact_sheet": ledger.put_bytes(work, "contact_sheet", "contact_sheet", sheet, ".webp"),
    }


def headline(figures: pa.Table) -> dict[str, float]:
    """The counts of the whole source, which the UI plots over time."""
    return {
        row["measure"]: row["value"]
        for row in figures.to_pylist()
        if row["unit"] == "count" and row["bucket"] is None and row["subset"] == "all"
    }


def profile_behind(ledger: Ledger, source: str, rows: dict[str, Artifact]) -> dict[str, Artifact]:
    """Figures, warnings and sheet of a source by role, made from these very rows (by role, as of the splits).

    Raises LineageError where the profile is missing or older than the rows.
    """
    found = ledger.require(ledger.current("data/profile", source), kind="source_profiles")
    parents = {parent.role: parent.sha256 for parent in found.parents}
    stale = [
        table
        for table in ("images", "examples", "boxes")
        if parents[table] != rows[f"{table}:{source}"].sha256
    ]
    if stale:
        raise LineageError(
            f"data/profile [{source}] is older than its {', '.join(stale)}; materialise data/profile again"
        )
    return {f"{each.output}:{source}": each for each in ledger.outputs_of(found.work_key)}
