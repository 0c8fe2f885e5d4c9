"""The geometry of image tokens on the grid, and the part of the picture that a grid spans, by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from training.image_tokens import seen_region
from training.layout import Layout, Tile, plain, tiled
from training.overlap import WHOLE, score

# ---- The geometry, by hand.


def test_a_plain_layout_is_row_major():
    values = torch.arange(6.0)
    assert plain((2, 3)).spread(values).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert plain((2, 3)).blocks()[4] == (1, 1, 1, 1)


def test_tiles_lie_row_by_row_and_the_whole_picture_is_shared_out():
    """1 x 2 tiles of 2 x 1 tokens: a grid of 2 x 2. Tile 0 is the left column, tile 1 the right one.

    The whole picture's two tokens 10 and 20 cover one row of two cells each: 5 and 10 a cell.
    """
    layout = tiled((1, 2), (2, 1))
    found = layout.spread(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0, 20.0]))
    assert found.tolist() == [[1 + 5, 3 + 5], [2 + 10, 4 + 10]]
    assert layout.blocks() == [
        (0, 0, 1, 1), (1, 0, 1, 1), (0, 1, 1, 1), (1, 1, 1, 1), (0, 0, 1, 2), (1, 0, 1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("tiles_hw", [(1, 1), (2, 3), (3, 1)])
def test_the_sum_is_kept_and_gradients_pass(tiles_hw):
    layout = tiled(tiles_hw, (2, 5))
    values = torch.randn(3, layout.n_tokens, dtype=torch.float64, requires_grad=True)
    grid = layout.spread(values)
    assert grid.shape == (3, tiles_hw[0] * 2, tiles_hw[1] * 5)
    torch.testing.assert_close(grid.sum(dim=(1, 2)), values.sum(dim=1))
    (gradient,) = torch.autograd.grad((grid * 7).sum(), values)
    torch.testing.assert_close(gradient, torch.full_like(values, 7))


def test_spread_wants_one_value_a_token():
    with pytest.raises(ValueError, match="5 values; wanted one for each of 6"):
        plain((2, 3)).spread(torch.zeros(5))


# ---- The part of the picture that the grid spans.


def test_a_centre_crop_is_a_region():
    """60 x 40 is resized to 30 x 20, and the middle 20 of 30 columns are kept: from 5 / 30 to 25 / 30."""
    clip = CLIPImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    assert seen_region(clip, (60, 40)) == pytest.approx((5 / 30, 0, 25 / 30, 1))
    assert seen_region(clip, (40, 60)) == pytest.approx((0, 5 / 30, 1, 25 / 30))
    siglip = SiglipImageProcessorPil(size={"height": 20, "width": 20})
    assert seen_region(siglip, None) == WHOLE


def test_a_padded_picture_lies_inside_its_region():
    """LLaVA's own: 60 x 40 padded to 60 x 60 with 10 rows above and below: the grid spans -10 / 40 to 50 / 40."""
    pads = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}
    )
    assert seen_region(pads, (60, 40)) == pytest.approx((0, -0.25, 1, 1.25))


@pytest.mark.parametrize("kind", ["crop", "pad"])
def test_the_region_is_what_the_processor_keeps(kind):
    """A picture whose columns are numbered by their brightness: the first and last that come out are the region's."""
    clip = CLIPImageProcessorPil if kind == "crop" else LlavaImageProcessorPil
    pictures = clip(
        do_pad=kind == "pad", size={"shortest_edge": 100}, crop_size={"height": 100, "width": 100}, do_normalize=False,
        do_rescale=False,
    )  # fmt: skip
    ramp = np.zeros((100, 200, 3), dtype=np.uint8) + np.arange(200, dtype=np.uint8)[None, :, None]
    seen = pictures(Image.fromarray(ramp), return_tensors="pt")["pixel_values"][0, 0]
    x1, y1, x2, y2 = seen_region(pictures, (200, 100))
    if kind == "crop":
        assert float(seen[50, 0]) == pytest.approx(x1 * 200, abs=1)
        assert float(seen[50, -1]) == pytest.approx(x2 * 200 - 1, abs=1)
        assert (y1, y2) == (0, 1)
    else:
        # 200 x 200, then half: the picture's 100 rows are rows 25 to 75 of 100.
        assert (x1, y1, x2, y2) == (0, -0.5, 1, 1.5)
        assert float(seen[30, 50]) == pytest.approx(100, abs=2)


def test_boxes_are_held_against_the_part_that_was_seen():
    """A picture of 60 x 40, of which the grid of 2 x 2 sees columns 10 to 50: cells of 20 x 20 px.

    The box from 0 to 30 px covers the left cell of the upper row and nothing else that was seen.
    """
    region = (10 / 60, 0.0, 50 / 60, 1.0)
    found = score(np.array([[3.0, 0.0], [1.0, 0.0]]), [(0, 0, 30, 20)], (60, 40), region)
    assert found.chance == pytest.approx(1 / 4)
    assert found.mass == pytest.approx(3 / 4)
    assert score(np.ones((2, 2)), [(0, 0, 9, 20)], (60, 40), region).reason == "evidence_not_seen"
    assert score(np.ones((2, 2)), [(61, 0, 70, 20)], (60, 40), region).reason == "no_boxes"
    assert score(np.ones((2, 2)), [(10, 0, 50, 40)], (60, 40), region).reason == "box_covers_everything"


def test_a_box_ends_at_the_border_of_a_padded_picture():
    """60 x 40 padded to 60 x 60: a grid of 3 x 1 has padding in a half of its first and last cell."""
    found = score(np.ones((3, 1)), [(0, -30, 60, 10)], (60, 40), (0.0, -0.25, 1.0, 1.25))
    assert found.chance == pytest.approx(10 / 60)
    with pytest.raises(ValueError, match="region"):
        score(np.ones((3, 1)), [(0, 0, 60, 10)], (60, 40), (0.5, 0.0, 0.5, 1.0))


def test_a_layout_is_what_it_says():
    assert Layout((2, 2), (Tile((1, 1), (0, 0), (2, 2)),)).spread(torch.tensor([8.0])).tolist() == [
        [2, 2],
        [2, 2],
    ]


@pytest.mark.parametrize(
    "tile",
    [
        Tile((2, 2), (0, 0), (3, 4)),  # 3 rows of cells for 2 of tokens
        Tile((1, 1), (1, 2), (2, 3)),  # columns 2 to 5 of 4
        Tile((1, 1), (-1, 0), (1, 1)),
        Tile((0, 1), (0, 0), (0, 1)),
    ],
)
def test_a_tile_that_does_not_fit_its_grid_is_refused(tile):
    with pytest.raises(ValueError, match=r"on a grid of \(3, 4\)"):
        Layout((3, 4), (tile,))
    with pytest.raises(ValueError, match="region"):
        plain((3, 4), (0.5, 0.0, 0.5, 1.0))
