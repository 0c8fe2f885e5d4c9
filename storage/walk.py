"""The steps of a walk from a row back to its raw file and row; each stands one level deeper than the one before.

Which steps a row of which table needs belongs to `why`. Every table on the way is hashed before it is read; a step that
is lost or altered is a problem.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.artifacts import Artifact, policy_id
from storage.chain import SHORT, Found, Records, title_of
from storage.objects import sha256_bytes

_FILES_SHOWN = 5


def printable(text: str) -> str:
    """The text in one line that does nothing to a terminal, whatever a source wrote into its names and texts."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@dataclass
class Walk:
    """The lines and problems of one walk."""

    records: Records
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    depth: int = 0

    def step(self, title: str, *details: str) -> None:
        """One level deeper: a line, and lines about it; empty ones are left out."""
        self.lines.append("  " * self.depth + ("<- " if self.depth else "") + printable(title))
        self.lines += ["  " * self.depth + "     " + printable(detail) for detail in details if detail]
        self.depth += 1

    def lost(self, what: str) -> None:
        """A step that should be there and is not."""
        self.problems.append(printable(what))
        self.step(f"NOT FOUND: {what}")


def made(artifact: Artifact) -> tuple[str, ...]:
    """What is known of the making of an artifact: place and hash, producer and commit, work, configuration and code."""
    commit = "no git" if artifact.git_commit is None else f"git {artifact.git_commit[:SHORT]}"
    if artifact.dirty:
        commit += " with changes"
    return (
        f"{artifact.uri}  sha256 {artifact.sha256[:SHORT]}",
        f"by {artifact.producer} at {artifact.created_at}, {commit}",
        f"work {artifact.work_key[:SHORT]}, config {artifact.config_sha256[:SHORT]}, "
        f"code {artifact.code_sha256[:SHORT]}",
    )


def to_completion(walk: Walk, found: Found, candidates: Sequence[Artifact]) -> None:
    """The completion that a map or a flow explains: held out, or sampled in training."""
    keys = {name: found.values[name] for name in ("policy_id", "example_id", "completion_sha256")}
    if keys["completion_sha256"] is None:
        return
    row = walk.records.row(candidates, "predictions", **keys)
    if row is not None:
        verdict = "right" if row.values["correct"] else "wrong"
        walk.step(
            f"completion {keys['completion_sha256'][:SHORT]} of {keys['policy_id']}, {verdict}",
            repr(row.values["completion"][:200]),
            *made(row.artifact),
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
            f"completion {keys['completion_sha256'][:SHORT]} sampled at step {sampled.values['step']}",
            repr(sampled.values["completion"][:200]),
            *made(sampled.artifact),
        )
        return
    walk.lost(f"completion {keys['completion_sha256'][:SHORT]} is in no table of predictions or completions")


def to_policies(walk: Walk, wanted: str, candidates: Sequence[Artifact]) -> Artifact | None:
    """The policy of this policy_id, which is returned, and the policies that it was trained from."""
    policies = [artifact for artifact in candidates if artifact.kind == "policy"]
    first = policy = next((a for a in policies if wanted == policy_id(a.name, a.work_key)), None)
    if policy is None:
        walk.lost(f"policy {wanted} has no record")
        return None
    seen: set[str] = set()
    while policy is not None and policy.record not in seen:
        seen.add(policy.record)
        seed = "" if policy.seed is None else f", seed {policy.seed}"
        _check(walk, policy)
        walk.step(f"policy {policy_id(policy.name, policy.work_key)}{seed}", *made(policy))
        parents = [walk.records.of_parent(parent) for parent in policy.parents]
        for parent, record in zip(policy.parents, parents, strict=True):
            if record is None:
                walk.lost(f"parent {parent.role} {parent.sha256[:SHORT]} of {title_of(policy)} has no record")
        policy = next((record for record in parents if record and record.kind == "policy"), None)
    return first


def to_split(walk: Walk, example_id: str, behind: Sequence[Artifact]) -> None:
    """The example's place."""
    split = walk.records.row(behind, "splits", example_id=example_id)
    if split is None:
        walk.lost(f"example {example_id} has no place in any splits table")
    else:
        walk.step(f"split {split.values['split']} by {split.values['split_rule']}", *made(split.artifact))


def to_raw(walk: Walk, example_id: str, behind: Sequence[Artifact]) -> None:
    """The normalised example and picture, the raw manifest, and the raw file and row."""
    example = walk.records.row(behind, "examples", example_id=example_id)
    if example is None:
        walk.lost(f"example {example_id} is in no table of examples")
        return
    row = example.values
    walk.step(
        f"example {row['example_id']} of source {row['source']}, {row['n_boxes']} evidence boxes",
        f"{row['question']!r} -> {row['answer']!r}",
        *made(example.artifact),
    )
    near = list(walk.records.ancestors(example.artifact))
    siblings = [a for a in walk.records.all if a.work_key == example.artifact.work_key]
    picture = walk.records.row([*siblings, *near, *behind], "images", image_sha256=row["image_sha256"])
    if picture is None:
        walk.lost(f"picture {row['image_sha256'][:SHORT]} is in no table of images")
    else:
        to_picture(walk, picture)
    files = to_manifest(walk, row["source"], near)
    if files is None:
        return
    to_raw_row(walk, files, row)
    walk.depth -= 1  # the picture's file stands beside the row's
    if picture is not None and picture.values["source"] == row["source"]:
        to_raw_picture(walk, files, picture.values, row["source_file"])


def to_picture(walk: Walk, picture: Found, *details: str) -> None:
    """A row of images."""
    row = picture.values
    size = f"{row['width_px']} x {row['height_px']} px"
    walk.step(
        f"picture {row['image_sha256'][:SHORT]}, {row['format'] or 'never read'}, {size}",
        *details,
        *made(picture.artifact),
    )


def to_manifest(walk: Walk, source: str, near: Sequence[Artifact]) -> dict[str, dict[str, Any]] | None:
    """The raw manifest of a source among the artifacts; returns its files by path, or None where it is lost."""
    for artifact in near:
        if artifact.kind != "raw_files":
            continue
        content = json.loads(walk.records.ledger.read_bytes(artifact))
        if content.get("source") == source:
            files = {file["path"]: file for file in content["files"]}
            walk.step(f"raw manifest of {source}, {len(files)} files", *made(artifact))
            return files
    walk.lost(f"the raw manifest of source {source} is not among the parents of its rows")
    return None


def to_raw_row(walk: Walk, files: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
    """The raw file of a row of examples or quarantine, and the row in it."""
    name, number = row["source_file"], row["source_row"]
    if name is None:
        walk.step("no raw file: it could not be opened")
        return
    raw = files.get(name)
    if raw is None:
        walk.lost(f"the raw manifest does not list {name}")
        return
    place = "as a whole" if number is None else f"row {number} (0-based)"
    walk.step(f"raw file {name}, {place}", _content_of(raw))


def to_raw_picture(
    walk: Walk, files: dict[str, dict[str, Any]], picture: dict[str, Any], source_file: str
) -> None:
    """The delivered file of a row of images, which the `source_file`, or a file in the folder of that name, named.

    Or holds: then the picture is called FILE#ROW, or as the row of Parquet calls it.
    """
    name, wanted = picture["file_name"], picture["image_sha256"]
    delivered = files.get(name)
    holder = None if delivered else _holder(files, name, source_file)
    if picture["pixels_sha256"] is None:
        walk.step(f"raw picture {name}, never read")
    elif holder is not None:
        walk.step(f"raw picture inside {holder}", f"sha256 {wanted}")
    elif delivered is None:
        walk.lost(f"the raw manifest does not list the picture {name}")
    elif delivered["sha256"] != wanted:
        walk.lost(
            f"picture {name}: the raw manifest has sha256 {str(delivered['sha256'])[:SHORT]}, "
            f"its row {wanted[:SHORT]}"
        )
    else:
        walk.step(f"raw picture {name}", _content_of(delivered))


def _holder(files: dict[str, dict[str, Any]], name: str, source_file: str) -> str | None:
    """What of the delivered holds a picture that is no file of its own, as near as its name says; None = nothing."""
    file, _, row = name.rpartition("#")
    if file in files and row.isdecimal():
        return f"{file}, row {row} (0-based)"
    folder = f"{source_file.rstrip('/')}/"
    holders = [
        each
        for each in files
        if each.lower().endswith(".parquet") and (each == source_file or each.startswith(folder))
    ]
    return f"one of {len(holders)} files in {folder}" if len(holders) > 1 else next(iter(holders), None)


def to_parents(
    walk: Walk, artifact: Artifact, passed_over: Collection[str] = (), *, itself: bool = False
) -> None:
    """Everything that an artifact was made from, down to the raw files; what was met before is only named again.

    `passed_over`: records of parents that have no part in the row. `itself`: the artifact is the first step.
    """
    met = {artifact.record}
    if itself:
        _artifact(walk, artifact, "", met, passed_over)
    else:
        _parents(walk, artifact, met, passed_over)


def _parents(walk: Walk, artifact: Artifact, met: set[str], passed_over: Collection[str]) -> None:
    depth = walk.depth
    for parent in artifact.parents:
        walk.depth = depth
        found = walk.records.of_parent(parent)
        if found is None:
            walk.lost(f"parent {parent.role} {parent.sha256[:SHORT]} of {title_of(artifact)} has no record")
        elif found.record in met:
            walk.step(f"{_label(found, parent.role)}, as above")
        elif found.record not in passed_over:
            met.add(found.record)
            _artifact(walk, found, parent.role, met, passed_over)


def _artifact(walk: Walk, artifact: Artifact, role: str, met: set[str], passed_over: Collection[str]) -> None:
    whole = _check(walk, artifact)
    raw = raw_files(walk, artifact) if whole and artifact.kind == "raw_files" else ()
    walk.step(_label(artifact, role), *made(artifact), *raw)
    _parents(walk, artifact, met, passed_over)


def raw_files(walk: Walk, manifest: Artifact) -> list[str]:
    """One line for each annotation file of a manifest, or for the first ones of it."""
    content = json.loads(walk.records.ledger.read_bytes(manifest))
    files = {file["path"]: file for file in content["files"]}
    named = [name for name in content.get("annotation_files", []) if name in files] or list(files)
    lines = [f"raw file {name}, {_content_of(files[name])}" for name in named[:_FILES_SHOWN]]
    more = len(files) - len(lines)
    return [*lines, f"and {more} files more"] if more else lines


def _label(artifact: Artifact, role: str) -> str:
    what = f"{artifact.kind} of {artifact.name}" if artifact.name else artifact.kind
    if artifact.kind == "policy":
        what = f"policy {policy_id(artifact.name, artifact.work_key)}"
    rows = "" if artifact.n_rows is None else f", {artifact.n_rows} rows"
    return f"{what}{rows}" + (f", as {role}" if role else "")


def _check(walk: Walk, artifact: Artifact) -> bool:
    problem = walk.records.ledger.content_problem(artifact)
    if problem:
        walk.problems.append(problem)
    return problem is None


def _content_of(file: dict[str, Any]) -> str:
    if file["sha256"] is None:
        return f"could not be read: {file.get('problem')}"
    return f"{file['n_bytes']} bytes, sha256 {file['sha256']}"
