"""Policies: loading, saving, the processor, the grid of image tokens."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.tiny_models import tiny_policy
from training.config import EMBEDDED
from training.conversation import messages
from training.policy import FAMILIES, Policy, PolicyError, family_of, load_policy, save_policy


def ask(policy: Policy, sizes: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Inputs for one picture of each size (width, height), left-padded."""
    texts = [
        policy.processor.apply_chat_template(
            messages("Where is the car?"), add_generation_prompt=True, tokenize=False
        )
    ] * len(sizes)
    pictures = [Image.new("RGB", size, (200, 30 * i, 90)) for i, size in enumerate(sizes)]
    return dict(policy.processor(images=pictures, text=texts, padding=True, return_tensors="pt"))


def test_image_tokens_lie_on_the_grid_of_the_resized_picture() -> None:
    """28 px a token. 252 x 168 is 9 x 6 tokens; 154 x 210 (5.5 x 7.5) is rounded to 168 x 224: 6 x 8."""
    policy = tiny_policy()
    inputs = ask(policy, [(252, 168), (154, 210)])
    assert policy.layout(inputs, 0).grid_hw == (6, 9)
    assert policy.layout(inputs, 1).grid_hw == (8, 6)
    image_token = policy.family.image_token_id(policy.model)
    assert (inputs["input_ids"] == image_token).sum(dim=1).tolist() == [54, 48]
    assert inputs["input_ids"][1, 0] == policy.tokenizer.pad_token_id  # the shorter one is padded on the left


def test_small_pictures_are_enlarged() -> None:
    """64 x 64 has fewer than 24 tokens of 28 px: it is enlarged to 5 x 5 = 25."""
    policy = tiny_policy()
    assert policy.layout(ask(policy, [(64, 64)]), 0).grid_hw == (5, 5)


def test_saved_and_loaded_again_gives_the_same_logits(tmp_path: Path) -> None:
    policy = tiny_policy(seed=3)
    save_policy(policy, tmp_path / "p")
    loaded = load_policy(str(tmp_path / "p"), device="cpu")
    inputs = ask(policy, [(112, 84)])
    with torch.no_grad():
        assert torch.equal(loaded.model(**inputs).logits, policy.model(**ask(loaded, [(112, 84)])).logits)
    assert loaded.tokenizer.padding_side == "left"
    assert not list((tmp_path / "p").glob("*.bin"))


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (tiny_policy(seed=s).model.lm_head.weight for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PolicyError, match="qwen2_5_vl") as error:
        family_of("bert")
    assert "'bert'" in str(error.value)
    assert set(FAMILIES) <= set(str(error.value).replace(",", " ").replace(".", " ").split())
    known = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "idefics3", "smolvlm", "gemma3", "internvl"}
    assert set(FAMILIES) == known
    for needed in ("model class", "processor", "final norm", "head", "image token", "lie on the picture"):
        assert needed in str(error.value)


def test_a_model_outside_the_families_fails_at_load(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}', encoding="utf-8")
    with pytest.raises(PolicyError, match=r"'paligemma' is not described; known: gemma3, idefics3"):
        load_policy(str(tmp_path))


def test_parts_that_are_not_described_fail_at_load(tmp_path: Path) -> None:
    config = '{"model_type": "llava", "vision_config": {"model_type": "pixtral"}}'
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(
        PolicyError, match=r"vision model of type 'pixtral'; known: clip_vision_model, siglip"
    ):
        load_policy(str(tmp_path))


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no config\.json"):
        load_policy(str(tmp_path))


def test_the_embedded_policy_is_small_and_loads_like_any_other() -> None:
    policy = load_policy("embedded", device="cpu")
    assert sum(p.numel() for p in policy.model.parameters()) <= 5_000_000
    assert sum(f.stat().st_size for f in EMBEDDED.rglob("*") if f.is_file()) <= 12 * 2**20
    assert {f.suffix for f in EMBEDDED.iterdir()} & {".bin", ".pt", ".pth", ".pkl"} == set()
    assert policy.model.dtype == torch.float32
