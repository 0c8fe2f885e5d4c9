"""What a ledger holds at one moment, read once: its records, and which of them are current.

Keeping records belongs to `lineage`; showing what is current to `catalog`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from storage.artifacts import Artifact
from storage.lineage import Ledger
from storage.schema import SCHEMA_VERSION, TABLES


@dataclass(frozen=True)
class State:
    """Handles by (asset key, partition), and all records; two states are equal where nothing moved between them."""

    handles: Mapping[tuple[str, str], Artifact]
    records: Sequence[Artifact]

    @classmethod
    def of(cls, ledger: Ledger) -> "State":
        """The state of a ledger now. A handle is written after its record, so they are read the other way round."""
        handles = ledger.handles()
        return cls(handles, ledger.everything())

    @cached_property
    def current(self) -> list[Artifact]:
        """What the handles point at, and all other outputs of the same works, by kind, name and output.

        Where an asset was half moved on, a handle's own artifact counts, and otherwise the newest of its kind.
        """
        direct = list(self.handles.values())
        works = {artifact.work_key for artifact in direct}
        # Superseded records come last; the one in force stands for its work.
        in_force = {artifact.record: artifact for artifact in reversed(self.records)}
        siblings = [artifact for artifact in in_force.values() if artifact.work_key in works]
        chosen: dict[tuple[str, str, str], Artifact] = {}
        for group in (siblings, direct):
            newest_last = sorted(group, key=lambda a: (a.created_at, a.work_key))
            chosen |= {
                (artifact.producer, artifact.name, artifact.output): artifact for artifact in newest_last
            }
        return sorted(chosen.values(), key=lambda a: (a.kind, a.name, a.output, a.work_key))

    @cached_property
    def shown(self) -> list[Artifact]:
        """What of it the catalogue can show: all but tables of another schema version."""
        return [artifact for artifact in self.current if _is_readable(artifact)]

    @cached_property
    def left_out(self) -> list[Artifact]:
        """Current tables of another schema version: they stay current until they are made anew."""
        return [artifact for artifact in self.current if not _is_readable(artifact)]


def _is_readable(artifact: Artifact) -> bool:
    return artifact.kind not in TABLES or artifact.versions.get("schema") == str(SCHEMA_VERSION)
