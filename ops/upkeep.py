"""Upkeep ops for the operator: hash what is stored again, remove scratch that nobody needs any more.

Nothing that is recorded is ever removed here.
"""

import fcntl
import shutil
from pathlib import Path

import dagster as dg

from storage.chain import verify
from storage.lineage import Ledger
from storage.scratch import clear_abandoned


@dg.op(
    description="Hashes everything that is recorded and follows every parent; fails naming what is broken."
)
def verify_lineage(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Ledger]) -> int:
    """The number of records, all of them intact."""
    lines, problems = verify(ledger)
    for line in lines:
        context.log.info(line)
    if problems:
        raise dg.Failure(f"{len(problems)} problems: " + "; ".join(problems[:20]))
    return len(ledger.everything())


@dg.op(description="Removes work folders of stages whose outputs are recorded.")
def clear_scratch(
    context: dg.OpExecutionContext,
    n_records: int,
    ledger: dg.ResourceParam[Ledger],
    scratch: dg.ResourceParam[Path],
) -> int:
    """The number of work folders removed; one that is being worked on, or whose work is unfinished, stays.

    Temporary folders of processes that were killed go too, all of this user's on this machine.
    """
    done = {artifact.work_key[:16] for artifact in ledger.everything()}
    removed = 0
    for folder in sorted(scratch.glob("*-*")):
        if folder.name.rpartition("-")[2] in done and not _is_held(folder / "lock"):
            shutil.rmtree(folder)
            context.log.info(f"removed {folder}")
            removed += 1
    abandoned = clear_abandoned()
    context.add_output_metadata({"removed": removed, "abandoned": abandoned, "records": n_records})
    return removed


def _is_held(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
