"""Policies: a vision-language model with its processor, and what the engine must know of its family.

Loading, saving and the description of families belong here; conversations, spans and saliency do not. Nothing here
knows whether a policy is the small embedded one, a folder or a hub name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
)

from training.config import local_folder_of
from training.processors import QwenPictureProcessor


class PolicyError(ValueError):
    """A policy cannot be loaded or used; the message says what was seen and what is wanted."""


@dataclass(frozen=True)
class Family:
    """What the engine must know of one model family.

    `text_model(model)` has `.layers` (each with `.self_attn` holding `q_proj`, `k_proj`, `v_proj`, `o_proj`) and the
    final `.norm`; `head(model)` is the unembedding; `grid_hw(inputs, sample)` gives rows and columns of the image
    tokens of a batch's sample, which lie in `input_ids` in row-major order.
    """

    name: str
    model_class: type[PreTrainedModel]
    load_processor: Callable[[str], Any]
    text_model: Callable[[nn.Module], Any]
    head: Callable[[nn.Module], Any]
    image_token_id: Callable[[nn.Module], int]
    grid_hw: Callable[[Any, nn.Module, int], tuple[int, int]]


def _base(model: Any) -> Any:
    """The plain model inside adapter wrappers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _qwen_grid_hw(inputs: Any, model: nn.Module, sample: int) -> tuple[int, int]:
    frames, height, width = (int(n) for n in inputs["image_grid_thw"][sample])
    if frames != 1:
        raise PolicyError(f"sample {sample} has {frames} frames; one still picture is wanted")
    merge = int(_base(model).config.vision_config.spatial_merge_size)
    return height // merge, width // merge


def _qwen_family(name: str, model_class: type[PreTrainedModel]) -> Family:
    return Family(
        name=name,
        model_class=model_class,
        load_processor=QwenPictureProcessor.load,
        text_model=lambda model: _base(model).model.language_model,
        head=lambda model: _base(model).lm_head,
        image_token_id=lambda model: int(_base(model).config.image_token_id),
        grid_hw=_qwen_grid_hw,
    )


FAMILIES: dict[str, Family] = {
    "qwen2_vl": _qwen_family("qwen2_vl", Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": _qwen_family("qwen2_5_vl", Qwen2_5_VLForConditionalGeneration),
}
"""By `model_type` of the model's configuration."""


@dataclass(frozen=True)
class Policy:
    """A model and its processor. The family is found from the model's configuration."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def family(self) -> Family:
        """Raises PolicyError for a model outside the known families."""
        return family_of(_base(self.model).config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device


def family_of(model_type: str) -> Family:
    """The family for a `model_type`; else PolicyError with the known ones and what a description needs."""
    if model_type not in FAMILIES:
        raise PolicyError(
            f"model type {model_type!r} is not described; known: {', '.join(sorted(FAMILIES))}. A description "
            "needs the text model (layers, final norm), the head, the image token and the grid: see Family here"
        )
    return FAMILIES[model_type]


def load_policy(name: str, device: str | None = None, dtype: torch.dtype | None = None) -> Policy:
    """Load `embedded`, a folder or a hub name; safetensors only.

    `device` defaults to cuda where there is one, else cpu; `dtype` to bfloat16 on cuda and float32 on cpu.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = local_folder_of(name)
    if folder and not (folder / "config.json").is_file():
        raise PolicyError(
            f"policy folder {name!r} has no config.json; wanted a folder saved by save_pretrained"
        )
    source = str(folder or name)
    family = family_of(AutoConfig.from_pretrained(source).model_type)
    kind = dtype or (torch.bfloat16 if where.startswith("cuda") else torch.float32)
    model: Any = family.model_class.from_pretrained(source, dtype=kind, use_safetensors=True)
    return Policy(model.to(where).eval(), family.load_processor(source))


def save_policy(policy: Policy, folder: Path) -> None:
    """Save weights (safetensors, adapters merged), configuration and processor into `folder`."""
    model = policy.model.merge_and_unload() if hasattr(policy.model, "merge_and_unload") else policy.model
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
