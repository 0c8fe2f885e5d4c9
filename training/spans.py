"""Where thought and answer lie among a completion's tokens.

Works on the ids that were sampled, never on re-tokenised text, so positions are those that the model saw.
What a completion says and whether it is right belong to `training/conversation.py` and `training/rewards.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

OPENING, CLOSING = "<think>", "</think>"


@dataclass(frozen=True)
class Spans:
    """Token positions counted from the completion's first token.

    thought: from the first to the last non-space inside the tags. answer: after the closing tag up to the end
    token (exclusive), spaces included as in the paper. end: position of the end token.
    """

    thought: range
    answer: range
    end: int


def spans(
    tokenizer: Any,
    completion_ids: Sequence[int],
    image_token_id: int | None = None,
    thought_needed: bool = True,
) -> Spans | str:
    """Find both spans, or say why there is none.

    The completion ends at the first `tokenizer.eos_token_id`; what follows (padding) is not looked at. A tag
    may be one token or several, and may share a token with its neighbours: a token that holds both a part of
    a tag and a non-space of the span belongs to the span. Reasons, in the order of the checks:
    `image_token_emitted`, `truncated` (no end token), `no_thought` (no tag at all, or nothing between them),
    `format_invalid` (anything but one `<think>` at the start and one `</think>` after it), `empty_answer`.
    With `thought_needed` false a completion without any tag is an answer as a whole, with an empty thought.
    """
    ids = [int(i) for i in completion_ids]
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    if image_token_id is not None and image_token_id in ids[:end]:
        return "image_token_emitted"
    if end == len(ids):
        return "truncated"
    text, pieces = characters(tokenizer, ids[:end])
    if OPENING not in text and CLOSING not in text:
        if thought_needed:
            return "no_thought"
        return Spans(range(0), range(end), end) if text.strip() else "empty_answer"
    opened, closed = text.find(OPENING) + len(OPENING), text.find(CLOSING)
    well_formed = text.lstrip().startswith(OPENING) and text.count(OPENING) == 1 and text.count(CLOSING) == 1
    if not well_formed:
        return "format_invalid"
    thought, answer = text[opened:closed], text[closed + len(CLOSING) :]
    if not thought.strip():
        return "no_thought"
    if not answer.strip():
        return "empty_answer"
    thought_start = opened + len(thought) - len(thought.lstrip())
    thought_end = opened + len(thought.rstrip())
    answer_start = closed + len(CLOSING)
    first_word = answer_start + len(answer) - len(answer.lstrip())
    return Spans(
        thought=_tokens(pieces, thought_start, thought_end),
        answer=range(
            next(i for i, (start, stop) in enumerate(pieces) if start >= answer_start or stop > first_word),
            end,
        ),
        end=end,
    )


def _tokens(pieces: list[tuple[int, int]], start: int, stop: int) -> range:
    """Tokens that hold a character in [start, stop)."""
    inside = [i for i, (first, last) in enumerate(pieces) if first < stop and last > start]
    return range(inside[0], inside[-1] + 1)


def characters(tokenizer: Any, ids: list[int]) -> tuple[str, list[tuple[int, int]]]:
    """The decoded text, and for each token the characters [start, stop) that it stands for.

    Offsets are the lengths of the decoded beginnings. Where the tokens decoded alone add up to the text, they
    give the same offsets at one decoding each; otherwise (a character spread over several tokens, a decoder
    that eats leading spaces) the beginnings are decoded. A token that only continues a character shares it.
    """

    def decode(some: Any) -> Any:
        return tokenizer.decode(some, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    distinct = list(dict.fromkeys(ids))
    of_token = dict(zip(distinct, decode([[i] for i in distinct]) if distinct else [], strict=True))
    text, alone = decode(ids), [of_token[i] for i in ids]
    if "".join(alone) == text:
        lengths = [0, *accumulate(len(piece) for piece in alone)]
    else:
        lengths = [len(decode(ids[:n])) for n in range(len(ids) + 1)]
    return text, [(min(start, stop - 1), stop) for start, stop in pairwise(lengths)]
