"""The catalogue: views over what is current, swapped in whole, equal whenever it is built."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage import catalog
from storage.catalog import CatalogError, build, connect, query, questions
from storage.lineage import Artifact, Ledger, Work
from storage.objects import Store, sha256_bytes
from storage.schema import TABLE_DESCRIPTIONS, TABLES
from storage.tables import empty, from_rows
from tests.storage import small_world
from tests.storage.small_world import SmallWorld

REPO = Path(__file__).parents[2]


@pytest.fixture
def root(world: SmallWorld) -> str:
    build(world.ledger)
    return world.ledger.store.root


def rows(root: str, sql: str, params: object = None) -> list[dict]:
    return query(root, sql, params).to_pylist()  # type: ignore[arg-type]


def test_a_catalogue_of_nothing_has_every_view_with_its_columns(ledger: Ledger):
    assert build(ledger) == f"{ledger.store.root}/catalog.duckdb"
    for name, schema in TABLES.items():
        answer = query(ledger.store.root, f"SELECT * FROM {name}")
        assert answer.num_rows == 0
        assert [(f.name, f.type) for f in answer.schema] == [(f.name, f.type) for f in schema]
    assert query(ledger.store.root, "SELECT * FROM artifacts").num_rows == 0
    assert query(ledger.store.root, "SELECT child, parent, role FROM lineage_edges").num_rows == 0
    assert catalog.problems(ledger) == []


def test_views_hold_the_rows_of_all_current_files(root: str, world: SmallWorld):
    wanted = {
        "images": 2,  # picture a comes with both sources and is one picture
        "examples": 3,
        "boxes": 3,
        "quarantine": 1,
        "splits": 3,
        "training_steps": 4,  # 2 of cold_start, 2 of saliency_r1: stored beside the policies that handles name
        "completions": 0,
        "predictions": 4,
        "saliency_maps": 2,
        "token_flows": 2,
        "evaluations": 0,
    }
    for name, n in wanted.items():
        answer = query(root, f"SELECT * FROM {name}")
        assert answer.num_rows == n, name
        assert [(f.name, f.type) for f in answer.schema] == [(f.name, f.type) for f in TABLES[name]], name
    n_records = len(world.ledger.everything())
    assert rows(root, "SELECT count(*) AS n FROM artifacts") == [{"n": n_records}]
    n_links = sum(len(artifact.parents) for artifact in world.ledger.everything())
    assert rows(root, "SELECT count(*) AS n FROM lineage_edges") == [{"n": n_links}]


def test_columns_and_views_are_described(root: str):
    with connect(root) as connection:
        views = dict(
            connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        )
        assert views == TABLE_DESCRIPTIONS
        found = connection.execute("SELECT table_name, column_name, comment FROM duckdb_columns()").fetchall()
    comments = {(table, column): comment for table, column, comment in found}
    for name, schema in TABLES.items():
        for field in schema:
            assert comments[name, field.name] == field.metadata[b"description"].decode()
    assert comments["artifacts", "git_commit"] and comments["lineage_edges", "role"]


def test_a_deleted_catalogue_comes_back_equal(root: str, world: SmallWorld):
    assert catalog.problems(world.ledger) == []
    with connect(root) as before:
        old = catalog._content(before)
    world.ledger.store.delete("catalog.duckdb")
    with pytest.raises(CatalogError, match="no catalogue"):
        connect(root)
    build(world.ledger)
    with connect(root) as after:
        assert catalog._content(after) == old


def test_a_catalogue_that_lags_behind_is_noticed(root: str, world: SmallWorld):
    work = Work("ops.normalise", "third")
    world.ledger.point(
        "data/quarantine",
        "third",
        world.ledger.put_table(work, "q", "quarantine", from_rows("quarantine", [small_world.refusal()] * 2)),
    )
    problems = catalog.problems(world.ledger)
    assert "view quarantine: 1 rows, the current Parquet files have 3" in problems
    assert {problem.split(":")[0] for problem in problems} == {"view quarantine", "views", "artifacts"}


class WithNeighbour(Ledger):
    """A ledger on whose root another one writes as soon as its records were read for the first time."""

    wrote = False

    def everything(self) -> list[Artifact]:
        found = super().everything()
        if not self.wrote:
            self.wrote = True
            other = Ledger(Store(self.store.root))
            refused = from_rows("quarantine", [small_world.refusal()])
            table = other.put_table(Work("ops.normalise", "third"), "q", "quarantine", refused)
            other.point("data/quarantine", "third", table)
        return found


def test_a_write_while_the_catalogue_is_held_against_the_files_is_not_seen(root: str, world: SmallWorld):
    ledger = WithNeighbour(world.ledger.store)
    assert catalog.problems(ledger) == []
    assert ledger.wrote
    assert "view quarantine: 1 rows, the current Parquet files have 2" in catalog.problems(ledger)


def test_a_reader_with_the_old_file_open_keeps_working_and_new_ones_see_the_new(root: str, world: SmallWorld):
    old = connect(root)
    assert old.execute("SELECT count(*) FROM quarantine").fetchall() == [(1,)]
    world.ledger.forget("data/quarantine", "more")
    for table in ("images", "examples", "boxes"):
        world.ledger.forget(f"data/{table}", "more")
    build(world.ledger)
    assert old.execute("SELECT count(*) FROM quarantine").fetchall() == [(1,)]
    with connect(root) as new:
        assert new.execute("SELECT count(*) FROM quarantine").fetchall() == [(0,)]
    old.close()


def test_readers_and_builders_of_other_processes_do_not_wait(root: str, world: SmallWorld):
    script = (
        "import sys; from storage.catalog import build, connect; from storage.lineage import Ledger;"
        "from storage.objects import Store; build(Ledger(Store(sys.argv[1])));"
        "print(connect(sys.argv[1]).execute('SELECT count(*) FROM predictions').fetchall())"
    )
    with connect(root) as reader:
        done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, cwd=REPO)
        assert (done.returncode, done.stdout.strip()) == (0, "[(4,)]"), done.stderr
        assert reader.execute("SELECT count(*) FROM predictions").fetchall() == [(4,)]


def test_a_build_that_fails_leaves_the_old_catalogue(root: str, world: SmallWorld):
    world.ledger.store.delete(world.evidence["base"]["predictions"].uri)
    before = world.ledger.store.read_bytes("catalog.duckdb")
    with pytest.raises(CatalogError, match="cannot be built"):
        build(world.ledger)
    assert world.ledger.store.read_bytes("catalog.duckdb") == before
    assert [name for name in world.ledger.store.list() if "duckdb" in name] == ["catalog.duckdb"]


def test_readers_cannot_write_unless_they_ask(root: str):
    with connect(root) as reader, pytest.raises(Exception, match="read-only"):
        reader.execute("CREATE TABLE mine AS SELECT 1")
    with connect(root, read_only=False) as writer:
        writer.execute("CREATE VIEW mine AS SELECT 1 AS one")
    assert rows(root, "SELECT one FROM mine") == [{"one": 1}]


def test_a_half_moved_asset_shows_no_row_twice(world: SmallWorld):
    # Normalised again with another setting, which keeps one box: of two works, each has a handle.
    work = Work("ops.normalise", "scenes", {"again": True})
    again = {
        name: world.ledger.put_table(work, name, name, world.ledger.read_table(world.data["scenes"][name]))
        for name in ("images", "examples", "quarantine")
    }
    moved = world.ledger.put_table(work, "boxes", "boxes", from_rows("boxes", small_world.boxes()[:1]))
    world.ledger.point("data/quarantine", "scenes", again["quarantine"])
    # Whichever of the two the handle of the boxes names is shown, be it the newer or the older.
    for boxes, n in ((moved, 1), (world.data["scenes"]["boxes"], 3)):
        world.ledger.point("data/boxes", "scenes", boxes)
        build(world.ledger)
        root = world.ledger.store.root
        assert rows(root, "SELECT count(*) AS n FROM boxes") == [{"n": n}]
        assert rows(root, "SELECT count(*) AS n FROM examples") == [{"n": 3}]


def test_a_superseded_result_is_not_shown(world: SmallWorld):
    # The same work gave other steps this time, within the same second; the handle names its policy only.
    policy = world.policies["cold_start"]
    work = Work("training.cold_start", "cold_start")
    object.__setattr__(work, "key", policy.work_key)
    step = {"policy_id": "cold_start@again", "stage": "sft", "step": 1, "loss": 7.0}
    world.ledger.put_table(work, "training_steps", "training_steps", from_rows("training_steps", [step]))
    build(world.ledger)
    root = world.ledger.store.root
    assert rows(root, "SELECT loss FROM training_steps WHERE policy_id LIKE 'cold_start%'") == [{"loss": 7.0}]


def test_every_stored_query_answers_on_nothing_and_on_something(ledger: Ledger, tmp_path: Path):
    build(ledger)
    assert len(questions()) >= 10
    for name, question in questions().items():
        assert question.endswith("?") or "?" in question, f"{name}.sql: its first line is not its question"
        assert query(ledger.store.root, name).num_rows == 0, name
    SmallWorld(ledger, tmp_path / "scratch")
    build(ledger)
    for name in questions():
        query(ledger.store.root, name)


def test_accuracy_by_kind(root: str):
    # base: wrong on e2, right on e3; saliency_r1: right on both; all of kind colour.
    assert rows(root, "accuracy_by_kind") == [
        {"policy": "base", "question_kind": "colour", "accuracy": 0.5, "n": 2},
        {"policy": "saliency_r1", "question_kind": "colour", "accuracy": 1.0, "n": 2},
    ]


def test_prior_conflict_accuracy(root: str):
    # e2 is the conflict, e3 the control.
    assert rows(root, "prior_conflict_accuracy") == [
        {
            "policy": name,
            "accuracy_conflict": c,
            "accuracy_control": 1.0,
            "gap": 1.0 - c,
            "n_conflict": 1,
            "n_control": 1,
        }
        for name, c in (("saliency_r1", 1.0), ("base", 0.0))
    ]


def test_an_example_that_was_not_measured_is_neither_right_nor_wrong(root: str, world: SmallWorld):
    table = world.ledger.read_table(world.evidence["base"]["predictions"])
    kept = ("policy_id", "policy", "example_id", "image_sha256")
    said = table.to_pylist()
    said[0] = {name: said[0][name] for name in kept} | {"unscorable_reason": "undecodable_picture"}  # e2
    work = Work("by_hand", "base")
    made = world.ledger.put_table(work, "predictions", "predictions", from_rows("predictions", said))
    world.ledger.point("evidence/predictions", "base", made)
    world.ledger.forget("evidence/saliency_maps", "base")
    build(world.ledger)
    (by_kind, _) = rows(root, "accuracy_by_kind")
    assert by_kind == {"policy": "base", "question_kind": "colour", "accuracy": 1.0, "n": 1}
    conflict = rows(root, "prior_conflict_accuracy")[1]
    assert (conflict["policy"], conflict["accuracy_conflict"], conflict["n_conflict"]) == ("base", None, 0)
    assert (conflict["accuracy_control"], conflict["n_control"]) == (1.0, 1)
    unscored = {
        row["unscorable_reason"]: row["n"] for row in rows(root, "why_no_map") if row["policy"] == "base"
    }
    assert unscored == {"no_thought": 1}
    kept = rows(
        root, "SELECT n_scored, n_unscorable, n_not_measured FROM scores_by_policy WHERE policy = 'base'"
    )
    assert kept == [{"n_scored": 0, "n_unscorable": 1, "n_not_measured": 1}]


def test_lift_by_policy_stands_beside_its_chance_and_n(root: str):
    # Only e2 has a map; e3 counts as unscorable and not as zero.
    first, second = rows(root, "lift_by_policy")
    assert first == {
        "policy": "saliency_r1",
        "mass": 0.6,
        "chance": 0.2,
        "lift": 0.5,
        "pointing": 1.0,
        "pointing_chance": 0.25,
        "n_scored": 1,
        "n_unscorable": 1,
    }
    assert (second["policy"], second["lift"], second["pointing"]) == ("base", 0.0, 0.0)


def test_what_was_refused(root: str):
    assert rows(root, "what_was_refused") == [
        {
            "source": "more",
            "stage": "box",
            "reason": "swapped_corners",
            "n": 1,
            "first_file": "annotations.json",
            "first_row": 2,
            "first_detail": "x1=5 lies right of x2=3",
        }
    ]


def test_training_curve(root: str):
    curve = rows(root, "training_curve")
    assert [(row["policy_id"].split("@")[0], row["step"], row["loss"]) for row in curve] == [
        ("cold_start", 1, 1.0),
        ("cold_start", 2, 0.5),
        ("saliency_r1", 1, 1.0),
        ("saliency_r1", 2, 0.5),
    ]


def test_where_base_was_wrong_and_champion_right(root: str, world: SmallWorld):
    (row,) = rows(root, "where_base_was_wrong_and_champion_right")
    assert row["example_id"] == "e2" and row["champion"] == "saliency_r1" and row["file_name"] == "b.png"
    assert (row["base_answer"], row["champion_answer"], row["right_answer"]) == ("red", "blue", "blue")
    assert (row["base_map_id"], row["champion_map_id"]) == (world.map_id("base"), world.map_id("saliency_r1"))
    # A recorded decision is followed, also one that we would not have taken.
    made = world.ledger.put_bytes(
        Work("ops.champion"), "champion", "champion", b"{}", ".json", {"champion": "base"}
    )
    world.ledger.point("product/champion", "", made)
    build(world.ledger)
    assert rows(root, "where_base_was_wrong_and_champion_right") == []


def test_pictures_on_two_sides_finds_a_re_encoding(root: str, world: SmallWorld):
    assert rows(root, "pictures_on_two_sides") == []
    twin = {
        **small_world.image("a.png", "third"),
        "image_sha256": sha256_bytes(b"re-encoded"),
        "file_name": "c.png",
    }
    images = world.ledger.put_table(
        Work("ops.normalise", "third"), "images", "images", from_rows("images", [twin])
    )
    world.ledger.point("data/images", "third", images)
    place = {
        "example_id": "e4",
        "image_sha256": twin["image_sha256"],
        "split": "test",
        "split_rule": "content_hash",
    }
    splits = world.ledger.read_table(world.splits).to_pylist()
    moved = world.ledger.put_table(Work("s"), "s", "splits", from_rows("splits", [*splits, place]))
    world.ledger.point("data/splits", "", moved)
    build(world.ledger)
    assert [(r["splits"], r["files"]) for r in rows(root, "pictures_on_two_sides")] == [
        (["test", "train"], ["a.png", "c.png"])
    ]


def test_the_arrays_of_a_flow_come_back(root: str, world: SmallWorld):
    sql = "SELECT looked_at, thoughts_used, thought_tokens FROM token_flows WHERE policy = 'base'"
    assert rows(root, sql) == [
        {
            "looked_at": [0.5, -1.0, 0.25, 0.0, 2.0, 4.0],
            "thoughts_used": [1.5, -0.5],
            "thought_tokens": ["it", " is"],
        }
    ]


def test_what_was_made_from_what(root: str, world: SmallWorld):
    made = {(row["kind"], row["name"]): row for row in rows(root, "what_was_made_from_what")}
    assert made["images", "more"]["parents"] == [f"raw {world.raw['more'].sha256[:12]}"]
    assert made["policy", "base"]["parents"] == []
    assert len(made["saliency_maps", "base"]["parents"]) == 5


def test_values_go_in_as_parameters(root: str):
    hostile = "x'; DROP TABLE artifacts; --"
    assert rows(root, "SELECT * FROM examples WHERE answer = $answer", {"answer": hostile}) == []
    assert rows(root, "SELECT ? AS said", [hostile]) == [{"said": hostile}]
    assert rows(root, "SELECT count(*) > 0 AS there FROM artifacts") == [{"there": True}]


def test_an_unknown_query_and_a_broken_one_say_so(root: str):
    with pytest.raises(CatalogError, match="'accuracy_by_mood': not known; there are accuracy_by_kind"):
        query(root, "accuracy_by_mood")
    with pytest.raises(CatalogError, match="query 'SELECT nothing FROM nowhere'"):
        query(root, "SELECT nothing FROM nowhere")


def test_a_root_with_a_quote_and_a_star_in_its_name(tmp_path: Path):
    from storage.objects import Store

    ledger = Ledger(Store(str(tmp_path / "it's [a] *root*")))
    made = ledger.put_table(Work("v"), "boxes", "boxes", from_rows("boxes", small_world.boxes()))
    ledger.point("data/boxes", "", made)
    ledger.put_table(Work("w"), "boxes", "boxes", empty("boxes"))
    build(ledger)
    assert rows(ledger.store.root, "SELECT count(*) AS n FROM boxes") == [{"n": 3}]
