"""The catalogue is checked while another process really writes: its writing is no fault of the catalogue."""

import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from storage import catalog
from storage.catalog import CATALOG, query
from storage.objects import Store
from tests.assets.small_world import SmallWorld

TOP = Path(__file__).resolve().parents[2]
NEIGHBOUR = """
import sys
from storage.catalog import build
from storage.lineage import Ledger, Work
from storage.objects import Store
from storage.tables import from_rows
root, number, builds = sys.argv[1:]
refused = {"source": "blocks", "stage": "read", "reason": "no_answer", "detail": number, "raw": "{}"}
ledger = Ledger(Store(root))
work = Work("neighbour", "third", {"number": number})
table = ledger.put_table(work, "quarantine", "quarantine", from_rows("quarantine", [refused]))
ledger.point("data/quarantine", "third", table)
if builds == "builds":
    build(ledger)
"""
SLOWER = """
import sys
from storage.catalog import CATALOG
from storage.objects import Store
Store(sys.argv[1]).put_file(sys.argv[2], CATALOG)
"""


@pytest.fixture
def neighbour(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A process that writes each time a catalogue was put in its place, `n` times; `builds`: and builds its own."""
    told = {"n": 1, "builds": 0, "came": 0}
    put_file = Store.put_file

    def then_another_writes(self: Store, source: str | Path, name: str) -> None:
        put_file(self, source, name)
        if name == CATALOG and told["came"] < told["n"]:
            told["came"] += 1
            words = [world.settings.root, str(told["came"]), "builds" if told["builds"] else "writes"]
            subprocess.run([sys.executable, "-c", NEIGHBOUR, *words], cwd=TOP, check=True)

    monkeypatch.setattr(Store, "put_file", then_another_writes)
    return told


def checked(world: SmallWorld, instance: dg.DagsterInstance) -> str | None:
    """What the check of the catalogue found wrong, or None."""
    result = world.run(instance, "prepare_data", "data/catalog")
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    return failed[0].description if failed else None


def refused(world: SmallWorld) -> list[str]:
    return query(world.settings.root, "SELECT detail FROM quarantine")["detail"].to_pylist()


@pytest.mark.parametrize("builds", [0, 1])
def test_a_write_between_building_and_checking_is_no_problem(
    world: SmallWorld, instance: dg.DagsterInstance, neighbour: dict[str, int], builds: int
) -> None:
    world.prepare(instance)
    neighbour["builds"] = builds
    assert checked(world, instance) is None
    assert neighbour["came"] == 1
    # who builds too has its row shown, by its own catalogue or by the one that was built again
    assert refused(world) == (["1"] if builds else [])
    behind = "view quarantine: 0 rows, the current Parquet files have 1"
    assert (behind in catalog.problems(world.ledger)) is not bool(builds)


def test_a_catalogue_of_an_earlier_state_that_comes_late_is_built_again(
    world: SmallWorld, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slower process read the ledger before the sources were, and puts its catalogue over ours; then all is still."""
    early = world.folder / "early.duckdb"
    catalog.build(world.ledger)
    shutil.copy(world.ledger.store.fetch(CATALOG), early)
    world.prepare(instance)
    put_file, came = Store.put_file, []

    def then_the_slower_one_puts_its_own(self: Store, source: str | Path, name: str) -> None:
        put_file(self, source, name)
        if name == CATALOG and not came:
            came.append(subprocess.run([sys.executable, "-c", SLOWER, self.root, early], cwd=TOP, check=True))

    monkeypatch.setattr(Store, "put_file", then_the_slower_one_puts_its_own)
    assert checked(world, instance) is None
    assert len(came) == 1
    assert catalog.problems(world.ledger) == []


def test_who_never_comes_to_rest_is_named(
    world: SmallWorld, instance: dg.DagsterInstance, neighbour: dict[str, int]
) -> None:
    world.prepare(instance)
    neighbour |= {"n": 99, "builds": 1}
    told = checked(world, instance)
    assert told is not None and "5 times another process wrote while the catalogue was compared" in told


def test_a_catalogue_that_is_wrong_stays_wrong(
    world: SmallWorld,
    instance: dg.DagsterInstance,
    neighbour: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a build counts at random is found although another process writes: a rebuild is never equal."""
    world.prepare(instance)
    kept = catalog.kept()
    at_random = {**kept, "drawn": "-- drawn at random\nSELECT random() AS number"}
    monkeypatch.setattr(catalog, "kept", lambda: at_random)
    told = checked(world, instance)
    assert told is not None and "drawn: not as a rebuild makes it" in told
