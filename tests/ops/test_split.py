import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ops.looks import RADIUS
from ops.pictures import THUMB_BYTES, open_upright, phash, pixels_sha256, thumb
from ops.split import DEFAULT_FRACTIONS, DEFAULT_SALT, IMAGE_COLUMNS, Placed, assign, place, side_of
from storage.tables import from_rows
from tests.ops.delivery import encoded, pixels

TEN = (1 << RADIUS) - 1  # as many bits as near duplicates may differ in


def _placed(pictures: list[tuple[str, int | None]], fractions=DEFAULT_FRACTIONS) -> dict[str, Placed]:
    """Place (name, hash) pairs of one thumbnail; the name stands for both sha256."""
    names = [name for name, _ in pictures]
    return _place(names, names, [_flat(100)] * len(names), [phash_ for _, phash_ in pictures], fractions)


def _place(names, pixels, thumbs, phashes, fractions=DEFAULT_FRACTIONS) -> dict[str, Placed]:
    """Place pictures, which come one, four and two at a time."""
    types = (pa.string(), pa.string(), pa.binary(), pa.int64())
    columns = map(pa.array, (names, pixels, thumbs, phashes), types)
    whole = pa.table(dict(zip(IMAGE_COLUMNS, columns, strict=True)))
    starts = [start + add for start in range(0, len(names), 7) for add in (0, 1, 5)] + [len(names)]
    pieces = [whole.slice(first, last - first) for first, last in itertools.pairwise(starts) if last > first]
    return place(pa.concat_tables(pieces or [whole]), fractions).by_picture()


def _flat(value: int) -> bytes:
    return bytes([value]) * THUMB_BYTES


def test_sides_have_the_wanted_shares():
    sides = [side_of(f"picture {number}") for number in range(20_000)]
    # Standard errors: sqrt(0.2 * 0.8 / 20000) = 0.0028 and 0.0019; four of them.
    assert abs(sides.count("test") / 20_000 - 0.20) < 0.0113
    assert abs(sides.count("val") / 20_000 - 0.08) < 0.0077


def test_a_larger_test_share_only_adds_to_the_test_side():
    names = [f"picture {number}" for number in range(500)]
    small = {name for name in names if side_of(name, {"test": 0.1}) == "test"}
    large = {name for name in names if side_of(name, {"test": 0.3}) == "test"}
    assert small < large


def test_the_draw_is_the_hash_of_salt_and_pixels_and_val_lies_beside_test():
    for number in range(200):
        for salt in (DEFAULT_SALT, "other"):
            digest = hashlib.sha256(f"{salt}:p{number}".encode()).hexdigest()
            draw = int(digest[:16], 16) / 2**64
            wanted = "test" if draw < 0.25 else "val" if draw < 0.75 else "train"
            assert side_of(f"p{number}", {"val": 0.5, "test": 0.25}, salt) == wanted


@pytest.mark.parametrize(
    "fractions", [{"test": 1.0}, {"test": -0.1}, {"test": 0.6, "val": 0.5}, {"dev": 0.1}]
)
def test_wrong_fractions_are_named(fractions):
    with pytest.raises(ValueError, match="split fractions"):
        side_of("x", fractions)


def test_a_near_duplicate_is_on_the_side_of_the_one_before_it():
    first, second = _names_of_sides("train", "test")
    near = _placed([(first, 0), (second, TEN)])
    assert near == {
        first: Placed("train", "content_hash", first),
        second: Placed("train", "near_duplicate", first),
    }
    far = _placed([(first, 0), (second, 2 * TEN + 1)])  # one bit more
    assert far[second] == Placed("test", "content_hash", second)


def test_near_two_sides_is_excluded_and_nothing_moves_or_follows_it():
    # 0 and 20 bits are far from each other; 10 bits are near both; another copy of the bridge shares its fate.
    a, b, bridge, copy = _names_of_sides("train", "test", "train", "val")
    placed = _placed([(a, 0), (b, TEN << RADIUS | TEN), (bridge, TEN), (copy, TEN)])
    assert [placed[name].side for name in (a, b, bridge, copy)] == ["train", "test", "excluded", "excluded"]
    assert placed[bridge] == placed[copy] == Placed("excluded", "near_two_sides", a)


def test_a_copy_of_a_follower_stays_with_it():
    a, b, c = _names_of_sides("train", "train", "test")
    placed = _placed([(a, 0), (b, TEN), (c, TEN << RADIUS | TEN)])
    assert placed[c] == Placed("train", "near_duplicate", a)


def test_flat_and_unread_pictures_follow_only_their_own_pixels():
    a, b, c = _names_of_sides("train", "test", "val")
    placed = _place([a, b, c], [a, a, None], [_flat(9), _flat(9), None], [None, None, None])
    assert placed[b] == Placed("train", "same_pixels", a)
    assert placed[c] == Placed("val", "content_hash", c)


def test_a_picture_that_two_sources_deliver_is_placed_once_and_shifts_no_look():
    a, b, c = _names_of_sides("train", "test", "val")
    hashes = [0, 0, 2 * TEN + 1, 2 * TEN + 1]
    placed = _place([a, a, b, c], [a, a, b, c], [_flat(100)] * 4, hashes)
    assert placed == {
        a: Placed("train", "content_hash", a),
        b: Placed("test", "content_hash", b),
        c: Placed("test", "near_duplicate", b),
    }


def test_growth_of_an_early_source_moves_only_what_is_near_the_new():
    old, other, new = _names_of_sides("train", "val", "test")
    before = _placed([(old, 0), (other, TEN << 40 | TEN << 20)])
    after = _placed([(new, 0), (old, 0), (other, TEN << 40 | TEN << 20)])
    assert (before[old].side, after[old].side) == ("train", "test")
    assert after[other] == before[other]


def _names_of_sides(*sides: str) -> list[str]:
    candidates = iter(range(10_000))
    return [next(f"p{n}" for n in candidates if side_of(f"p{n}") == side) for side in sides]


# Hashes of few distinct bits, so that near pairs, chains and bridges happen often.
_blocks = st.integers(0, 15).map(lambda n: sum(0x7F << 7 * bit for bit in range(4) if n >> bit & 1))
_pictures = st.lists(
    st.tuples(st.integers(0, 60).map(lambda n: f"p{n}"), _blocks), max_size=40, unique_by=lambda p: p[0]
)
EVEN = {"val": 0.3, "test": 0.3}


@given(_pictures, st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_appending_moves_nothing(pictures, n):
    old, new = _placed(pictures[:n], EVEN), _placed(pictures, EVEN)
    assert {name: new[name] for name in old} == old


@given(_pictures)
@settings(max_examples=60, deadline=None)
def test_placing_agrees_with_a_plain_loop(pictures):
    placed, expected = _placed(pictures, EVEN), {}
    for k, (name, own) in enumerate(pictures):
        near = {expected[o].side for o, h in pictures[:k] if (own ^ h).bit_count() <= RADIUS} - {"excluded"}
        rule = ("content_hash", "near_duplicate", "near_two_sides")[min(len(near), 2)]
        side = side_of(name, EVEN) if not near else near.pop() if len(near) == 1 else "excluded"
        expected[name] = Placed(side, rule, placed[name].group)
    assert placed == expected


@given(
    st.integers(0, 10_000), st.sampled_from([(96, 64), (64, 112)]), st.sampled_from(["PNG", "JPEG", "half"])
)
@settings(max_examples=15, deadline=None)
def test_a_copy_lands_on_the_same_side(seed, size_wh, kind):
    others = [pixels(size_wh, seed + 1 + number) for number in range(5)]
    original = pixels(size_wh, seed)
    copy = np.asarray(Image.fromarray(original).resize((size_wh[0] // 2, size_wh[1] // 2)))
    if kind != "half":
        copy = open_upright(encoded(original, kind)).rgb
    rgbs = [original, *others, copy]
    files = ["original", "o1", "o2", "o3", "o4", "o5", "copy"]
    placed = _place(
        files, [pixels_sha256(r) for r in rgbs], [thumb(r) for r in rgbs], [phash(r) for r in rgbs]
    )
    rule = "same_pixels" if kind == "PNG" else "near_duplicate"
    assert placed["copy"] == Placed(placed["original"].side, rule, "original")
    assert placed["o1"].rule == "content_hash"


def _tables(names: list[str]) -> tuple[pa.Table, pa.Table]:
    empty = dict.fromkeys(("source", "source_file", "file_name", "uri", "format"), "x")
    images = [
        {
            "image_sha256": name,
            "pixels_sha256": name,
            "thumb": _flat(20 * n),
            "phash": None,
            "width_px": 7,
            "height_px": 5,
        }
        | {"n_bytes": 1, **empty}
        for n, name in enumerate(names)
    ]
    examples = [
        {
            "example_id": f"{name}/{q}",
            "source": "x",
            "source_file": "x",
            "source_row": q,
            "image_sha256": name,
        }
        | {"question": "?", "answer": "a", "accepted_answers": [], "answer_type": "word", "n_boxes": 1}
        | {"evidence_area_frac": 0.5}
        for name in names
        for q in range(2)
    ]
    return from_rows("images", images), from_rows("examples", examples)


def test_every_example_follows_its_picture():
    names = _names_of_sides("train", "val", "test")
    splits = pa.concat_tables(assign(*_tables(names))).to_pylist()
    assert [row["split"] for row in splits] == ["train", "train", "val", "val", "test", "test"]
    assert [row["image_sha256"] for row in splits] == [name for name in names for _ in range(2)]


def test_every_example_says_by_which_rule_and_with_whom_its_picture_was_placed():
    """The second has the pixels of the first; the third is a near duplicate of it."""
    a, b, c = _names_of_sides("train", "test", "val")
    images, examples = _tables([a, b, c])
    rows = [
        {**row, "phash": bits, "thumb": _flat(100)}
        for row, bits in zip(images.to_pylist(), (0, 0, TEN), strict=True)
    ]
    rows[1]["pixels_sha256"] = a
    found = pa.concat_tables(assign(from_rows("images", rows), examples)).to_pylist()[::2]
    assert [(row["split"], row["split_rule"], row["group_sha256"]) for row in found] == [
        ("train", "content_hash", a),
        ("train", "same_pixels", a),
        ("train", "near_duplicate", a),
    ]


def test_an_example_without_its_picture_is_an_error():
    images, examples = _tables(["a", "b"])
    with pytest.raises(ValueError, match="2 examples"):
        list(assign(images.slice(0, 1), examples))
