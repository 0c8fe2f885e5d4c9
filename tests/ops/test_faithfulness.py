import pytest

from ops.faithfulness import RANDOM, REFERENCE, area_under, measure, summarise
from ops.faithfulness_markdown import Found, markdown


def curve(*values):
    return {"answer": list(values), "completion": [2 * v for v in values]}


def record(index, predictor, state=None, correct=(True, True, True), sanity=None):
    """Curves given by their one value between the ends 0 and -6 (deletion); insertion is -6 to 0."""
    curves = {
        "cot_rollout:predictor": sides(predictor),
        RANDOM: sides(-3.0),
    }
    if state is not None:
        curves["cot_rollout:state"] = sides(state)
    whole, evidence, elsewhere = correct
    told = {"example_id": f"e{index}", "image_sha256": f"p{index}", "curves": curves, "correct": whole}
    told |= {"correct_evidence_masked": evidence, "correct_elsewhere_masked": elsewhere, "map_seconds": {}}
    return told | ({"sanity": {"cot_rollout": sanity}} if sanity else {})


def sides(deletion, insertion=None):
    insertion = deletion if insertion is None else insertion
    return {
        "deletion": curve(0.0, deletion, deletion, deletion, deletion, -6.0),
        "insertion": curve(-6.0, insertion, insertion, insertion, insertion, 0.0),
    }


def several(index, others, seconds=None):
    """A record with a reference of -4 on both sides, and others given as kind -> (deletion, insertion)."""
    told = record(index, -4.0)
    told["curves"] |= {kind: sides(*values) for kind, values in others.items()}
    return told | {"map_seconds": seconds or {}}


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_the_area_is_a_trapezoid_over_uneven_steps():
    # 0 -> -2 over 0.25: -0.25; -2 -> -4 over 0.75: -2.25
    assert area_under((0.0, -2.0, -4.0), (0.0, 0.25, 1.0)) == pytest.approx(-2.5)
    with pytest.raises(ValueError, match="fractions rising"):
        area_under((0.0, 1.0), (1.0, 0.0))
    with pytest.raises(ValueError, match="2 values"):
        area_under((0.0, 1.0), (0.0, 0.5, 1.0))


def test_means_chance_and_paired_differences_by_hand():
    # value v at 5 to 60 %: area = 0.05 v/2 + 0.55 v + 0.4 (v - 6)/2 = 0.775 v - 1.2; random, v = -3: -3.525
    records = [record(0, -5.0, -4.0), record(1, -4.0, -4.0), record(2, -3.0)]
    found = Found(summarise(records, "p@0", "p", draws=200))
    auc = found.get("deletion_auc", "cot_rollout", "predictor")
    assert auc["value"] == pytest.approx(0.775 * -4.0 - 1.2) and auc["n"] == 3
    assert auc["chance"] == pytest.approx(-3.525)
    against = found.get("deletion_auc", "cot_rollout", "predictor", RANDOM)
    assert against["value"] == pytest.approx(-0.775) and against["chance"] == 0.0
    # only e0 and e1 have both conventions: (-1 + 0) / 2 * 0.775
    rows = found.get("deletion_auc", "cot_rollout", "predictor", "state")
    assert rows["value"] == pytest.approx(-0.3875) and rows["n"] == 2
    assert found.get("deletion_15", "cot_rollout", "predictor")["value"] == -4.0
    assert found.get("insertion_30", "cot_rollout", "state")["n"] == 2
    # of thought and answer together everything is twice as much
    both = found.get("deletion_15_completion", "cot_rollout", "predictor")
    assert (both["value"], both["chance"]) == (-8.0, -6.0)
    completion = found.get("deletion_auc_completion", "cot_rollout", "predictor")
    assert completion["value"] == pytest.approx(2 * auc["value"])


def test_masked_answers_pair_only_where_both_masks_were_to_be_had():
    records = [
        record(0, -5.0, correct=(True, False, True)),
        record(1, -5.0, correct=(True, True, True)),
        record(2, -5.0, correct=(False, None, None)),
    ]
    found = Found(summarise(records, "p@0", "p", draws=200))
    reliance = found.get("evidence_reliance", None, None)
    assert (reliance["value"], reliance["n"], reliance["chance"]) == (0.5, 2, 0.0)
    assert found.get("correct", None, None)["n"] == 2
    assert found.get("correct_evidence_masked", None, None)["value"] == 0.5


def test_correlations_that_are_not_there_are_left_out():
    lost = [{"head": 0.8, "layer_0": None}, {"head": 0.4, "layer_0": 0.1}]
    records = [record(i, -5.0, sanity=each) for i, each in enumerate(lost)] + [record(2, -5.0)]
    found = Found(summarise(records, "p@0", "p", draws=200))
    head, bottom = (found.get(f"sanity_{d}", "cot_rollout", "predictor") for d in ("head", "layer_0"))
    assert (head["value"], head["n"]) == (pytest.approx(0.6), 2)
    assert (bottom["value"], bottom["n"]) == (pytest.approx(0.1), 1)


def test_every_kind_is_held_against_the_reference_on_the_same_examples_by_hand():
    # area = 0.775 v and a constant (0.05 v/2 + 0.55 v + 0.4 v/2, and the ends), twice that for thought and answer.
    # The reference is -4 everywhere. direct: deletion -6 and -5 against it in e0 and e1, none in e2:
    # 0.775 * (-2 - 1) / 2 = -1.1625; insertion -4 and -2: 0.775 * (0 + 2) / 2 = 0.775.
    records = [
        several(0, {"direct:state": (-6.0, -4.0)}),
        several(1, {"direct:state": (-5.0, -2.0)}),
        several(2, {}),
    ]
    table = summarise(records, "p@0", "p", draws=200)
    found = Found(table)
    wanted = {"deletion_auc": -1.1625, "insertion_auc": 0.775}
    wanted |= {"deletion_auc_completion": -2.325, "insertion_auc_completion": 1.55}
    for metric, value in wanted.items():
        row = found.get(metric, "direct", "state", REFERENCE)
        assert (row["value"], row["n"], row["chance"]) == (pytest.approx(value), 2, 0.0), metric
        # Two pictures: a bootstrap mean is that of e0, of e1 or of both, so the interval ends at the two.
        assert row["ci_low"] < row["value"] < row["ci_high"]
        assert found.get(metric, "cot_rollout", "predictor", REFERENCE) is None
    assert set(table["versus"].to_pylist()) == {None, RANDOM, "cot_rollout:predictor"}


def test_thought_and_answer_are_held_against_random_and_state_too():
    # random is -3, so 2 * 0.775 * (-5 + 3) = -3.1 and against the state's -4: 2 * 0.775 * -1 = -1.55
    found = Found(summarise([record(0, -5.0, -4.0), record(1, -5.0, -4.0)], "p@0", "p", draws=200))
    for versus, value in ((RANDOM, -3.1), ("state", -1.55)):
        for side in ("deletion", "insertion"):
            row = found.get(f"{side}_auc_completion", "cot_rollout", "predictor", versus)
            assert (row["value"], row["n"]) == (pytest.approx(value), 2)


def test_the_cost_is_the_median_ratio_to_the_reference():
    # 3, 1.5 and 1.2 times the reference; the first is a warm-up that a mean would show as 1.9. e3 was not timed.
    timed = [(2.0, 6.0), (2.0, 3.0), (1.0, 1.2)]
    records = [
        several(i, {"tam:state": (-4.0, -4.0)}, {REFERENCE: of, "tam:state": own})
        for i, (of, own) in enumerate(timed)
    ] + [several(3, {"tam:state": (-4.0, -4.0)})]
    found = Found(summarise(records, "p@0", "p", draws=200))
    cost = found.get("cost_ratio", "tam", "state")
    assert (cost["value"], cost["ci_low"], cost["n"], cost["chance"]) == (pytest.approx(1.5), None, 3, 1.0)
    assert found.get("cost_ratio", "cot_rollout", "predictor")["value"] == 1.0


def test_the_markdown_names_who_wins_both_who_wins_one_and_what_it_costs():
    # Lower deletion and higher insertion than the reference's -4 are better; random is -3 on both.
    others = {
        "cot_rollout_late:predictor": (-5.0, -2.0),
        "cot_rollout_direct:state": (-4.5, -3.5),
        "direct:state": (-6.0, -4.5),
        "tam:predictor": (-3.5, -3.5),
    }
    seconds = {REFERENCE: 2.0, "cot_rollout_late:predictor": 1.0, "direct:state": 3.0, "tam:predictor": 9.0}
    text = markdown(summarise([several(i, others, seconds) for i in range(4)], "p@0", "p", draws=200))
    best = line_of(text, "- By thought and answer")
    assert "than random too: **`cot_rollout_late`/`predictor`** at 0.50 times the cost (of 4);" in best
    assert "but not than random: `cot_rollout_direct`/`state`; deletion only: `direct`/`state`" in best
    assert "insertion only: `tam`/`predictor`. `cot_rollout`/`predictor` itself" in best
    assert "itself against random: wins deletion, loses insertion" in best
    assert line_of(text, "- By the answer alone")
    cells = {
        start: [c.strip() for c in line_of(text, start).split("|")[3:-1]]
        for start in ("| cot_rollout_late |", "| direct |", "| tam |", "| cot_rollout |")
    }
    assert cells["| cot_rollout_late |"][:2] == ["wins both", "wins both"]
    assert cells["| direct |"][:2] == ["wins deletion, loses insertion"] * 2
    assert cells["| tam |"][:2] == ["wins deletion, loses insertion", "loses deletion, wins insertion"]
    # 2 * 0.775 * (-5 + 4) = -1.55 and 2 * 0.775 * (-2 + 4) = 3.1
    assert cells["| cot_rollout_late |"][2:] == [
        "-1.550 [-1.550, -1.550]",
        "+3.100 [3.100, 3.100]",
        "4",
        "0.50",
    ]
    assert cells["| cot_rollout |"] == ["wins deletion, loses insertion", "-", "-", "-", "-", "1.00"]


def test_kinds_are_ordered_by_differences_on_the_same_examples_and_not_by_means_of_others():
    # tam has a map in e0 and e1 where the reference has -4: 1 worse there; its mean over e0 to e3 is -4.5 < -4.
    records = [several(i, {"tam:state": (-3.0, -3.0), "direct:state": (-5.0, -5.0)}) for i in range(2)]
    for i in (2, 3):
        records.append(record(i, -4.0) | {"curves": {"tam:state": sides(-6.0), RANDOM: sides(-3.0)}})
    found = Found(summarise(records, "p@0", "p", draws=200))
    assert found.kinds == [("direct", "state"), ("cot_rollout", "predictor"), ("tam", "state")]


def test_the_markdown_says_when_none_wins_both():
    mixed = [several(i, {"tam:state": (-4.0 + (-1) ** i, -4.0 + (-1) ** i)}) for i in range(8)]
    text = markdown(summarise(mixed, "p@0", "p", draws=200))
    assert "than random too: none (of 1); deletion only: none; insertion only: none" in line_of(
        text, "- By thought"
    )
    alone = markdown(summarise([record(0, -5.0), record(1, -4.0)], "p@0", "p", draws=200))
    assert "better by both" not in alone and "Which map is the most faithful" not in alone


def test_the_default_rows_are_what_was_measured():
    def default(predictor, state):
        records = []
        for i in range(8):
            both = {"cot_rollout:predictor": sides(*predictor(i)), "cot_rollout:state": sides(*state(i))}
            records.append(record(i, -4.0) | {"curves": {**both, RANDOM: sides(-3.0)}})
        return line_of(markdown(summarise(records, "p@0", "p", draws=200)), "The default rows")

    # 2 * 0.775 * (-5 + 4) = -1.55 in deletion, 2 * 0.775 * (-2 + 4) = 3.1 in insertion: both for predictor
    best = default(lambda i: (-5.0, -2.0), lambda i: (-4.0, -4.0))
    assert "`predictor`, because `cot_rollout` is the more faithful" in best
    assert "deletion -1.550 [-1.550, -1.550] (n 8), `predictor` is better; insertion +3.100" in best
    worst = default(lambda i: (-4.0, -4.0), lambda i: (-5.0, -4.0))
    assert "`state`, because `cot_rollout` is the more faithful" in worst
    assert "`state` is better; insertion" in worst
    split = default(lambda i: (-5.0, -5.0), lambda i: (-4.0, -4.0))
    assert "`predictor`, because deletion and insertion disagree" in split
    same = default(lambda i: (-4.0 + i % 2, -4.0), lambda i: (-4.0 + (i + 1) % 2, -4.0))
    assert "`predictor`, because neither is clearly better" in same


def test_the_markdown_says_which_rows_are_better_and_what_is_not_told_apart():
    records = [record(i, -5.0 - i / 10, -4.0, correct=(True, i % 2 == 0, True)) for i in range(8)]
    text = markdown(summarise(records, "p@0", "p", draws=200))
    # lower deletion is better, lower insertion is worse
    deletion, insertion = line_of(text, "- cot_rollout: deletion -").split("; ")
    assert "`predictor` is better" in deletion and "`state` is better" in insertion
    areas = text[text.index("| method | rows | n |") :]
    # thought and answer, random, twice; then the answer's: better by deletion and worse by insertion than random
    row = [c.strip() for c in line_of(areas, "| cot_rollout | predictor").split("|")[4:-1]]
    assert [cell[-1] for cell in row[::2]] == ["*", "!", "*", "!"]
    # random: 0.775 * -3 - 1.2 = -3.525 and, as the 6 falls on the short step, 0.775 * -3 - 0.15 = -2.475; twice that
    assert row[1::2] == ["-7.05", "-4.95", "-3.525", "-2.475"]
    same = markdown(summarise([record(i, -4.0 + i % 2, -4.0 + (i + 1) % 2) for i in range(8)], "p@0", "p"))
    assert line_of(same, "- cot_rollout: deletion").count("not told apart") == 2


def test_no_map_no_number():
    bare = record(0, -5.0)
    assert measure("tam:state", "deletion", "auc")(bare) is None
    assert measure("cot_rollout:predictor", "insertion", "5")(bare) == -5.0
