import pytest

from storage.catalog import query
from storage.lineage import Ledger, Work
from storage.objects import Store
from storage.tables import read_table
from tests.training.small_run import save_speaking_policy, write_tables
from training import faithfulness_study
from training.randomised import depths_of


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root with the tables of small_run (10 pictures in train), and a policy that mostly says one thing."""
    folder = tmp_path_factory.mktemp("root")
    ledger = Ledger(Store(str(folder / "var")))
    for name, paths in write_tables(folder / "tables").items():
        work = Work(producer="by_hand", name="desk", outputs=(name,), config={"table": name})
        artifact = ledger.put_table(work, name, name, read_table(paths[0]))
        ledger.point(f"data/{name}", "" if name == "splits" else "desk", artifact)
    save_speaking_policy(folder / "speaking")
    return folder


def command(root, *more):
    options = ["--root", str(root / "var"), "--split", "train", "--batch-size", "4", "--sanity-examples", "3"]
    chosen = ["--method", "raw_attention", "--examples", "5", "--policy", str(root / "speaking")]
    return faithfulness_study.main([*options, *chosen, *more])


def test_the_study_prints_keeps_and_does_not_look_twice(root, capsys):
    assert command(root) == 0
    told = capsys.readouterr().out
    assert "| raw_attention | predictor |" in told and "Rows `predictor` minus `state`" in told
    found = query(str(root / "var"), "SELECT * FROM faithfulness").to_pylist()
    assert {row["policy"] for row in found} == {"speaking"}
    plain = [row for row in found if row["versus"] is None]
    assert all(row["chance"] is not None for row in plain if row["method"])
    # batches of 4: the second makes 5 full, so 8 examples
    assert {row["n"] for row in plain if row["metric"].startswith(("deletion", "insertion"))} == {8}
    sanity = [row for row in plain if row["metric"].startswith("sanity_")]
    assert {row["metric"] for row in sanity} <= {
        f"sanity_{d}" for d in ("head", "layer_2", "layer_1", "layer_0")
    }
    head = next(row for row in sanity if row["metric"] == "sanity_head")
    assert head["value"] == pytest.approx(1.0) and head["n"] == 3  # attention does not read the head
    parts = sorted((root / "var" / "work").rglob("*.json"))
    assert [part.name for part in parts] == ["000000.json", "000004.json"]
    for part in parts:
        part.write_text("[]")
    assert command(root) == 0
    assert capsys.readouterr().out == told


def test_an_unknown_policy_is_refused_with_those_that_are_there(root, capsys):
    assert command(root, "--policy", "nobody") == 1
    said = capsys.readouterr().err
    assert "policy 'nobody'" in said and "there are embedded" in said


def test_without_tables_it_says_what_to_run(tmp_path, capsys):
    assert faithfulness_study.main(["--root", str(tmp_path), "--policy", "embedded"]) == 1
    assert "run `make run` first" in capsys.readouterr().err


def test_depths_are_named_as_they_are_lost():
    from tests.tiny_models import tiny_policy

    assert depths_of(tiny_policy()) == ["head", "layer_2", "layer_1", "layer_0"]


def test_kinds_are_held_against_the_reference_with_their_cost(root, capsys):
    assert (
        command(root, "--method", "cot_rollout", "--method", "grad_attention", "--sanity-examples", "0") == 0
    )
    told = capsys.readouterr().out
    assert "Which map is the most faithful?" in told and "The default rows: `" in told
    found = query(str(root / "var"), "SELECT * FROM faithfulness WHERE method IS NOT NULL").to_pylist()
    against = {(r["method"], r["rows"], r["metric"]) for r in found if r["versus"] == "cot_rollout:predictor"}
    others = [("cot_rollout", "state")]
    others += [
        (method, rows) for method in ("raw_attention", "grad_attention") for rows in ("predictor", "state")
    ]
    assert against == {
        (*kind, f"{side}_auc{span}")
        for kind in others
        for side in ("deletion", "insertion")
        for span in ("", "_completion")
    }
    costs = {(r["method"], r["rows"]): r["value"] for r in found if r["metric"] == "cost_ratio"}
    assert set(costs) == {*others, ("cot_rollout", "predictor")} and min(costs.values()) > 0
    assert costs["cot_rollout", "predictor"] == 1.0
