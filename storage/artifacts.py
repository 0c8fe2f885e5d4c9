"""The records of lineage as values: an artifact, its parents, and the work that makes it.

Keeping them belongs to `lineage`, which also names them for everybody else: import them from there.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from storage import provenance
from storage.objects import sha256_bytes
from storage.schema import SCHEMA_VERSION


class LineageError(Exception):
    """A missing, altered or unfit artifact; the message lists every mismatch."""


@dataclass(frozen=True)
class Parent:
    """One parent of an artifact: its role in the work, its content, and the record that it came from."""

    role: str
    sha256: str
    record: str = ""


def policy_id(name: str, work_key: str) -> str:
    """How a policy is named in tables: its partition and the work that made it."""
    return f"{name}@{work_key[:12]}"


@dataclass(frozen=True)
class Artifact:
    """A handle on one stored thing. Time, host, git, device and versions are kept but are not its identity.

    `uri` is relative to the root; `sha256` is the content's (a folder's by `objects.sha256_folder`);
    `work_key` and `output` say which work made it, under which name.
    """

    kind: str
    name: str
    uri: str
    sha256: str
    work_key: str
    output: str
    parents: tuple[Parent, ...]
    producer: str
    config_sha256: str
    code_sha256: str
    git_commit: str | None
    dirty: bool | None
    seed: int | None
    versions: Mapping[str, str] = field(hash=False)
    device: str | None
    n_rows: int | None
    summary: Mapping[str, Any] = field(hash=False)
    created_at: str
    host: str
    config: Mapping[str, Any] = field(hash=False, default_factory=dict)

    @property
    def record(self) -> str:
        """Name of the artifact's record: work key and output."""
        return f"{self.work_key}.{self.output}"

    def to_json(self) -> str:
        """The artifact as readable JSON."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Artifact":
        """Read what `to_json` wrote. Raises LineageError for anything else."""
        try:
            values = json.loads(text)
            values["parents"] = tuple(Parent(**parent) for parent in values["parents"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise LineageError(f"not an artifact record ({error}): {text[:80]!s}") from error


@dataclass(frozen=True)
class Work:
    """One piece of work, known before it is done: same producer, config, parents, seed and code, same key.

    `name` is the partition or "". `parents` maps a role ("examples:scenes") to an artifact. `code` names the
    packages whose .py files are part of the identity. `outputs` lists what the work must leave behind: state
    it wherever a work has several outputs, so that one killed between two of them is not taken for done.
    """

    producer: str
    name: str = ""
    config: Mapping[str, Any] = field(hash=False, default_factory=dict)
    parents: Mapping[str, Artifact] = field(hash=False, default_factory=dict)
    seed: int | None = None
    code: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    @functools.cached_property
    def config_sha256(self) -> str:
        """Hex sha256 of the configuration."""
        return provenance.config_sha256(self.config)

    @functools.cached_property
    def code_sha256(self) -> str:
        """Hex sha256 of the code, taken once: editing files under a running work does not change its key."""
        return provenance.code_sha256(self.code)

    @functools.cached_property
    def key(self) -> str:
        """Hex sha256 of the work's canonical JSON: no time, host, git commit, version or path in it."""
        identity = {
            "producer": self.producer,
            "name": self.name,
            "config_sha256": self.config_sha256,
            "parents": sorted([role, artifact.sha256] for role, artifact in self.parents.items()),
            "seed": self.seed,
            "code_sha256": self.code_sha256,
            "schema_version": SCHEMA_VERSION,
        }
        return sha256_bytes(provenance.canonical_json(identity, what=f"work {self.producer}").encode())
