"""Saliency maps as bytes."""

import numpy as np
import pytest

from storage.archive import ArchiveError, map_id, pack, region_columns, region_of, unpack
from storage.schema import TABLES


def test_values_are_row_major_and_divided_by_the_largest():
    # 2 x 3 cells, largest 4: 1/4, 2/4, ... as float16 0.25 = 0x3400, 0.5 = 0x3800, 1 = 0x3c00.
    data = pack([[1, 2, 4], [0, 0, 2]])
    assert data.hex() == "00340038003c000000000038"
    assert unpack(data, 2, 3).tolist() == [[0.25, 0.5, 1.0], [0.0, 0.0, 0.5]]


def test_tiny_values_keep_their_proportions():
    values = np.array([[3e-9, 1e-9, 0, 0, 2e-9]])
    back = unpack(pack(values), 1, 5)
    # float16 has 11 significant bits: relative error up to 2**-11.
    np.testing.assert_allclose(back, values / 3e-9, rtol=2**-11)
    # Column-major input is the same map.
    grid = np.arange(6.0).reshape(2, 3)
    assert pack(np.asfortranarray(grid)) == pack(grid)


def test_a_zero_map_stays_zero():
    assert unpack(pack(np.zeros((2, 5))), 2, 5).tolist() == [[0] * 5] * 2


def test_what_is_no_map_is_refused():
    for bad in ([1, 2], [[]], [[np.nan, 1]], [[np.inf, 1]]):
        with pytest.raises(ArchiveError):
            pack(bad)
    with pytest.raises(ArchiveError, match="wanted 20 for 2 x 5"):
        unpack(pack(np.ones((2, 3))), 2, 5)


def test_each_part_matters_to_the_id():
    parts = ["p@1", "e", "c", "cot_rollout", "answer"]
    ids = {map_id(*parts)} | {map_id(*[*parts[:i], "x", *parts[i + 1 :]]) for i in range(5)}
    ids.add(map_id("p@1e", "", "c", "cot_rollout", "answer"))
    assert len(ids) == 7
    assert all(len(name) == 24 and int(name, 16) >= 0 for name in ids)


def test_the_region_of_a_map_is_kept_exactly_and_in_its_order():
    region = (1 / 6, -0.25, 5 / 6, 1.25)
    columns = region_columns(region)
    assert columns == {"region_x1": 1 / 6, "region_y1": -0.25, "region_x2": 5 / 6, "region_y2": 1.25}
    assert region_of({**columns, "map_id": "m"}) == region
    assert all(not TABLES["saliency_maps"].field(name).nullable for name in columns)
    with pytest.raises(ValueError, match="argument"):
        region_columns((0, 0, 1))
