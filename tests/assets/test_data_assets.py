"""Raw files to splits and catalogue through Dagster, on a small source of a user's own kind."""

import json
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from assets import checks_data, data
from ops.normalise import normalise
from pipelines.definitions import build_defs
from pipelines.run import reason, tell_checks
from storage.catalog import query
from storage.lineage import Artifact, Work
from storage.tables import empty, from_rows
from tests.assets.small_source import write_source
from tests.assets.small_world import NORMALISED, SmallWorld


def metadata_of(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (found,) = [
        each.materialization.metadata
        for each in result.get_asset_materialization_events()
        if each.asset_key == dg.AssetKey(name.split("/"))
    ]
    return {key: value.value for key, value in found.items()}


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    found = result.get_asset_check_evaluations()
    return {f"{each.asset_key.to_user_string()}:{each.check_name}": each.passed for each in found}


def break_row(world: SmallWorld, number: int, **changes: Any) -> None:
    path = world.blocks / "questions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= changes
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sides(world: SmallWorld, splits: Artifact) -> dict[str, str]:
    return {row["example_id"]: row["split"] for row in world.ledger.read_table(splits).to_pylist()}


def test_from_raw_files_to_the_catalogue(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    """30 and 12 pictures with one question and one box each."""
    world.prepare(instance)
    result = world.run(instance, "prepare_data", "data/catalog")
    assert result.success
    assert checks_of(result) == {
        "data/catalog:rebuildable_and_counts_agree": True,
        "data/catalog:all_tables_shown": True,
    }
    rows = query(
        world.settings.root, "SELECT source, count(*) AS n FROM examples GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    assert rows == [{"source": "blocks", "n": 30}, {"source": "more", "n": 12}]
    splits = query(
        world.settings.root, "SELECT count(*) AS n, count(DISTINCT example_id) AS d FROM splits"
    ).to_pylist()
    assert splits == [{"n": 42, "d": 42}]
    assert metadata_of(result, "data/catalog")["rows_boxes"] == 42


def test_what_the_ui_is_told(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert result.success
    assert set(checks_of(result)) == {
        "raw/files:delivered_and_readable",
        "data/examples:rows_conserved",
        "data/boxes:boxes_plausible",
        *(f"{name}:schema" for name in NORMALISED),
    }
    images, examples = metadata_of(result, "data/images"), metadata_of(result, "data/examples")
    assert images["dagster/row_count"] == 30
    assert images["thumbnails"].count("](data:image/png;base64,") == 4
    assert len(images["thumbnails"]) < 120_000
    assert (examples["rows_in"], examples["rows_out"], examples["quarantined"]) == (30.0, 30.0, 0.0)
    assert examples["dagster/uri"].endswith(".parquet")
    assert metadata_of(result, "raw/files")["n_files"] == 32.0  # 30 pictures, annotations, questions
    artifact = world.ledger.current("data/examples", "blocks")
    assert artifact is not None
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key.path[-1] == "examples"]
    assert event.materialization.tags is not None
    assert event.materialization.tags["dagster/data_version"] == artifact.sha256


def test_columns_are_described_in_the_definitions(world: SmallWorld) -> None:
    specs = {
        spec.key.to_user_string(): spec for spec in build_defs(given=world.given).resolve_all_asset_specs()
    }
    tables = [name for name in specs if "dagster/column_schema" in specs[name].metadata]
    assert sorted(tables) == sorted(
        [
            *("data/profile", *NORMALISED, "data/splits", "policy/processed_rows"),
            *("evidence/comparison", "evidence/predictions", "evidence/saliency_maps"),
        ]
    )
    columns = specs["data/boxes"].metadata["dagster/column_schema"].columns
    assert all(column.description for column in columns)
    for name, spec in specs.items():
        assert spec.group_name == name.partition("/")[0], name
        assert spec.description, name
        assert spec.owners, name
        assert spec.kinds, name


def test_a_second_run_finds_everything_unchanged(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    world.prepare(instance)
    records = {
        path: (world.folder / "root" / path).stat().st_mtime_ns for path in world.ledger.store.list("lineage")
    }
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert {metadata_of(result, name)["work"] for name in NORMALISED} == {
        "unchanged: found by its content hashes"
    }
    result = world.run(instance, "prepare_data", "data/splits")
    assert metadata_of(result, "data/splits")["work"].startswith("unchanged")
    after = {
        path: (world.folder / "root" / path).stat().st_mtime_ns for path in world.ledger.store.list("lineage")
    }
    assert after == records


def test_a_changed_row_is_noticed_and_the_other_source_is_left_alone(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    world.prepare(instance)
    break_row(world, 4, answer="purple")
    changed = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    same = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="more")
    assert metadata_of(changed, "data/examples")["work"] == "made in this run"
    assert metadata_of(same, "data/examples")["work"].startswith("unchanged")


def test_bad_rows_cost_quarantine_rows_and_the_run_goes_on(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    """Of 30 questions: one without an answer, one about a picture that is gone. 28 + 2 = 30."""
    break_row(world, 3, answer="")
    (world.blocks / "images" / "007.png").unlink()
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert result.success
    assert checks_of(result)["data/examples:rows_conserved"]
    refused = world.ledger.current("data/quarantine", "blocks")
    assert refused is not None
    rows = world.ledger.read_table(refused).to_pylist()
    assert {(row["reason"], row["source_row"]) for row in rows} == {("no_answer", 3), ("missing_file", 7)}
    assert metadata_of(result, "data/examples")["rows_out"] == 28.0


def test_a_source_that_was_not_delivered_stops_there(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    (world.blocks / "annotations.json").unlink()
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert not result.success
    assert "blocked by check delivered_and_readable of raw/files: annotations.json: missing_file" in reason(
        result
    )
    assert world.ledger.current("raw/files", "blocks") is None
    assert world.ledger.current("data/examples", "blocks") is None


def test_a_source_with_nothing_left_says_so(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    for number in range(30):
        break_row(world, number, answer="")
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert not result.success
    assert "source 'blocks': none of 30 rows is usable (no_answer 30)" in reason(result)
    refused = world.ledger.current("data/quarantine", "blocks")
    assert refused is not None
    assert world.ledger.read_table(refused)["reason"].to_pylist() == ["no_answer"] * 30


def test_a_source_with_nothing_left_says_so_also_where_no_catalogue_can_be_built(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="more").success
    boxes = world.ledger.current("data/boxes", "more")
    assert boxes is not None
    world.ledger.store.delete(boxes.uri)
    for number in range(30):
        break_row(world, number, answer="")
    result = world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks")
    assert not result.success
    assert reason(result).startswith("source 'blocks': none of 30 rows is usable (no_answer 30)")
    assert "nor could the catalogue be built" in reason(result)


def test_a_table_of_an_earlier_version_is_told_and_stops_no_job(
    world: SmallWorld, instance: dg.DagsterInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a recipe that no profile names any more: no job makes it anew."""
    world.prepare(instance)
    work = Work("training.evaluate", "gone")
    old = world.ledger.put_table(
        work, "predictions", "predictions", empty("predictions"), versions={"schema": "4"}
    )
    world.ledger.point("evidence/predictions", "gone", old)
    result = world.run(instance, "prepare_data", "data/catalog")
    assert result.success
    assert checks_of(result) == {
        "data/catalog:rebuildable_and_counts_agree": True,
        "data/catalog:all_tables_shown": False,
    }
    named = "predictions gone (version 4, by training.evaluate)"
    assert named in metadata_of(result, "data/catalog")["left_out"]
    tell_checks(result)
    assert named in capsys.readouterr().err


def test_splits_name_the_sources_that_are_missing(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="more").success
    result = world.run(instance, "prepare_data", "data/splits")
    assert not result.success
    assert "[blocks] has not been made yet" in reason(result)


def test_adding_a_source_moves_nothing(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    world.prepare(instance)
    before = world.ledger.current("data/splits")
    third = write_source(world.folder / "third", 9, seed=5)
    world.list_sources(blocks=world.blocks, more=world.more, third=third)
    with world.instance() as again:
        world.prepare(again)
    after = world.ledger.current("data/splits")
    assert before is not None
    assert after is not None
    old, new = (
        {row["example_id"]: row["split"] for row in world.ledger.read_table(each).to_pylist()}
        for each in (before, after)
    )
    assert len(new) == len(old) + 9
    assert {example: new[example] for example in old} == old


def test_a_planted_leak_is_seen(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    """A second question about a picture of the train side is put on the test side."""
    world.prepare(instance)
    splits = world.ledger.read_table(world.ledger.require(world.ledger.current("data/splits")))
    found = world.ledger.current_all("data/images").values()
    pictures = pa.concat_tables([world.ledger.read_table(each) for each in found])
    assert checks_data.no_leak(splits, pictures).passed
    rows = splits.to_pylist()
    twin = next(row for row in rows if row["split"] == "train")
    leaked = from_rows("splits", [*rows, {**twin, "example_id": "0" * 24, "split": "test"}])
    result = checks_data.no_leak(leaked, pictures)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(result.description).startswith("1 pictures are on two sides, such as ")


def test_what_failed_a_blocking_check_is_kept_but_never_read(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    """A table with a row too few is put in the place of the work's own outcome; the check finds it."""
    files = world.run(instance, "prepare_data", "raw/files", partition="blocks")
    assert files.success
    raw = world.ledger.require(world.ledger.current("raw/files", "blocks"))
    source = world.given.sources["blocks"]
    work = data.normalising(source, raw)
    tables = normalise(source, world.ledger.store)
    for name in NORMALISED:
        table = getattr(tables, name.rpartition("/")[2])
        short = table.slice(1) if name == "data/examples" else table
        world.ledger.put_table(
            work, name.rpartition("/")[2], name.rpartition("/")[2], short, dict(tables.counts)
        )
    result = world.run(instance, "prepare_data", *NORMALISED, partition="blocks")
    assert not result.success
    assert "blocked by check rows_conserved of data/examples: 30 raw rows, but 29 examples + 0" in reason(
        result
    )
    assert [world.ledger.current(name, "blocks") for name in NORMALISED] == [None] * 4
    assert len(world.ledger.outputs_of(work.key)) == 4
