"""The command `python -m training.evaluate --faithfulness`: which maps are true to a trained policy.

Deletion and insertion for every method and row convention, answers under masked evidence, and maps under lost
weights, on held-out examples of the policy and the tables that lie under SALIENCY_R1_ROOT. Prints Markdown, keeps
the table `faithfulness` there and rebuilds the catalogue.

Here: what is looked at, in which order, and where it is kept. One finished batch is one file below the root (or the
temporary folder, for s3://), so a second start goes on after it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ops.faithfulness import RANDOM, summarise
from ops.faithfulness_markdown import markdown
from storage.artifacts import policy_id
from storage.catalog import CatalogError, build
from storage.code import code_of
from storage.lineage import Artifact, Ledger, LineageError, Work
from storage.measured import too_many_lost
from storage.objects import Store, StoreError, sha256_folder
from storage.rows import Row, RowsError, rows_of_split
from storage.settings import Settings, SettingsError
from training.answers import CORRECT_FROM, answer_ids, points_of, text_of
from training.config import EvaluateSettings, local_folder_of
from training.conversation import SYSTEM_PROMPT
from training.dataset import pictures_of
from training.faithfulness import Said, by_hash, curve_record, curves_of, masked_answers, said_of
from training.masking import generator_of, order_of, random_order
from training.policy import Policy, PolicyError, load_policy
from training.randomised import losing_layers, spearman
from training.saliency import METHODS, ROWS, SaliencyMap, explain_batch_by
from training.stage import write_atomically

PREFERRED = ("saliency_r1", "cold_start", "embedded")
MAIN = ("cot_rollout:predictor", "cot_rollout:state")
PER_PART = 16
"""Examples that are finished, and kept, together: what an interrupted run loses at most."""
Record = dict[str, Any]


class StudyError(ValueError):
    """Nothing to study; the message says what is there and what to do."""


@dataclass(frozen=True)
class Subject:
    """The policy that is looked at: its name, its folder, its content, and the artifact if it is one."""

    name: str
    folder: Path
    sha256: str
    artifact: Artifact | None

    @property
    def policy_id(self) -> str:
        """As in the other tables: the name and what made it; for a folder, its content."""
        return policy_id(self.name, self.artifact.work_key if self.artifact else self.sha256)


def main(arguments: Sequence[str]) -> int:
    """The command; 0: done, 1: nothing to study or a broken root, 2: arguments, 130: interrupted."""
    chosen = _parsed(arguments)
    try:
        ledger = Ledger(Store(chosen.root or Settings.from_environment().root))
        print(markdown(study(ledger, chosen)))
    except (
        StudyError,
        LineageError,
        StoreError,
        RowsError,
        SettingsError,
        CatalogError,
        PolicyError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: start it again to go on after the last finished batch", file=sys.stderr)
        return 130
    return 0


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate --faithfulness", description="Which maps are true to the policy."
    )
    parser.add_argument(
        "--policy", help=f"a policy under the root, or a folder (default: {', else '.join(PREFERRED)})"
    )
    parser.add_argument("--root", help="where everything lives (default: SALIENCY_R1_ROOT, else ./var)")
    parser.add_argument("--examples", type=_positive, default=300, help="examples with a map wanted (300)")
    parser.add_argument("--sanity-examples", type=int, default=64, help="examples under lost weights (64)")
    parser.add_argument("--split", default="test", choices=("test", "val", "train"))
    parser.add_argument("--method", action="append", choices=list(METHODS), help="repeatable (default: all)")
    parser.add_argument("--batch-size", type=_positive, default=64, help="pictures a forward pass (64)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: want a whole number of at least 1")
    return int(text)


def study(ledger: Ledger, chosen: argparse.Namespace) -> Any:
    """The table `faithfulness` of one policy: found under the root, or measured now and kept there."""
    subject = subject_of(ledger, chosen.policy)
    splits, tables = tables_of(ledger)
    how = settings_of(ledger, subject, chosen.batch_size)
    methods = list(chosen.method or METHODS)
    config = {
        "policy_sha256": subject.sha256,
        "methods": methods,
        "system_prompt": how.system_prompt or SYSTEM_PROMPT,
        "max_completion_length": how.max_completion_length,
        **{name: getattr(chosen, name) for name in ("examples", "sanity_examples", "split", "batch_size")},
    }
    parents = {"splits": splits} | {f"{t}:{i}": a for t, of in tables.items() for i, a in enumerate(of)}
    parents |= {"policy": subject.artifact} if subject.artifact else {}
    work = Work(
        producer="training.evaluate --faithfulness",
        name=subject.name,
        config=config,
        parents=parents,
        seed=chosen.seed,
        code=code_of("training.faithfulness_study"),
        outputs=("faithfulness",),
    )
    found = ledger.find(work)
    if found is None:
        unreadable: dict[str, str] = {}
        rows = rows_of_split(ledger, **tables, splits=splits, split=chosen.split, unreadable=unreadable)
        folder = _parts_folder(ledger, work)
        records = measured(subject, by_hash(rows), how, methods, chosen, folder, unreadable)
        if not records:
            raise StudyError(f"split {chosen.split!r}: no example; wanted some to look at")
        table = summarise(records, subject.policy_id, subject.name, seed=chosen.seed, draws=how.n_bootstrap)
        found = {"faithfulness": ledger.put_table(work, "faithfulness", "faithfulness", table)}
    ledger.point("evidence/faithfulness", subject.name, found["faithfulness"])
    build(ledger)
    return ledger.read_table(found["faithfulness"])


def subject_of(ledger: Ledger, name: str | None) -> Subject:
    """The policy by name or folder; without a name the first of PREFERRED that is there. Raises StudyError."""
    known = {
        a.name or key.rpartition("/")[2]: a for (key, _), a in ledger.handles().items() if a.kind == "policy"
    }
    wanted = name or next(each for each in PREFERRED if each in known or each == "embedded")
    if wanted in known:
        return Subject(wanted, ledger.path(known[wanted]), known[wanted].sha256, known[wanted])
    folder = local_folder_of(wanted)
    if folder is None or not folder.is_dir():
        there = ", ".join([*sorted(known), "embedded"])
        raise StudyError(
            f"policy {wanted!r}: not under {ledger.store.root}, and no folder; there are {there}"
        )
    shown = wanted if wanted == "embedded" else folder.resolve().name
    return Subject(shown, folder, sha256_folder(folder), None)


def tables_of(ledger: Ledger) -> tuple[Artifact, dict[str, list[Artifact]]]:
    """The current splits and the current tables of rows, by the arguments of `rows_of_split`."""
    splits = ledger.current("data/splits")
    tables = {
        name: list(ledger.current_all(f"data/{name}").values()) for name in ("examples", "boxes", "images")
    }
    missing = [name for name, of in {**tables, "splits": splits}.items() if not of]
    if splits is None or missing:
        raise StudyError(
            f"no {', '.join(missing)} under {ledger.store.root} yet; run `make run` first "
            "(or set SALIENCY_R1_ROOT to where it was run)"
        )
    return splits, tables


def settings_of(ledger: Ledger, subject: Subject, batch_size: int) -> EvaluateSettings:
    """How the policy was asked when it was evaluated or trained, or else how any policy of the root was."""
    handles = ledger.handles()
    answered = {part: a for (key, part), a in handles.items() if key == "evidence/predictions"}
    trained = [a for _, a in handles.items() if a.kind == "policy"]
    first = [answered.get(subject.name), subject.artifact]
    told: dict[str, Any] = {}
    for artifact in (*first, *answered.values(), *trained):
        settings = artifact.config.get("settings", {}) if artifact else {}
        for name in ("system_prompt", "max_completion_length"):
            if settings.get(name) is not None:
                told.setdefault(name, settings[name])
    return EvaluateSettings(batch_size=batch_size, **told)


def _parts_folder(ledger: Ledger, work: Work) -> Path:
    place = Path(ledger.store.root) / "work" if ledger.store.is_local else Path(tempfile.gettempdir())
    folder = place / f"faithfulness-{work.key[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured(
    subject: Subject,
    rows: Sequence[Row],
    how: EvaluateSettings,
    methods: Sequence[str],
    chosen: argparse.Namespace,
    folder: Path,
    unreadable: Mapping[str, str],
) -> list[Record]:
    """Records of as many rows, in order, as give the wanted number of examples with a map; as ops/faithfulness.py.

    A kept batch is made anew where a picture that it lost can be read now. Raises StudyError where too many are lost.
    """
    policy: Policy | None = None
    records: list[Record] = []
    n_seen = whole = 0
    main = [kind for kind in MAIN if kind.split(":")[0] in methods] or [f"{methods[0]}:{ROWS[0]}"]
    with tqdm(total=chosen.examples, desc="faithfulness", unit="example") as bar:
        step = min(how.batch_size, PER_PART)
        for start in range(0, len(rows), step):
            n_sane = max(0, min(chosen.sanity_examples - start, step))
            part = folder / f"{start:06d}.json"
            batch = rows[start : start + step]
            n_seen += len(batch)
            if not _is_whole(part, batch, unreadable):
                policy = policy or load_policy(str(subject.folder))
                found = study_batch(policy, batch, how, methods, n_sane, unreadable)
                write_atomically(part, json.dumps(found, allow_nan=False).encode())
            records += json.loads(part.read_text(encoding="utf-8"))
            whole = sum(all(kind in record["curves"] for kind in main) for record in records)
            bar.update(min(whole, chosen.examples) - bar.n)
            if whole >= chosen.examples:
                break
    problem = too_many_lost(n_seen - len(records), n_seen)
    if problem:
        raise StudyError(f"split {chosen.split!r}: {problem}; mend that, then start it again")
    if whole >= chosen.examples:
        return records
    if not any(record["curves"] for record in records):
        reasons = sorted({reason for record in records for reason in record["no_map"].values()})
        raise StudyError(f"{subject.name}: none of {len(records)} answers has a map ({', '.join(reasons)})")
    print(f"only {whole} of {len(rows)} examples have a map; {chosen.examples} were wanted", file=sys.stderr)
    return records


def _is_whole(part: Path, batch: Sequence[Row], unreadable: Mapping[str, str]) -> bool:
    """Whether the batch is kept, and no picture was lost that can be read now."""
    if not part.is_file():
        return False
    measured = {record["example_id"] for record in json.loads(part.read_text(encoding="utf-8"))}
    return not pictures_of([row for row in batch if row.example_id not in measured], unreadable)[0]


def study_batch(
    policy: Policy,
    batch: Sequence[Row],
    how: EvaluateSettings,
    methods: Sequence[str],
    n_sane: int,
    unreadable: Mapping[str, str],
) -> list[Record]:
    """Records of one batch: answers, masked answers, curves of every map, maps of the first under lost weights.

    An example whose picture cannot be read has no record, and is named.
    """
    prompt = how.system_prompt or SYSTEM_PROMPT
    picture_of, refused = pictures_of(batch, unreadable)
    for error in refused.values():
        tqdm.write(f"not measured: {error}", file=sys.stderr)
    rows = [row for row in batch if row.example_id in picture_of]
    if not rows:
        return []
    pictures = [picture_of[row.example_id] for row in rows]
    said = answer_ids(policy, pictures, rows, prompt, how.max_completion_length)
    examples = [(image, row.question, ids) for image, row, ids in zip(pictures, rows, said, strict=True)]
    kinds = [(method, each) for method in methods for each in ROWS]
    # The first kind at work in a layer pays for bringing it into the cache: which one that is changes by batch.
    drawn = generator_of(f"kinds:{rows[0].example_id}").permutation(len(kinds))
    made = explain_batch_by(policy, examples, [kinds[i] for i in drawn], prompt, how.batch_size)
    explained = {":".join(kind): made[kind] for kind in kinds}
    maps = {kind: of.maps for kind, of in explained.items()}
    seconds = {kind: of.processor_seconds / len(rows) for kind, of in explained.items()}
    texts = [text_of(policy, ids) for ids in said]
    records: list[Record] = [
        {
            "example_id": row.example_id,
            "image_sha256": row.image_sha256,
            "correct": points_of(row, text) >= CORRECT_FROM[row.answer_type],
            "correct_evidence_masked": None,
            "correct_elsewhere_masked": None,
            "no_map": {kind: of[i].reason for kind, of in maps.items() if of[i].reason is not None},
            "curves": {},
            "map_seconds": seconds,
            **masked,
        }
        for i, (row, text, masked) in enumerate(
            zip(rows, texts, masked_answers(policy, rows, pictures, prompt, how), strict=True)
        )
    ]
    for i, curves in _curves(policy, rows, examples, maps, prompt, how.batch_size).items():
        records[i]["curves"] = curves
    for i, sanity in enumerate(_sanity(policy, examples[:n_sane], maps, methods, prompt, how.batch_size)):
        records[i]["sanity"] = sanity
    return records


def _curves(
    policy: Policy,
    rows: Sequence[Row],
    examples: Sequence[tuple[Any, str, Sequence[int]]],
    maps: Mapping[str, Sequence[SaliencyMap]],
    prompt: str,
    batch_size: int,
) -> dict[int, dict[str, Any]]:
    """By place in the batch: every map's curves, and those of a random order, for whoever has a map at all."""
    said: dict[int, Said] = {}
    orders: dict[int, dict[str, Any]] = {}
    for i, row in enumerate(rows):
        values = {kind: found for kind, of in maps.items() if (found := of[i].values) is not None}
        if values:
            first = next(of[i] for of in maps.values() if of[i].values is not None)
            said[i] = said_of(policy, row, examples[i][0], examples[i][2], first)
            orders[i] = {kind: order_of(each, row.example_id) for kind, each in values.items()}
            orders[i][RANDOM] = random_order(next(iter(values.values())).size, row.example_id)
    looked = curves_of(policy, list(said.values()), list(orders.values()), prompt, batch_size)
    return {
        i: {kind: curve_record(curves) for kind, curves in each.items()}
        for i, each in zip(said, looked, strict=True)
    }


def _sanity(
    policy: Policy,
    examples: Sequence[tuple[Any, str, Sequence[int]]],
    maps: Mapping[str, Sequence[SaliencyMap]],
    methods: Sequence[str],
    prompt: str,
    batch_size: int,
) -> list[dict[str, dict[str, float | None]]]:
    """Per example: method -> what was lost -> rank correlation with the map of the whole policy; rows `predictor`."""
    out: list[dict[str, dict[str, float | None]]] = [{method: {} for method in methods} for _ in examples]
    kinds = [(method, ROWS[0]) for method in methods]
    for depth, lost in losing_layers(policy) if examples else ():
        for (method, _), found in explain_batch_by(lost, examples, kinds, prompt, batch_size).items():
            for i, each in enumerate(found.maps):
                before, after = maps[f"{method}:{ROWS[0]}"][i].values, each.values
                known = before is not None and after is not None
                out[i][method][depth] = spearman(before, after) if known else None  # type: ignore[arg-type]
    return out
