import dataclasses
import json

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from ops.scene_questions import questions
from ops.statistics import draw_order
from storage.archive import map_id, region_of, unpack
from storage.objects import sha256_bytes
from storage.rows import Row, rows_from_paths
from storage.schema import TABLES
from storage.tables import from_rows, read_table
from tests.training.small_run import SAID, run_from_file, save_speaking_policy, stage_config, write_tables
from training import evaluate
from training.answers import answer_ids, text_of
from training.config import EvaluateSettings
from training.conversation import messages
from training.dataset import picture
from training.faithfulness import curves_of, layouts, log_probabilities, masked_answers, said_of
from training.masking import filled, random_order
from training.overlap import WHOLE, score
from training.policy import load_policy, save_policy
from training.progress import read_json_lines
from training.saliency import SaliencyMap
from training.scene_batches import draw_scenes
from training.token_flow import explain_tokens

# small_run: 12 examples, the last two in val; even ones are red, odd ones blue, and the policy says "red"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    return folder, write_tables(folder / "tables"), save_speaking_policy(folder / "policy")


def config_of(desk, name, policy=None, **settings):
    folder, tables, speaking = desk
    chosen = {"split": "train", "batch_size": 4, "max_completion_length": 16} | settings
    return stage_config("evaluate", folder / name, tables, str(policy or speaking), **chosen)


def run(desk, name, policy=None, **settings):
    config = config_of(desk, name, policy, **settings)
    assert run_from_file(evaluate, config, desk[0]) == 0
    return config.work_path, *tables_of(config.work_path)


def tables_of(work_path):
    return [read_table(work_path / f"{name}.parquet", name=name) for name in ("predictions", "saliency_maps")]


@pytest.fixture(scope="module")
def finished(desk):
    return run(desk, "finished")


def test_every_row_is_answered_judged_and_in_order(finished):
    _, predictions, _ = finished
    rows = predictions.to_pylist()
    assert [row["example_id"] for row in rows] == [f"e{i:02}" for i in range(10)]
    assert {row["completion"] for row in rows} == {SAID}
    assert [row["correct"] for row in rows] == [i % 2 == 0 for i in range(10)]
    assert {(row["thought"], row["answer"], row["format_valid"]) for row in rows} == {
        ("The cup.", "red", True)
    }
    assert {(row["policy"], row["policy_id"]) for row in rows} == {("small", "small@0123456789ab")}
    assert not any(row["truncated"] for row in rows)


def test_one_map_per_scorable_answer_with_the_measures_of_its_boxes(desk, finished):
    _, predictions, maps = finished
    boxes = {row.example_id: row for row in rows_from_paths(desk[1], "train")}
    archived = {row["map_id"]: row for row in maps.to_pylist()}
    scorable = [row for row in predictions.to_pylist() if row["unscorable_reason"] is None]
    assert len(archived) == len(scorable) >= 3
    # the small policy says "red" of blue pictures against what it sees: nothing speaks for it, the map is empty
    assert {row["unscorable_reason"] for row in predictions.to_pylist()} == {None, "zero_map"}
    for row in scorable:
        kept = archived.pop(row["map_id"])
        example = boxes[row["example_id"]]
        assert (kept["image_w_px"], kept["image_h_px"]) == (example.width_px, example.height_px)
        assert region_of(kept) == WHOLE
        assert (kept["grid_w"] > kept["grid_h"]) == (example.width_px > example.height_px)
        values = unpack(kept["values"], kept["grid_h"], kept["grid_w"])
        again = score(values, example.boxes, (example.width_px, example.height_px))
        # the archive holds float16: 11 bits, relative error 2^-11 per cell
        assert row["mass"] == pytest.approx(again.mass, rel=2e-3)
        assert row["iou_chance"] == pytest.approx(again.iou_area_chance)  # a matter of boxes and grid alone
        assert row["ap_chance"] == pytest.approx(again.ap_chance, rel=2e-2)  # float16 ties cells
        assert row["chance"] == pytest.approx(1200 / (example.width_px * example.height_px))
        assert row["lift"] == pytest.approx((row["mass"] - row["chance"]) / (1 - row["chance"]))
        for column in ("mass", "chance", "lift", "pointing_hit", "auroc", "iou_area"):
            assert kept[column] == row[column] is not None
        sha = sha256_bytes(SAID.encode())
        assert row["map_id"] == map_id(
            "small@0123456789ab", row["example_id"], sha, "cot_rollout:predictor", "answer"
        )
        assert (kept["method"], kept["rows"], kept["span"]) == ("cot_rollout", "predictor", "answer")
    assert not archived


def test_the_flow_of_the_drawn_examples_is_kept_token_by_token(desk):
    work, predictions, _ = run(desk, "flows", token_flow_rows=3)
    rows = read_table(work / "token_flows.parquet", name="token_flows").to_pylist()
    drawn = sorted(predictions["example_id"].to_pylist(), key=lambda e: draw_order(5, e))[:3]
    assert [row["example_id"] for row in rows] == sorted(drawn)
    policy = load_policy(desk[2])
    examples = {row.example_id: row for row in rows_from_paths(desk[1], "train")}
    for row in rows:
        example = examples[row["example_id"]]
        flow = explain_tokens(policy, picture(example), example.question, SAID)
        assert row["unscorable_reason"] == flow.reason is None
        assert ("".join(row["thought_tokens"]), "".join(row["answer_tokens"]).strip()) == ("The cup.", "red")
        shape = (len(row["thought_tokens"]), row["grid_h"], row["grid_w"])
        assert shape == flow.thought_maps.shape
        assert [row[f"region_{edge}"] for edge in ("x1", "y1", "x2", "y2")] == list(flow.region)
        for column, wanted in (
            ("looked_at", flow.thought_maps),
            ("thoughts_used", flow.thoughts_used),
            ("reached_answer", flow.answer_maps),
        ):
            found = np.array(row[column], np.float32).reshape(wanted.shape)
            np.testing.assert_allclose(
                found, wanted, atol=1e-5 * np.abs(wanted).max()
            )  # float32, one pass each
    assert len({row["flow_id"] for row in rows}) == 3


def test_an_answer_without_a_flow_keeps_its_place_and_its_reason(desk):
    work, _, _ = run(desk, "cut_flows", max_completion_length=2, token_flow_rows=2)
    rows = read_table(work / "token_flows.parquet", name="token_flows").to_pylist()
    assert [(row["unscorable_reason"], row["looked_at"]) for row in rows] == [("truncated", None)] * 2


def test_the_result_sums_up_and_metrics_tell_every_batch(finished):
    work, predictions, _ = finished
    result = json.loads((work / "result.json").read_text())
    assert result["outputs"] == {n: f"{n}.parquet" for n in evaluate.TABLES}
    summary = result["summary"]
    assert (summary["n"], summary["accuracy"], summary["format_valid"]) == (10, 0.5, 1.0)
    assert summary["accuracy_ci_low"] < 0.5 < summary["accuracy_ci_high"]
    assert summary["lift"] == pytest.approx(pc.mean(predictions["lift"]).as_py())
    lines = read_json_lines(work / "metrics.jsonl")
    assert [(line["step"], line["total_steps"], line["n"]) for line in lines] == [
        (1, 3, 4),
        (2, 3, 8),
        (3, 3, 10),
    ]
    assert lines[-1]["accuracy"] == 0.5


def test_the_size_of_a_batch_does_not_change_what_is_found(desk, finished):
    _, predictions, maps = finished
    _, alone, maps_alone = run(desk, "one_by_one", batch_size=1)
    assert alone["completion"].equals(predictions["completion"])
    assert alone["unscorable_reason"].equals(predictions["unscorable_reason"])
    masses = [table["mass"].drop_null().to_numpy() for table in (alone, predictions)]
    assert np.allclose(*masses, atol=1e-4)  # float32, other padding
    assert maps_alone["map_id"].equals(maps["map_id"])


def test_a_killed_run_goes_on_after_the_last_whole_batch(desk, finished):
    work, predictions, maps = run(desk, "killed")
    kept = work / "parts" / "000000.predictions.parquet"
    first = kept.stat().st_mtime_ns
    cut = work / "parts" / "000001.saliency_maps.parquet"
    cut.write_bytes(cut.read_bytes()[:100])  # a torn file
    for name in ("000002.predictions.parquet", "000002.saliency_maps.parquet"):
        (work / "parts" / name).unlink()
    (work / "result.json").unlink()
    _, again, maps_again = run(desk, "killed")
    assert again.equals(predictions) and maps_again.equals(maps)
    assert kept.stat().st_mtime_ns == first
    assert [line["step"] for line in read_json_lines(work / "metrics.jsonl")] == [1, 2, 3]


def test_what_cannot_be_explained_has_a_reason_and_no_number(desk):
    work, predictions, maps = run(desk, "cut", max_completion_length=2)
    assert predictions.num_rows == 10
    assert maps.num_rows == 0
    for row in predictions.to_pylist():
        assert row["unscorable_reason"] == "truncated"
        assert row["truncated"] and row["n_tokens"] == 2
        assert row["map_id"] is None and row["mass"] is None and row["chance"] is None
    summary = json.loads((work / "result.json").read_text())["summary"]
    assert summary["unscorable_frac"] == 1.0
    assert json.loads(summary["unscorable_by_reason"]) == {"truncated": 10}
    assert "lift" not in summary


def test_a_policys_own_sampling_defaults_do_not_touch_greedy_answers(desk, finished):
    policy = load_policy(desk[2])
    policy.model.generation_config.update(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0)
    save_policy(policy, desk[0] / "wild")
    _, predictions, _ = run(desk, "wild_run", policy=desk[0] / "wild")
    assert predictions["completion"].equals(finished[1]["completion"])


def test_a_map_that_no_box_can_be_held_against_is_kept_with_its_reason(desk):
    config = config_of(desk, "boxes")
    row = rows_from_paths(desk[1], "train")[0]
    everything = dataclasses.replace(row, boxes=((0.0, 0.0, float(row.width_px), float(row.height_px)),))
    none = dataclasses.replace(row, example_id="none", boxes=())
    policy = load_policy(desk[2])
    predictions, maps, _ = evaluate.evaluate_batch(policy, [everything, none], config)
    assert predictions["unscorable_reason"].to_pylist() == ["box_covers_everything", "no_boxes"]
    assert predictions["map_id"].to_pylist() == maps["map_id"].to_pylist()
    assert predictions["mass"].null_count == 2


def test_an_image_token_in_the_answer_costs_that_row_only(desk):
    config = config_of(desk, "image_token", saliency_method="raw_attention")
    policy, rows = load_policy(desk[2]), rows_from_paths(desk[1], "train")[:2]
    ids = list(policy.tokenizer(SAID)["input_ids"])
    end = policy.tokenizer.eos_token_id
    said = [[policy.family.image_token_id(policy.model), *ids, end], [*ids, end]]
    found = evaluate.explained(policy, [picture(r) for r in rows], rows, said, "Look.", config.settings)
    assert found[0].reason == "image_token_emitted" and found[0].values is None
    assert found[1].reason is None and found[1].values is not None


def test_batches_hold_rows_of_like_size_and_each_row_once(desk):
    rows = rows_from_paths(desk[1], "train")
    batches = evaluate.in_batches(rows[::-1], 4)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    areas = [row.width_px * row.height_px for batch in batches for row in batch]
    assert areas == sorted(areas)
    assert {row.example_id for batch in batches for row in batch} == {row.example_id for row in rows}
    assert batches == evaluate.in_batches(rows, 4)


def test_an_empty_split_says_so(desk, capsys):
    config = config_of(desk, "empty", split="test")
    assert run_from_file(evaluate, config, desk[0]) == 1
    assert "split 'test' has no example" in capsys.readouterr().err
    assert not (config.work_path / "result.json").exists()


def test_running_means_leave_out_what_is_unscorable():
    row = {"policy_id": "p@0", "policy": "p", "image_sha256": "i", "completion": "", "completion_sha256": ""}
    row |= {"accuracy_score": 0.0, "format_valid": True, "truncated": False, "n_tokens": 1}
    scored = {"mass": 0.6, "chance": 0.2, "lift": 0.5}
    table = from_rows(
        "predictions",
        [
            row | {"example_id": "a", "correct": True} | scored,
            row | {"example_id": "b", "correct": False, "unscorable_reason": "no_thought"},
            row | {"example_id": "c", "correct": False, "unscorable_reason": "no_thought"},
        ],
    )
    told = evaluate.running([table])
    assert told == pytest.approx(
        {
            "n": 3,
            "accuracy": 1 / 3,
            "format_valid": 1,
            "mass": 0.6,
            "chance": 0.2,
            "lift": 0.5,
            "unscorable_frac": 2 / 3,
        }
    )


def test_masked_pictures_are_measured_for_the_sample_and_nobody_else(desk, finished):
    _, plain, _ = finished
    _, predictions, _ = run(desk, "masked", faithfulness_rows=4)
    rows = predictions.to_pylist()
    columns = ("deletion_auc", "insertion_auc", "random_deletion_auc", "random_insertion_auc")
    answers = ("correct_evidence_masked", "correct_elsewhere_masked")
    chosen = evaluate.sample_of(rows_from_paths(desk[1], "train")[::-1], 4)
    assert len(chosen) == 4
    for row, before in zip(rows, plain.to_pylist(), strict=True):
        has_map = row["map_id"] is not None
        sampled = row["example_id"] in chosen
        assert all((row[c] is not None) == (sampled and has_map) for c in columns)
        known = row["unmasked_reason"] is None and sampled
        assert all((row[c] is not None) == known for c in answers)
        # the policy says "red" whatever it sees
        assert not known or {row[c] for c in answers} == {row["correct"]}
        new = (*columns, *answers, "unmasked_reason")
        assert {k: v for k, v in row.items() if k not in new} == {
            k: v for k, v in before.items() if k not in new
        }
    assert plain["deletion_auc"].null_count == plain.num_rows


def scene_rows(scene, kind):
    """The questions of one kind about a scene, as rows that were stored would be."""
    (height, width), asked = scene.picture.shape[:2], [q for q in questions(scene) if q.kind == kind]
    return [
        Row(
            example_id=f"q{i}",
            image_sha256="s",
            image_bytes=b"",
            source="scenes",
            width_px=width,
            height_px=height,
            question=q.question,
            answer=q.answer,
            accepted_answers=(),
            answer_type=q.answer_type,
            question_kind=q.kind,
            slice=None,
            condition=None,
            reasoning=q.reasoning,
            boxes=tuple(scene.placed[index].box for index in q.evidence),
        )
        for i, q in enumerate(asked)
    ]


def test_filling_the_evidence_takes_the_answer_away_and_filling_elsewhere_does_not():
    """The embedded policy on a scene of 280 x 168 px with a cactus, a frog, a kite and a backpack, each once: it names
    the thing at each place, fails where that very thing is filled, and still names it where another place is."""
    policy = load_policy("embedded", device="cpu")
    (scene,) = draw_scenes(seed=7, n_scenes=1)
    rows, image = scene_rows(scene, "what"), Image.fromarray(scene.picture)
    assert [row.answer for row in rows] == ["cactus", "frog", "kite", "backpack"]
    settings = EvaluateSettings(batch_size=3, max_completion_length=8)
    said = answer_ids(policy, [image] * 4, rows, "", 8)
    assert [text_of(policy, ids) for ids in said] == [row.answer for row in rows]
    found = masked_answers(policy, rows, [image] * 4, "", settings)
    masks = {"correct_evidence_masked": False, "correct_elsewhere_masked": True, "unmasked_reason": None}
    assert found == [masks] * 4


def test_a_log_probability_is_that_of_a_pass_made_by_hand(desk):
    policy, row = load_policy(desk[2]), rows_from_paths(desk[1], "train")[0]
    ids = [*policy.tokenizer(SAID)["input_ids"], policy.tokenizer.eos_token_id]
    image = picture(row)
    (layout,) = layouts(policy, [image])
    said = said_of(
        policy, row, image, ids, SaliencyMap(None, None, layout.grid_hw, image.size, "tam", "state")
    )
    mask = np.zeros(layout.grid_hw, dtype=bool)
    mask[0, 1:] = True
    asked = [(said, ~mask), (said, mask)]
    (_, (answer, completion)) = log_probabilities(policy, asked, "Look.", 2)
    text = policy.processor.apply_chat_template(
        messages(row.question, "Look."), tokenize=False, add_generation_prompt=True
    )
    inputs = policy.processor(
        text=[text + SAID + policy.tokenizer.eos_token], images=[filled(image, mask)], return_tensors="pt"
    )
    assert inputs["input_ids"][0, -len(ids) :].tolist() == ids
    with torch.no_grad():
        logp = policy.model(**inputs).logits[0].log_softmax(dim=-1)
    places = range(len(ids) - 1)  # the end token is not part of the answer
    token = [float(logp[-len(ids) + i - 1, ids[i]]) for i in places]
    assert completion == pytest.approx(sum(token), abs=1e-4)
    assert answer == pytest.approx(sum(token[i] for i in said.spans.answer), abs=1e-4)
    curves = curves_of(policy, [said], [{"a": random_order(mask.size, "a")}], "Look.", 8)[0]["a"]
    # nothing filled, and all kept, is the picture as it is; all filled is nothing kept
    assert curves.deletion.answer[0] == curves.insertion.answer[-1] == 0.0
    assert curves.deletion.answer[-1] == curves.insertion.answer[0]


def test_the_archive_keeps_the_region_of_a_cropped_map(desk):
    row = rows_from_paths(desk[1], "train")[0]
    region = (1 / 6, 0.0, 5 / 6, 1.0)
    found = SaliencyMap(np.ones((2, 3)), None, (2, 3), (60, 40), "cot_rollout", "predictor", region=region)
    columns = [field.name for field in TABLES["saliency_maps"]]
    kept = evaluate._archived(found, found.values, row, dict.fromkeys(columns))
    assert region_of(kept) == region
    assert set(kept) == set(columns)
