"""How the image tokens of each family's inputs lie on the picture.

Token orders are those of transformers 5.23, read in the processors and connectors that are named beside each layout.
What else is known of a family is `training/families.py`, the geometry `training/layout.py`.
"""

import re
from dataclasses import dataclass
from math import isqrt
from typing import Any

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from training.layout import Layout, plain, tiled
from training.overlap import WHOLE


class PolicyError(ValueError):
    """A policy cannot be loaded or used; the message says what was seen and what is wanted."""


@dataclass(frozen=True)
class Sample:
    """One row of a batch, for which a layout is wanted. image_wh: the upright picture, where it is known."""

    inputs: Any
    index: int
    model: Any
    processor: Any
    image_token_id: int
    image_wh: tuple[int, int] | None

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return base_model(self.model).config

    @property
    def n_tokens(self) -> int:
        """Visible image tokens."""
        seen = self.inputs["attention_mask"][self.index].bool()
        return int((self.inputs["input_ids"][self.index][seen] == self.image_token_id).sum())


def base_model(model: Any) -> Any:
    """The plain model inside adapter wrappers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _one_picture_each(sample: Sample, n_pictures: int, hint: str = "") -> None:
    n_samples = sample.inputs["input_ids"].shape[0]
    if any(name.startswith("pixel_values_videos") or name == "video_grid_thw" for name in sample.inputs):
        raise PolicyError("the batch holds a video; one still picture a sample is wanted")
    if n_pictures != n_samples:
        raise PolicyError(
            f"{n_pictures} pictures for {n_samples} samples; one picture a sample is wanted{hint}"
        )


def processed_wh(inputs: Any, layout: Layout, config: Any) -> tuple[int, int]:
    """Width and height in px of a picture as the model gets it, tiles put together; `layout` is that of `inputs`."""
    pixels, (grid_h, grid_w) = inputs["pixel_values"], layout.grid_hw
    if pixels.ndim == 2:  # Qwen's rows of patches
        side = int(config.vision_config.patch_size) * int(config.vision_config.spatial_merge_size)
        return grid_w * side, grid_h * side
    tokens_h, tokens_w = layout.tiles[0].tokens_hw
    return grid_w * pixels.shape[-1] // tokens_w, grid_h * pixels.shape[-2] // tokens_h


def qwen_layout(sample: Sample) -> Layout:
    """Merged patches row by row (qwen2_vl, `Qwen2VLImageProcessor` and the patch merger)."""
    grids = sample.inputs["image_grid_thw"]
    _one_picture_each(sample, len(grids))
    frames, height, width = (int(n) for n in grids[sample.index])
    if frames != 1:
        raise PolicyError(f"sample {sample.index} has {frames} frames; one still picture is wanted")
    merge = int(sample.config.vision_config.spatial_merge_size)
    return plain((height // merge, width // merge))


CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Tokens without a place that a tower puts before its patches."""


def llava_layout(sample: Sample) -> Layout:
    """Patches row by row, the class token dropped (llava, `get_image_features`)."""
    pixels, config = sample.inputs["pixel_values"], sample.config
    _one_picture_each(sample, len(pixels))
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    tower = config.vision_config.model_type
    if dropped != CLASS_TOKENS.get(tower):
        raise PolicyError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!r} with a {tower}: the image "
            "tokens are not its patches; wanted 'default' with CLIP, 'full' with SigLIP"
        )
    patch = int(config.vision_config.patch_size)
    grid_hw = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    return plain(grid_hw, seen_region(sample.processor.image_processor, sample.image_wh))


def seen_region(image_processor: Any, image_wh: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """Which part of a picture reaches the model: x1, y1, x2, y2 as shares of its width and height.

    By the steps of transformers' PIL backend: pad to a square (LLaVA's own image processor), resize, crop the
    centre; a crop larger than the picture pads it. Raises PolicyError where the picture's size is wanted and not known.
    """
    pads = bool(getattr(image_processor, "do_pad", None)) and hasattr(image_processor, "pad_to_square")
    crops = bool(getattr(image_processor, "do_center_crop", None))
    if not (pads or crops):
        return WHOLE
    if image_wh is None:
        raise PolicyError(
            f"{type(image_processor).__name__} {'pads' if pads else 'crops'} pictures, so which part the model saw "
            "depends on their sizes; pass image_sizes_wh"
        )
    side = max(image_wh)
    padded_wh = (side, side) if pads else image_wh
    start_xy = ((padded_wh[0] - image_wh[0]) // 2, (padded_wh[1] - image_wh[1]) // 2)
    resized_wh = _resized(image_processor, padded_wh)
    crop_wh = resized_wh
    if crops:
        crop_wh = (int(image_processor.crop_size["width"]), int(image_processor.crop_size["height"]))
    shares = []
    for axis in (0, 1):
        first = (resized_wh[axis] - crop_wh[axis]) // 2
        for edge in (first, first + crop_wh[axis]):
            shares.append((edge / resized_wh[axis] * padded_wh[axis] - start_xy[axis]) / image_wh[axis])
    return shares[0], shares[2], shares[1], shares[3]


def _resized(image_processor: Any, image_wh: tuple[int, int]) -> tuple[int, int]:
    """Width and height after `resize`, rounded down as transformers does."""
    size = {k: v for k, v in dict(image_processor.size).items() if v is not None}
    if not image_processor.do_resize:
        return image_wh
    if set(size) == {"height", "width"}:
        return int(size["width"]), int(size["height"])
    if set(size) == {"shortest_edge"}:
        (width, height), short = image_wh, int(size["shortest_edge"])
        return (
            (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
        )
    raise PolicyError(f"the image processor resizes to {size}; wanted height and width, or the shortest edge")


_TILE_TAG = re.compile(r"<row_(\d+)_col_(\d+)>|<global-img>")


def idefics3_layout(sample: Sample) -> Layout | None:
    """Tiles row by row, each behind `<row_r_col_c>`, then the whole picture behind `<global-img>`.

    idefics3, `replace_image_token` and `split_images`; within a tile the connector's pixel shuffle keeps the rows.
    A picture that is not split is the whole picture alone.
    """
    pixels, config = sample.inputs["pixel_values"], sample.config
    n_samples = sample.inputs["input_ids"].shape[0]
    _one_picture_each(sample, n_samples)
    if pixels.ndim != 5 or len(pixels) != n_samples or pixels.shape[-1] != pixels.shape[-2]:
        raise PolicyError(
            f"pixel_values {tuple(pixels.shape)} for {n_samples} samples; wanted [samples, tiles, channels, side, side]"
        )
    # A row of the batch is filled up with tiles of zeros, which the model takes out.
    real = pixels[sample.index].flatten(1).ne(0).any(dim=1)
    mask = sample.inputs.get("pixel_attention_mask")
    if mask is not None and not bool(mask[sample.index][real].all()):
        raise PolicyError(
            f"sample {sample.index}: a tile is partly padding; wanted tiles resized to {pixels.shape[-1]} px"
        )
    side = pixels.shape[-1] // int(config.vision_config.patch_size) // int(config.scale_factor)
    tags = _tile_tags(sample)
    whole_pictures = tags.count(None)
    grid = [tag for tag in tags if tag is not None]
    n_rows, n_columns = (max((tag[axis] for tag in grid), default=0) for axis in (0, 1))
    layout = tiled((n_rows, n_columns), (side, side)) if grid else plain((side, side))
    n_tiles = int(real.sum())
    wanted = [(r + 1, c + 1) for r in range(n_rows) for c in range(n_columns)]
    if sample.n_tokens < n_tiles * side * side:
        return None
    if whole_pictures != 1 or grid != wanted or len(layout.tiles) != n_tiles:
        raise PolicyError(
            f"sample {sample.index}: {n_tiles} tiles behind the tags {tags} (None: the whole picture); wanted one "
            "picture, its tiles row by row, then the whole"
        )
    return layout


def _tile_tags(sample: Sample) -> list[tuple[int, int] | None]:
    """The tag before each run of image tokens: (row, column) from 1, or None for the whole picture."""
    ids = sample.inputs["input_ids"][sample.index].tolist()
    visible = sample.inputs["attention_mask"][sample.index].tolist()
    tags: list[tuple[int, int] | None] = []
    between: list[int] = []
    for previous, token, seen in zip([-1, *ids], ids, visible, strict=False):
        if not seen:
            continue
        if token != sample.image_token_id:
            between.append(token)
        elif previous != sample.image_token_id:
            found = list(_TILE_TAG.finditer(sample.processor.tokenizer.decode(between)))
            if found:
                row, column = found[-1].groups()
                tags.append((int(row), int(column)) if row else None)
            between = []
    return tags


def internvl_layout(sample: Sample) -> Layout:
    """Tiles row by row, then a thumbnail if there is more than one (got_ocr2, `crop_image_to_patches`).

    The inputs do not tell rows from columns: the picture's size does, by the image processor's own rule.
    """
    pixels, config = sample.inputs["pixel_values"], sample.config
    _one_picture_each(sample, sample.inputs["input_ids"].shape[0])
    patch_h, patch_w = config.vision_config.patch_size
    ratio = float(config.downsample_ratio)
    tile_hw = (pixels.shape[-2], pixels.shape[-1])
    tokens_hw = (int(tile_hw[0] // patch_h * ratio), int(tile_hw[1] // patch_w * ratio))
    if len(pixels) == sample.inputs["input_ids"].shape[0]:
        return plain(tokens_hw)  # one tile a picture
    if sample.image_wh is None:
        raise PolicyError(
            f"{len(pixels)} tiles for {sample.inputs['input_ids'].shape[0]} samples: how they lie depends on the "
            "pictures' sizes; pass image_sizes_wh"
        )
    pictures, (width, height) = sample.processor.image_processor, sample.image_wh
    n_columns, n_rows = get_optimal_tiled_canvas(
        (height, width), tile_hw, int(pictures.min_patches), int(pictures.max_patches)
    )
    return plain(tokens_hw) if n_rows * n_columns == 1 else tiled((n_rows, n_columns), tokens_hw)


def gemma3_layout(sample: Sample) -> Layout:
    """Pooled patches row by row (gemma3, `Gemma3MultiModalProjector`), of the picture resized to a square."""
    _one_picture_each(
        sample,
        len(sample.inputs["pixel_values"]),
        "; pan-and-scan crops have no grid: set do_pan_and_scan to false",
    )
    side = isqrt(int(sample.config.mm_tokens_per_image))
    return plain((side, side))
