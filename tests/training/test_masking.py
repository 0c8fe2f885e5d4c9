from functools import partial

import numpy as np
import pytest
from PIL import Image

from storage.schema import UNMASKED
from training.masking import (
    cells_with_pixels,
    elsewhere,
    evidence_and_elsewhere,
    evidence_cells,
    filled,
    order_of,
    pixel_mask,
    random_order,
    top_cells,
)


def test_a_pixel_belongs_to_the_cell_that_holds_its_centre():
    # 7 x 5 px, 2 x 3 cells. Columns are 7/3 px wide, edges at 2.33 and 4.67, so 0.5 1.5 | 2.5 3.5 4.5 | 5.5 6.5.
    # Rows are 2.5 px high: the centre 2.5 of row 2 is on the edge and counts to the lower cell: 0.5 1.5 | 2.5 3.5 4.5.
    numbers = np.arange(6).reshape(2, 3)
    for cell in range(6):
        row, column = divmod(cell, 3)
        wanted = np.zeros((5, 7), dtype=bool)
        wanted[[slice(0, 2), slice(2, 5)][row], [slice(0, 2), slice(2, 5), slice(5, 7)][column]] = True
        assert np.array_equal(pixel_mask(numbers == cell, (7, 5)), wanted), cell


def test_cells_are_filled_with_the_mean_colour_and_nothing_else_changes():
    # 35 px: 7 of (70, 0, 5), the rest black: mean (14, 0, 1)
    pixels = np.zeros((5, 7, 3), dtype=np.uint8)
    pixels[0] = (70, 0, 5)
    cells = np.array([[True, False, False], [False, False, True]])
    seen = np.array(filled(Image.fromarray(pixels), cells))
    mask = pixel_mask(cells, (7, 5))
    assert (seen[mask] == (14, 0, 1)).all()
    assert np.array_equal(seen[~mask], pixels[~mask])
    assert mask.sum() == 2 * 2 + 3 * 2


def test_cells_are_ranked_strongest_first_and_equal_ones_by_the_example():
    values = np.array([[0.0, 3.0, 0.0], [0.0, 5.0, 0.0]])
    orders = [order_of(values, f"e{i}").tolist() for i in range(40)]
    assert {tuple(order[:2]) for order in orders} == {(4, 1)}
    # four zeros: each of them comes third for some example, no place is preferred
    assert {order[2] for order in orders} == {0, 2, 3, 5}
    assert orders[7] == order_of(values, "e7").tolist()
    assert sorted(random_order(6, "a").tolist()) == list(range(6))


def test_shares_of_cells_are_rounded_and_at_least_one():
    # 7 cells: 5 % = 0.35 -> 1; 30 % = 2.1 -> 2; 50 % = 3.5 -> 4
    order = np.array([6, 2, 0, 1, 3, 4, 5])
    counts = {share: int(top_cells(order, (1, 7), share).sum()) for share in (0.0, 0.05, 0.3, 0.5, 1.0)}
    assert counts == {0.0: 0, 0.05: 1, 0.3: 2, 0.5: 4, 1.0: 7}
    assert np.flatnonzero(top_cells(order, (1, 7), 0.3)).tolist() == [2, 6]


def test_evidence_is_every_cell_that_a_box_touches():
    # 60 x 20 px, 2 x 3 cells of 20 x 10 px. The box ends at x = 21, one px into the second column.
    cells = evidence_cells([(5.0, 0.0, 21.0, 10.0)], (60, 20), (2, 3))
    assert cells.tolist() == [[True, True, False], [False, False, False]]


def test_the_mask_elsewhere_has_the_same_shape_and_no_evidence():
    evidence = np.zeros((4, 5), dtype=bool)
    evidence[0, :2] = True
    anywhere = np.ones((4, 5), dtype=bool)
    drawn = {tuple(np.flatnonzero(elsewhere(evidence, f"e{i}", anywhere))) for i in range(200)}
    # 1 x 2 cells: 4 places in each of 4 rows, less (0, 0) and (0, 1), which touch the evidence: 14
    wanted = {(r * 5 + c, r * 5 + c + 1) for r in range(4) for c in range(4)} - {(0, 1), (1, 2)}
    assert drawn == wanted
    assert np.array_equal(elsewhere(evidence, "a", anywhere), elsewhere(evidence, "a", anywhere))


def test_where_the_shape_does_not_fit_other_cells_are_drawn_or_there_is_a_reason():
    corners = np.array([[True, False, False], [False, False, True]])  # spans the grid: cannot move
    beside = elsewhere(corners, "a", np.ones((2, 3), dtype=bool))
    assert beside.sum() == 2 and not (beside & corners).any()
    assert elsewhere(np.arange(5)[None] < 3, "a", np.ones((1, 5), dtype=bool)) == "no_room"
    assert elsewhere(np.zeros((2, 3), dtype=bool), "a", np.ones((2, 3), dtype=bool)) == "no_boxes"


@pytest.mark.parametrize("width", [3, 8, 29, 113])
def test_every_pixel_is_in_exactly_one_cell(width):
    cells = np.arange(15).reshape(3, 5)
    together = sum(pixel_mask(cells == i, (width, 17)).astype(int) for i in range(15))
    assert (together == 1).all()


def test_a_region_of_the_picture_is_filled_and_no_more():
    """A grid of 1 x 2 over x 2 to 6 of 8 px: its second cell is x 4 to 6; pixels outside are in no cell. Boxes are held
    against the same grid: one over x 0 to 3 touches the first cell alone."""
    region = (0.25, 0.0, 0.75, 1.0)
    chosen = pixel_mask(np.array([[False, True]]), (8, 3), region)
    assert chosen.shape == (3, 8)
    assert chosen[0].tolist() == [False, False, False, False, True, True, False, False]
    assert evidence_cells([(0.0, 0.0, 3.0, 3.0)], (8, 3), (1, 2), region).tolist() == [[True, False]]


# 60 x 20 px between as much padding above and below: y -20 to 40, in 6 x 3 cells of 20 x 10 px. The picture is in rows
# 2 and 3 alone, so cells 6 to 11.
PADDED = ((60, 20), (6, 3), (0.0, -1.0, 1.0, 2.0))


def test_the_mask_elsewhere_keeps_off_the_padding():
    assert np.flatnonzero(cells_with_pixels(*PADDED)).tolist() == [6, 7, 8, 9, 10, 11]
    one, two = [(0, 0, 20, 10)], [(0, 0, 20, 10), (40, 10, 60, 20)]
    masks = [evidence_and_elsewhere(one, *PADDED, f"e{i}") for i in range(200)]
    assert {tuple(np.flatnonzero(evidence)) for evidence, _ in masks} == {(6,)}
    assert {tuple(np.flatnonzero(beside)) for _, beside in masks} == {(7,), (8,), (9,), (10,), (11,)}
    # (6, 11) spans all of the picture: moved up or down it would be half on padding, so cells are drawn one by one.
    drawn = set()
    for i in range(200):
        drawn |= {tuple(np.flatnonzero(evidence_and_elsewhere(two, *PADDED, f"e{i}")[1]))}
    assert drawn == {(a, b) for a in (7, 8, 9, 10) for b in (7, 8, 9, 10) if a < b}


def test_cells_of_padding_are_no_room_and_no_evidence():
    # 4 of 6 cells of the picture: 2 are left, and 12 of padding that do not count
    assert evidence_and_elsewhere([(0, 0, 40, 20)], *PADDED, "a") == "no_room"
    # 3 x 4 px, rows of 1 px from y -0.6: the first cell has 0.4 px of the picture and no pixel's centre, which is in
    # the next (0.4 to 1.4). A box over the first row of pixels touches both.
    region = (0.0, -0.15, 1.0, 1.1)
    assert (
        evidence_cells([(0, 0, 3, 1)], (3, 4), (5, 1), region).ravel().tolist() == [False, True] + [False] * 3
    )
    assert cells_with_pixels((3, 4), (5, 1), region).ravel().tolist() == [False] + [True] * 4


def test_evidence_that_was_cropped_away_is_a_reason_not_to_mask():
    masks = partial(
        evidence_and_elsewhere, image_wh=(60, 40), grid_hw=(2, 2), region=(1 / 6, 0.0, 5 / 6, 1.0)
    )
    assert masks([(0, 0, 10, 40)], name="a") == "evidence_not_seen"
    assert masks([(60, 0, 70, 40)], name="a") == "no_boxes"
    assert masks([], name="a") == "no_boxes"
    assert {"evidence_not_seen", "no_boxes", "no_room"} == set(UNMASKED)


def test_what_is_no_map_or_no_region_is_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 3 cells are not finite"):
            order_of(np.array([[0.0, bad, 1.0]]), "a")
    assert sorted(order_of(np.zeros((1, 3), dtype=np.float16), "a").tolist()) == [0, 1, 2]
    for region in (
        (0.5, 0.0, 0.5, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (np.nan, 0.0, 1.0, 1.0),
        (0.0, 0.0, np.inf, 1.0),
    ):
        with pytest.raises(ValueError, match="region"):
            filled(Image.new("RGB", (8, 3)), np.ones((1, 2), dtype=bool), region)
        with pytest.raises(ValueError, match="region"):
            evidence_and_elsewhere([(0, 0, 1, 1)], (8, 3), (1, 2), region, "a")
