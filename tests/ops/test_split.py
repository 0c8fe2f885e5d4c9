import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.pictures import THUMB_BYTES, open_upright, pixels_sha256, thumb
from ops.split import NEAR, assign, place, side_of
from storage.tables import from_rows
from tests.ops.delivery import encoded, pixels


def _placed(pictures: list[tuple[str, bytes]]) -> dict[str, tuple[str, str]]:
    """Place (name, thumb) pairs; the name stands for both hashes."""
    names = [name for name, _ in pictures]
    return place(names, names, [thumbnail for _, thumbnail in pictures])


def _flat(value: int, **changed: int) -> bytes:
    thumbnail = bytearray([value]) * THUMB_BYTES
    for place_, other in changed.items():
        thumbnail[int(place_.removeprefix("at"))] = other
    return bytes(thumbnail)


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


@pytest.mark.parametrize(
    "fractions", [{"test": 1.0}, {"test": -0.1}, {"test": 0.6, "val": 0.5}, {"dev": 0.1}]
)
def test_wrong_fractions_are_named(fractions):
    with pytest.raises(ValueError, match="split fractions"):
        side_of("x", fractions)


def test_near_is_up_to_twelve_in_any_one_value():
    # "a" is far from nothing before it; b differs by 12 in the last value, c by 13 in the first.
    names = _names_of_sides("train", "test", "test")
    placed = _placed([(names[0], _flat(100)), (names[1], _flat(100, at767=100 + NEAR))])
    assert placed[names[1]] == ("train", "near_duplicate")
    placed = _placed([(names[0], _flat(100)), (names[2], _flat(100, at0=100 - NEAR - 1))])
    assert placed[names[2]] == ("test", "content_hash")


def test_near_two_sides_is_excluded():
    names = _names_of_sides("train", "test", "train")
    pictures = [(names[0], _flat(100)), (names[1], _flat(120)), (names[2], _flat(110))]
    placed = _placed(pictures)
    assert [placed[name][0] for name in names] == ["train", "test", "excluded"]
    assert placed[names[2]][1] == "near_two_sides"


def test_a_copy_of_a_follower_stays_with_it():
    # 100 train; 110 follows it. 121 is near 110 and not near 100: by its own pixels it would be test.
    names = _names_of_sides("train", "train", "test")
    placed = _placed([(names[0], _flat(100)), (names[1], _flat(110)), (names[2], _flat(121))])
    assert placed[names[2]] == ("train", "near_duplicate")


def _names_of_sides(*sides: str) -> list[str]:
    candidates = iter(range(10_000))
    return [next(f"p{n}" for n in candidates if side_of(f"p{n}") == side) for side in sides]


# Few levels, so that near pairs, chains and ties happen often.
_pictures = st.lists(st.tuples(st.integers(0, 40).map(lambda n: f"p{n}"), st.integers(0, 12)), max_size=40)


def _distinct(drawn: list[tuple[str, int]]) -> list[tuple[str, bytes]]:
    return list({name: (name, _flat(9 * level, at5=7 * level)) for name, level in drawn}.values())


@given(_pictures, _pictures)
@settings(max_examples=60, deadline=None)
def test_appending_moves_nothing(first, more):
    before = _distinct(first)
    known = {name for name, _ in before}
    after = before + [pair for pair in _distinct(more) if pair[0] not in known]
    old, new = _placed(before), _placed(after)
    assert {name: new[name] for name in old} == old


@given(_pictures)
@settings(max_examples=60, deadline=None)
def test_no_two_near_pictures_are_on_two_sides(drawn):
    pictures = _distinct(drawn)
    placed = _placed(pictures)
    for name, thumbnail in pictures:
        for other, other_thumbnail in pictures:
            sides = {placed[name][0], placed[other][0]} - {"excluded"}
            apart = abs(thumbnail[0] - other_thumbnail[0]), abs(thumbnail[5] - other_thumbnail[5])
            assert len(sides) < 2 or max(apart) > NEAR


@given(
    st.integers(0, 10_000), st.sampled_from([(96, 64), (64, 112), (90, 90)]), st.sampled_from(["PNG", "JPEG"])
)
@settings(max_examples=15, deadline=None)
def test_a_reencoded_copy_lands_on_the_same_side(seed, size_wh, kind):
    others = [pixels(size_wh, seed + 1 + number) for number in range(5)]
    original = pixels(size_wh, seed)
    options = {"quality": 90} if kind == "JPEG" else {"optimize": True, "compress_level": 1}
    copy = open_upright(encoded(original, kind, **options)).rgb
    rgbs = [original, *others, copy]
    files = ["original", "o1", "o2", "o3", "o4", "o5", "copy"]
    placed = place(files, [pixels_sha256(rgb) for rgb in rgbs], [thumb(rgb) for rgb in rgbs])
    assert placed["copy"] == (placed["original"][0], "near_duplicate")


def test_search_agrees_with_a_plain_loop():
    # Three motifs, each brighter or darker by up to 40 and with a little noise: chains of near pictures.
    rng = np.random.default_rng(3)
    base = rng.integers(60, 180, (3, THUMB_BYTES))
    thumbs = [
        (base[rng.integers(3)] + rng.integers(-40, 41) + rng.integers(-2, 3, THUMB_BYTES))
        .astype(np.uint8)
        .tobytes()
        for _ in range(150)
    ]
    names, even = [f"p{n}" for n in range(150)], {"val": 0.3, "test": 0.3}
    placed = place(names, names, thumbs, even)
    values = [np.frombuffer(thumbnail, np.uint8).astype(int) for thumbnail in thumbs]
    expected: list[tuple[str, str]] = []
    for n, own in enumerate(values):
        near = {expected[m][0] for m in range(n) if np.abs(values[m] - own).max() <= NEAR} - {"excluded"}
        rule = ("content_hash", "near_duplicate", "near_two_sides")[min(len(near), 2)]
        side = side_of(names[n], even) if not near else near.pop() if len(near) == 1 else "excluded"
        expected.append((side, rule))
    assert [placed[name] for name in names] == expected
    assert len({rule for _, rule in expected}) == 3


def _tables(names: list[str]) -> tuple[list, list]:
    empty = dict.fromkeys(("source", "source_file", "file_name", "uri", "format"), "x")
    images = [
        {"image_sha256": name, "pixels_sha256": name, "thumb": _flat(20 * n), "width_px": 7, "height_px": 5}
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
    return [from_rows("images", images)], [from_rows("examples", examples)]


def test_every_example_follows_its_picture():
    names = _names_of_sides("train", "val", "test")
    splits = assign(*_tables(names)).to_pylist()
    assert [row["split"] for row in splits] == ["train", "train", "val", "val", "test", "test"]
    assert [row["image_sha256"] for row in splits] == [name for name in names for _ in range(2)]


def test_an_example_without_its_picture_is_an_error():
    images, examples = _tables(["a", "b"])
    with pytest.raises(ValueError, match="2 examples"):
        assign([images[0].slice(0, 1)], examples)
