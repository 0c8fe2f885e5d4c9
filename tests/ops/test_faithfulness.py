import pytest

from ops.faithfulness import RANDOM, Found, area_under, markdown, measure, summarise


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
    told |= {"correct_evidence_masked": evidence, "correct_elsewhere_masked": elsewhere}
    return told | ({"sanity": {"cot_rollout": sanity}} if sanity else {})


def sides(value):
    return {
        "deletion": curve(0.0, value, value, value, value, -6.0),
        "insertion": curve(-6.0, value, value, value, value, 0.0),
    }


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


def test_the_markdown_says_which_rows_are_better_and_what_is_not_told_apart():
    records = [record(i, -5.0 - i / 10, -4.0, correct=(True, i % 2 == 0, True)) for i in range(8)]
    text = markdown(summarise(records, "p@0", "p", draws=200))
    # lower deletion is better, lower insertion is worse
    assert "cot_rollout: deletion -" in text
    verdict = next(line for line in text.splitlines() if line.startswith("- cot_rollout"))
    deletion, insertion = verdict.split("; ")
    assert "`predictor` is better" in deletion and "`state` is better" in insertion
    row = next(line for line in text.splitlines() if line.startswith("| cot_rollout | predictor"))
    assert " * |" in row and " ! |" in row
    same = markdown(summarise([record(i, -4.0 + i % 2, -4.0 + (i + 1) % 2) for i in range(8)], "p@0", "p"))
    assert same.count("not told apart") == 2


def test_no_map_no_number():
    bare = record(0, -5.0)
    assert measure("tam:state", "deletion", "auc")(bare) is None
    assert measure("cot_rollout:predictor", "insertion", "5")(bare) == -5.0
