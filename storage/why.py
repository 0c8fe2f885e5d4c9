"""Where a row came from: the row of any table that a person names, and its way back to the raw file and row.

The steps of the way are in `walk`, records and lookups in `chain`, the command in `lineage`. A row that was made from
one example is walked row by row. A figure over many rows, a step of training or a record of the ledger is walked by
artifacts: everything that it was made from, down to the raw files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from storage.artifacts import Artifact
from storage.catalog import kept
from storage.chain import SHORT, Found, Records
from storage.ledger_tables import LEDGER_TABLES, ledger_table
from storage.lineage import Ledger
from storage.named_rows import ChainError, Named, ledger_row, named_row, wanted_of
from storage.schema import TABLES
from storage.walk import (
    Walk,
    made,
    to_completion,
    to_manifest,
    to_parents,
    to_picture,
    to_policies,
    to_raw,
    to_raw_picture,
    to_raw_row,
    to_split,
)

COMMAND = "python -m storage.lineage why"
_BY_ARTIFACTS = "walked by artifacts, since it is made from many rows"


def why(ledger: Ledger, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The chain from a row to the raw file and row: (readable indented lines, problems).

    `words`: the id of a saliency map or a token flow, or the name of a table and KEY=VALUE words that name one of its
    rows. A step that is lost or altered is a problem. Raises ChainError where the words name no row, or several.
    """
    first, *rest = words
    if first in TABLES:
        return _of_table(Records(ledger), first, rest)
    if first in LEDGER_TABLES:
        return _of_ledger(Records(ledger), first, rest)
    if first in kept():
        raise ChainError(
            f"{first} is counted from other tables when the catalogue is built: {kept()[first].splitlines()[0][3:]}; "
            f"`{COMMAND}` walks from their rows"
        )
    if rest or "=" in first:
        raise ChainError(f"no table {first!r}; there are {', '.join([*TABLES, *LEDGER_TABLES])}")
    return _of_id(Records(ledger), first)


def _of_id(records: Records, map_id: str) -> tuple[list[str], list[str]]:
    found = records.row(records.all, "saliency_maps", map_id=map_id)
    found = found or records.row(records.all, "token_flows", flow_id=map_id)
    if found is None:
        n = sum(artifact.kind in ("saliency_maps", "token_flows") for artifact in records.all)
        seen = f"map {map_id!r} is in none of the {n} archived tables of maps and flows under this root"
        other = f"from a row of another table: {COMMAND} TABLE KEY=VALUE"
        raise ChainError("; ".join([seen, *records.unreadable.values(), other]))
    return _walked(records, Named(found))


def _of_table(records: Records, table: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    return _walked(records, named_row(records, table, wanted_of(table, TABLES[table], words)))


def _of_ledger(records: Records, table: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    wanted = wanted_of(table, LEDGER_TABLES[table], words)
    row = ledger_row(table, ledger_table(table, records.state), wanted)
    walk = Walk(records)
    if table == "artifacts":
        record, sha256 = f"{row['work_key']}.{row['output']}", row["sha256"]
    else:
        record, sha256 = row["child_record"], row["child"]
        walk.step(f"link: {sha256[:SHORT]} was made from {row['parent'][:SHORT]}, its {row['role']}")
    artifact = next(a for a in records.all if (a.record, a.sha256) == (record, sha256))
    to_parents(walk, artifact, itself=True)
    return _told(walk)


def _walked(records: Records, named: Named) -> tuple[list[str], list[str]]:
    walk, found = Walk(records), named.found
    table, values = found.artifact.kind, found.values
    behind = [*records.ancestors(found.artifact), *records.all]
    walk.lines += [f"note: {note}" for note in named.notes]
    if table == "images":
        to_picture(walk, found)
        _back_from_picture(walk, found, behind)
    elif table in ("splits", "examples"):
        # The row is itself a step of the way.
        if table == "splits":
            to_split(walk, values["example_id"], [found.artifact])
        to_raw(walk, values["example_id"], [found.artifact, *behind])
    else:
        headline, back = _WALKS[table]
        walk.step(*headline(values), *made(found.artifact))
        back(walk, found, behind)
    return _told(walk)


def _told(walk: Walk) -> tuple[list[str], list[str]]:
    if walk.problems:
        walk.problems += walk.records.unreadable.values()
    return walk.lines, walk.problems


Values = Mapping[str, Any]


def _map(row: Values) -> tuple[str, ...]:
    return (
        f"map {row['map_id']}",
        f"{row['method']} ({row['rows']} rows), {row['grid_h']} x {row['grid_w']} cells over "
        f"a picture of {row['image_w_px']} x {row['image_h_px']} px",
        _scores(row),
    )


def _flow(row: Values) -> tuple[str, ...]:
    what = f"no flow: {row['unscorable_reason']}"
    if row["unscorable_reason"] is None:
        what = (
            f"{len(row['thought_tokens'])} thought and {len(row['answer_tokens'])} answer tokens, "
            f"{row['grid_h']} x {row['grid_w']} cells"
        )
    return f"token flow {row['flow_id']}", f"{what} ({row['rows']} rows)"


def _prediction(row: Values) -> tuple[str, ...]:
    whose = f"prediction of {row['policy_id']} for example {row['example_id']}"
    if row["completion"] is None:
        return f"{whose}, not measured: {row['unscorable_reason']}", ""
    of_map = (
        f"map {row['map_id']}: {_scores(row)}" if row["map_id"] else f"no map: {row['unscorable_reason']}"
    )
    verdict = "right" if row["correct"] else "wrong"
    return f"{whose}, {verdict}", repr(row["completion"][:200]), of_map


def _completion(row: Values) -> tuple[str, ...]:
    return (
        f"completion that {row['policy_id']} sampled at step {row['step']} for example {row['example_id']}",
        repr(row["completion"][:200]),
        f"reward {_number(row['reward'])}: format {_number(row['reward_format'])}, accuracy "
        f"{_number(row['reward_accuracy'])}, saliency {_number(row['reward_saliency'])}; "
        f"advantage {_number(row['advantage'])}",
    )


def _processed(row: Values) -> tuple[str, ...]:
    verdict = "fits" if row["fits"] else f"does not fit: {row['reason']}, {row['detail']}"
    tokens = "" if row["n_prompt_tokens"] is None else f"{row['n_image_tokens']} image tokens of "
    tokens += "" if row["n_prompt_tokens"] is None else f"{row['n_prompt_tokens']} in the prompt"
    return f"example {row['example_id']} as {row['policy_id']} gets it, {verdict}", tokens


def _box(row: Values) -> tuple[str, ...]:
    corners = ", ".join(_number(row[f"{side}_px"]) for side in ("x1", "y1", "x2", "y2"))
    label = "" if row["label"] is None else f", {row['label']!r}"
    return f"box {row['box_index']} of example {row['example_id']}{label}", f"x1, y1, x2, y2 = {corners} px"


def _refused(row: Values) -> tuple[str, ...]:
    return f"row of source {row['source']} refused at {row['stage']}: {row['reason']}", row["detail"]


def _step(row: Values) -> tuple[str, ...]:
    return (
        f"step {row['step']} of the {row['stage']} training of {row['policy_id']}, loss {_number(row['loss'])}",
        _BY_ARTIFACTS,
    )


def _figure(row: Values) -> tuple[str, ...]:
    of = f", {row['bucket']}" if row["bucket"] is not None else ""
    return (
        f"{row['measure']} of source {row['source']} ({row['subset']}{of}): {_number(row['value'])} {row['unit']}, "
        f"n {row['n']}",
        _BY_ARTIFACTS,
    )


def _warning(row: Values) -> tuple[str, ...]:
    title = f"{row['kind']} in source {row['source']}, {_number(row['share'])} of {row['n']} boxes"
    return title, row["detail"], _BY_ARTIFACTS


def _score(row: Values) -> tuple[str, ...]:
    how = ":".join(str(row[key]) for key in ("method", "rows") if row.get(key) is not None)
    of = ", ".join(each for each in (row.get("subset"), how) if each)
    against = "" if row["versus"] is None else f" minus that of {row['versus']}"
    interval = "" if row["ci_low"] is None else f" ({_number(row['ci_low'])} to {_number(row['ci_high'])})"
    return (
        f"{row['metric']} of {row['policy_id']}{against}{f' ({of})' if of else ''}: {_number(row['value'])}{interval}, "
        f"n {row['n']}",
        _BY_ARTIFACTS,
    )


def _scores(row: Values) -> str:
    return f"mass {_number(row['mass'])} (chance {_number(row['chance'])}), lift {_number(row['lift'])}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _back_from_answer(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    """Of what a policy did with one example: the policy, the example's place, the example."""
    to_policies(walk, found.values["policy_id"], behind)
    to_split(walk, found.values["example_id"], behind)
    to_raw(walk, found.values["example_id"], behind)


def _back_from_map(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    siblings = [
        a for a in walk.records.all if a.work_key == found.artifact.work_key and a.kind == "predictions"
    ]
    to_completion(walk, found, [*siblings, *behind])
    _back_from_answer(walk, found, behind)


def _back_from_example(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    siblings = [a for a in walk.records.all if a.work_key == found.artifact.work_key]
    to_raw(walk, found.values["example_id"], [*siblings, *behind])


def _back_from_picture(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    files = to_manifest(walk, found.values["source"], behind)
    if files is not None:
        to_raw_picture(walk, files, found.values, found.values["source_file"])


def _back_from_refused(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    files = to_manifest(walk, found.values["source"], behind)
    if files is not None:
        to_raw_row(walk, files, found.values)


def _back_from_figure(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    to_parents(walk, found.artifact)


def _back_from_score(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    """Answers of policies that have no part in the score are passed over."""
    row = found.values
    concerned = {row["policy_id"].partition("@")[0], row["versus"]}
    parents = [walk.records.of_parent(parent) for parent in found.artifact.parents]
    others = {a.record for a in parents if a and a.kind == "predictions" and a.name not in concerned}
    to_parents(walk, found.artifact, passed_over=others)


def _back_from_step(walk: Walk, found: Found, behind: Sequence[Artifact]) -> None:
    """To the policy that was being trained; what it learned from hangs on that."""
    name, step = found.values["policy_id"], found.values["step"]
    siblings = [a for a in walk.records.all if a.work_key == found.artifact.work_key]
    for artifact in (a for a in siblings if a.kind == "completions"):
        sampled = walk.records.rows(artifact, {"policy_id": name, "step": step})
        if sampled.num_rows:
            asked = sorted(set(sampled["example_id"].to_pylist()))
            walk.step(
                f"{sampled.num_rows} completions about {len(asked)} examples, each walked by",
                *(f"{COMMAND} completions policy_id={name} step={step} example_id={each}" for each in asked),
                *made(artifact),
            )
    policy = next((a for a in siblings if a.kind == "policy"), None)
    if policy is None:
        walk.lost(f"policy {name} has no record")
        return
    to_parents(walk, policy, itself=True)


_Headline = Callable[[Values], tuple[str, ...]]
_Back = Callable[[Walk, Found, Sequence[Artifact]], None]

_WALKS: dict[str, tuple[_Headline, _Back]] = {
    "boxes": (_box, _back_from_example),
    "quarantine": (_refused, _back_from_refused),
    "source_profiles": (_figure, _back_from_figure),
    "source_warnings": (_warning, _back_from_figure),
    "processed_rows": (_processed, _back_from_answer),
    "training_steps": (_step, _back_from_step),
    "completions": (_completion, _back_from_answer),
    "predictions": (_prediction, _back_from_answer),
    "saliency_maps": (_map, _back_from_map),
    "token_flows": (_flow, _back_from_map),
    "evaluations": (_score, _back_from_score),
    "faithfulness": (_score, _back_from_figure),
}
