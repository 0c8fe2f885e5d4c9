"""Processors that load without torchvision.

The stock Qwen-VL processors ask for a video processor, which needs torchvision. Ours takes pictures only, by
the PIL image processor, and is used whether torchvision is there or not: the same pixels everywhere.
"""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil


class QwenPictureProcessor(ProcessorMixin):
    """Qwen2-VL and Qwen2.5-VL inputs from text and pictures (no video)."""

    return_mm_token_type_ids = True

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None):
        self.image_token = getattr(tokenizer, "image_token", None) or "<|image_pad|>"
        self.video_token = getattr(tokenizer, "video_token", None) or "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """As many image tokens as the picture has merged patches."""
        n_patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return str(self.image_token) * (n_patches // self.image_processor.merge_size**2)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all tensors that a call returns."""
        return [*super().model_input_names, "mm_token_type_ids"]

    @classmethod
    def load(cls, name: str) -> "QwenPictureProcessor":
        """From a folder or a hub name, whichever processor class it was saved by."""
        tokenizer = AutoTokenizer.from_pretrained(name)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(name)
        template = tokenizer.chat_template
        file = Path(name) / "chat_template.jinja"
        if file.is_file():
            template = file.read_text(encoding="utf-8")
        if not template:
            raise ValueError(f"{name}: no chat template in the tokenizer or in chat_template.jinja; add one")
        tokenizer.padding_side = "left"
        return cls(image_processor, tokenizer, chat_template=template)
