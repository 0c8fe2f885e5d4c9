"""The ledger that keeps artifacts with the work that made them: nothing is stored without its parents.

How bytes are written belongs to `objects`, what tables look like to `schema` and `tables`, the walk from a
row back to its raw row to `why`. Content is written first and its record last, so a record never names
something half written. Commands: `python -m storage.lineage why MAP_ID`, or `why TABLE KEY=VALUE ...`, and
`python -m storage.lineage verify`.
"""

import argparse
import importlib
import json
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import provenance
from storage.artifacts import Artifact, LineageError, Parent, Work
from storage.objects import Store, StoreError, StoreUnreachableError, sha256_bytes, sha256_file, sha256_folder
from storage.settings import Settings
from storage.tables import encode_table, n_rows_of, read_table

__all__ = ["Artifact", "Ledger", "LineageError", "Parent", "Work", "main", "unbroken"]

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=@+-]{0,199}")
_NO_PARTITION = "_"
_FIRST_SHA_DIGITS = 16


class Ledger:
    """Keeps artifacts with their records under a store, and remembers which ones are current."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def find(self, work: Work) -> dict[str, Artifact] | None:
        """The outputs of a work that was done before, by name, or None if it has to be done (again).

        None too when an output that `work.outputs` names has no record, or when any content is missing or no
        longer has the recorded sha256.
        """
        found = {artifact.output: artifact for artifact in self.outputs_of(work.key)}
        if not found or not set(work.outputs) <= set(found):
            return None
        return None if any(self.content_problem(artifact) for artifact in found.values()) else found

    def outputs_of(self, work_key: str) -> list[Artifact]:
        """All recorded outputs of a work key, whether or not their content is still there."""
        names = [name for name in self.store.list("lineage") if name.split("/")[1].startswith(f"{work_key}.")]
        return [self._load(name) for name in names]

    def put_table(
        self,
        work: Work,
        output: str,
        table_name: str,
        table: pa.Table,
        summary: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store a table that fits its schema as Parquet and record it. Raises TableError, LineageError."""
        data = encode_table(table_name, table)
        sha256 = sha256_bytes(data)
        uri = _table_uri(table_name, work.name, sha256)
        artifact = self._describe(work, output, table_name, uri, sha256, summary, device, versions)
        return self._keep_bytes(replace(artifact, n_rows=table.num_rows), data)

    def put_table_file(
        self,
        work: Work,
        output: str,
        table_name: str,
        path: str | Path,
        summary: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Store a table that a `TableWriter` wrote, as `put_table` would, without reading it into memory.

        Raises TableError for a file that is no such table, LineageError.
        """
        sha256, n_rows = sha256_file(path), n_rows_of(path, table_name)
        uri = _table_uri(table_name, work.name, sha256)
        artifact = self._describe(work, output, table_name, uri, sha256, summary, None, None)
        if self.content_problem(artifact):
            self.store.put_file(path, uri)
        return self._record(replace(artifact, n_rows=n_rows))

    def put_bytes(
        self,
        work: Work,
        output: str,
        kind: str,
        data: bytes,
        suffix: str,
        summary: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store bytes as one file (`suffix` such as ".json") and record it. Raises LineageError."""
        sha256 = sha256_bytes(data)
        folder = "raw" if kind == "raw_files" else f"files/{_segment(kind)}"
        name = f"{sha256[:_FIRST_SHA_DIGITS]}{suffix}"
        uri = f"{folder}/{_segment(work.name or _NO_PARTITION)}/{_segment(name)}"
        return self._keep_bytes(
            self._describe(work, output, kind, uri, sha256, summary, device, versions), data
        )

    def put_folder(
        self,
        work: Work,
        output: str,
        kind: str,
        local_dir: str | Path,
        summary: Mapping[str, Any] | None = None,
        *,
        device: str | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store a copy of a local folder, such as a policy, and record it. Raises StoreError."""
        sha256 = sha256_folder(local_dir)
        folder = "policies" if kind == "policy" else f"folders/{_segment(kind)}"
        uri = f"{folder}/{_segment(work.name or _NO_PARTITION)}/{sha256[:_FIRST_SHA_DIGITS]}"
        artifact = self._describe(work, output, kind, uri, sha256, summary, device, versions)
        if self.content_problem(artifact):
            self.store.put_folder(local_dir, uri)
        return self._record(artifact)

    def read_table(self, artifact: Artifact, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a stored table, after its sha256 was checked. Raises LineageError, TableError."""
        return read_table(self.path(artifact), columns, name=artifact.kind)

    def read_bytes(self, artifact: Artifact) -> bytes:
        """The bytes of a stored file, after their sha256 was checked. Raises LineageError."""
        return self.path(artifact).read_bytes()

    def path(self, artifact: Artifact) -> Path:
        """Local path (read-only) of the content, after its sha256 was checked. Raises LineageError."""
        problem = self.content_problem(artifact)
        if problem:
            raise LineageError(problem)
        return self.store.fetch(artifact.uri)

    def content_problem(self, artifact: Artifact) -> str | None:
        """What is wrong with the stored content: missing, altered; None = it has the recorded sha256.

        Raises StoreUnreachableError where the server fails: that is no word on the content.
        """
        label = f"{artifact.kind} {artifact.name or _NO_PARTITION} at {self.store.url(artifact.uri)}"
        try:
            place = self.store.fetch(artifact.uri)
            seen = sha256_folder(place) if place.is_dir() else sha256_file(place)
        except StoreUnreachableError:
            raise
        except (StoreError, OSError) as error:
            return f"{label}: content is missing ({error}); run what made it ({artifact.producer}) again"
        if seen != artifact.sha256:
            return (
                f"{label}: content was altered, sha256 is {seen[:12]}, recorded {artifact.sha256[:12]}; "
                f"remove it and run {artifact.producer} again"
            )
        return None

    def point(self, asset_key: str, partition: str, artifact: Artifact) -> None:
        """Make an artifact the current one of an asset ("data/examples") and partition ("" = none)."""
        self.store.write_bytes(_handle(asset_key, partition), artifact.to_json().encode())

    def forget(self, asset_key: str, partition: str = "") -> None:
        """Make an asset and partition have no current artifact; records and content stay."""
        self.store.delete(_handle(asset_key, partition))

    def current(self, asset_key: str, partition: str = "") -> Artifact | None:
        """The current artifact of an asset and partition, or None."""
        name = _handle(asset_key, partition)
        return self._load(name) if self.store.exists(name) else None

    def current_all(self, asset_key: str) -> dict[str, Artifact]:
        """The current artifacts of an asset by partition ("" = none), sorted."""
        return {part: artifact for (key, part), artifact in self.handles().items() if key == asset_key}

    def handles(self) -> dict[tuple[str, str], Artifact]:
        """All current artifacts by (asset key, partition), sorted."""
        found = {}
        for name, text in self.store.read_all("handles").items():
            asset_key, _, last = name.removeprefix("handles/").rpartition("/")
            partition = last.removesuffix(".json")
            key = (asset_key, "" if partition == _NO_PARTITION else partition)
            found[key] = self._parse(name, text)
        return dict(sorted(found.items()))

    def everything(self) -> list[Artifact]:
        """All records, also those that are no longer current, by work key and output."""
        records = self.store.read_all("lineage").items()
        return [self._parse(name, text) for name, text in records if name.endswith(".json")]

    def require(
        self, artifact: Artifact | None, *, kind: str | None = None, n_rows_at_least: int | None = None
    ) -> Artifact:
        """Return the artifact if it is what a consumer needs and its content is intact.

        Raises LineageError with every mismatch.
        """
        if artifact is None:
            raise LineageError(f"no {kind or 'artifact'} has been made yet; run what makes it first")
        problems = []
        if kind is not None and artifact.kind != kind:
            problems.append(f"is a {artifact.kind}, wanted a {kind}")
        if n_rows_at_least is not None and (artifact.n_rows is None or artifact.n_rows < n_rows_at_least):
            problems.append(f"has {artifact.n_rows} rows, wanted at least {n_rows_at_least}")
        content = self.content_problem(artifact)
        if content:
            problems.append(content)
        if problems:
            raise LineageError(f"{artifact.kind} {artifact.name} ({artifact.uri}): " + "; ".join(problems))
        return artifact

    def _load(self, name: str) -> Artifact:
        return self._parse(name, self.store.read_bytes(name))

    def _parse(self, name: str, text: bytes) -> Artifact:
        try:
            return Artifact.from_json(text)
        except LineageError as error:
            raise LineageError(
                f"{self.store.url(name)}: {error}; remove the file and run the job again"
            ) from error

    def _describe(
        self,
        work: Work,
        output: str,
        kind: str,
        uri: str,
        sha256: str,
        summary: Mapping[str, Any] | None,
        device: str | None,
        versions: Mapping[str, str] | None,
    ) -> Artifact:
        commit, dirty = provenance.git_state()
        parents = [
            Parent(role, parent.sha256, parent.record) for role, parent in sorted(work.parents.items())
        ]
        return Artifact(
            kind=kind,
            name=work.name,
            uri=uri,
            sha256=sha256,
            work_key=work.key,
            output=_segment(output),
            parents=tuple(parents),
            producer=work.producer,
            config_sha256=work.config_sha256,
            code_sha256=work.code_sha256,
            git_commit=commit,
            dirty=dirty,
            seed=work.seed,
            versions={**provenance.library_versions(), **(versions or {})},
            device=device,
            n_rows=None,
            summary=json.loads(provenance.canonical_json(dict(summary or {}), what=f"summary of {output}")),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            config=json.loads(provenance.canonical_json(dict(work.config), what="config")),
        )

    def _keep_bytes(self, artifact: Artifact, data: bytes) -> Artifact:
        if self.content_problem(artifact):
            self.store.write_bytes(artifact.uri, data)
        return self._record(artifact)

    def _record(self, artifact: Artifact) -> Artifact:
        """Write the record, after the content; the same content of the same work keeps its first record.

        A work that gave another content this time (a GPU may) supersedes the old record, which is kept for
        what was made from it.
        """
        name = f"lineage/{artifact.record}.json"
        if self.store.exists(name):
            earlier = self._load(name)
            if (earlier.sha256, earlier.uri, earlier.summary) == (
                artifact.sha256,
                artifact.uri,
                artifact.summary,
            ):
                return earlier
            if earlier.sha256 != artifact.sha256:
                old = f"lineage/superseded/{earlier.record}.{earlier.sha256[:_FIRST_SHA_DIGITS]}.json"
                self.store.write_bytes(old, earlier.to_json().encode())
        self.store.write_bytes(name, artifact.to_json().encode())
        return artifact


def _table_uri(table: str, name: str, sha256: str) -> str:
    return f"tables/{table}/{_segment(name or _NO_PARTITION)}/{sha256[:_FIRST_SHA_DIGITS]}.parquet"


def _segment(text: str) -> str:
    if not _SEGMENT.fullmatch(text):
        raise LineageError(f"{text!r}: wanted a plain name of letters, digits and _ . = @ + -")
    return text


def _handle(asset_key: str, partition: str) -> str:
    parts = [_segment(part) for part in asset_key.split("/")]
    if partition == _NO_PARTITION:
        raise LineageError(f"partition {partition!r} of {asset_key}: this name means 'no partition'")
    return "/".join(["handles", *parts, f"{_segment(partition or _NO_PARTITION)}.json"])


def unbroken(ledger: Ledger) -> list[str]:
    """Problems in the lineage of everything current: lost parents, missing or altered content; [] = fine."""
    from storage.chain import problems_of

    handles = list(ledger.handles().values())
    return problems_of(ledger, handles or ledger.everything())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: `why` prints where a map or a row came from, `verify` hashes everything again; 0 = unbroken."""
    from storage.chain import verify

    # By name: a work does not consist of the command, which may change without anything being made anew.
    asked, named = importlib.import_module("storage.why"), importlib.import_module("storage.named_rows")

    parser = argparse.ArgumentParser(
        prog="python -m storage.lineage", description=(main.__doc__ or "").strip()
    )
    parser.add_argument("--root", help="where everything lives (default: SALIENCY_R1_ROOT, else ./var)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("why", help="from a saliency map, or any row, to its raw file and row").add_argument(
        "words",
        nargs="+",
        metavar="ID | TABLE KEY=VALUE ...",
        help="the id of a map or a token flow; or a table of the catalogue and columns that name one of its rows "
        "(KEY=null for an empty one)",
    )
    commands.add_parser("verify", help="hash every stored thing again and follow every parent")
    chosen = parser.parse_args(arguments)
    try:
        ledger = Ledger(Store(chosen.root or Settings.from_environment().root))
        lines, problems = asked.why(ledger, chosen.words) if chosen.command == "why" else verify(ledger)
    except (named.ChainError, LineageError, StoreError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    # Through the imported module, so that there is one Artifact class and not two.
    from storage.lineage import main as command

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` may leave before the end
    sys.exit(command())
