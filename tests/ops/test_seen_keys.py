"""Keys that come again are found, also where their first bytes agree."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pytest

from ops.seen_keys import SeenKeys


def _hashes(keys: list[str]) -> pa.ChunkedArray:
    half = len(keys) // 2
    return pa.chunked_array([keys[:half], keys[half:]], pa.string())


@pytest.mark.parametrize("digits", [24, 64, 16])
def test_against_a_dict_over_many_batches(digits):
    draw, seen, wanted = random.Random(digits), SeenKeys(), {}
    number = 0
    for _ in range(40):
        keys = [
            hashlib.sha256(str(draw.randrange(3000)).encode()).hexdigest()[:digits]
            for _ in range(draw.randrange(90))
        ]
        rows = np.arange(number, number + len(keys))
        number += len(keys)
        new, first = seen.add(_hashes(keys), rows)
        for key, row, is_new, first_row in zip(
            keys, rows.tolist(), new.tolist(), first.tolist(), strict=True
        ):
            assert is_new == (key not in wanted)
            assert first_row == wanted.setdefault(key, row)


def test_keys_that_differ_in_their_last_digit_alone_are_two():
    seen = SeenKeys()
    start = "ab" * 11
    new, _ = seen.add(_hashes([f"{start}01", f"{start}02", f"{start}01"]), np.array([5, 6, 7]))
    assert new.tolist() == [True, True, False]
    new, first = seen.add(_hashes([f"{start}03", f"{start}02"]), np.array([8, 9]))
    assert new.tolist() == [True, False] and first.tolist() == [8, 6]


def test_zeros_count():
    new, _ = SeenKeys().add(_hashes(["00" * 12, "00" * 11 + "01", "00" * 12]), np.array([1, 2, 3]))
    assert new.tolist() == [True, True, False]


def test_nothing_is_nothing():
    new, first = SeenKeys().add(_hashes([]), np.zeros(0, np.int64))
    assert len(new) == len(first) == 0
