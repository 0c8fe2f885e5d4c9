"""How a question becomes a conversation, and how a completion is taken apart again.

Text only: no tokenizer, no tensor. Where the parts of a completion lie among its tokens belongs to `training/spans.py`.
"""

import re
from dataclasses import dataclass
from typing import Any

SYSTEM_PROMPT = (
    "Look at the picture before you answer. Reason between <think> and </think>, then give the answer alone."
)

_FORMAT = re.compile(r"\A<think>\s*(\S.*?)\s*</think>\s*(\S.*?)\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """A completion's parts. `format_valid` holds for exactly one thought followed by exactly one answer."""

    thought: str | None
    answer: str | None
    format_valid: bool


def messages(question: str, system_prompt: str = SYSTEM_PROMPT) -> list[dict[str, Any]]:
    """The conversation that asks `question` about one picture (its block comes before the words)."""
    asked = [{"type": "image"}, {"type": "text", "text": question}]
    system = (
        [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}] if system_prompt else []
    )
    return [*system, {"role": "user", "content": asked}]


def completion_text(reasoning: str | None, answer: str) -> str:
    """What a policy should say: thought and answer, or the answer alone where there is no reasoning."""
    return f"<think>\n{reasoning}\n</think>\n{answer}" if reasoning else answer


def parse(completion: str) -> Parsed:
    """Take a completion apart.

    Without any tag the whole text is the answer (a policy that was never taught to think is still graded on what it
    says); with broken tags the answer is what follows the last `</think>`, or None.
    """
    text = completion.strip()
    match = _FORMAT.match(text)
    if match and text.count("<think>") == 1 and text.count("</think>") == 1:
        return Parsed(match[1], match[2], True)
    if "<think>" not in text and "</think>" not in text:
        return Parsed(None, text or None, False)
    tail = text.rpartition("</think>")[2].strip() if "</think>" in text else ""
    return Parsed(None, tail or None, False)
