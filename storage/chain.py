"""Records and the rows behind them, followed along recorded parents: one by one, and all of them to find breaks.

Keeping the records belongs to `lineage`, the way from one row to its raw row to `why`. Nothing here changes anything.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.artifacts import Artifact, LineageError, Parent
from storage.current import State
from storage.lineage import Ledger
from storage.schema import TABLES
from storage.tables import TableError, batches, read_table

SHORT = 12


class Records:
    """All records of a ledger, to be looked up by what a parent link says."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.state = ledger, State.of(ledger)
        current = {artifact.work_key for artifact in self.state.handles.values()}
        # Current works first, so that a search meets them first.
        self.all = sorted(self.state.records, key=lambda artifact: artifact.work_key not in current)
        self._by_link = {(artifact.record, artifact.sha256): artifact for artifact in self.all}
        self._by_sha: dict[str, Artifact] = {}
        self.unreadable: dict[str, str] = {}
        for artifact in self.all:
            self._by_sha.setdefault(artifact.sha256, artifact)

    def of_parent(self, parent: Parent) -> Artifact | None:
        """The parent's record: the very one that the child was given, else one of equal content."""
        return self._by_link.get((parent.record, parent.sha256)) or self._by_sha.get(parent.sha256)

    def has(self, artifact: Artifact) -> bool:
        """Whether the artifact itself has a record."""
        return (artifact.record, artifact.sha256) in self._by_link

    def ancestors(self, start: Artifact) -> Iterator[Artifact]:
        """The artifact itself and all that it was made from, nearest first."""
        queue, seen = deque([start]), {start.record}
        while queue:
            artifact = queue.popleft()
            yield artifact
            for parent in artifact.parents:
                found = self.of_parent(parent)
                if found is not None and found.record not in seen:
                    seen.add(found.record)
                    queue.append(found)

    def row(self, candidates: Iterable[Artifact], kind: str, **wanted: Any) -> "Found | None":
        """The first row with the wanted values in a table of this kind, among the candidates.

        A table that is missing or altered is passed over and noted in `unreadable`.
        """
        for artifact in candidates:
            if artifact.kind != kind:
                continue
            rows = self.rows(artifact, wanted)
            if rows.num_rows:
                return Found(artifact, rows.slice(0, 1).to_pylist()[0])
        return None

    def rows(self, artifact: Artifact, wanted: Mapping[str, Any]) -> pa.Table:
        """All rows of a table artifact with the wanted values (None = null), without the columns of bytes and numbers.

        None of a table that is missing, altered or of another schema, which is noted in `unreadable`.
        """
        light = [field.name for field in TABLES[artifact.kind] if not _is_heavy(field.type)]
        nothing = pa.schema([TABLES[artifact.kind].field(name) for name in light]).empty_table()
        try:
            file = self.ledger.path(artifact)
            if not where(read_table(file, list(wanted), name=artifact.kind), wanted).any():
                return nothing
            found = [
                piece.filter(pa.array(where(piece, wanted)))
                for piece in batches(file, light, name=artifact.kind)
            ]
        except (LineageError, TableError) as error:
            self.unreadable[artifact.uri] = str(error)
            return nothing
        return pa.concat_tables(found)


@dataclass(frozen=True)
class Found:
    """A row and the table artifact that holds it."""

    artifact: Artifact
    values: dict[str, Any]


def _is_heavy(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or (pa.types.is_list(kind) and pa.types.is_floating(kind.value_type))


def where(table: pa.Table, wanted: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which rows have the wanted values in the named columns; None is wanted of a column that is null."""
    mask = np.ones(table.num_rows, dtype=bool)
    for column, value in wanted.items():
        values = table.column(column)
        alike = pc.is_null(values) if value is None else pc.fill_null(pc.equal(values, value), False)
        mask &= alike.to_numpy()
    return mask


def problems_of(ledger: Ledger, starts: Sequence[Artifact]) -> list[str]:
    """Lost records, lost parents, missing or altered content of the artifacts and all behind them."""
    records = Records(ledger)
    reached: dict[str, Artifact] = {}
    problems = []
    for start in starts:
        if not records.has(start):
            problems.append(f"{title_of(start)}: has no record; run {start.producer} again")
        for artifact in records.ancestors(start):
            reached.setdefault(f"{artifact.record}.{artifact.sha256}", artifact)
    for artifact in reached.values():
        for parent in artifact.parents:
            if records.of_parent(parent) is None:
                problems.append(
                    f"{title_of(artifact)}: its parent {parent.role} {parent.sha256[:SHORT]} has no record"
                )
        content = ledger.content_problem(artifact)
        if content:
            problems.append(content)
    return sorted(set(problems))


def verify(ledger: Ledger) -> tuple[list[str], list[str]]:
    """Hash everything that is recorded again: (readable lines, problems)."""
    everything = ledger.everything()
    problems = problems_of(ledger, [*everything, *ledger.handles().values()])
    n_links = sum(len(artifact.parents) for artifact in everything)
    state = "all content as recorded" if not problems else f"{len(problems)} problems"
    return [f"{len(everything)} artifacts, {n_links} parent links hashed and followed: {state}"], problems


def title_of(artifact: Artifact) -> str:
    """Kind, name and place of an artifact, as messages name it."""
    return f"{artifact.kind} {artifact.name or '_'} ({artifact.uri})"
