"""When retraining starts because data changed. Off until somebody turns it on."""

import json

import dagster as dg

from assets.partitions import SOURCES
from assets.raw import Sources
from ops.sources import fingerprint
from pipelines.jobs import retrain
from storage.lineage import Ledger
from storage.objects import sha256_bytes


@dg.sensor(
    name="changed_sources",
    target=retrain,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Compares the content of every delivered file with the manifest that the data was made from. "
    "Reads all files at each tick; generated sources are left out.",
)
def changed_sources(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Ledger], sources: dg.ResourceParam[Sources]
) -> dg.SensorResult:
    """Ask for one run when any source is new or has other content; the same content asks once."""
    changed = {}
    for name, source in sources.items():
        if source.generator is None:
            seen, current = fingerprint(source, ledger.store), ledger.current("raw/files", name)
            if current is None or dict(current.config) != seen:
                changed[name] = seen
    if not changed:
        return dg.SensorResult(skip_reason=f"no change in {', '.join(sources)}")
    run_key = sha256_bytes(json.dumps(changed, sort_keys=True).encode())
    known = set(context.instance.get_dynamic_partitions(str(SOURCES.name)))
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=run_key, tags={"saliency_r1/changed": ", ".join(changed)})],
        dynamic_partitions_requests=[
            SOURCES.build_add_request([name for name in changed if name not in known])
        ],
    )
