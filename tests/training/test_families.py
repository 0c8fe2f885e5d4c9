"""Families: how their image tokens lie on the picture, by hand and by the real processors; what is refused."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
)

from tests.parity.family_models import BUILDERS, family_policy
from training.conversation import messages
from training.families import FAMILIES
from training.overlap import WHOLE
from training.policy import Policy, PolicyError, load_policy, save_policy
from training.saliency import explain, explain_batch, record_maps
from training.teacher_forcing import locate, teacher_forced

DESCRIBED = [*BUILDERS, "qwen2_5_vl"]


def ask(policy, pictures):
    """Inputs for one question about each picture, left-padded."""
    text = policy.processor.apply_chat_template(
        messages("what is it"), add_generation_prompt=True, tokenize=False
    )
    texts, nested = [text] * len(pictures), [[p] for p in pictures]
    return dict(policy.processor(images=nested, text=texts, padding=True, return_tensors="pt"))


def said(policy, size_wh=(60, 40)):
    """A batch of one, with a completion."""
    picture = Image.new("RGB", size_wh, (200, 30, 90))
    return teacher_forced(policy, [(picture, "what is it", "<think>red</think>ball")], "")


# ---- Each family's inputs, through its processor and its own vision tower.

# Whole pictures of 96 x 64 (or as noted) and their grids. Qwen2.5-VL: 28 px a token, 96 x 64 is enlarged.
GRIDS = {
    "qwen2_vl": ((40, 64), (8, 5)),  # 8 px a token, within 12 to 40 tokens
    "qwen3_vl": ((64, 40), (5, 8)),
    "llava_clip": ((40, 40), (5, 5)),  # 20 px, patches of 4; square, so that nothing is cropped
    "llava_siglip": ((40, 60), (5, 5)),
    "idefics3": ((90, 60), (4, 6)),  # 48 x 32: 2 x 3 tiles of 2 x 2
    "smolvlm": ((60, 90), (6, 4)),
    "gemma3": ((50, 70), (3, 3)),
    "internvl": ((90, 60), (4, 6)),  # 1.5: 3 x 2 tiles of 2 x 2
    "qwen2_5_vl": ((224, 168), (6, 8)),
}


def quadrant_picture(size_wh, corner):
    """Dark, with one bright quadrant: corner (row, column) of 2 x 2."""
    width, height = size_wh
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    rows = slice(0, height // 2) if corner[0] == 0 else slice(height // 2, None)
    columns = slice(0, width // 2) if corner[1] == 0 else slice(width // 2, None)
    pixels[rows, columns] = 255
    return Image.fromarray(pixels)


def blind_to_neighbours(policy):
    """Let the vision tower see each patch by itself: its attention writes nothing, places add nothing."""
    for name, parameter in policy.model.named_parameters():
        tower = "vision" in name or "visual" in name
        writes = any(part in name for part in ("out_proj", "attn.proj", "projection_layer"))
        places = any(part in name for part in ("position_embedding", "pos_embed"))
        if tower and (writes or places):
            parameter.data.zero_()


def image_features(policy, inputs):
    """What is put in the place of the image tokens [n, hidden], in order."""
    keys = ("pixel_values", "image_grid_thw", "pixel_attention_mask")
    given = {k: v for k, v in inputs.items() if k in keys}
    found = policy.model.model.get_image_features(**given, return_dict=True).pooler_output
    parts = found if isinstance(found, (list, tuple)) else [found]
    return torch.cat([part.flatten(0, -2) for part in parts])


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", DESCRIBED)
@torch.no_grad()
def test_the_bright_quadrant_of_the_picture_is_that_quadrant_of_the_grid(name, corner):
    """Each token's way from what a dark picture gives to what a bright one gives, spread on the grid."""
    size_wh, grid_hw = GRIDS[name]
    policy = family_policy(name, dtype=torch.float32)
    blind_to_neighbours(policy)
    seen = []
    for picture in (
        quadrant_picture(size_wh, corner),
        Image.new("RGB", size_wh),
        Image.new("RGB", size_wh, "white"),
    ):
        inputs = ask(policy, [picture])
        layout = policy.layout(inputs, 0, size_wh)
        assert layout.grid_hw == grid_hw
        assert layout.n_tokens == int(
            (inputs["input_ids"] == policy.family.image_token_id(policy.model)).sum()
        )
        seen.append(image_features(policy, inputs))
    half, dark, bright = seen
    share = ((half - dark).norm(dim=1) / (bright - dark).norm(dim=1)).clamp(max=1)
    grid = layout.spread(share) / layout.spread(torch.ones_like(share))
    rows, columns = grid_hw
    # A cell is in the quadrant, on its edge or outside; cells on the edge (odd grids) and their neighbours (pooled
    # over more than a cell, resized with a soft filter) are not looked at.
    row_at = (torch.arange(rows) + 0.5) / rows
    column_at = (torch.arange(columns) + 0.5) / columns
    inside_row = (row_at < 0.5) if corner[0] == 0 else (row_at > 0.5)
    inside_column = (column_at < 0.5) if corner[1] == 0 else (column_at > 0.5)
    inside = inside_row[:, None] & inside_column[None, :]
    sure = ((row_at - 0.5).abs() > 0.2)[:, None] & ((column_at - 0.5).abs() > 0.2)[None, :]
    assert (inside & sure).any() and (~inside & sure).any()
    assert grid[inside & sure].min() > 0.7
    assert grid[~inside & sure].max() < 0.3


# ---- What cannot be explained.


@pytest.mark.parametrize("name", DESCRIBED)
def test_two_pictures_in_a_sample_are_refused(name):
    policy = family_policy(name, dtype=torch.float32)
    pictures = [Image.new("RGB", GRIDS[name][0], (200, 30, 90))] * 2
    text = policy.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "it"}]}],
        tokenize=False,
    )
    inputs = dict(policy.processor(images=[pictures], text=[text], return_tensors="pt"))
    with pytest.raises(PolicyError, match="picture"):
        locate(policy, inputs, inputs["input_ids"].shape[1], False, [pictures[0].size])


@pytest.mark.parametrize("name", DESCRIBED)
def test_video_is_refused(name):
    policy = family_policy(name, dtype=torch.float32)
    inputs, start = said(policy)
    inputs["pixel_values_videos"] = inputs["pixel_values"]
    with pytest.raises(PolicyError, match="video"):
        locate(policy, inputs, start, False, [(60, 40)])


@pytest.mark.parametrize("name", DESCRIBED)
def test_cut_image_tokens_are_a_reason(name):
    """The last of them, of a whole tile more and of all but one are missing."""
    policy = family_policy(name, dtype=torch.float32)
    inputs, start = said(policy)
    token = policy.family.image_token_id(policy.model)
    places = (inputs["input_ids"][0] == token).nonzero().flatten().tolist()
    for kept in (len(places) - 1, max(1, len(places) - 5), 1):
        cut = dict(inputs)
        cut["input_ids"] = inputs["input_ids"].clone()
        cut["input_ids"][0, places[kept:]] = policy.tokenizer.pad_token_id
        assert locate(policy, cut, start, False, [(60, 40)])[0].reason == "image_tokens_cut"


def test_pan_and_scan_crops_are_refused():
    policy = family_policy("gemma3", dtype=torch.float32)
    picture = Image.new("RGB", (80, 30))
    text = "<start_of_image> what is it"
    inputs = dict(
        policy.processor(
            images=[[picture]], text=[text], return_tensors="pt",
            do_pan_and_scan=True, pan_and_scan_min_crop_size=8, pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
        )
    )  # fmt: skip
    assert len(inputs["pixel_values"]) == 4  # the picture, and three crops along its longer side
    with pytest.raises(PolicyError, match="do_pan_and_scan"):
        policy.layout(inputs, 0, picture.size)


@pytest.mark.parametrize("name", ["llava_clip", "internvl"])
def test_a_size_that_decides_the_layout_is_asked_for(name):
    policy = family_policy(name, dtype=torch.float32)
    inputs, start = said(policy, (60, 40))
    with pytest.raises(PolicyError, match="image_sizes_wh"), record_maps(policy, inputs, start):
        pass


def test_tiles_out_of_order_are_refused():
    """Two tags change places: the tiles no longer go row by row."""
    policy = family_policy("idefics3", dtype=torch.float32)
    inputs = ask(policy, [Image.new("RGB", (90, 60), (9, 200, 30))])
    ids, (first, second) = inputs["input_ids"], (
        policy.tokenizer.convert_tokens_to_ids(t) for t in ("<row_1_col_2>", "<row_2_col_1>")
    )  # fmt: skip
    one, other = ids == first, ids == second
    ids[one], ids[other] = second, first
    with pytest.raises(PolicyError, match="row by row"):
        policy.layout(inputs, 0, (90, 60))


def test_towers_and_text_models_that_are_not_described_are_refused():
    llava = FAMILIES["llava"]
    llava.check(LlavaConfig(text_config=LlamaConfig(), vision_config=CLIPVisionConfig()))
    with pytest.raises(PolicyError, match=r"gemma3_text.*known: llama"):
        llava.check(LlavaConfig(text_config=Gemma3TextConfig(), vision_config=CLIPVisionConfig()))


@pytest.mark.parametrize("cap", ["final_logit_softcapping", "attn_logit_softcapping"])
def test_softcaps_are_refused(cap):
    FAMILIES["gemma3"].check(Gemma3Config())
    with pytest.raises(PolicyError, match=rf"gemma3: .*{cap} = 30\.0; wanted none"):
        FAMILIES["gemma3"].check(Gemma3Config(text_config={cap: 30.0}))


def test_both_softcaps_are_named_and_refused_at_load(tmp_path):
    policy = family_policy("gemma3", dtype=torch.float32)
    policy.model.config.text_config.final_logit_softcapping = 30.0
    policy.model.config.text_config.attn_logit_softcapping = 50.0
    save_policy(policy, tmp_path / "p")
    with pytest.raises(PolicyError, match=r"final_logit_softcapping = 30\.0, attn_logit_softcapping = 50\.0"):
        load_policy(str(tmp_path / "p"), device="cpu")
    with pytest.raises(PolicyError, match="final_logit_softcapping"):  # put together by hand, never loaded
        _ = Policy(policy.model, policy.processor).family


def test_an_image_token_without_a_place_is_refused():
    """CLIP's class token among the image tokens."""
    policy = family_policy("llava_clip", dtype=torch.float32)
    inputs, start = said(policy)
    policy.model.config.vision_feature_select_strategy = "full"
    with pytest.raises(PolicyError, match="vision_feature_select_strategy 'full'"):
        locate(policy, inputs, start, False, [(60, 40)])


# ---- From the front door.


@pytest.mark.parametrize("name", DESCRIBED)
def test_explain_gives_a_map_on_the_grid(name):
    size_wh, grid_hw = GRIDS[name]
    policy = family_policy(name, dtype=torch.float32)
    pixels = np.random.default_rng(5).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    found = explain(
        policy, Image.fromarray(pixels), "what is it", "<think>the red</think>ball", method="raw_attention"
    )
    assert found.reason is None
    assert found.values.shape == found.grid_hw == grid_hw
    assert found.region == WHOLE


def test_the_map_of_a_cropped_picture_says_what_it_spans():
    policy = family_policy("llava_clip", dtype=torch.float32)
    found = explain(
        policy, Image.new("RGB", (60, 40), "red"), "what", "<think>red</think>ball", method="raw_attention"
    )
    assert found.region == pytest.approx((5 / 30, 0, 25 / 30, 1))


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_saved_policy_of_each_family_loads_and_gives_the_same_map(name, tmp_path):
    policy = family_policy(name, dtype=torch.float32)
    save_policy(policy, tmp_path / "p")
    loaded = load_policy(str(tmp_path / "p"), device="cpu")
    assert loaded.tokenizer.padding_side == "left"
    ends = {"idefics3": "<end_of_utterance>", "smolvlm": "<end_of_utterance>"}
    assert loaded.tokenizer.eos_token == ends.get(name, "<|im_end|>")
    size_wh, _ = GRIDS[name]
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    picture = Image.fromarray(
        np.random.default_rng(5).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    )
    texts = "<think>the red</think>ball"
    ids = [*policy.tokenizer(texts, add_special_tokens=False)["input_ids"], end]
    ids_loaded = [*ids[:-1], loaded.tokenizer.eos_token_id]
    ours = explain_batch(policy, [(picture, "what is it", ids)], method="raw_attention")[0]
    theirs = explain_batch(loaded, [(picture, "what is it", ids_loaded)], method="raw_attention")[0]
    assert ours.reason is None
    np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize(
    ("name", "stock", "why"),
    [
        ("qwen2_vl", "Qwen2VLProcessor", "torchvision"),
        ("qwen3_vl", "Qwen3VLProcessor", "torchvision"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor", "torchvision"),
        ("internvl", "InternVLProcessor", "torchvision"),
        ("smolvlm", "SmolVLMProcessor", "torchvision and num2words"),
    ],
)
def test_our_picture_processor_gives_the_tokens_of_the_stock_one(name, stock, why):
    """Wants the extra `vision`: the stock processors do not construct without it."""
    if any(importlib.util.find_spec(package) is None for package in why.split(" and ")):
        pytest.skip(f"{stock} needs {why}: install the extra [vision] to hold ours against it")
    import transformers

    policy = family_policy(name, dtype=torch.float32)
    ours = policy.processor
    videos = {
        "internvl": "InternVLVideoProcessor",
        "smolvlm": "SmolVLMVideoProcessor",
        "qwen3_vl": "Qwen3VLVideoProcessor",
    }.get(name, "Qwen2VLVideoProcessor")
    lengths = {key: getattr(ours, key) for key in ("image_seq_length", "image_seq_len") if hasattr(ours, key)}
    theirs = getattr(transformers, stock)(
        image_processor=ours.image_processor,
        tokenizer=ours.tokenizer,
        video_processor=getattr(transformers, videos)(),
        chat_template=ours.chat_template,
        **lengths,
    )
    pictures = [Image.new("RGB", size, (200, 30, 90)) for size in ((90, 60), (40, 110), (70, 70))]
    text = ours.apply_chat_template(messages("what is it"), add_generation_prompt=True, tokenize=False)
    given = {"images": [[p] for p in pictures], "text": [text] * 3, "padding": True, "return_tensors": "pt"}
    mine, stocks = ours(**given), theirs(**given)
    assert set(mine) == set(stocks)
    for key in stocks:
        assert torch.equal(mine[key], stocks[key]), key
