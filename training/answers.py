"""What a policy answers greedily, and whether the answer is right.

Sampling for training is the trainer's business; the scorers are in `training/rewards.py`.
"""

from collections.abc import Sequence

import torch
from PIL import Image

from storage.rows import Row
from training.conversation import messages, parse
from training.policy import Policy
from training.rewards import score_answer

# Scores are 0 or 1 except for free text, whose token F1 counts as right from one half on.
CORRECT_FROM = {"word": 1.0, "yes_no": 1.0, "number": 1.0, "choice": 1.0, "text": 0.5}


def answer_ids(
    policy: Policy, pictures: Sequence[Image.Image], rows: Sequence[Row], system_prompt: str, limit: int
) -> list[list[int]]:
    """Token ids that the policy says greedily, at most `limit` each, with the end token where it came."""
    asked = [
        policy.processor.apply_chat_template(
            messages(row.question, system_prompt), tokenize=False, add_generation_prompt=True
        )
        for row in rows
    ]
    inputs = policy.processor(
        text=asked, images=list(pictures), padding=True, padding_side="left", return_tensors="pt"
    ).to(policy.device)
    end = int(policy.tokenizer.eos_token_id)
    filler = policy.tokenizer.pad_token_id
    with torch.no_grad():
        out = policy.model.generate(
            **inputs,
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            temperature=None,  # a policy's own defaults for sampling must not shape greedy answers
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            eos_token_id=end,
            pad_token_id=end if filler is None else filler,
        )
    new = out[:, inputs["input_ids"].shape[1] :].tolist()
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in new]


def text_of(policy: Policy, ids: Sequence[int]) -> str:
    """A completion as text, without its end token."""
    return str(policy.tokenizer.decode(list(ids), skip_special_tokens=True))


def points_of(row: Row, completion: str) -> float:
    """What the scorer of the row's answer type gives the completion's answer, 0 to 1."""
    return score_answer(parse(completion).answer, [row.answer, *row.accepted_answers], row.answer_type)
