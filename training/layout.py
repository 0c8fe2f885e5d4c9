"""How a picture's tokens lie on the grid of a saliency map.

Geometry only: no model, no processor. Which layout a family's inputs have is `training/image_tokens.py`.
"""

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from ops.grid import checked
from training.overlap import WHOLE, Region


@dataclass(frozen=True)
class Tile:
    """A run of image tokens, `tokens_hw` of them row by row, over a rectangle of grid cells.

    Each token covers a block of `cells_hw / tokens_hw` cells; both must divide evenly.
    """

    tokens_hw: tuple[int, int]
    top_left: tuple[int, int]
    cells_hw: tuple[int, int]

    @property
    def n_tokens(self) -> int:
        """Tokens in the run."""
        return self.tokens_hw[0] * self.tokens_hw[1]


@dataclass(frozen=True)
class Layout:
    """A sample's image tokens, in the order of the sequence, on the finest grid that spans the picture.

    region: the part of the upright picture that the grid spans, x1, y1, x2, y2 as shares of its width and
    height. It lies inside 0 to 1 where a processor crops, and reaches beyond where it pads. Raises ValueError for a
    region without area, and for a tile that reaches out of the grid or whose tokens do not divide its cells evenly.
    """

    grid_hw: tuple[int, int]
    tiles: tuple[Tile, ...]
    region: Region = WHOLE

    def __post_init__(self) -> None:
        checked(self.region)
        for tile in self.tiles:
            for n_tokens, first, n_cells, n_grid in zip(
                tile.tokens_hw, tile.top_left, tile.cells_hw, self.grid_hw, strict=True
            ):
                fits = n_tokens >= 1 and n_cells >= 1 and first >= 0 and first + n_cells <= n_grid
                if not fits or n_cells % n_tokens:
                    raise ValueError(
                        f"{tile} on a grid of {self.grid_hw}: wanted cells inside it that the tokens divide evenly"
                    )

    @property
    def n_tokens(self) -> int:
        """Image tokens of the sample."""
        return sum(tile.n_tokens for tile in self.tiles)

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Per image token the cells that it covers: first row, first column, rows, columns."""
        found = []
        for tile in self.tiles:
            rows, columns = (c // t for c, t in zip(tile.cells_hw, tile.tokens_hw, strict=True))
            found += [
                (tile.top_left[0] + i * rows, tile.top_left[1] + j * columns, rows, columns)
                for i in range(tile.tokens_hw[0])
                for j in range(tile.tokens_hw[1])
            ]
        return found

    def spread(self, values: Tensor) -> Tensor:
        """Values per image token [..., n_tokens] on the grid [..., grid_h, grid_w]; gradients pass.

        A token's value is shared evenly by the cells that it covers, and a cell adds up what it gets, so the
        sum is kept. Raises ValueError for another number of values.
        """
        if values.shape[-1] != self.n_tokens:
            raise ValueError(
                f"{values.shape[-1]} values; wanted one for each of {self.n_tokens} image tokens"
            )
        lead = values.shape[:-1]
        if len(self.tiles) == 1 and self.tiles[0].tokens_hw == self.grid_hw:
            return values.reshape(*lead, *self.grid_hw)
        grid = values.new_zeros((*lead, *self.grid_hw))
        start = 0
        for tile in self.tiles:
            (rows, columns), (top, left), (height, width) = tile.tokens_hw, tile.top_left, tile.cells_hw
            n_rows, n_columns = height // rows, width // columns
            part = values[..., start : start + tile.n_tokens].reshape(*lead, rows, columns)
            part = part.repeat_interleave(n_rows, dim=-2).repeat_interleave(n_columns, dim=-1)
            grid[..., top : top + height, left : left + width] += part / (n_rows * n_columns)
            start += tile.n_tokens
        return grid


@cache
def plain(grid_hw: tuple[int, int], region: Region = WHOLE) -> Layout:
    """One token a cell, row by row."""
    return Layout(grid_hw, (Tile(grid_hw, (0, 0), grid_hw),), region)


@cache
def tiled(tiles_hw: tuple[int, int], tokens_hw: tuple[int, int]) -> Layout:
    """Tiles row by row, each with its tokens row by row, and the whole picture once more in a last tile.

    The grid is that of the tiles' tokens; a token of the last tile covers as many cells as there are tiles.
    """
    (n_rows, n_columns), (rows, columns) = tiles_hw, tokens_hw
    grid_hw = (n_rows * rows, n_columns * columns)
    tiles = [
        Tile(tokens_hw, (i * rows, j * columns), tokens_hw) for i in range(n_rows) for j in range(n_columns)
    ]
    return Layout(grid_hw, (*tiles, Tile(tokens_hw, (0, 0), grid_hw)))
