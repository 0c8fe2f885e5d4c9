"""The walk along recorded parents: from a saliency map to its raw row, and over everything to find breaks.

Keeping the records belongs to `lineage`; printing belongs to its command. Nothing here changes anything.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.artifacts import Artifact, LineageError, Parent, policy_id
from storage.lineage import Ledger
from storage.objects import sha256_bytes
from storage.tables import read_table

_SHORT = 12


class ChainError(Exception):
    """A map that no archive holds."""


class Records:
    """All records of a ledger, to be looked up by what a parent link says."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        current = {artifact.work_key for artifact in ledger.handles().values()}
        # Current works first, so that a search meets them first.
        self.all = sorted(ledger.everything(), key=lambda artifact: artifact.work_key not in current)
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
            try:
                file = self.ledger.path(artifact)
            except LineageError as error:
                self.unreadable[artifact.uri] = str(error)
                continue
            place = _first_row_where(read_table(file, list(wanted), name=kind), wanted)
            if place is not None:
                return Found(artifact, read_table(file).slice(place, 1).to_pylist()[0])
        return None


@dataclass(frozen=True)
class Found:
    """A row and the table artifact that holds it."""

    artifact: Artifact
    values: dict[str, Any]


def _first_row_where(table: pa.Table, wanted: dict[str, Any]) -> int | None:
    """0-based place of the first row whose columns have the wanted values, or None."""
    mask = np.ones(table.num_rows, dtype=bool)
    for column, value in wanted.items():
        mask &= pc.fill_null(pc.equal(table.column(column), value), False).to_numpy()
    return int(mask.argmax()) if mask.any() else None


def problems_of(ledger: Ledger, starts: Sequence[Artifact]) -> list[str]:
    """Lost records, lost parents, missing or altered content of the artifacts and all behind them."""
    records = Records(ledger)
    reached: dict[str, Artifact] = {}
    problems = []
    for start in starts:
        if not records.has(start):
            problems.append(f"{_name(start)}: has no record; run {start.producer} again")
        for artifact in records.ancestors(start):
            reached.setdefault(f"{artifact.record}.{artifact.sha256}", artifact)
    for artifact in reached.values():
        for parent in artifact.parents:
            if records.of_parent(parent) is None:
                problems.append(
                    f"{_name(artifact)}: its parent {parent.role} {parent.sha256[:_SHORT]} has no record"
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


@dataclass
class _Walk:
    """The lines and problems of one walk; each step stands one level deeper than the one before."""

    records: Records
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    depth: int = 0

    def step(self, title: str, *details: str) -> None:
        self.lines.append("  " * self.depth + ("<- " if self.depth else "") + title)
        self.lines += ["  " * self.depth + "     " + detail for detail in details if detail]
        self.depth += 1

    def lost(self, what: str) -> None:
        self.problems.append(what)
        self.step(f"NOT FOUND: {what}")


def why(ledger: Ledger, map_id: str) -> tuple[list[str], list[str]]:
    """The chain from a saliency map, or a token flow, to the raw file and row: (readable indented lines, problems).

    Every table on the way is hashed before it is read; a step that is lost or altered is a problem. Raises
    ChainError if no archive holds the map.
    """
    records = Records(ledger)
    found = records.row(records.all, "saliency_maps", map_id=map_id)
    found = found or records.row(records.all, "token_flows", flow_id=map_id)
    if found is None:
        n = sum(artifact.kind in ("saliency_maps", "token_flows") for artifact in records.all)
        seen = f"map {map_id!r} is in none of the {n} archived tables of maps and flows under this root"
        raise ChainError("; ".join([seen, *records.unreadable.values()]))
    walk = _Walk(records)
    values = found.values
    walk.step(*_headline(values), *_made(found.artifact))
    ancestors = list(records.ancestors(found.artifact))
    siblings = [a for a in records.all if a.work_key == found.artifact.work_key and a.kind == "predictions"]
    _completion(walk, found, [*siblings, *ancestors, *records.all])
    _policies(walk, values["policy_id"], [*ancestors, *records.all])
    # What the map's own work read comes first, then what its policy was trained on.
    behind = [*ancestors, *records.all]
    split = records.row(behind, "splits", example_id=values["example_id"])
    if split is None:
        walk.lost(f"example {values['example_id']} has no place in any splits table")
    else:
        walk.step(f"split {split.values['split']} by {split.values['split_rule']}", *_made(split.artifact))
    _raw(walk, values, behind)
    if walk.problems:
        walk.problems += records.unreadable.values()
    return walk.lines, walk.problems


def _headline(values: dict[str, Any]) -> tuple[str, ...]:
    """Title and details of the row that a walk starts from: of a map, or of a token flow."""
    if "flow_id" in values:
        what = f"no flow: {values['unscorable_reason']}"
        if values["unscorable_reason"] is None:
            what = (
                f"{len(values['thought_tokens'])} thought and {len(values['answer_tokens'])} answer tokens, "
                f"{values['grid_h']} x {values['grid_w']} cells"
            )
        return f"token flow {values['flow_id']}", f"{what} ({values['rows']} rows)"
    return (
        f"map {values['map_id']}",
        f"{values['method']} ({values['rows']} rows), {values['grid_h']} x {values['grid_w']} cells over "
        f"a picture of {values['image_w_px']} x {values['image_h_px']} px",
        f"mass {_number(values['mass'])} (chance {_number(values['chance'])}), "
        f"lift {_number(values['lift'])}",
    )


def _completion(walk: _Walk, found: Found, candidates: Sequence[Artifact]) -> None:
    keys = {name: found.values[name] for name in ("policy_id", "example_id", "completion_sha256")}
    row = walk.records.row(candidates, "predictions", **keys)
    if row is not None:
        verdict = "right" if row.values["correct"] else "wrong"
        walk.step(
            f"completion {keys['completion_sha256'][:_SHORT]} of {keys['policy_id']}, {verdict}",
            repr(row.values["completion"][:200]),
            *_made(row.artifact),
        )
        return
    sampled = walk.records.row(
        candidates, "completions", policy_id=keys["policy_id"], example_id=keys["example_id"]
    )
    if (
        sampled is not None
        and sha256_bytes(sampled.values["completion"].encode()) == keys["completion_sha256"]
    ):
        walk.step(
            f"completion {keys['completion_sha256'][:_SHORT]} sampled at step {sampled.values['step']}",
            repr(sampled.values["completion"][:200]),
            *_made(sampled.artifact),
        )
        return
    walk.lost(f"completion {keys['completion_sha256'][:_SHORT]} is in no table of predictions or completions")


def _policies(walk: _Walk, wanted: str, candidates: Sequence[Artifact]) -> None:
    """The policy that wrote the completion, and the policies that it was trained from."""
    policies = [artifact for artifact in candidates if artifact.kind == "policy"]
    policy = next((a for a in policies if wanted == policy_id(a.name, a.work_key)), None)
    if policy is None:
        walk.lost(f"policy {wanted} has no record")
        return
    seen: set[str] = set()
    while policy is not None and policy.record not in seen:
        seen.add(policy.record)
        seed = "" if policy.seed is None else f", seed {policy.seed}"
        content = walk.records.ledger.content_problem(policy)
        if content:
            walk.problems.append(content)
        walk.step(f"policy {policy_id(policy.name, policy.work_key)}{seed}", *_made(policy))
        parents = [walk.records.of_parent(parent) for parent in policy.parents]
        for parent, record in zip(policy.parents, parents, strict=True):
            if record is None:
                walk.lost(f"parent {parent.role} {parent.sha256[:_SHORT]} of {_name(policy)} has no record")
        policy = next((record for record in parents if record and record.kind == "policy"), None)


def _raw(walk: _Walk, values: dict[str, Any], behind: Sequence[Artifact]) -> None:
    """The normalised example and picture, the raw manifest, and the raw file and row."""
    example = walk.records.row(behind, "examples", example_id=values["example_id"])
    if example is None:
        walk.lost(f"example {values['example_id']} is in no table of examples")
        return
    row = example.values
    walk.step(
        f"example {row['example_id']} of source {row['source']}, {row['n_boxes']} evidence boxes",
        f"{row['question']!r} -> {row['answer']!r}",
        *_made(example.artifact),
    )
    near = list(walk.records.ancestors(example.artifact))
    siblings = [a for a in walk.records.all if a.work_key == example.artifact.work_key]
    picture = walk.records.row([*siblings, *near, *behind], "images", image_sha256=values["image_sha256"])
    if picture is None:
        walk.lost(f"picture {values['image_sha256'][:_SHORT]} is in no table of images")
    else:
        size = f"{picture.values['width_px']} x {picture.values['height_px']} px"
        walk.step(
            f"picture {values['image_sha256'][:_SHORT]}, {picture.values['format']}, {size}",
            *_made(picture.artifact),
        )
    _manifest(walk, row, picture, near)


def _manifest(walk: _Walk, row: dict[str, Any], picture: Found | None, near: Sequence[Artifact]) -> None:
    for artifact in near:
        if artifact.kind != "raw_files":
            continue
        content = json.loads(walk.records.ledger.read_bytes(artifact))
        if content.get("source") == row["source"]:
            break
    else:
        walk.lost(f"the raw manifest of source {row['source']} is not among the parents of its examples")
        return
    files = {file["path"]: file for file in content["files"]}
    walk.step(f"raw manifest of {row['source']}, {len(files)} files", *_made(artifact))
    raw = files.get(row["source_file"])
    if raw is None:
        walk.lost(f"the raw manifest does not list {row['source_file']}")
    else:
        walk.step(
            f"raw file {row['source_file']}, row {row['source_row']} (0-based)",
            f"{raw['n_bytes']} bytes, sha256 {raw['sha256']}",
        )
    if picture is None or picture.values["source"] != row["source"]:
        return
    name, wanted = picture.values["file_name"], picture.values["image_sha256"]
    delivered = files.get(name)
    if delivered is None and str(row["source_file"]).endswith(".parquet"):
        walk.step(f"raw picture inside {row['source_file']}", f"sha256 {wanted}")
    elif delivered is None:
        walk.lost(f"the raw manifest does not list the picture {name}")
    elif delivered["sha256"] != wanted:
        walk.lost(
            f"picture {name}: the raw manifest has sha256 {delivered['sha256'][:_SHORT]}, "
            f"its row {wanted[:_SHORT]}"
        )
    else:
        walk.depth = max(0, walk.depth - 1)
        walk.step(f"raw picture {name}", f"{delivered['n_bytes']} bytes, sha256 {delivered['sha256']}")


def _made(artifact: Artifact) -> tuple[str, ...]:
    commit = "no git" if artifact.git_commit is None else f"git {artifact.git_commit[:_SHORT]}"
    if artifact.dirty:
        commit += " with changes"
    return (
        f"{artifact.uri}  sha256 {artifact.sha256[:_SHORT]}",
        f"by {artifact.producer} at {artifact.created_at}, {commit}",
        f"work {artifact.work_key[:_SHORT]}, config {artifact.config_sha256[:_SHORT]}, "
        f"code {artifact.code_sha256[:_SHORT]}",
    )


def _name(artifact: Artifact) -> str:
    return f"{artifact.kind} {artifact.name or '_'} ({artifact.uri})"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
