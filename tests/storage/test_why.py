"""From a saliency map back to the raw file and row."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from storage import lineage
from storage.lineage import Ledger, Work
from storage.objects import sha256_bytes
from tests.storage import small_world
from tests.storage.small_world import ANNOTATIONS, ROW_OF_E2, SmallWorld

REPO = Path(__file__).parents[2]


def why(world: SmallWorld, capsys: pytest.CaptureFixture[str], map_id: str = "") -> tuple[int, str, str]:
    code = lineage.main(["--root", world.ledger.store.root, "why", map_id or world.map_id("saliency_r1")])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_chain_reaches_the_raw_row_step_by_step(world: SmallWorld, capsys):
    code, out, err = why(world, capsys)
    assert (code, err) == (0, "")
    steps = [
        f"map {world.map_id('saliency_r1')}",
        "<- completion",
        f"<- policy {world.policy_id('saliency_r1')}, seed 3",
        f"<- policy {world.policy_id('cold_start')}, seed 3",
        f"<- policy {world.policy_id('base')}, seed 3",
        "<- split test by content_hash",
        "<- example e2 of source scenes, 2 evidence boxes",
        f"<- picture {sha256_bytes(b'picture b')[:12]}, PNG, 9 x 4 px",
        "<- raw manifest of scenes, 3 files",
        f"<- raw file annotations.json, row {ROW_OF_E2} (0-based)",
        "<- raw picture b.png",
    ]
    lines = out.splitlines()
    places = [next(i for i, line in enumerate(lines) if line.strip().startswith(step)) for step in steps]
    assert places == sorted(places)
    indents = [len(lines[place]) - len(lines[place].lstrip()) for place in places]
    assert indents[:10] == [2 * depth for depth in range(10)]
    for shown in (
        f"sha256 {sha256_bytes(ANNOTATIONS)}",
        f"sha256 {sha256_bytes(b'picture b')}",
        "mass 0.6 (chance 0.2), lift 0.5",
        "'What colour is it in e2?' -> 'blue'",
        "saliency_r1 looks at e2",
        f"{world.policies['cold_start'].uri}  sha256 {world.policies['cold_start'].sha256[:12]}",
        f"{world.data['scenes']['examples'].uri}  sha256 {world.data['scenes']['examples'].sha256[:12]}",
        "by training.evaluate",
    ):
        assert shown in out


def test_each_map_leads_to_its_own_policy(world: SmallWorld, capsys):
    _, out, _ = why(world, capsys, world.map_id("base"))
    assert f"policy {world.policy_id('base')}" in out
    assert "saliency_r1" not in out and "cold_start" not in out


def test_a_token_flow_is_walked_back_too(world: SmallWorld, capsys):
    code, out, err = why(world, capsys, "flow of base")
    assert (code, err) == (0, "")
    assert out.startswith(
        "token flow flow of base\n     2 thought and 1 answer tokens, 1 x 3 cells (predictor rows)"
    )
    assert f"policy {world.policy_id('base')}" in out
    assert f"raw file annotations.json, row {ROW_OF_E2}" in out


def test_it_is_a_command(world: SmallWorld):
    command = [sys.executable, "-m", "storage.lineage", "--root", world.ledger.store.root]
    done = subprocess.run([*command, "why", world.map_id("base")], capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"raw file annotations.json, row {ROW_OF_E2}" in done.stdout
    done = subprocess.run([*command, "verify"], capture_output=True, text=True, cwd=REPO)
    n = len(world.ledger.everything())
    assert done.stdout.startswith(f"{n} artifacts") and "all content as recorded" in done.stdout


def test_an_unknown_map_is_an_error(world: SmallWorld, capsys):
    code, out, err = why(world, capsys, "f" * 24)
    assert (code, out) == (2, "")
    assert "is in none of the 4 archived tables" in err  # maps and flows of two policies


@pytest.mark.parametrize("role", ["scenes_raw", "saliency_r1", "cold_start", "splits"])
def test_a_lost_step_is_said_and_makes_the_command_fail(world: SmallWorld, capsys, role: str):
    lost = {"scenes_raw": world.raw["scenes"], "splits": world.splits, **world.policies}
    world.ledger.store.delete(f"lineage/{lost[role].record}.json")
    code, out, err = why(world, capsys)
    assert code == 1
    said = {
        "scenes_raw": "the raw manifest of source scenes",
        "saliency_r1": f"policy {world.policy_id('saliency_r1')} has no record",
        "cold_start": "parent policy",
        "splits": "example e2 has no place",
    }
    assert f"NOT FOUND: {said[role]}" in out and "problem:" in err


def test_an_altered_table_on_the_way_is_not_believed(world: SmallWorld, capsys):
    place = Path(world.ledger.store.url(world.data["scenes"]["examples"].uri))
    place.write_bytes(place.read_bytes() + b" ")
    code, out, err = why(world, capsys)
    assert code == 1
    assert "example e2 is in no table of examples" in out and "content was altered" in err


def test_an_altered_policy_is_a_problem(world: SmallWorld, capsys):
    place = Path(world.ledger.store.url(world.policies["cold_start"].uri))
    (place / "model.safetensors").write_bytes(b"forged")
    code, _, err = why(world, capsys)
    assert code == 1 and "policy cold_start" in err and "altered" in err


def test_a_picture_that_is_not_the_delivered_one_is_a_problem(world: SmallWorld, capsys):
    manifest = json.loads(world.ledger.read_bytes(world.raw["scenes"]))
    for file in manifest["files"]:
        file["sha256"] = "0" * 64
    forged = world.ledger.put_bytes(
        Work("ops.sources", "scenes", {"format": "coco"}),
        "files",
        "raw_files",
        json.dumps(manifest).encode(),
        ".json",
    )
    # The examples' record is made to name the other manifest.
    name = f"lineage/{world.data['scenes']['examples'].record}.json"
    record = world.ledger.store.read_bytes(name).decode()
    world.ledger.store.write_bytes(name, record.replace(world.raw["scenes"].sha256, forged.sha256).encode())
    code, _, err = why(world, capsys)
    assert code == 1
    assert "picture b.png: the raw manifest has sha256 000000000000, its row" in err


class PicturesInRows(SmallWorld):
    """The same world, delivered as one Parquet file that holds the pictures."""

    def delivered(self) -> dict[str, bytes]:
        return {"rows.parquet": b"PAR1"}


def test_a_picture_inside_a_parquet_row_leads_to_that_file(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    rows = [{**row, "source_file": "rows.parquet"} for row in small_world.examples()]
    monkeypatch.setattr(small_world, "examples", lambda: rows)
    code, out, err = why(PicturesInRows(ledger, tmp_path / "scratch"), capsys)
    assert (code, err) == (0, "")
    assert f"raw file rows.parquet, row {ROW_OF_E2} (0-based)" in out
    assert out.splitlines()[-2].strip() == "<- raw picture inside rows.parquet"
    assert out.splitlines()[-1].strip() == f"sha256 {sha256_bytes(b'picture b')}"


def test_verify_lists_every_altered_thing(world: SmallWorld, capsys):
    store = world.ledger.store
    for artifact in (world.raw["more"], world.splits, world.evidence["base"]["predictions"]):
        Path(store.url(artifact.uri)).write_bytes(b"forged")
    assert lineage.main(["--root", store.root, "verify"]) == 1
    printed = capsys.readouterr()
    assert "3 problems" in printed.out
    assert printed.err.count("content was altered") == 3


def test_an_equal_table_of_another_source_does_not_lead_astray(world: SmallWorld):
    # Both sources' empty tables have the same content; the recorded parent is the very one that was given.
    from storage.chain import Records

    empty_boxes = world.data["more"]["boxes"]
    twin = world.ledger.put_table(
        Work("other", "twin"), "boxes", "boxes", world.ledger.read_table(empty_boxes)
    )
    assert twin.sha256 == empty_boxes.sha256
    for parent in (empty_boxes, twin):
        work = Work(f"reader of {parent.name}", parents={"boxes": parent})
        child = world.ledger.put_bytes(work, "o", "note", b"x", ".txt")
        found = Records(world.ledger).of_parent(child.parents[0])
        assert found is not None and found.record == parent.record
