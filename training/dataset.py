"""Rows of the tables as the datasets that TRL's trainers read: conversations, pictures, and what the rewards
need.

Pictures stay as the bytes they were delivered in and are decoded when a batch asks for them. What a question
or a completion looks like is in `training/conversation.py`; which rows a split has, in `storage/rows.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from PIL import Image

from ops.pictures import PictureProblem, open_upright
from storage.rows import Row
from training.conversation import SYSTEM_PROMPT, completion_text, messages


class PictureError(ValueError):
    """A picture of the tables cannot be used; `reason` is one of storage.processed_columns.NOT_FITTING."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def picture(row: Row) -> Image.Image:
    """The row's picture, upright and RGB, width_px x height_px. Raises PictureError."""
    opened = open_upright(row.image_bytes)
    whose = f"picture {row.image_sha256} of example {row.example_id}"
    if isinstance(opened, PictureProblem):
        raise PictureError(opened.reason, f"{whose}: {opened.detail}")
    if opened.size_wh != (row.width_px, row.height_px):
        raise PictureError(
            "unreadable_picture",
            f"{whose} is {opened.size_wh}, the table says {(row.width_px, row.height_px)}: its boxes would be "
            "misplaced",
        )
    return Image.fromarray(opened.rgb)


def pictures_of(
    rows: Sequence[Row], unreadable: Mapping[str, str]
) -> tuple[dict[str, Image.Image], dict[str, PictureError]]:
    """By example_id: the pictures, and why the others cannot be had.

    `unreadable`: image_sha256 -> what is wrong, of rows that hold no bytes.
    """
    pictures, refused = {}, {}
    for row in rows:
        try:
            if row.image_sha256 in unreadable:
                problem = f"{unreadable[row.image_sha256]}; wanted for example {row.example_id}"
                raise PictureError("unreadable_picture", problem)
            pictures[row.example_id] = picture(row)
        except PictureError as error:
            refused[row.example_id] = error
    return pictures, refused


def sft_example(row: Row, image: Image.Image, system_prompt: str | None = None) -> dict[str, Any]:
    """What the cold start learns from a row: prompt, completion (both messages) and image."""
    said = completion_text(row.reasoning, row.answer)
    return {
        "prompt": messages(row.question, _prompt(system_prompt)),
        "completion": [{"role": "assistant", "content": [{"type": "text", "text": said}]}],
        "image": image,
    }


def sft_dataset(rows: Sequence[Row], system_prompt: str | None = None) -> Dataset:
    """Columns prompt, completion (both messages) and image; every row must have a reasoning."""
    return _lazy(rows, lambda row: sft_example(row, picture(row), system_prompt))


def grpo_dataset(rows: Sequence[Row], system_prompt: str | None = None) -> Dataset:
    """Columns prompt and image, and for the rewards: example_id, answer, accepted_answers, answer_type,
    boxes, image_wh.

    boxes: a list of (x1, y1, x2, y2) in pixels of the picture as stored, whose size is image_wh.
    """

    def build(row: Row) -> dict[str, Any]:
        return {
            "prompt": messages(row.question, _prompt(system_prompt)),
            "image": picture(row),
            "example_id": row.example_id,
            "answer": row.answer,
            "accepted_answers": list(row.accepted_answers),
            "answer_type": row.answer_type,
            "boxes": [list(box) for box in row.boxes],
            "image_wh": (row.width_px, row.height_px),
        }

    return _lazy(rows, build)


def _prompt(system_prompt: str | None) -> str:
    return SYSTEM_PROMPT if system_prompt is None else system_prompt


def _lazy(rows: Sequence[Row], build: Callable[[Row], dict[str, Any]]) -> Dataset:
    """Row numbers that become rows when they are read: Arrow cannot hold mixed message blocks."""

    def transform(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        built = [build(rows[index]) for index in batch["row"]]
        return {name: [each[name] for each in built] for name in built[0]}

    return Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(transform)
