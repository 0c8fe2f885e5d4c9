"""The ledger itself as two tables of the catalogue: every record, and every link from a record to a parent."""

import json

import pyarrow as pa

from storage.columns import column, maybe
from storage.current import State

_TEXT = pa.string()
_I64 = pa.int64()

_ARTIFACTS = pa.schema(
    [
        column("sha256", _TEXT, "sha256 of the content; of a folder, over its files' paths and sha256"),
        column("kind", _TEXT, "what it is: a table's name, policy, raw_files, ..."),
        column("name", _TEXT, "the partition, or empty"),
        column("uri", _TEXT, "path relative to the root"),
        column("producer", _TEXT, "what made it"),
        column("work_key", _TEXT, "hash of producer, name, configuration, parents, seed and code"),
        column("output", _TEXT, "which output of that work it is"),
        column("is_current", pa.bool_(), "whether the catalogue's views and the pipeline use it now"),
        column("config_sha256", _TEXT, "hash of the configuration"),
        column("code_sha256", _TEXT, "hash of the code that made it"),
        maybe("git_commit", _TEXT, "commit of the checkout; null without git"),
        maybe("dirty", pa.bool_(), "whether tracked files differed from the commit; null without git"),
        maybe("seed", _I64, "the seed; null when nothing was random"),
        column("versions", _TEXT, "versions of Python and libraries, as a JSON object"),
        maybe("device", _TEXT, "the device that computed it; null when it does not matter"),
        maybe("n_rows", _I64, "rows of a table; null for other things"),
        column("summary", _TEXT, "small numbers for the eye, as a JSON object"),
        column("config", _TEXT, "the configuration, as a JSON object"),
        column("created_at", _TEXT, "when it was made, UTC"),
        column("host", _TEXT, "the machine that made it"),
    ]
)

_EDGES = pa.schema(
    [
        column("child", _TEXT, "sha256 of the artifact that was made"),
        column("parent", _TEXT, "sha256 of an artifact that it was made from"),
        column("role", _TEXT, "what the parent was in that work"),
        column("child_record", _TEXT, "work key and output of the child"),
        column("parent_record", _TEXT, "work key and output of the parent"),
    ]
)

LEDGER_TABLES: dict[str, pa.Schema] = {"artifacts": _ARTIFACTS, "lineage_edges": _EDGES}

LEDGER_DESCRIPTIONS: dict[str, str] = {"artifacts": "one stored thing", "lineage_edges": "one parent link"}

_JSON_COLUMNS = ("versions", "summary", "config")


def ledger_table(name: str, state: State) -> pa.Table:
    """The rows of `artifacts`, in the order of the records, or of `lineage_edges`, child after child."""
    return _artifacts(state) if name == "artifacts" else _edges(state)


def _artifacts(state: State) -> pa.Table:
    now = {(artifact.record, artifact.sha256) for artifact in state.current}
    rows = []
    for artifact in state.records:
        row = {name: getattr(artifact, name) for name in _ARTIFACTS.names if name != "is_current"}
        row |= {name: json.dumps(dict(row[name]), sort_keys=True) for name in _JSON_COLUMNS}
        rows.append({**row, "is_current": (artifact.record, artifact.sha256) in now})
    return pa.Table.from_pylist(rows, schema=_ARTIFACTS)


def _edges(state: State) -> pa.Table:
    rows = [
        {
            "child": artifact.sha256,
            "parent": parent.sha256,
            "role": parent.role,
            "child_record": artifact.record,
            "parent_record": parent.record,
        }
        for artifact in state.records
        for parent in artifact.parents
    ]
    return pa.Table.from_pylist(rows, schema=_EDGES)
