"""Model families: one small description each of what the engine must know.

How their image tokens lie on the picture is `training/image_tokens.py`, their processors are `training/processors.py`,
loading and saving `training/policy.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForConditionalGeneration,
    Idefics3ForConditionalGeneration,
    InternVLForConditionalGeneration,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
    SmolVLMForConditionalGeneration,
)

from training.image_tokens import (
    CLASS_TOKENS,
    PolicyError,
    Sample,
    base_model,
    gemma3_layout,
    idefics3_layout,
    internvl_layout,
    llava_layout,
    qwen_layout,
)
from training.layout import Layout
from training.processors import (
    InternVLPictureProcessor,
    QwenPictureProcessor,
    gemma3_processor,
    idefics3_processor,
    llava_processor,
    smolvlm_processor,
)


@dataclass(frozen=True)
class RmsNorm:
    """What a class of RMS norms does: x / sqrt(mean(x^2) + eps) * gain."""

    gain: Callable[[Any], Tensor]
    eps: Callable[[Any], float]


SOFTCAPS = ("final_logit_softcapping", "attn_logit_softcapping")
"""Fields of a text configuration that bend its logits or attention scores by a tanh."""


@dataclass(frozen=True)
class Family:
    """What the engine must know of one model family.

    `text_model(model)` has `.layers` (each with `.self_attn` holding `q_proj`, `k_proj`, `v_proj`, `o_proj`) and the
    final `.norm`; `norm` says how norms of its class compute. `head(model)` is the unembedding.
    `norm_after_attention(layer)` is the norm that a layer puts its attention's output through before it joins the
    residual stream, if it has one. `layout(sample)` says how a sample's image tokens lie on the picture; it raises
    PolicyError for what cannot be told, and returns None where so many tokens were cut that nothing is left to tell
    it by. `text_types` and `vision_types`, where a family takes several, are the `model_type`s of the parts that are
    known to fit this description.
    """

    name: str
    model_class: type[PreTrainedModel]
    load_processor: Callable[[str], Any]
    text_model: Callable[[nn.Module], Any]
    layout: Callable[[Sample], Layout | None]
    norm: RmsNorm
    head: Callable[[nn.Module], Any] = lambda model: base_model(model).lm_head
    image_token_id: Callable[[nn.Module], int] = lambda model: int(base_model(model).config.image_token_id)
    norm_after_attention: Callable[[Any], Any] = lambda layer: None
    text_types: tuple[str, ...] | None = None
    vision_types: tuple[str, ...] | None = None

    def check(self, config: Any) -> None:
        """Raise PolicyError when the configuration's parts are not those that are described.

        Logits and attention scores must be what the weights make of the states: a softcap bends both, and then neither
        the frozen head nor the recomputed attention rows are the model's own.
        """
        parts = (("text", self.text_types), ("vision", self.vision_types))
        for part, known in parts:
            found = getattr(config, f"{part}_config").model_type if known else None
            if known and found not in known:
                raise PolicyError(
                    f"{self.name} with a {part} model of type {found!r}; known: {', '.join(known)}. See Family in "
                    "training/families.py for what must hold of another"
                )
        if getattr(config.text_config, "use_bidirectional_attention", False):
            raise PolicyError(
                f"{self.name}: use_bidirectional_attention is set; a causal text model is wanted"
            )
        caps = {name: getattr(config.text_config, name, None) for name in SOFTCAPS}
        capped = [f"{name} = {value}" for name, value in caps.items() if value is not None]
        if capped:
            raise PolicyError(
                f"{self.name}: the text configuration sets {', '.join(capped)}; wanted none (null): maps take "
                "logits and attention scores to be linear in the states"
            )


def _precise(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


_PLAIN_NORM = RmsNorm(lambda norm: _precise(norm.weight), lambda norm: float(norm.variance_epsilon))
_GEMMA_NORM = RmsNorm(lambda norm: 1 + _precise(norm.weight), lambda norm: float(norm.eps))


def _language_model(model: Any) -> Any:
    return base_model(model).model.language_model


def _text_model(model: Any) -> Any:
    return base_model(model).model.text_model


_PRE_NORM_TEXT = ("llama", "mistral", "qwen2", "qwen3")


def _qwen(name: str, model_class: type[PreTrainedModel]) -> Family:
    return Family(name, model_class, QwenPictureProcessor.load, _language_model, qwen_layout, _PLAIN_NORM)


_DESCRIBED = (
    _qwen("qwen2_vl", Qwen2VLForConditionalGeneration),
    _qwen("qwen2_5_vl", Qwen2_5_VLForConditionalGeneration),
    _qwen("qwen3_vl", Qwen3VLForConditionalGeneration),
    Family(
        "llava",
        LlavaForConditionalGeneration,
        llava_processor,
        _language_model,
        llava_layout,
        _PLAIN_NORM,
        text_types=_PRE_NORM_TEXT,
        vision_types=tuple(CLASS_TOKENS),
    ),
    Family(
        "idefics3",
        Idefics3ForConditionalGeneration,
        idefics3_processor,
        _text_model,
        idefics3_layout,
        _PLAIN_NORM,
        text_types=_PRE_NORM_TEXT,
    ),
    Family(
        "smolvlm",
        SmolVLMForConditionalGeneration,
        smolvlm_processor,
        _text_model,
        idefics3_layout,
        _PLAIN_NORM,
        text_types=_PRE_NORM_TEXT,
    ),
    Family(
        "gemma3",
        Gemma3ForConditionalGeneration,
        gemma3_processor,
        _language_model,
        gemma3_layout,
        _GEMMA_NORM,
        norm_after_attention=lambda layer: layer.post_attention_layernorm,
        text_types=("gemma3_text",),
    ),
    Family(
        "internvl",
        InternVLForConditionalGeneration,
        InternVLPictureProcessor.load,
        _language_model,
        internvl_layout,
        _PLAIN_NORM,
        text_types=_PRE_NORM_TEXT,
        vision_types=("internvl_vision",),
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _DESCRIBED}
"""By `model_type` of the model's configuration."""


def family_of(model_type: str) -> Family:
    """The family for a `model_type`; else PolicyError with the known ones and what a description needs."""
    if model_type not in FAMILIES:
        raise PolicyError(
            f"model type {model_type!r} is not described; known: {', '.join(sorted(FAMILIES))}. A description "
            "needs the model class, the processor, the text model (layers, final norm), the head, the image token and "
            "how the image tokens lie on the picture: see Family in training/families.py"
        )
    return FAMILIES[model_type]
