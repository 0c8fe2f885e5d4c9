"""Policies: a vision-language model with its processor.

Loading and saving belong here; the descriptions of families are `training/families.py`, conversations, spans and
saliency elsewhere. Nothing here knows whether a policy is the small embedded one, a folder or a hub name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from training.config import local_folder_of
from training.families import FAMILIES, Family, family_of
from training.image_tokens import PolicyError, Sample, base_model
from training.layout import Layout

__all__ = ["FAMILIES", "Family", "Policy", "PolicyError", "family_of", "load_policy", "save_policy"]


@dataclass(frozen=True)
class Policy:
    """A model and its processor. The family is found from the model's configuration."""

    model: Any
    processor: Any

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def family(self) -> Family:
        """Raises PolicyError for a model outside the known families, or unlike what its family's description holds."""
        config = base_model(self.model).config
        family = family_of(config.model_type)
        family.check(config)
        return family

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    def layout(
        self, inputs: Mapping[str, Any], sample: int, image_wh: tuple[int, int] | None = None
    ) -> Layout | None:
        """How the image tokens of a batch's sample lie on its picture; None where they were cut beyond telling.

        image_wh: the upright picture's size, which families that crop or tile by it need. Raises PolicyError for
        what cannot be told: several pictures a sample, video, tiles without a grid, a size that is wanted.
        """
        return self.family.layout(
            Sample(
                inputs, sample, self.model, self.processor, self.family.image_token_id(self.model), image_wh
            )
        )


def load_policy(name: str, device: str | None = None, dtype: torch.dtype | None = None) -> Policy:
    """Load `embedded`, a folder or a hub name; safetensors only.

    `device` defaults to cuda where there is one, else cpu; `dtype` to bfloat16 on cuda and float32 on cpu.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source, _, family = _described(name)
    kind = dtype or (torch.bfloat16 if where.startswith("cuda") else torch.float32)
    model: Any = family.model_class.from_pretrained(source, dtype=kind, use_safetensors=True)
    return Policy(model.to(where).eval(), family.load_processor(source))


@dataclass(frozen=True)
class NoWeights:
    """What stands for a model where only its configuration is asked for."""

    config: Any


def load_without_weights(name: str) -> Policy:
    """The processor and the configuration of a policy, named as for `load_policy`; no weight is read.

    Enough for inputs and their layout; the model computes nothing.
    """
    source, config, family = _described(name)
    return Policy(NoWeights(config), family.load_processor(source))


def _described(name: str) -> tuple[str, Any, Family]:
    """Where a policy is loaded from, its configuration and its family. Raises PolicyError."""
    folder = local_folder_of(name)
    if folder and not (folder / "config.json").is_file():
        raise PolicyError(
            f"policy folder {name!r} has no config.json; wanted a folder saved by save_pretrained"
        )
    source = str(folder or name)
    config = AutoConfig.from_pretrained(source)
    family = family_of(config.model_type)
    family.check(config)
    return source, config, family


def save_policy(policy: Policy, folder: Path) -> None:
    """Save weights (safetensors, adapters merged), configuration and processor into `folder`."""
    model = policy.model.merge_and_unload() if hasattr(policy.model, "merge_and_unload") else policy.model
    model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
