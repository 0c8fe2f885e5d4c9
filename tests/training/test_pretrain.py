"""Building the embedded policy: the batches that it learns from, and that it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ops.scene_pictures import Placed, Scene
from ops.scene_questions import questions
from tests.tiny_models import tiny_policy
from training import pretrain
from training.conversation import messages
from training.policy import Policy
from training.scene_batches import (
    IGNORED,
    choose_turns,
    collate,
    draw_scenes,
    make_batch,
    pack_turns,
    word_id,
    word_targets,
)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_turns_are_the_same_as_single_ones(attention: str) -> None:
    """Oracle: the processor's own chat template, one turn at a time. Same tokens, and the same hidden states."""
    policy, scenes = tiny_policy(), list(draw_scenes(3, 2))
    turns = [("Where is the car?", "top left"), ("What is at the bottom right?", "car")]
    pictures = [Image.fromarray(scene.picture) for scene in scenes]
    policy.model.set_attn_implementation(attention)
    seen = policy.processor.image_processor(pictures, return_tensors="pt")
    grids = [(int(h) // 2, int(w) // 2) for _, h, w in seen["image_grid_thw"]]
    rows = [pack_turns(policy, "Look.", grid, turns) for grid in grids]
    batch = collate(rows, policy.tokenizer.pad_token_id)
    del batch["labels"]
    with torch.no_grad():
        packed = policy.model.model(**batch, **seen, use_cache=False).last_hidden_state
        for row, picture, states in zip(rows, pictures, packed, strict=True):
            for number, (request, answer) in enumerate(turns, start=1):
                text = policy.processor.apply_chat_template(
                    messages(request, "Look."), add_generation_prompt=True, tokenize=False
                )
                alone = policy.processor(
                    images=[picture], text=[f"{text}{answer}<|im_end|>"], return_tensors="pt"
                )
                mine = [i for i, turn in enumerate(row.turn) if turn in (0, number)]
                assert [row.ids[i] for i in mine] == alone["input_ids"][0].tolist()
                wanted = policy.model.model(**alone, use_cache=False).last_hidden_state[0]
                torch.testing.assert_close(states[mine], wanted, rtol=1e-4, atol=1e-5)


def test_only_answers_and_their_ends_are_learned() -> None:
    policy = tiny_policy()
    row = pack_turns(policy, "", (2, 3), [("Where?", "top"), ("What?", "car")])
    learned = [i for i, label in zip(row.ids, row.labels, strict=True) if label != IGNORED]
    assert policy.tokenizer.decode(learned) == "top<|im_end|>car<|im_end|>"


def small_policy() -> Policy:
    """The embedded policy's tokenizer before a small model."""
    settings = pretrain.PretrainSettings(hidden_size=48, intermediate_size=64, num_hidden_layers=1)
    return pretrain.new_policy(settings)


def test_word_targets_are_shares_of_area() -> None:
    """An 8 x 4 px picture on a grid of 1 x 2 cells (4 x 4 px each); a red car over x 2..6, y 0..4.

    It covers half of each cell: a quarter goes to ` car`, a quarter to ` red`, half to ` nothing`. A box to y 2 only
    halves that.
    """
    policy = small_policy()
    words = [word_id(policy, w) for w in (" car", " red")]
    scene = Scene(
        np.zeros((4, 8, 3), np.uint8), (Placed("car", "red", "top left", (0, 0), (2, 0, 6, 2)),), (2, 3)
    )
    targets = word_targets(scene, (1, 2), policy)
    assert targets.shape == (2, len(policy.tokenizer))
    np.testing.assert_allclose(targets[:, words], 0.125)
    np.testing.assert_allclose(targets[:, word_id(policy, " nothing")], 0.75)


def test_a_batch_labels_only_answers_and_hides_padding() -> None:
    policy = small_policy()
    scenes = list(draw_scenes(3, 3))
    batch = make_batch(policy, scenes, np.random.default_rng(0), [""], harder_rate=0.0, caption_rate=0.5)
    labels = batch.inputs["labels"]
    padding = batch.inputs["input_ids"] == policy.tokenizer.pad_token_id
    assert (labels[padding] == IGNORED).all()
    assert ((labels != IGNORED).sum(dim=1) > 0).all()
    n_image_tokens = int((batch.inputs["input_ids"] == policy.processor.image_token_id).sum())
    assert batch.word_targets.shape[0] == n_image_tokens
    torch.testing.assert_close(batch.word_targets.sum(1), torch.ones(n_image_tokens))


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--held-out-scenes", "0"]
    steps = [f"--{phase}-steps=0" for phase in ("label", "joint", "question", "sentence")]
    pretrain.main([*arguments, *steps])
    with pytest.raises(ValueError, match="begun under other settings"):
        pretrain.main([*arguments, *steps[1:], "--label-steps=1"])


def test_a_sentence_ends_in_the_answer() -> None:
    scene = next(draw_scenes(3, 1))
    asked = {q.question: q for q in questions(scene)}
    turns = choose_turns(scene, np.random.default_rng(0), 0.0, 0.0, sentence_rate=1.0)
    assert turns
    for request, said in turns:
        one = asked[request.removeprefix("Look at the picture. ")]
        assert said.splitlines() == [one.reasoning, one.answer]


@pytest.mark.slow
def test_a_short_build_learns_and_writes_its_lineage(tmp_path: Path) -> None:
    """Sixty steps on labels alone must at least halve the first loss; a finished phase is not run again."""
    arguments = [
        "--out",
        str(tmp_path),
        "--label-steps",
        "60",
        "--joint-steps",
        "2",
        "--question-steps",
        "2",
        "--sentence-steps",
        "2",
        "--held-out-scenes",
        "2",
    ]
    pretrain.main(arguments)
    log = [json.loads(line) for line in (tmp_path / "pretrain.jsonl").read_text().splitlines()]
    labels = [row["words"] for row in log if row["phase"] == "labels"]
    assert labels[-1] < 0.5 * np.log(631)  # a uniform guess over the tokenizer's words
    lineage = json.loads((tmp_path / "policy" / "lineage.json").read_text())
    assert set(lineage["held_out"]) <= {"what", "where", "colour", "count", "relation"}
    pretrain.main(arguments)
    assert len((tmp_path / "pretrain.jsonl").read_text().splitlines()) == len(log)
