"""What was delivered: the raw files of each source, known by their content."""

import json
from collections.abc import Mapping
from dataclasses import asdict

import dagster as dg

from assets import checks_data as checks
from assets.handles import offer, once
from assets.partitions import SOURCES
from ops.sources import Source, deliver, fingerprint
from storage.lineage import Ledger, Work

Sources = Mapping[str, Source]


@dg.asset(
    key=["raw", "files"],
    partitions_def=SOURCES,
    group_name="raw",
    owners=["team:data"],
    kinds={"file", "json"},
    io_manager_key="handles",
    dagster_type=dg.Any,
    description="A manifest of one source: every delivered file with its size and sha256. A generated source "
    "is written first, then read as anyone's files would be.",
    check_specs=[checks.DELIVERED],
)
def files(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger], sources: dg.ResourceParam[Sources]
) -> dg.MaterializeResult:
    """Deliver what is generated, fingerprint what is there, offer the manifest."""
    source = sources[context.partition_key]
    deliver(source, ledger.store)
    manifest = fingerprint(source, ledger.store)
    work = Work(producer="ops.sources", name=source.name, config=manifest, outputs=("files",))
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    readable = [file for file in manifest["files"] if file["sha256"]]
    summary = {"n_files": len(readable), "n_bytes": sum(file["n_bytes"] for file in readable)}
    outputs, fresh = once(
        ledger, work, lambda: {"files": ledger.put_bytes(work, "files", "raw_files", data, ".json", summary)}
    )
    check = checks.delivered(manifest, source)
    told = {
        "source": dg.MetadataValue.json(asdict(source)),
        "licence": dg.MetadataValue.text(source.licence or "not stated"),
    }
    return offer(ledger, outputs["files"], fresh=fresh, checks=[check], metadata=told)
