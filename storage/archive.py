"""Saliency maps as bytes of the archive, and the id of a map.

The table that holds them belongs to `schema`, computing and scoring maps to the training room.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.objects import sha256_bytes

_STORED = np.dtype("<f2")
_ID_DIGITS = 24
_REGION = ("region_x1", "region_y1", "region_x2", "region_y2")


class ArchiveError(ValueError):
    """A map that cannot be archived or bytes that are not one."""


def map_id(policy_id: str, example_id: str, completion_sha256: str, method: str, span: str) -> str:
    """24 hex digits that name one map: the same five parts always give the same id."""
    parts = json.dumps([policy_id, example_id, completion_sha256, method, span], ensure_ascii=False)
    return sha256_bytes(parts.encode())[:_ID_DIGITS]


def pack(values: npt.ArrayLike) -> bytes:
    """A map of shape [grid_h, grid_w] as float16, little-endian, row-major, divided by its largest magnitude.

    A map's scale says nothing (every score of a map is free of it), but values near 1e-6, as products of
    attention weights are, would lose their digits in float16; after the division the largest has magnitude 1.
    A map of zeros stays zeros. Raises ArchiveError for another shape, NaN or infinity.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ArchiveError(f"map of shape {array.shape}: wanted [grid_h, grid_w] with at least one cell")
    if not np.isfinite(array).all():
        raise ArchiveError(f"map of shape {array.shape}: has NaN or infinite cells; such a map is unscorable")
    largest = float(np.abs(array).max())
    scaled = array / largest if largest > 0 else array
    return np.ascontiguousarray(scaled.astype(_STORED)).tobytes()


def unpack(data: bytes, grid_h: int, grid_w: int) -> npt.NDArray[np.float32]:
    """The map of shape [grid_h, grid_w] (float32) that `pack` made. Raises ArchiveError."""
    wanted = grid_h * grid_w * _STORED.itemsize
    if grid_h < 1 or grid_w < 1 or len(data) != wanted:
        raise ArchiveError(f"map of {len(data)} bytes: wanted {wanted} for {grid_h} x {grid_w} float16 cells")
    return np.frombuffer(data, dtype=_STORED).reshape(grid_h, grid_w).astype(np.float32)


def region_columns(region: Sequence[float]) -> dict[str, float]:
    """The columns that keep the part of the picture that a map's grid spans (x1, y1, x2, y2 as shares)."""
    return dict(zip(_REGION, map(float, region), strict=True))


def region_of(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """The region of a row of saliency_maps, as `region_columns` kept it."""
    x1, y1, x2, y2 = (float(row[column]) for column in _REGION)
    return x1, y1, x2, y2
