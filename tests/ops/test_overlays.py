import io
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ops import overlays
from ops.grid import cell_of_pixel


def lightness(rgb):
    """CIELAB L* of sRGB uint8 [..., 3] (D65)."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_lightness_rises_evenly():
    steps = np.diff(lightness(overlays.inferno(np.linspace(0, 1, 41))))
    assert steps.min() > 0
    # about 97 units over 40 steps; the true map has 2.45 each, straight lines between stations stray a little
    assert steps.max() < 2 * 97 / 40


def test_inferno_ends_and_cuts():
    assert overlays.inferno(np.array([-1.0, 0.0, 1.0, 2.0])).tolist() == [
        [0, 0, 4],
        [0, 0, 4],
        [252, 255, 164],
        [252, 255, 164],
    ]


def test_times_even_by_hand():
    # 2 x 3 cells with sum 12: an even spread is 2 per cell
    even = overlays.times_even(np.array([[0.0, 2.0, 4.0], [6.0, 0.0, 0.0]]))
    assert even.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert overlays.times_even(np.zeros((2, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
    for bad in (np.array([[1.0, -1.0]]), np.array([[np.nan, 1.0]]), np.ones(3)):
        with pytest.raises(ValueError, match="wanted a grid"):
            overlays.times_even(bad)


def test_heat_opacity_rises_from_nothing():
    rgba = overlays.heat_rgba(np.array([[0.0, 1.0, 4.0]]), top=4.0)
    # opacity 0.85 * 255 * sqrt(value / top): 0, 108.4, 216.75
    assert rgba[0, :, 3].tolist() == [0, 108, 217]
    with pytest.raises(ValueError, match="top=0"):
        overlays.heat_rgba(np.zeros((1, 2)), top=0)


def test_blocks_are_exact_cells_of_a_picture_that_is_not_square():
    # 7 x 4 px, grid of 2 rows x 3 columns, only the cell in row 1, column 2 is hot:
    # columns 2 of 3 over 7 px: 4.67 to 7, so the pixels with centres 5.5 and 6.5; rows 2 and 3
    grid = np.zeros((2, 3))
    grid[1, 2] = 1.0
    white = Image.new("RGB", (7, 4), (255, 255, 255))
    changed = (pixels(overlays.overlay(white, grid, [])) != 255).any(axis=2)
    expected = np.zeros((4, 7), bool)
    expected[2:4, 5:7] = True
    assert (changed == expected).all()


def test_boxes_have_a_dark_and_a_light_line_inside_their_edges():
    # box x 10..30, y 5..20 on 40 x 30: edge pixels 10, 29 and 5, 19; outside untouched
    grey = Image.new("RGB", (40, 30), (128, 128, 128))
    drawn = pixels(overlays.overlay(grey, None, [(10.0, 5.0, 30.0, 20.0)]))
    assert drawn[12, 10].tolist() == [0, 0, 0]
    assert drawn[12, 29].tolist() == [0, 0, 0]
    assert drawn[5, 20].tolist() == [0, 0, 0]
    assert drawn[19, 20].tolist() == [0, 0, 0]
    assert drawn[12, 11].tolist() == [255, 255, 255]
    assert (drawn[12, [9, 30]] == 128).all() and (drawn[[4, 20], 20] == 128).all()
    assert (drawn[12, 20] == 128).all()


def test_large_pictures_shrink_with_their_boxes_and_small_ones_stay():
    # 400 x 200 at most 100 px: factor 1/4, the box edge x 80 falls on pixel 20
    picture = Image.new("RGB", (400, 200), (128, 128, 128))
    drawn = pixels(overlays.overlay(picture, None, [(80.0, 40.0, 240.0, 160.0)], long_side_px=100))
    assert drawn.shape == (50, 100, 3)
    assert drawn[25, 20].tolist() == [0, 0, 0]
    assert (drawn[25, 19] == 128).all()
    assert overlays.shrunk(Image.new("L", (30, 20)), 100).size == (30, 20)
    assert overlays.shrunk(Image.new("L", (3000, 1)), 100).size == (100, 1)


def test_a_map_of_zeros_and_a_tiny_box_draw_without_complaint():
    picture = Image.new("RGB", (9, 5), (10, 20, 30))
    assert (pixels(overlays.overlay(picture, np.zeros((2, 2)), [])) == [10, 20, 30]).all()
    assert overlays.overlay(picture, None, [(3.0, 3.0, 3.4, 3.2)])


def test_a_shared_top_makes_two_maps_comparable():
    black = Image.new("RGB", (8, 4))
    sharp, flat = np.array([[0.0, 0.0, 0.0, 4.0]]), np.array([[1.0, 1.0, 1.0, 1.0]])
    bright = pixels(overlays.overlay(black, sharp, [], top=4.0))[0, -1].sum()
    dim = pixels(overlays.overlay(black, flat, [], top=4.0))[0, -1].sum()
    assert bright > 2 * dim > 0


def painted(grid, size_wh, region):
    """Pixels that the overlay changes on white, by their colour: {(x, y): colour}."""
    seen = pixels(overlays.overlay(Image.new("RGB", size_wh, (255, 255, 255)), grid, [], region=region))
    return {(x, y): tuple(seen[y, x]) for y, x in zip(*np.nonzero((seen != 255).any(axis=2)), strict=True)}


def test_a_map_of_the_middle_half_is_painted_there_and_nowhere_else():
    # 8 x 2 px; the region is x 2 to 6, its two cells 2 to 4 and 4 to 6
    middle = (0.25, 0.0, 0.75, 1.0)
    colours = painted(np.array([[1.0, 2.0]]), (8, 2), middle)
    assert set(colours) == {(x, y) for x in (2, 3, 4, 5) for y in (0, 1)}
    left, right = ({colours[x, y] for x in xs for y in (0, 1)} for xs in ((2, 3), (4, 5)))
    assert len(left) == len(right) == 1 and left != right
    assert set(painted(np.array([[0.0, 2.0]]), (8, 2), middle)) == {(x, y) for x in (4, 5) for y in (0, 1)}
    # upright: the same on its side
    assert set(painted(np.array([[0.0], [2.0]]), (2, 8), (0.0, 0.25, 1.0, 0.75))) == {
        (x, y) for x in (0, 1) for y in (4, 5)
    }


def test_cells_on_padding_are_not_seen():
    # 3 x 4 px with 2 px of padding above and below: y -2 to 6, four cells of 2 px, the middle two on the picture
    padded, grid = (0.0, -0.5, 1.0, 1.5), np.zeros((4, 1))
    for row, wanted in enumerate([(), (0, 1), (2, 3), ()]):
        grid[:] = 0
        grid[row] = 1.0
        assert set(painted(grid, (3, 4), padded)) == {(x, y) for x in range(3) for y in wanted}


def test_a_shrunk_picture_keeps_the_region():
    # 800 x 200 at most 8 px: 8 x 2 as above
    wide = Image.new("RGB", (800, 200), (255, 255, 255))
    drawn = overlays.overlay(wide, np.array([[0.0, 2.0]]), [], region=(0.25, 0.0, 0.75, 1.0), long_side_px=8)
    assert np.argwhere((pixels(drawn) != 255).any(axis=2)).tolist() == [[0, 4], [0, 5], [1, 4], [1, 5]]


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 500), st.integers(1, 40), st.integers(-400, 400), st.integers(1, 900))
def test_no_pixel_is_a_cell_off_however_the_region_is_rounded(n_pixels, n_cells, first_half_px, n_half_px):
    """Oracle in fractions: regions that begin and end on half pixels, so that centres lie on edges of cells too."""
    start, size = Fraction(first_half_px, 2 * n_pixels), Fraction(n_half_px, 2 * n_pixels)
    expected = [
        min(max((Fraction(2 * i + 1, 2 * n_pixels) - start) / size * n_cells // 1, -1), n_cells)
        for i in range(n_pixels)
    ]
    assert cell_of_pixel(n_pixels, n_cells, float(start), float(start + size)).tolist() == expected


@pytest.mark.parametrize(
    "region", [(0.5, 0.0, 0.5, 1.0), (1.0, 0.0, 0.0, 1.0), (np.nan, 0.0, 1.0, 1.0), (0.0, 1.0)]
)
def test_an_overlay_of_what_is_none_is_refused(region):
    picture = Image.new("RGB", (9, 5))
    with pytest.raises(ValueError, match="region"):
        overlays.overlay(picture, np.ones((1, 2)), [], region=region)
    for boxes in ([(3, 1, 2, 4)], [(0, 4, 2, 1)], [(0, 0, np.nan, 2)]):
        with pytest.raises(ValueError, match="boxes"):
            overlays.overlay(picture, None, boxes)
    for bad in ([[np.nan, 1.0]], [[np.inf, 1.0]], [[-1.0, 1.0]], [1.0, 2.0]):
        with pytest.raises(ValueError, match="wanted a grid"):
            overlays.overlay(picture, np.array(bad), [])
    outside = pixels(overlays.overlay(picture, None, [(20, 1, 30, 4)]))
    assert (outside == 0).all()
