"""The profile of a source through Dagster: made, shown, kept with its lineage, asked for in the catalogue."""

import base64
import io
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from assets.profiles import profile_behind
from pipelines import run
from pipelines.run import reason
from storage.catalog import query
from storage.lineage import LineageError, unbroken
from tests.assets.small_world import NORMALISED, SmallWorld
from tests.assets.test_data_assets import break_row, metadata_of
from tests.ops.wrong_conventions import deliver, random_boxes

PROFILED = ("raw/files", *NORMALISED, "data/profile")


def list_shelf(world: SmallWorld, convention: str) -> None:
    """The source `shelf`, written as x, y, width, height, told as something else."""
    (world.folder / "sources.yaml").write_text(
        "sources:\n"
        "  - {name: shelf, format: table, location: shelf, annotations: rows.jsonl, "
        f"options: {{box_convention: {convention}}}}}\n"
    )


@pytest.fixture
def shelf(tmp_path: Path) -> SmallWorld:
    world = SmallWorld(tmp_path)
    deliver(tmp_path / "shelf", "xywh_px", random_boxes(60, 4))
    list_shelf(world, "xyxy_px")
    return world


def check_of(result: dg.ExecuteInProcessResult, name: str) -> dg.AssetCheckEvaluation:
    (found,) = [each for each in result.get_asset_check_evaluations() if each.check_name == name]
    return found


def test_the_profile_is_made_shown_and_asked_for(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    """30 questions about 30 pictures with one box each; one has no answer, so 29 + 1."""
    break_row(world, 3, answer="")
    result = world.run(instance, "prepare_data", *PROFILED, partition="blocks")
    assert result.success
    assert check_of(result, "convention_looks_right").passed
    told = metadata_of(result, "data/profile")
    assert (told["rows_in"], told["rows_out"], told["rows_refused"]) == (30.0, 29.0, 1.0)
    assert (told["pictures"], told["boxes"], told["warnings"]) == (29.0, 29.0, 0.0)
    assert world.run(instance, "prepare_data", "data/catalog").success
    rows = query(world.settings.root, "source_profile").to_pylist()
    found = {(row["measure"], row["subset"], row["bucket"]): row for row in rows}
    assert {row["source"] for row in rows} == {"blocks"}
    refused = found["rows_refused", "all", "no_answer"]
    assert (refused["value"], refused["n"], refused["share"]) == (1.0, 30, pytest.approx(1 / 30))
    assert found["label", "all", "block"]["value"] == 29
    assert query(world.settings.root, "source_warnings").num_rows == 0


def test_the_sheet_is_in_the_ui_and_has_a_lineage(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    result = world.run(instance, "prepare_data", *PROFILED, partition="blocks")
    shown = metadata_of(result, "data/profile")["contact_sheet"]
    assert len(shown) < 150_000
    start = "![boxes of blocks](data:image/webp;base64,"
    assert shown.startswith(start)
    data = base64.b64decode(shown.removeprefix(start).removesuffix(")"))
    assert Image.open(io.BytesIO(data)).size == (1188, 12 + 4 * 186)  # 24 of the 30 pictures, six in a row
    profile = world.ledger.require(world.ledger.current("data/profile", "blocks"), kind="source_profiles")
    outputs = {each.output: each for each in world.ledger.outputs_of(profile.work_key)}
    assert set(outputs) == {"source_profiles", "source_warnings", "contact_sheet"}
    sheet = outputs["contact_sheet"]
    assert (sheet.kind, world.ledger.read_bytes(sheet)) == ("contact_sheet", data)
    parents = {parent.role: parent.sha256 for parent in sheet.parents}
    assert parents == {
        name.rpartition("/")[2]: world.ledger.require(world.ledger.current(name, "blocks")).sha256
        for name in NORMALISED
    }
    assert unbroken(world.ledger) == []


def test_a_second_run_finds_the_profile_unchanged_and_a_changed_row_does_not(
    world: SmallWorld, instance: dg.DagsterInstance
) -> None:
    assert world.run(instance, "prepare_data", *PROFILED, partition="blocks").success
    again = world.run(instance, "prepare_data", *PROFILED, partition="blocks")
    assert metadata_of(again, "data/profile")["work"].startswith("unchanged")
    break_row(world, 4, answer="purple")
    changed = world.run(instance, "prepare_data", *PROFILED, partition="blocks")
    assert metadata_of(changed, "data/profile")["work"] == "made in this run"


def test_a_wrong_convention_warns_and_lets_the_run_go_on(shelf: SmallWorld) -> None:
    with shelf.instance() as instance:
        result = shelf.run(instance, "prepare_data", *PROFILED, partition="shelf")
        assert result.success
        check = check_of(result, "convention_looks_right")
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert str(check.description).startswith("source shelf: 60 different boxes: read as xyxy_px, ")
        assert "set box_convention: xywh_px" in str(check.description)
        assert check.metadata["fits"].value == ["xywh_px"]
        assert check.metadata["another_convention_fits"].value > 0.5
        assert shelf.ledger.current("data/profile", "shelf") is not None
        assert shelf.run(instance, "prepare_data", "data/splits").success
        assert shelf.run(instance, "prepare_data", "data/catalog").success
        rows = query(shelf.settings.root, "source_warnings").to_pylist()
        assert [(row["source"], row["kind"], row["told"], row["fits"]) for row in rows] == [
            ("shelf", kind, "xyxy_px", ["xywh_px"]) for kind in ("another_convention_fits", "swapped_corners")
        ]
        list_shelf(shelf, "xywh_px")
        mended = shelf.run(instance, "prepare_data", *PROFILED, partition="shelf")
        assert check_of(mended, "convention_looks_right").passed


def test_a_source_that_is_lost_whole_is_told_what_would_fit(shelf: SmallWorld) -> None:
    """Pixels read as shares, 0 to 1: no row is left, so there is nothing to profile; the failure itself says it."""
    list_shelf(shelf, "xywh_normalised")
    with shelf.instance() as instance:
        result = shelf.run(instance, "prepare_data", *PROFILED, partition="shelf")
    assert not result.success
    assert "source 'shelf': none of 60 rows is usable (box_outside_picture 60)" in reason(result)
    assert reason(result).endswith("xywh_px fits: set box_convention: xywh_px")


def test_a_profile_older_than_its_rows_is_not_shown(world: SmallWorld, instance: dg.DagsterInstance) -> None:
    assert world.run(instance, "prepare_data", *PROFILED, partition="blocks").success
    rows = {
        f"{name.rpartition('/')[2]}:blocks": world.ledger.require(world.ledger.current(name, "blocks"))
        for name in NORMALISED
    }
    assert set(profile_behind(world.ledger, "blocks", rows)) == {
        "source_profiles:blocks",
        "source_warnings:blocks",
        "contact_sheet:blocks",
    }
    break_row(world, 4, answer="purple")
    assert world.run(instance, "prepare_data", "raw/files", *NORMALISED, partition="blocks").success
    rows["examples:blocks"] = world.ledger.require(world.ledger.current("data/examples", "blocks"))
    with pytest.raises(
        LineageError, match=r"data/profile \[blocks\] is older than its examples; materialise"
    ):
        profile_behind(world.ledger, "blocks", rows)
    with pytest.raises(LineageError, match="no source_profiles has been made yet"):
        profile_behind(world.ledger, "more", rows)


def test_the_headless_runner_makes_it_and_tells_the_warning(
    shelf: SmallWorld, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(shelf.folder / "root" / "dagster_home"))
    run.work(shelf.given, "prepare_data")
    told = capsys.readouterr().err
    assert "data/profile [shelf]" in told
    assert "warning: check convention_looks_right of data/profile: source shelf: 60 different boxes" in told
