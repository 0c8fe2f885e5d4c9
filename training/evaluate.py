"""The stage `evaluate`: what one policy answers on held-out examples, and where it looked while it did.

    python -m training.evaluate CONFIG.json
    python -m training.evaluate --faithfulness   # see training/faithfulness_study.py

Greedy answers in batches, each judged by the scorer of its answer type; one saliency map per scorable answer,
held against the evidence boxes; for a sample of the examples, cells of the picture are filled and the policy looks
again; of another few, the flow from picture through thought to answer is kept token by token. Writes the tables
predictions, saliency_maps and token_flows. Comparing policies is
ops/comparison.py; the maps come from training/saliency.py, their measures from training/overlap.py.

An example whose picture cannot be read keeps its row, with the reason and nothing measured: it counts neither as right
nor as wrong. Where more than a few are lost (storage/measured.py), the stage fails.

A finished batch lies in work_dir/parts as one Parquet file per table, so a killed run goes on with the next batch. One
with an example that was lost, and whose picture can be read now, is made anew.
"""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from tqdm import tqdm

from ops.statistics import draw_order, mean_by_cluster
from storage.archive import map_id, pack, region_columns
from storage.measured import too_many_lost, was_measured
from storage.objects import sha256_bytes
from storage.rows import Row, rows_from_paths
from storage.tables import TableError, encode_table, from_rows, read_table
from training.answers import CORRECT_FROM, answer_ids, points_of, text_of
from training.arguments import load_for
from training.config import EvaluateSettings, StageConfig
from training.conversation import SYSTEM_PROMPT, parse
from training.dataset import pictures_of
from training.faithfulness import intervened, sample_of
from training.flow_rows import flow_row, no_flow
from training.overlap import Overlap, score
from training.policy import Policy
from training.progress import METRICS, JsonLines
from training.saliency import METHODS, SaliencyMap, explain_batch
from training.spans import spans
from training.stage import StageError, run_stage, write_atomically, write_result

TABLES = ("predictions", "saliency_maps", "token_flows")
PARTS = "parts"
_OVERLAP_COLUMNS = (
    *("mass", "chance", "lift", "pointing_hit", "pointing_chance", "auroc", "ap", "ap_chance"),
    *("iou_area", "entropy"),
)
_MAP_COLUMNS = ("mass", "chance", "lift", "pointing_hit", "iou_area", "auroc")


def run(config: StageConfig) -> None:
    """Answer every row of the split, then write the tables and, last, the result."""
    settings: EvaluateSettings = config.settings
    unreadable: dict[str, str] = {}
    rows = rows_from_paths(config.tables, settings.split, root=config.root, unreadable=unreadable)
    rows = rows[: settings.max_rows] if settings.max_rows else rows
    gone = [unreadable[row.image_sha256] for row in rows if row.image_sha256 in unreadable]
    _stop_if_too_many(gone, len(rows))
    batches = in_batches(rows, settings.batch_size)
    parts = [config.work_path / PARTS / f"{index:06d}" for index in range(len(batches))]
    parts[0].parent.mkdir(exist_ok=True)
    sampled = sample_of(rows, settings.faithfulness_rows)
    drawn = sorted((row.example_id for row in rows), key=lambda e: draw_order(config.seed, e))
    followed = frozenset(drawn[: settings.token_flow_rows])
    whole = [_is_whole(part, batch, unreadable) for part, batch in zip(parts, batches, strict=True)]
    n_done = next((i for i, is_whole in enumerate(whole) if not is_whole), len(parts))
    policy = load_for(config)
    lines = JsonLines(config.work_path / METRICS, n_done)
    seen = [_read_part(part)[0] for part in parts[:n_done]]
    with tqdm(total=len(rows), initial=sum(t.num_rows for t in seen), desc="evaluate", unit="answer") as bar:
        for index in range(n_done, len(batches)):
            if not whole[index]:
                made = evaluate_batch(policy, batches[index], config, sampled, followed, unreadable)
                _write_part(parts[index], made)
            seen.append(_read_part(parts[index])[0])
            told = {"step": index + 1, "total_steps": len(batches), **running(seen)}
            lines.append([told])
            bar.update(len(batches[index]))
            bar.set_postfix({k: f"{told[k]:.3f}" for k in ("accuracy", "lift") if k in told})
    lost = _lost(pa.concat_tables(seen))
    _stop_if_too_many([f"{example_id} ({reason})" for example_id, reason in lost.items()], len(rows))
    together = [pa.concat_tables(each) for each in zip(*map(_read_part, parts), strict=True)]
    for name, table in zip(TABLES, together, strict=True):
        ordered = table.sort_by("example_id")
        write_atomically(config.work_path / f"{name}.parquet", encode_table(name, ordered))
    outputs = {name: f"{name}.parquet" for name in TABLES}
    write_result(config, outputs, summary_of(together[0], config), policy.device.type)


def in_batches(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Rows of like size together, so that little is padded; the same rows give the same batches."""
    ordered = sorted(rows, key=lambda r: (r.width_px * r.height_px, len(r.question), r.example_id))
    return [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]


def evaluate_batch(
    policy: Policy,
    rows: Sequence[Row],
    config: StageConfig,
    sampled: frozenset[str] = frozenset(),
    followed: frozenset[str] = frozenset(),
    unreadable: Mapping[str, str] = MappingProxyType({}),
) -> tuple[pa.Table, ...]:
    """Predictions, saliency maps and token flows of one batch, as tables of storage.schema.

    `sampled`: example_ids whose pictures are also masked; `followed`: those whose flow is kept token by token;
    `unreadable`: image_sha256 -> what is wrong, of rows that hold no bytes.
    """
    found, refused = pictures_of(rows, unreadable)
    predictions, archived, flows = _answered(policy, rows, found, config, sampled, followed)
    for row in rows:
        if row.example_id in refused:
            tqdm.write(f"not measured: {refused[row.example_id]}", file=sys.stderr)
            predictions.append(_not_measured(row, refused[row.example_id].reason, config))
            if row.example_id in followed:
                flows.append(no_flow(predictions[-1], config.settings))
    made = (predictions, archived, flows)
    return tuple(from_rows(name, each) for name, each in zip(TABLES, made, strict=True))


def _answered(
    policy: Policy,
    batch: Sequence[Row],
    picture_of: Mapping[str, Image.Image],
    config: StageConfig,
    sampled: frozenset[str],
    followed: frozenset[str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the three tables for the examples of the batch that have a picture."""
    settings: EvaluateSettings = config.settings
    rows = [row for row in batch if row.example_id in picture_of]
    if not rows:
        return [], [], []
    pictures = [picture_of[row.example_id] for row in rows]
    system_prompt = settings.system_prompt or SYSTEM_PROMPT
    said = answer_ids(policy, pictures, rows, system_prompt, settings.max_completion_length)
    maps = explained(policy, pictures, rows, said, system_prompt, settings)
    chosen = [i for i, row in enumerate(rows) if row.example_id in sampled]
    columns = intervened(
        policy,
        [rows[i] for i in chosen],
        [pictures[i] for i in chosen],
        [said[i] for i in chosen],
        [maps[i] for i in chosen],
        system_prompt,
        settings,
    )
    tested = dict(zip(chosen, columns, strict=True))
    predictions, archived, flows = [], [], []
    for i, (row, ids, found) in enumerate(zip(rows, said, maps, strict=True)):
        prediction = _prediction(policy, row, ids, config) | tested.get(i, {})
        prediction |= _measured(
            found, row, prediction["format_valid"], config, prediction["completion_sha256"]
        )
        predictions.append(prediction)
        if prediction["map_id"] is not None and found.values is not None:
            archived.append(_archived(found, found.values, row, prediction))
        if row.example_id in followed:
            flows.append(flow_row(policy, pictures[i], row, ids, prediction, settings))
    return predictions, archived, flows


def explained(
    policy: Policy,
    pictures: Sequence[Image.Image],
    rows: Sequence[Row],
    said: Sequence[Sequence[int]],
    system_prompt: str,
    settings: EvaluateSettings,
) -> list[SaliencyMap]:
    """One map per completion; what has no thought or answer to explain costs no pass."""
    method = settings.saliency_method
    picture_token = policy.family.image_token_id(policy.model)
    needed = METHODS[method].thought_needed
    reasons = [spans(policy.tokenizer, ids, picture_token, needed) for ids in said]
    wanted = [i for i, reason in enumerate(reasons) if not isinstance(reason, str)]
    found = explain_batch(
        policy,
        [(pictures[i], rows[i].question, said[i]) for i in wanted],
        method=method,
        rows=settings.saliency_rows,
        system_prompt=system_prompt,
        batch_size=settings.batch_size,
    )
    made = dict(zip(wanted, found, strict=True))
    return [
        made[i] if i in made else _without(str(reason), settings, pictures[i].size)
        for i, reason in enumerate(reasons)
    ]


def running(predictions: Sequence[pa.Table]) -> dict[str, float]:
    """Means over the examples measured so far; measures of the map over the scorable ones only."""
    table = pa.concat_tables(predictions)
    table = table.filter(was_measured(table))
    told = {"n": float(table.num_rows)}
    named = {"accuracy": "correct", "format_valid": "format_valid", "mass": "mass", "chance": "chance"}
    for name, column in {**named, "lift": "lift"}.items():
        values = [float(v) for v in table[column].to_pylist() if v is not None]
        if values:
            told[name] = sum(values) / len(values)
    if table.num_rows:
        told["unscorable_frac"] = 1 - table["unscorable_reason"].null_count / table.num_rows
    return told


def summary_of(predictions: pa.Table, config: StageConfig) -> dict[str, Any]:
    """Means, the interval of accuracy by bootstrap over pictures, the unscorable answers by reason.

    All of them are over the `n` examples that were measured; the others are told by reason beside them.
    """
    settings: EvaluateSettings = config.settings
    told: dict[str, Any] = running([predictions])
    measured = predictions.filter(was_measured(predictions))
    accuracy = mean_by_cluster(
        [float(v) for v in measured["correct"].to_pylist()],
        measured["image_sha256"].to_pylist(),
        seed=config.seed,
        kind="rate",
        draws=settings.n_bootstrap,
    )
    if accuracy is not None:
        told |= {"accuracy_ci_low": accuracy.ci_low, "accuracy_ci_high": accuracy.ci_high}
    unscored = Counter(measured["unscorable_reason"].drop_null().to_pylist())
    lost = Counter(_lost(predictions).values())
    return told | {
        "unscorable_by_reason": json.dumps(unscored, sort_keys=True),
        "n_not_measured": lost.total(),
        "not_measured_by_reason": json.dumps(lost, sort_keys=True),
    }


def _lost(predictions: pa.Table) -> dict[str, str]:
    """The examples that were not measured, by example_id, with the reason."""
    lost = predictions.filter(pc.invert(was_measured(predictions)))
    return dict(zip(lost["example_id"].to_pylist(), lost["unscorable_reason"].to_pylist(), strict=True))


def _stop_if_too_many(lost: Sequence[str], n_rows: int) -> None:
    problem = too_many_lost(len(lost), n_rows)
    if problem:
        raise StageError(f"{problem}: {'; '.join(lost[:5])}; mend that, then run again")


def _prediction(policy: Policy, row: Row, ids: Sequence[int], config: StageConfig) -> dict[str, Any]:
    end = policy.tokenizer.eos_token_id
    ended = bool(ids) and ids[-1] == end
    text = text_of(policy, ids)
    parsed = parse(text)
    points = points_of(row, text)
    return {
        "policy_id": config.policy_id,
        "policy": config.policy_name,
        "example_id": row.example_id,
        "image_sha256": row.image_sha256,
        "completion": text,
        "completion_sha256": sha256_bytes(text.encode()),
        "thought": parsed.thought,
        "answer": parsed.answer,
        "correct": points >= CORRECT_FROM[row.answer_type],
        "accuracy_score": points,
        "format_valid": parsed.format_valid,
        "truncated": not ended,
        "n_tokens": len(ids) - ended,
    }


def _not_measured(row: Row, reason: str, config: StageConfig) -> dict[str, Any]:
    return {
        "policy_id": config.policy_id,
        "policy": config.policy_name,
        "example_id": row.example_id,
        "image_sha256": row.image_sha256,
        "unscorable_reason": reason,
    }


def _measured(
    found: SaliencyMap, row: Row, format_valid: bool, config: StageConfig, completion_sha256: str
) -> dict[str, Any]:
    """Columns of the map: measures or a reason, and map_id where a map is archived.

    A map that no box can be held against (no boxes, boxes over everything) is kept, with the reason.
    """
    overlap, kept = Overlap(reason=found.reason), False
    if found.values is not None and not format_valid:
        overlap = Overlap(reason="format_invalid")  # as in the reward: no map of a malformed completion
    elif found.values is not None:
        boxes = np.asarray(row.boxes, dtype=np.float64).reshape(-1, 4).tolist()
        overlap, kept = score(found.values, boxes, (row.width_px, row.height_px), found.region), True
    measures = asdict(overlap)
    settings: EvaluateSettings = config.settings
    how = f"{settings.saliency_method}:{settings.saliency_rows}"
    name = map_id(config.policy_id, row.example_id, completion_sha256, how, METHODS[found.method].targets)
    return {column: measures[column] for column in _OVERLAP_COLUMNS} | {
        "iou_chance": measures["iou_area_chance"],
        "unscorable_reason": overlap.reason,
        "map_id": name if kept else None,
    }


def _archived(found: SaliencyMap, values: np.ndarray, row: Row, prediction: dict[str, Any]) -> dict[str, Any]:
    identity = ("map_id", "policy_id", "policy", "example_id", "image_sha256", "completion_sha256")
    return {column: prediction[column] for column in (*identity, *_MAP_COLUMNS)} | {
        "method": found.method,
        "rows": found.rows,
        "span": METHODS[found.method].targets,
        "grid_h": values.shape[0],
        "grid_w": values.shape[1],
        "image_w_px": row.width_px,
        "image_h_px": row.height_px,
        **region_columns(found.region),
        "values": pack(values),
    }


def _without(reason: str, settings: EvaluateSettings, image_wh: tuple[int, int]) -> SaliencyMap:
    return SaliencyMap(None, reason, None, image_wh, settings.saliency_method, settings.saliency_rows)


def _paths(part: Path) -> list[Path]:
    return [part.with_suffix(f".{name}.parquet") for name in TABLES]


def _write_part(part: Path, tables: tuple[pa.Table, ...]) -> None:
    for path, name, table in zip(_paths(part), TABLES, tables, strict=True):
        write_atomically(path, encode_table(name, table))


def _read_part(part: Path) -> tuple[pa.Table, ...]:
    return tuple(read_table(path, name=name) for path, name in zip(_paths(part), TABLES, strict=True))


def _is_whole(part: Path, rows: Sequence[Row], unreadable: Mapping[str, str]) -> bool:
    """Whether the batch was finished: all files there and readable, and no picture lost that can be read now."""
    if not all(path.is_file() for path in _paths(part)):
        return False
    try:
        lost = _lost(_read_part(part)[0])
    except TableError:
        return False
    return not pictures_of([row for row in rows if row.example_id in lost], unreadable)[0]


if __name__ == "__main__":
    if "--faithfulness" in sys.argv[1:]:
        # By name: the stage does not consist of the study, which may change without answers being made anew.
        study = importlib.import_module("training.faithfulness_study")
        sys.exit(study.main([each for each in sys.argv[1:] if each != "--faithfulness"]))
    sys.exit(run_stage("evaluate", run, sys.argv[1:]))
