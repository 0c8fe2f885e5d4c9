"""Tiny random policies of every family: the very transformers classes, real picture processors, a few words.

No two axes of a model are alike, and every parameter is moved off its initial value.
"""

from functools import cache

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.parity.models import moved_off, random_policy, words
from training.architecture import picture_token_ids
from training.policy import Policy
from training.processors import InternVLPictureProcessor, QwenPictureProcessor

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@cache
def _tokenizer(picture, *more, **named):
    """The words of tests/parity/models.py, and the family's own tokens; `named` become attributes."""
    base = words()
    core = type(base.backend_tokenizer).from_str(base.backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
        padding_side="left",
        chat_template=TEMPLATE.replace("PICTURE", picture),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens(list(more), special_tokens=True)
    return tokenizer


def _text(tokenizer, **changes):
    """Three layers of hidden size 48: six heads of 8 that share two key heads."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 48,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **changes,
    }


_TOWER = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def _qwen_pictures():
    """A token is 8 px: 4 x 4 patches, two by two of them; 12 to 40 tokens a picture."""
    tokenizer = _tokenizer("<|vision_start|><|image_pad|><|vision_end|>")
    pictures = Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 8 * 8 * 12, "longest_edge": 8 * 8 * 40}
    )
    return tokenizer, QwenPictureProcessor(pictures, tokenizer, chat_template=tokenizer.chat_template)


def _qwen2_vl(tie=False, **text):
    tokenizer, processor = _qwen_pictures()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2, 1]}
    vision = {"depth": 2, "embed_dim": 32, "mlp_ratio": 3, "num_heads": 2, "hidden_size": 48, "patch_size": 4}
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, rope_parameters=rope, tie_word_embeddings=tie, **text),
        vision_config=vision,
        tie_word_embeddings=tie,
        **picture_token_ids(tokenizer),
    )
    return Qwen2VLForConditionalGeneration(config), processor


def _qwen3_vl(tie=False, **text):
    tokenizer, processor = _qwen_pictures()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_heads": 2,
        "out_hidden_size": 48,
        "patch_size": 4,
        "num_position_embeddings": 25,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(
        text_config=_text(
            tokenizer, attention_bias=True, rope_parameters=rope, tie_word_embeddings=tie, **text
        ),
        vision_config=vision,
        tie_word_embeddings=tie,
        **picture_token_ids(tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _llava_clip(tie=False, **text):
    tokenizer = _tokenizer("<image>", "<image>")
    config = LlavaConfig(
        text_config=LlamaConfig(**_text(tokenizer, attention_bias=True, tie_word_embeddings=tie, **text)),
        vision_config=CLIPVisionConfig(**_TOWER, image_size=20, patch_size=4, projection_dim=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=tie,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_siglip(tie=False, **text):
    tokenizer = _tokenizer("<image>", "<image>")
    config = LlavaConfig(
        text_config=Qwen2Config(**_text(tokenizer, tie_word_embeddings=tie, **text)),
        vision_config=SiglipVisionConfig(**_TOWER, image_size=20, patch_size=4),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        tie_word_embeddings=tie,
    )
    processor = LlavaProcessor(
        SiglipImageProcessorPil(size={"height": 20, "width": 20}),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def _with_tiles(config_class, model_class, pictures_class, tie=False, **text):
    """Tiles of 16 px: 4 x 4 patches, joined two by two to 2 x 2 tokens; the longest edge is three tiles."""
    tags = [f"<row_{i}_col_{j}>" for i in range(1, 4) for j in range(1, 4)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = _tokenizer("<image>", *marks, *tags)
    config = config_class(
        text_config=LlamaConfig(**_text(tokenizer, attention_bias=True, tie_word_embeddings=tie, **text)),
        vision_config={**_TOWER, "image_size": 16, "patch_size": 4},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tie,
    )
    pictures = pictures_class(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)
    return model_class(config), processor


def _idefics3(**changes):
    return _with_tiles(Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil, **changes)


def _smolvlm(**changes):
    return _with_tiles(SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessorPil, **changes)


def _gemma3(tie=True, **text):
    """Layers 0 and 2 see a window of 7 tokens, layer 1 sees everything; 6 x 6 patches are pooled to 3 x 3 tokens."""
    named = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    tokenizer = _tokenizer("<start_of_image>", **named)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3Config(
        text_config=_text(
            tokenizer,
            layer_types=kinds,
            sliding_window=7,
            query_pre_attn_scalar=11,
            tie_word_embeddings=tie,
            attention_bias=True,
            **text,
        ),
        vision_config={**_TOWER, "image_size": 24, "patch_size": 4},
        mm_tokens_per_image=9,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=tie,
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 24, "width": 24}),
        tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=9,
    )
    return Gemma3ForConditionalGeneration(config), processor


def _internvl(tie=True, **text):
    """Tiles of 16 px: 4 x 4 patches, joined two by two to 2 x 2 tokens; at most six tiles and a thumbnail."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer("<IMG_CONTEXT>", **named)
    config = InternVLConfig(
        text_config=Qwen2Config(**_text(tokenizer, tie_word_embeddings=tie, **text)),
        vision_config={**_TOWER, "image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=tie,
    )
    pictures = GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=6)
    processor = InternVLPictureProcessor(
        pictures, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template
    )
    return InternVLForConditionalGeneration(config), processor


BUILDERS = {
    "qwen2_vl": _qwen2_vl,
    "qwen3_vl": _qwen3_vl,
    "llava_clip": _llava_clip,
    "llava_siglip": _llava_siglip,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "gemma3": _gemma3,
    "internvl": _internvl,
}
"""All but the Qwen2.5-VL of tests/parity/models.py."""


def family_policy(name, seed=0, dtype=torch.float64, lora=(), **changes):
    """A policy of the family whose every parameter is moved off its initial value."""
    if name == "qwen2_5_vl":
        return random_policy(seed, dtype, lora, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = BUILDERS[name](**changes)
    targets = rf".*(language_model|text_model)\..*({'|'.join(lora)})" if lora else None
    return moved_off(Policy(model.float().eval(), processor), seed, dtype, targets)
