"""Processors that load without torchvision.

Some stock processors ask for a video processor, which needs torchvision (and num2words). Ours take pictures only, and
all take them by the PIL image processors, whether torchvision is there or not: the same pixels everywhere.
"""

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    Gemma3Processor,
    Idefics3Processor,
    LlavaProcessor,
    ProcessorMixin,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil


class QwenPictureProcessor(ProcessorMixin):
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL inputs from text and pictures (no video)."""

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
        template = _template(name, tokenizer)
        return cls(Qwen2VLImageProcessorPil.from_pretrained(name), tokenizer, chat_template=template)


class InternVLPictureProcessor(ProcessorMixin):
    """InternVL inputs from text and pictures (no video): what `InternVLProcessor` makes of them."""

    images_kwargs: Any = {"crop_to_patches": True}  # noqa: RUF012 - ProcessorMixin reads it and never writes

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
    ):
        self.image_seq_length = image_seq_length
        self.image_token = tokenizer.context_image_token
        self.image_token_id = tokenizer.context_image_token_id
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def unused_input_names(self) -> list[str]:
        """What the image processor tells and the model does not take."""
        return ["num_patches"]

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **_: Any) -> str:
        """The tokens of all tiles of the picture, between the start and the end token."""
        n_tokens = self.image_seq_length * int(image_inputs["num_patches"][image_idx])
        start, end = self.tokenizer.start_image_token, self.tokenizer.end_image_token
        return f"{start}{self.image_token * n_tokens}{end}"

    @classmethod
    def load(cls, name: str) -> "InternVLPictureProcessor":
        """From a folder or a hub name, whichever processor class it was saved by."""
        tokenizer = AutoTokenizer.from_pretrained(name)
        settings = _settings(name)
        return cls(
            GotOcr2ImageProcessorPil.from_pretrained(name),
            tokenizer,
            image_seq_length=int(settings.get("image_seq_length", 256)),
            chat_template=_template(name, tokenizer),
        )


def llava_processor(name: str) -> Any:
    """The stock processor, with the PIL image processor of whatever kind was saved."""
    return _stock(LlavaProcessor, name)


def gemma3_processor(name: str) -> Any:
    """The stock processor; a completion ends with the end of the turn."""
    return _stock(Gemma3Processor, name, end="<end_of_turn>")


def idefics3_processor(name: str) -> Any:
    """The stock processor; a completion ends with the end of the utterance."""
    return _stock(Idefics3Processor, name, end="<end_of_utterance>")


def smolvlm_processor(name: str) -> Any:
    """Idefics3's processor with SmolVLM's pictures: SmolVLM's own makes the same prompts and adds only video."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    _end_with(tokenizer, "<end_of_utterance>")
    return Idefics3Processor(
        SmolVLMImageProcessorPil.from_pretrained(name),
        tokenizer,
        image_seq_len=int(_settings(name).get("image_seq_len", 169)),
        chat_template=_template(name, tokenizer),
    )


def _stock(kind: Any, name: str, end: str | None = None) -> Any:
    processor = kind.from_pretrained(name)
    processor.image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    processor.chat_template = _template(name, processor.tokenizer, processor.chat_template)
    if end:
        _end_with(processor.tokenizer, end)
    return processor


def _end_with(tokenizer: Any, token: str) -> None:
    """Let a completion end where the family's turns end, as its generation settings have it."""
    if token in tokenizer.get_vocab():
        tokenizer.eos_token = token


def _settings(name: str) -> dict[str, Any]:
    """The processor's own settings, without building it."""
    settings: dict[str, Any] = ProcessorMixin.get_processor_dict(name)[0]
    return settings


def _template(name: str, tokenizer: Any, found: str | None = None) -> str:
    """The chat template of a folder or hub name; the tokenizer pads on the left from here on."""
    template = found or tokenizer.chat_template
    file = Path(name) / "chat_template.jinja"
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    if not template:
        raise ValueError(f"{name}: no chat template in the tokenizer or in chat_template.jinja; add one")
    tokenizer.padding_side = "left"
    return str(template)
