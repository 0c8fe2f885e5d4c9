"""What the Dagster UI shows of an artifact: its place, its parents, its rows, numbers and pictures.

Only metadata values are made here. Numbers come from the artifact's summary, pictures from ops.
"""

import base64
import html
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from storage.lineage import Artifact, Ledger
from storage.schema import TABLE_DESCRIPTIONS, TABLES


def described(ledger: Ledger, artifact: Artifact, *, fresh: bool) -> dict[str, dg.MetadataValue]:
    """Metadata of one artifact. `fresh`: made in this run; else found as made before from the same inputs."""
    metadata: dict[str, dg.MetadataValue] = {
        "work": dg.MetadataValue.text(
            "made in this run" if fresh else "unchanged: found by its content hashes"
        ),
        **numbers(artifact.summary),
        "sha256": dg.MetadataValue.text(artifact.sha256),
        "dagster/uri": dg.MetadataValue.url(ledger.store.url(artifact.uri)),
        "made_from": parents_table(artifact),
        "made_by": dg.MetadataValue.json(
            {
                "producer": artifact.producer,
                "seed": artifact.seed,
                "config": dict(artifact.config),
                "code_sha256": artifact.code_sha256,
                "git_commit": artifact.git_commit,
                "dirty": artifact.dirty,
                "device": artifact.device,
                "versions": dict(artifact.versions),
            }
        ),
    }
    if artifact.n_rows is not None:
        metadata["dagster/row_count"] = dg.MetadataValue.int(artifact.n_rows)
    return metadata


def numbers(summary: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """The numbers of a summary, which the UI can plot; nested ones as name.key, other values as text."""
    found: dict[str, dg.MetadataValue] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": shown for key, shown in numbers(value).items()}
        elif isinstance(value, bool) or value is None or not isinstance(value, int | float):
            found[name] = dg.MetadataValue.text(str(value))
        else:
            found[name] = dg.MetadataValue.float(float(value))
    return found


def parents_table(artifact: Artifact) -> dg.MetadataValue:
    """The artifact's parents as a table: role and the first digits of the content hash."""
    records = [
        dg.TableRecord({"role": parent.role, "sha256": parent.sha256[:16]}) for parent in artifact.parents
    ]
    columns = [dg.TableColumn("role", "string"), dg.TableColumn("sha256", "string")]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def table_spec(name: str) -> dict[str, Any]:
    """Definition metadata of a table asset: its name in the catalogue and its columns, each described."""
    columns = [
        dg.TableColumn(
            field.name,
            str(field.type),
            html.escape(
                (field.metadata or {}).get(b"description", b"").decode(), quote=False
            ),  # shown as HTML
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in TABLES[name]
    ]
    return {
        "dagster/table_name": f"catalog.{name}",
        "dagster/column_schema": dg.TableSchema(columns),
        "one_row_is": TABLE_DESCRIPTIONS[name],
    }


def pictures(images: Iterable[tuple[str, bytes, str]]) -> dg.MetadataValue:
    """Small pictures as Markdown: (caption, bytes, media type such as image/png). A few only: they are
    kept in the event log.
    """
    parts = [
        f"![{caption}](data:{media};base64,{base64.b64encode(data).decode()})"
        for caption, data, media in images
    ]
    return dg.MetadataValue.md(" ".join(parts))
