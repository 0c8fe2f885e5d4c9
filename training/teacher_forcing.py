"""Batches that hold prompts and the completions already said: making them, and finding one's way in them.

What is asked belongs to `training/conversation.py`, what a pass over a batch tells to `training/saliency.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.conversation import messages
from training.layout import Layout
from training.policy import Policy, PolicyError
from training.spans import spans


@dataclass(frozen=True)
class Located:
    """Where one sample's tokens are, as absolute positions in its row of the batch; or why it has no map.

    layout: how the image tokens, in the order of `image`, lie on the grid; None only with a reason.
    """

    ids: list[int]
    image: list[int]
    thought: range
    answer: range
    layout: Layout | None
    reason: str | None

    @property
    def grid_hw(self) -> tuple[int, int] | None:
        """Rows and columns of the map's grid."""
        return self.layout.grid_hw if self.layout else None

    def on_grid(self, values: Tensor) -> Tensor:
        """Values per image token [..., n_tokens] as a map [..., grid_h, grid_w]; the sum is kept, gradients pass."""
        if self.layout is None:
            raise ValueError(f"the sample has no grid: {self.reason}")
        return self.layout.spread(values)


def teacher_forced(
    policy: Policy, examples: Sequence[tuple[Any, str, str | Sequence[int]]], system_prompt: str
) -> tuple[dict[str, Any], int]:
    """Inputs of one pass over (picture, question, completion), and the position where the completions start.

    Prompts are padded on the left and completions on the right. A completion given as text gets the end token
    when it has none; one given as token ids is taken as it is.
    """
    tokenizer = policy.tokenizer
    prompts = [
        policy.processor.apply_chat_template(
            messages(question, system_prompt), tokenize=False, add_generation_prompt=True
        )
        for _, question, _ in examples
    ]
    pictures = [[picture] for picture, _, _ in examples]  # nested: the picture of each text
    inputs = dict(
        policy.processor(
            text=prompts, images=pictures, padding=True, padding_side="left", return_tensors="pt"
        )
    )
    completion_start = inputs["input_ids"].shape[1]
    said = [_completion_ids(tokenizer, completion) for _, _, completion in examples]
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = pad_sequence(
        [torch.tensor(s, dtype=torch.long) for s in said], batch_first=True, padding_value=filler
    )
    mask = pad_sequence([torch.ones(len(s), dtype=torch.long) for s in said], batch_first=True)
    for name, value in inputs.items():
        if name == "input_ids":
            inputs[name] = torch.cat([value, ids], dim=1)
        elif name == "attention_mask":
            inputs[name] = torch.cat([value, mask], dim=1)
        elif isinstance(value, Tensor) and value.shape == (len(examples), completion_start):
            inputs[name] = torch.cat([value, torch.zeros_like(ids, dtype=value.dtype)], dim=1)
    return {name: value.to(policy.device) for name, value in inputs.items()}, completion_start


def _completion_ids(tokenizer: Any, completion: str | Sequence[int]) -> list[int]:
    if not isinstance(completion, str):
        return [int(i) for i in completion]
    ids = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def locate(
    policy: Policy,
    inputs: Mapping[str, Any],
    completion_start: int,
    thought_needed: bool,
    image_sizes_wh: Sequence[tuple[int, int]] | None = None,
) -> list[Located]:
    """Find image, thought and answer tokens in every row of `input_ids` [batch, length].

    A completion is what the attention mask leaves of a row from `completion_start` on. image_sizes_wh: of the upright
    pictures, for families that crop or tile by it. Reasons: those of `training.spans.spans`, and `image_tokens_cut`
    where the prompt holds fewer image tokens than the picture has. Raises PolicyError where it holds more, and for
    what the family cannot explain.
    """
    rows, visible = inputs["input_ids"].tolist(), inputs["attention_mask"].tolist()
    if not 0 < completion_start <= inputs["input_ids"].shape[1]:
        raise ValueError(
            f"completions start at {completion_start} of {inputs['input_ids'].shape[1]}; wanted a prompt"
        )
    picture = policy.family.image_token_id(policy.model)
    prompts = {
        **inputs,
        "input_ids": inputs["input_ids"][:, :completion_start],
        "attention_mask": inputs["attention_mask"][:, :completion_start],
    }
    found = []
    for i, (ids, seen) in enumerate(zip(rows, visible, strict=True)):
        size = image_sizes_wh[i] if image_sizes_wh is not None else None
        layout = policy.layout(prompts, i, size)
        image = [p for p in range(completion_start) if ids[p] == picture and seen[p]]
        missing = layout is None or len(image) < layout.n_tokens
        if layout is not None and len(image) > layout.n_tokens:
            raise PolicyError(
                f"sample {i} has {len(image)} image tokens, but its picture of {layout.grid_hw[0]} x "
                f"{layout.grid_hw[1]} cells has {layout.n_tokens}; one picture a sample is wanted"
            )
        completion = [ids[p] for p in range(completion_start, len(ids)) if seen[p]]
        said = "image_tokens_cut" if missing else spans(policy.tokenizer, completion, picture, thought_needed)
        if isinstance(said, str):
            found.append(Located(ids, image, range(0), range(0), layout, said))
        else:
            thought, answer = (
                range(completion_start + span.start, completion_start + span.stop)
                for span in (said.thought, said.answer)
            )
            found.append(Located(ids, image, thought, answer, layout, None))
    return found
