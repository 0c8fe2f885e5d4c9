"""What is counted of a row is what the trainers make of it; which row fits, by hand."""

import io
from dataclasses import replace

import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from storage.picture_rows import PictureRows
from storage.rows import Row
from tests.parity.family_models import BUILDERS, family_policy
from tests.tiny_models import tiny_policy
from tests.training.odd_rows import png
from tests.training.small_run import stage_config
from training import grpo, sft
from training.config import ProcessSettings
from training.dataset import grpo_dataset, picture, sft_dataset
from training.policy import Policy, load_policy, load_without_weights, save_policy
from training.progress import COMPLETIONS, JsonLines, Progress
from training.row_fit import RowFit

FAMILIES = ("qwen2_5_vl", *BUILDERS)
SIZES = ((60, 40), (40, 64), (33, 90), (60, 40))  # none square, one twice
QUESTIONS = ("what is it", "red ball", "what is red", "is it a red ball")
PROMPT = "Think, then answer."


def row(index: int = 0, **changes: object) -> Row:
    size_wh = changes.pop("size_wh", SIZES[index % len(SIZES)])
    given = {
        "example_id": f"e{index:02d}",
        "image_sha256": f"s{index}",
        "image_bytes": png(size_wh, index),
        "width_px": size_wh[0],
        "height_px": size_wh[1],
        "question": QUESTIONS[index % len(QUESTIONS)],
        "answer": "ball" if index % 2 else "red",
        "accepted_answers": (),
        "answer_type": "word",
        "question_kind": None,
        "slice": None,
        "condition": None,
        "reasoning": "what is red",
        "boxes": ((2.0, 3.0, 17.0, 30.0),),
        "source": "desk",
    }
    return Row(**(given | changes))


def fit_of(policy: Policy, **settings: object) -> RowFit:
    return RowFit(policy, ProcessSettings(system_prompts=(PROMPT,), **settings))


def looked_at(fit: RowFit, one: Row) -> dict:
    (found,) = fit.rows(PictureRows((one,), ("train",), None))
    return found


def counted(fit: RowFit, rows: list[Row]) -> list[tuple[int, int, int | None]]:
    found = [fit.counted([each], picture(each))[0] for each in rows]
    return [(each.n_prompt, each.n_image, each.n_reference) for each in found]


def pad_square(policy: Policy) -> Policy:
    """The LLaVA policy with LLaVA's own picture processor, which pads to a square."""
    policy.processor.image_processor = LlavaImageProcessorPil(
        do_pad=True,
        size={"shortest_edge": 20},
        crop_size={"height": 20, "width": 20},
        do_center_crop=True,
    )
    return policy


def policy_of(name: str) -> Policy:
    if name == "embedded":
        return load_policy("embedded")
    if name == "llava_padded":
        return pad_square(family_policy("llava_clip"))
    return family_policy(name)


def image_token(policy: Policy) -> int:
    return policy.family.image_token_id(policy.model)


@pytest.mark.parametrize("name", ["embedded", "llava_padded", *FAMILIES])
def test_the_counts_are_those_of_a_batch_of_the_cold_start(name: str, tmp_path) -> None:
    policy, rows = policy_of(name), [row(i) for i in range(4)]
    config = stage_config("sft", tmp_path, {t: ["-"] for t in ("images", "examples", "boxes", "splits")}, "-")
    config = replace(config, settings=replace(config.settings, system_prompt=PROMPT))
    trainer = sft.make_trainer(config, policy, rows, Progress(tmp_path, "sft", 0))
    dataset = sft_dataset(rows, PROMPT)
    batch = trainer.data_collator([dataset[index] for index in range(4)])
    seen, learned = batch["attention_mask"].bool(), batch["labels"] != -100
    assert len(set(seen.sum(dim=1).tolist())) > 1  # some are padded
    assert counted(fit_of(policy), rows) == [
        (
            int((seen[i] & ~learned[i]).sum()),
            int((seen[i] & (batch["input_ids"][i] == image_token(policy))).sum()),
            int(learned[i].sum()),
        )
        for i in range(4)
    ]


@pytest.mark.parametrize("name", ["embedded", "llava_padded", "idefics3", "internvl", "gemma3"])
def test_the_counts_are_those_of_a_round_of_grpo(name: str, tmp_path) -> None:
    policy, rows = policy_of(name), [row(i) for i in range(4)]
    policy.model.float()
    config = stage_config(
        "grpo", tmp_path, {t: ["-"] for t in ("images", "examples", "boxes", "splits")}, "-"
    )
    chosen = {"system_prompt": PROMPT, "recipe": "accuracy", "max_completion_length": 3, "num_generations": 2}
    config = replace(config, settings=replace(config.settings, **chosen))
    lines = JsonLines(tmp_path / COMPLETIONS, 0)
    trainer = grpo.make_trainer(config, policy, rows, Progress(tmp_path, "grpo", 0), lines)
    dataset = grpo_dataset(rows, PROMPT)
    made = trainer._generate_and_score_completions([dataset[i] for i in (0, 0, 1, 1, 2, 2, 3, 3)])
    ids, mask = made["prompt_ids"], made["prompt_mask"].bool()
    assert [each[:2] for each in counted(fit_of(policy), rows)] == [
        (int(mask[i].sum()), int((mask[i] & (ids[i] == image_token(policy))).sum())) for i in (0, 2, 4, 6)
    ]


@pytest.mark.parametrize("name", ["llava_padded", *FAMILIES])
def test_pixels_computed_once_a_size_change_no_column(name: str) -> None:
    policy, rows = policy_of(name), [row(i) for i in range(8)]
    cheap, dear = fit_of(policy), fit_of(policy)
    dear._collate.processor = policy.processor
    found = [looked_at(cheap, each) for each in rows]
    assert found == [looked_at(dear, each) for each in rows]
    assert all(each["n_image_tokens"] for each in found)
    assert cheap._collate.processor.image_processor is not policy.processor.image_processor
    assert len(cheap._collate.processor.image_processor._met) == 3  # of 8 pictures


def test_questions_about_one_picture_are_looked_at_together_and_give_the_same() -> None:
    fit = fit_of(family_policy("idefics3"))
    many = [
        replace(row(0), example_id=f"q{i:02d}", question=" ".join(QUESTIONS[: 1 + i % 4])) for i in range(70)
    ]
    together = fit.rows(PictureRows(tuple(many), ("train",) * 70, None))
    assert together == [looked_at(fit, each) for each in many]
    assert len({each["n_prompt_tokens"] for each in together}) == 4


@pytest.mark.parametrize("name", ["embedded", "llava_clip", "internvl"])
def test_no_weights_are_needed(name: str, tmp_path) -> None:
    policy = policy_of(name)
    save_policy(policy, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    bare = load_without_weights(str(tmp_path))
    loaded = replace(policy, processor=bare.processor)
    assert [looked_at(fit_of(bare), row(i)) for i in range(4)] == [
        looked_at(fit_of(loaded), row(i)) for i in range(4)
    ]


def test_the_columns_by_hand() -> None:
    """112 x 84 px is enlarged to at least 24 tokens of 28 px: by sqrt(18816 / 9408) to 158.4 x 118.8, and up to whole
    tokens, 168 x 140: 6 x 5 cells of 18.67 x 16.8 px. The box from (10, 8) to (50, 38) lies on columns 0 to 2 and rows
    0 to 2: 9 cells, 1200 / 313.6 of one in area. The other, 4 x 3 px, lies in the last cell.
    """
    one = row(size_wh=(112, 84), boxes=((10, 8, 50, 38), (106, 80, 110, 83)))
    found = looked_at(fit_of(tiny_policy()), one)
    assert (found["processed_w_px"], found["processed_h_px"]) == (168, 140)
    assert (found["grid_h"], found["grid_w"], found["n_image_tokens"]) == (5, 6, 30)
    assert found["n_evidence_cells"] == 10
    assert found["smallest_box_cells"] == pytest.approx(12 / 313.6)
    assert (found["fits"], found["split"], found["image_sha256"]) == (True, "train", "s0")


# Sizes as the model gets them, tiles put together: of a picture of 60 x 40.
PROCESSED = {
    "qwen2_vl": (64, 40),  # 8 px a token
    "llava_clip": (20, 20),
    "llava_siglip": (20, 20),
    "idefics3": (48, 32),  # 3 x 2 tiles of 16
    "gemma3": (24, 24),
    "internvl": (48, 32),
}


@pytest.mark.parametrize("name", PROCESSED)
def test_the_processed_size_of_every_kind_of_processor(name: str) -> None:
    found = looked_at(fit_of(family_policy(name)), row(0))
    assert (found["processed_w_px"], found["processed_h_px"]) == PROCESSED[name]


def test_the_longest_of_several_system_prompts_counts() -> None:
    short, long = "Think.", "Think, then answer. What is at the bottom right?"
    policy = tiny_policy()
    n = {
        p: looked_at(RowFit(policy, ProcessSettings(system_prompts=p)), row())["n_prompt_tokens"]
        for p in ((short,), (long,), (short, long), (long, short), (None,))
    }
    assert n[short,] < n[long,] == n[short, long] == n[long, short] != n[None,]


def test_without_a_reasoning_there_is_no_reference_and_without_boxes_no_evidence() -> None:
    found = looked_at(fit_of(tiny_policy()), row(reasoning=None, boxes=()))
    assert (found["n_reference_tokens"], found["n_evidence_cells"], found["smallest_box_cells"]) == (
        None,
        0,
        None,
    )
    assert found["fits"]


# ---- Why a row does not fit: each reason really holds.


def test_a_prompt_beyond_the_context_is_too_long_from_the_very_token_on() -> None:
    policy = tiny_policy(max_position_embeddings=160)
    n_prompt = looked_at(fit_of(policy, max_completion_length=20), row())["n_prompt_tokens"]
    room = 160 - n_prompt
    assert looked_at(fit_of(policy, max_completion_length=room), row())["fits"]
    found = looked_at(fit_of(policy, max_completion_length=room + 1), row())
    assert (found["fits"], found["reason"]) == (False, "prompt_too_long")
    assert found["detail"] == f"{n_prompt} tokens of prompt and {room + 1} of completion; the model takes 160"
    assert found["n_prompt_tokens"] == n_prompt  # what was counted is kept


def test_a_reference_may_be_as_long_as_a_completion() -> None:
    policy = tiny_policy()
    n = looked_at(fit_of(policy), row())["n_reference_tokens"]
    assert looked_at(fit_of(policy, max_completion_length=n), row())["fits"]
    found = looked_at(fit_of(policy, max_completion_length=n - 1), row())
    assert (found["reason"], found["detail"]) == (
        "reference_too_long",
        f"{n} tokens, max_completion_length allows {n - 1}",
    )


def test_image_tokens_are_limited_as_for_the_base() -> None:
    policy = tiny_policy()
    assert looked_at(fit_of(policy, max_image_tokens=30), row(size_wh=(112, 84)))["fits"]
    found = looked_at(fit_of(policy, max_image_tokens=29), row(size_wh=(112, 84)))
    assert (found["reason"], found["n_image_tokens"]) == ("too_many_image_tokens", 30)


def test_a_picture_with_fewer_pixels_than_cells_is_too_small() -> None:
    # LLaVA's 5 x 5 cells: 5 x 7 px are a pixel each, 4 x 7 px are not.
    fit = fit_of(family_policy("llava_siglip"))
    assert looked_at(fit, row(size_wh=(5, 7), boxes=((0, 0, 3, 3),)))["fits"]
    found = looked_at(fit, row(size_wh=(4, 7), boxes=((0, 0, 3, 3),)))
    assert (found["reason"], found["grid_h"]) == ("picture_too_small", 5)
    assert found["detail"].startswith("4 x 7 px for 5 x 5 cells")


def test_evidence_that_the_crop_cuts_off_is_not_seen() -> None:
    # 60 x 40, shortest edge to 20, centre crop of 20: x from 10 to 50 reaches the model.
    fit = fit_of(family_policy("llava_clip"))
    assert isinstance(fit.policy.processor.image_processor, CLIPImageProcessorPil)
    assert looked_at(fit, row(boxes=((2, 3, 11, 30),)))["fits"]
    found = looked_at(fit, row(boxes=((2, 3, 9, 30), (51, 0, 60, 40))))
    assert (found["reason"], found["n_evidence_cells"]) == ("evidence_not_seen", 0)
    assert looked_at(fit, row(boxes=((2, 3, 2, 30),)))["fits"]  # no area: there is no evidence to see


def test_a_picture_cut_short_is_undecodable_and_one_of_another_size_unreadable() -> None:
    fit = fit_of(tiny_policy())
    cut = looked_at(fit, replace(row(), image_bytes=row().image_bytes[:-200]))
    assert (cut["fits"], cut["reason"]) == (False, "undecodable_picture")
    other = looked_at(fit, replace(row(), width_px=61))
    assert other["reason"] == "unreadable_picture" and "the table says (61, 40)" in other["detail"]
    (lost,) = fit.rows(PictureRows((row(),), ("val",), "picture a.png: gone"))
    assert (lost["reason"], lost["detail"], lost["split"]) == (
        "unreadable_picture",
        "picture a.png: gone",
        "val",
    )


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    buffer = io.BytesIO()
    Image.new("1", (8000, 7000)).save(buffer, "PNG")
    bomb = replace(row(), image_bytes=buffer.getvalue(), width_px=8000, height_px=7000)
    assert looked_at(fit_of(tiny_policy()), bomb)["reason"] == "picture_too_large"


def test_what_the_processor_raises_is_told_of_the_row_alone() -> None:
    fit = fit_of(tiny_policy())
    thread = looked_at(fit, row(size_wh=(402, 2)))
    assert thread["reason"] == "processor_refused" and "aspect ratio" in thread["detail"]
    rows = (row(), replace(row(), example_id="e01", question="<|image_pad|> what"))
    fine, forged = fit.rows(PictureRows(rows, ("train", "train"), None))
    assert fine["fits"] and forged["reason"] == "processor_refused"
    assert fine == looked_at(fit, row())
