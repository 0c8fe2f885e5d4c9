"""Handles between assets: finding work done before, offering what was made, and the rows behind the splits.

An asset offers a candidate; the IO manager of the pipelines makes it the current artifact only when every
blocking check passed, so that a bad result is recorded and visible but never read by what comes after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from assets.metadata import described
from storage.lineage import Artifact, Ledger, LineageError, Work


@dataclass(frozen=True)
class Candidate:
    """An artifact that an asset made, and whether every blocking check passed."""

    artifact: Artifact
    accepted: bool


def once(
    ledger: Ledger, work: Work, make: Callable[[], Mapping[str, Artifact]]
) -> tuple[Mapping[str, Artifact], bool]:
    """The outputs of the work, and whether they were made just now instead of found."""
    found = ledger.find(work)
    return (found, False) if found else (make(), True)


def offer(
    ledger: Ledger,
    artifact: Artifact,
    *,
    fresh: bool,
    checks: Sequence[dg.AssetCheckResult] = (),
    metadata: Mapping[str, dg.MetadataValue] | None = None,
    key: Sequence[str] | None = None,
    together_with: Sequence[dg.AssetCheckResult] = (),
) -> dg.MaterializeResult:
    """The asset's result: the candidate, its metadata, its checks.

    together_with: checks of other assets made by the same work; none is accepted unless all are.
    """
    passed = all(
        check.passed or check.severity != dg.AssetCheckSeverity.ERROR for check in (*checks, *together_with)
    )
    return dg.MaterializeResult(
        asset_key=key,
        value=Candidate(artifact, passed),
        data_version=dg.DataVersion(artifact.sha256),
        metadata={**described(ledger, artifact, fresh=fresh), **(metadata or {})},
        check_results=list(checks),
    )


def rows_behind(ledger: Ledger, splits: Artifact) -> dict[str, Artifact]:
    """The tables that the splits were made from, by role ("examples:scenes"), with their boxes.

    Raises LineageError when the current tables are others: the splits have to be made again.
    """
    roles = {parent.role: parent.sha256 for parent in splits.parents}
    found, stale = {}, []
    for role, sha256 in sorted(roles.items()):
        table, _, source = role.partition(":")
        artifact = ledger.current(f"data/{table}", source)
        if artifact is None or artifact.sha256 != sha256:
            stale.append(role)
        else:
            found[role] = artifact
    if stale:
        raise LineageError(
            f"data/splits was made from other rows than the current {', '.join(stale)}; "
            "materialise data/splits again"
        )
    return found


def table_paths(ledger: Ledger, splits: Artifact, rows: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """Local paths of the Parquet files that a stage reads, by table, in the order of the roles."""
    paths: dict[str, list[str]] = {"splits": [str(ledger.path(splits))]}
    for role, artifact in rows.items():
        paths.setdefault(role.partition(":")[0], []).append(str(ledger.path(artifact)))
    return paths
