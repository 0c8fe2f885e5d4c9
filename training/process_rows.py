"""The stage `process`: every row through the policy's own processor, before anything is trained.

Run by hand: `python -m training.process_rows CONFIG.json`; the settings are ProcessSettings of `training/config.py`.
No weight is loaded. What is counted of a row, and when it fits, is `training/row_fit.py`.

Pictures are taken one after the other; a finished part lies in work_dir/parts, so a killed run goes on with the next.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from storage.picture_rows import RowsByPicture
from storage.tables import TableError, empty, encode_table, from_rows, read_table
from training.config import ProcessSettings, StageConfig
from training.policy import load_without_weights
from training.progress import METRICS, JsonLines
from training.row_fit import RowFit
from training.stage import run_stage, write_atomically, write_result

TABLE = "processed_rows"
PARTS = "parts"
SPLITS = ("train", "val", "test")
_QUANTILES = (0.5, 0.95, 1.0)
_TOKENS = ("n_image_tokens", "n_prompt_tokens", "n_reference_tokens")


def run(config: StageConfig) -> None:
    """Look at every row, then write the table and, last, the result."""
    settings: ProcessSettings = config.settings
    source = RowsByPicture(config.tables, SPLITS, root=config.root)
    fit = RowFit(load_without_weights(config.policy), settings)
    n_parts = -(-source.n_pictures // settings.pictures_per_part)
    paths = [config.work_path / PARTS / f"{index:06d}.parquet" for index in range(n_parts)]
    (config.work_path / PARTS).mkdir(exist_ok=True)
    parts = _finished(paths)
    lines = JsonLines(config.work_path / METRICS, len(parts))
    pictures = source.after(len(parts) * settings.pictures_per_part)
    with tqdm(total=source.n_rows, initial=sum(map(len, parts)), desc="process", unit="row") as bar:
        for path in paths[len(parts) :]:
            rows = [row for seen in islice(pictures, settings.pictures_per_part) for row in fit.rows(seen)]
            parts.append(from_rows(TABLE, [{"policy_id": config.policy_id, **row} for row in rows]))
            write_atomically(path, encode_table(TABLE, parts[-1]))
            n_not = sum(part.num_rows - int(pc.sum(part["fits"]).as_py()) for part in parts)
            lines.append([{"step": len(parts), "total_steps": n_parts, "n_rows_that_do_not_fit": n_not}])
            bar.update(len(rows))
    for _ in pictures:  # says so if rows are left whose picture is nowhere
        pass
    table = pa.concat_tables([empty(TABLE), *parts]).sort_by("example_id")
    write_atomically(config.work_path / f"{TABLE}.parquet", encode_table(TABLE, table))
    write_result(config, {TABLE: f"{TABLE}.parquet"}, summary_of(table), "cpu")


def _finished(paths: Sequence[Path]) -> list[pa.Table]:
    """The parts that a killed run finished, up to the first that is missing or not whole."""
    found: list[pa.Table] = []
    for path in paths:
        try:
            found.append(read_table(path, name=TABLE))
        except TableError:
            break
    return found


def summary_of(table: pa.Table) -> dict[str, Any]:
    """Rows that fit by split, those that do not by reason, quantiles of tokens, evidence below a cell."""
    fitting = table.filter(table["fits"])
    told: dict[str, Any] = {
        "n_rows": table.num_rows,
        "n_rows_that_do_not_fit": table.num_rows - fitting.num_rows,
    }
    told |= {f"n_fit_{split}": _count(fitting["split"], split) for split in SPLITS}
    reasons = sorted(set(table["reason"].drop_null().to_pylist()))
    told |= {f"reason_{reason}": _count(table["reason"], reason) for reason in reasons}
    for column in _TOKENS:
        values = table[column].drop_null()
        if len(values):
            found = pc.quantile(values, q=list(_QUANTILES), interpolation="nearest").to_pylist()
            told |= {f"{column}_p{round(100 * q)}": v for q, v in zip(_QUANTILES, found, strict=True)}
    small = pc.less(table["smallest_box_cells"].drop_null(), 1.0)
    return told | {"n_rows_with_a_box_below_a_cell": int(pc.sum(small).as_py() or 0)}


def _count(column: pa.ChunkedArray, value: str) -> int:
    return int(pc.sum(pc.equal(column, value)).as_py() or 0)


if __name__ == "__main__":
    sys.exit(run_stage("process", run, sys.argv[1:]))
