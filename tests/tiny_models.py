"""Random policies small enough for a test: the very transformers class, a tokenizer of its own, built in a second."""

from typing import Any

from transformers import PreTrainedTokenizerFast

from ops.scene_questions import vocabulary_sentences
from training.architecture import build_policy, build_tokenizer
from training.conversation import SYSTEM_PROMPT
from training.policy import Policy

SENTENCES = (
    SYSTEM_PROMPT,
    "<think>\nAt the top left I see a red car.\n</think>\ncar",
    "Think, then answer. What is at the bottom right? Where is the car? How many are there? 1 2 3 4 5",
    "What colour is the car? yes no red orange yellow green blue purple pink brown middle centre above below",
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A fresh tokenizer of some hundred tokens; `<think>` is several of them."""
    return build_tokenizer([*SENTENCES * 3, *vocabulary_sentences()], vocab_size=600)


def tiny_policy(seed: int = 0, **changes: Any) -> Policy:
    """A random Qwen2.5-VL policy, float32; 4 query heads share 2 key heads; no two sizes alike."""
    shape: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
        "vision": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_heads": 2,
            "fullatt_block_indexes": [1],
            "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
        },
    }
    return build_policy(tiny_tokenizer(), seed, **(shape | changes))
