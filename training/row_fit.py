"""What a policy's processor makes of a row, counted on the very inputs that training builds, and whether it fits.

No weights, no file: reading rows and writing the table is `training/process_rows.py`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from storage.picture_rows import PictureRows
from storage.rows import Row
from training.config import ProcessSettings
from training.dataset import PictureError, picture, sft_example
from training.image_tokens import processed_wh
from training.layout import Layout
from training.overlap import ROUNDING, coverage_in_region
from training.policy import Policy

_QUESTIONS_AT_ONCE = 32
_SIZES_KEPT = 256
_MESSAGE_LENGTH = 300


class SizesOnly:
    """An image processor that computes pixels once for each combination of picture sizes.

    Everything but the values of `pixel_values` depends on sizes alone in all families that are described, so another
    picture of a size that was met gets the same answer with ones for pixels, spread without memory.
    """

    def __init__(self, image_processor: Any) -> None:
        self._inner = image_processor
        self._met: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":  # asked while a copy is being built
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """As the image processor itself, but for the values of the pixels."""
        flat: Any = make_flat_list_of_images(images)
        sizes = [(each.size, each.mode) for each in flat]
        key = repr((sizes, sorted(kwargs.items(), key=lambda item: item[0])))
        if key not in self._met:
            made = self._inner(images, **kwargs)
            self._met[key] = {
                name: _hollow(value) if name == "pixel_values" else value for name, value in made.items()
            }
            if len(self._met) > _SIZES_KEPT:
                self._met.popitem(last=False)
            return made
        self._met.move_to_end(key)
        return BatchFeature(dict(self._met[key]))


def _hollow(value: Any) -> Any:
    return value.new_ones(()).expand(value.shape) if isinstance(value, torch.Tensor) else value


@dataclass(frozen=True)
class Counted:
    """One row's inputs in numbers. layout: how its image tokens lie on the picture; None where tokens are missing."""

    n_prompt: int
    n_image: int
    n_reference: int | None
    layout: Layout | None
    processed_wh: tuple[int, int] | None


class RowFit:
    """Looks at rows through the processor of one policy, for the training that the settings describe."""

    def __init__(self, policy: Policy, settings: ProcessSettings) -> None:
        self.policy, self.settings = policy, settings
        cheap = copy(policy.processor)
        cheap.image_processor = SizesOnly(policy.processor.image_processor)
        self._collate = DataCollatorForVisionLanguageModeling(cheap, completion_only_loss=True)
        text = policy.model.config.text_config
        self._context: int | None = getattr(text, "max_position_embeddings", None)

    def rows(self, seen: PictureRows) -> list[dict[str, Any]]:
        """The columns of processed_rows from `split` on, for each row of one picture."""
        made = []
        for first in range(0, len(seen.rows), _QUESTIONS_AT_ONCE):
            some = seen.rows[first : first + _QUESTIONS_AT_ONCE]
            made += self._looked_at(some, seen.problem)
        identity = ("example_id", "image_sha256")
        return [
            {name: getattr(row, name) for name in identity} | {"split": split} | columns
            for row, split, columns in zip(seen.rows, seen.splits, made, strict=True)
        ]

    def _looked_at(self, rows: Sequence[Row], problem: str | None) -> list[dict[str, Any]]:
        if problem is not None:
            return [_refused("unreadable_picture", problem)] * len(rows)
        try:
            image = picture(rows[0])
        except PictureError as error:
            return [_refused(error.reason, str(error))] * len(rows)
        try:
            counted: Sequence[Counted | str] = self.counted(rows, image)
        except Exception:  # one row must not hide what the others are
            counted = [self._alone(row, image) for row in rows]
        return [
            _refused("processor_refused", each) if isinstance(each, str) else self._measured(row, each)
            for row, each in zip(rows, counted, strict=True)
        ]

    def _alone(self, row: Row, image: Image.Image) -> Counted | str:
        try:
            return self.counted([row], image)[0]
        except Exception as error:  # whatever a processor raises for what a data set holds
            return f"{type(error).__name__}: {error}"[:_MESSAGE_LENGTH]

    def counted(self, rows: Sequence[Row], image: Image.Image) -> list[Counted]:
        """Rows that ask about one picture, with the system prompt that makes each prompt longest.

        Raises what the processor raises.
        """
        every = [self._under(prompt, rows, image) for prompt in self.settings.system_prompts]
        return [max(each, key=lambda counted: counted.n_prompt) for each in zip(*every, strict=True)]

    def _under(self, system_prompt: str | None, rows: Sequence[Row], image: Image.Image) -> list[Counted]:
        batch = self._collate([sft_example(row, image, system_prompt) for row in rows])
        visible, learned = batch["attention_mask"].bool(), batch["labels"] != -100
        prompt = visible & ~learned
        pictures = prompt & (batch["input_ids"] == self.policy.family.image_token_id(self.policy.model))
        layout = self.policy.layout({**batch, "attention_mask": prompt}, 0, image.size)
        size = processed_wh(batch, layout, self.policy.model.config) if layout else None
        n_prompt, n_image, n_learned = (mask.sum(dim=1).tolist() for mask in (prompt, pictures, learned))
        return [
            Counted(n_prompt[i], n_image[i], n_learned[i] if row.reasoning else None, layout, size)
            for i, row in enumerate(rows)
        ]

    def _measured(self, row: Row, counted: Counted) -> dict[str, Any]:
        layout = counted.layout
        if layout is None or counted.n_image != layout.n_tokens:
            wanted = "as many as its tiles have" if layout is None else layout.n_tokens
            return _refused("processor_refused", f"{counted.n_image} image tokens; wanted {wanted}")
        image_wh = (row.width_px, row.height_px)
        cells = [coverage_in_region([box], image_wh, layout.grid_hw, layout.region) for box in row.boxes]
        touched = np.sum(cells, axis=0) > ROUNDING if cells else np.zeros(layout.grid_hw, dtype=bool)
        columns = {
            "processed_w_px": counted.processed_wh[0] if counted.processed_wh else None,
            "processed_h_px": counted.processed_wh[1] if counted.processed_wh else None,
            "grid_h": layout.grid_hw[0],
            "grid_w": layout.grid_hw[1],
            "n_image_tokens": counted.n_image,
            "n_prompt_tokens": counted.n_prompt,
            "n_reference_tokens": counted.n_reference,
            "n_evidence_cells": int(touched.sum()),
            "smallest_box_cells": min(float(each.sum()) for each in cells) if cells else None,
        }
        verdict = self._verdict(row, counted, layout, int(touched.sum()))
        return columns | (_refused(*verdict) if verdict else {"fits": True})

    def _verdict(
        self, row: Row, counted: Counted, layout: Layout, n_evidence_cells: int
    ) -> tuple[str, str] | None:
        """The first reason, in the order of the closed list, why the row does not fit; None where it does."""
        settings, context = self.settings, self._context
        n_prompt, n_reference = counted.n_prompt, counted.n_reference or 0
        if counted.n_image > settings.max_image_tokens:
            return (
                "too_many_image_tokens",
                f"{counted.n_image} image tokens, max_image_tokens allows {settings.max_image_tokens}",
            )
        x1, y1, x2, y2 = layout.region
        seen_wh = ((x2 - x1) * row.width_px, (y2 - y1) * row.height_px)
        if seen_wh[0] < layout.grid_hw[1] or seen_wh[1] < layout.grid_hw[0]:
            return (
                "picture_too_small",
                f"{row.width_px} x {row.height_px} px for {layout.grid_hw[1]} x {layout.grid_hw[0]} cells; wanted a "
                "pixel for each cell at least",
            )
        room = max(settings.max_completion_length, n_reference)
        if context is not None and n_prompt + room > context:
            return (
                "prompt_too_long"
                if n_prompt + settings.max_completion_length > context
                else "reference_too_long",
                f"{n_prompt} tokens of prompt and {room} of completion; the model takes {context}",
            )
        if n_reference > settings.max_completion_length:
            return (
                "reference_too_long",
                f"{n_reference} tokens, max_completion_length allows {settings.max_completion_length}",
            )
        if not n_evidence_cells and any(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in row.boxes):
            return "evidence_not_seen", f"no part of {len(row.boxes)} boxes is in what the processor leaves"
        return None


def _refused(reason: str, detail: str) -> dict[str, Any]:
    return {"fits": False, "reason": reason, "detail": detail}
