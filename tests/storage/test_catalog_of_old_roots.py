"""Views over roots that are not as usual: tables of an earlier version, folders named as columns."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage import artifacts, catalog, tables
from storage.catalog import build, query
from storage.lineage import Ledger, Work
from storage.objects import Store
from tests.storage.small_world import SmallWorld


def rows(root: str, sql: str) -> list[dict]:
    return query(root, sql).to_pylist()


def test_tables_of_another_schema_version_are_left_out_and_named_until_made_anew(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
):
    ledger, base = world.ledger, world.evidence["base"]["predictions"]
    said = ledger.read_table(base)
    with monkeypatch.context() as earlier:  # as the code of version 4 wrote it
        earlier.setattr(tables, "SCHEMA_VERSION", 4)
        earlier.setattr(artifacts, "SCHEMA_VERSION", 4)
        old = ledger.put_table(
            Work(base.producer, base.name), base.output, base.kind, said, versions={"schema": "4"}
        )
    header = pq.read_schema(ledger.store.fetch(old.uri)).metadata
    assert header[b"saliency_r1.schema_version"] == b"4"
    ledger.point("evidence/predictions", "base", old)
    build(ledger)
    root, by_policy = ledger.store.root, "SELECT policy, count(*) AS n FROM predictions GROUP BY ALL"
    assert rows(root, by_policy) == [{"policy": "saliency_r1", "n": 2}]
    state, found = catalog.build_and_compare(ledger)
    assert found == []
    assert catalog.left_out(state) == [
        "1 current tables have another schema version than 5 and are not shown until they are made anew: "
        "predictions base (version 4, by training.evaluate)"
    ]
    again = ledger.put_table(Work(base.producer, base.name), base.output, base.kind, said)
    ledger.point("evidence/predictions", "base", again)
    state, found = catalog.build_and_compare(ledger)
    assert (found, catalog.left_out(state)) == ([], [])
    assert rows(root, f"{by_policy} ORDER BY 1") == [
        {"policy": "base", "n": 2},
        {"policy": "saliency_r1", "n": 2},
    ]


def test_folders_that_look_like_columns_change_no_row(tmp_path: Path):
    root = str(tmp_path / "source=prod" / "split=7" / "policy=none")
    world = SmallWorld(Ledger(Store(root)), tmp_path / "scratch")
    build(world.ledger)
    assert rows(root, "SELECT DISTINCT source FROM quarantine") == [{"source": "more"}]
    assert rows(root, "SELECT DISTINCT split FROM splits ORDER BY 1") == [
        {"split": "test"},
        {"split": "train"},
    ]
    assert rows(root, "SELECT DISTINCT policy FROM predictions ORDER BY 1") == [
        {"policy": "base"},
        {"policy": "saliency_r1"},
    ]
