"""Which pictures are near duplicates, and the two searches for them against a plain loop."""

from dataclasses import replace

import numpy as np
import pytest

import ops.looks
from ops.looks import alike, looks_of
from ops.near import Earlier, across, narrowed
from ops.pictures import LUMA, phash, thumb
from tests.ops.delivery import pixels


def _looks(rgbs):
    return looks_of([phash(rgb) for rgb in rgbs], [thumb(rgb) for rgb in rgbs])


def test_one_thing_in_another_colour_is_not_a_copy_but_darker_and_grey_are():
    rgb = (pixels((120, 80), 3) * 0.8).astype(np.uint8)
    odd = rgb.copy()
    odd[20:50, 30:60] = odd[20:50, 30:60][..., ::-1]
    odd[20:50, 30:60, 2] = 255
    grey = np.repeat(np.rint(rgb @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None], 3, axis=2)
    looks = _looks([rgb, odd, (rgb * 0.9).astype(np.uint8), grey, (rgb * 0.7).astype(np.uint8)])
    first, rest = np.zeros(4, int), np.arange(1, 5)
    assert alike(looks, first, rest).tolist() == [False, True, True, False]
    assert alike(looks, rest, first).tolist() == [False, True, True, False]


def test_both_searches_find_what_a_plain_loop_finds():
    rng = np.random.default_rng(4)
    motifs, base = rng.integers(0, 2**62, 3), [rng.integers(60, 180, 768) for _ in range(2)]
    hashes, thumbs = [], []
    for _ in range(160):
        turned = rng.choice(62, int(rng.integers(0, 10)), replace=False)
        hashes.append(int(motifs[rng.integers(3)]) ^ sum(1 << int(bit) for bit in turned))
        thumbs.append((base[rng.integers(2)] + rng.integers(-3, 4, 768)).astype(np.uint8).tobytes())
    looks, group = looks_of(hashes, thumbs), rng.integers(0, 3, 160)
    every = [(a, b) for b in range(160) for a in range(b)]
    near = alike(looks, np.array([a for a, _ in every]), np.array([b for _, b in every]))
    found = {pair for pair, is_near in zip(every, near, strict=True) if is_near}
    assert 100 < len(found) < len(every) / 2
    assert all((hashes[a] ^ hashes[b]).bit_count() <= 10 for a, b in found)
    pairs = list(across(looks, group))
    assert {(min(pair), max(pair)) for pair in pairs} == {(a, b) for a, b in found if group[a] != group[b]}
    assert len(pairs) == len(set(pairs))
    earlier = Earlier(looks)
    for b in range(160):
        first = {}
        for a in range(b):
            if (a, b) in found:
                first.setdefault(int(group[a]), a)
        assert earlier.first_near(b, group) == first


def _grey(thumb):
    return np.repeat(np.rint(thumb.reshape(-1, 3) @ LUMA)[:, None], 3, axis=1).ravel()


def test_among_crowded_hashes_both_searches_find_what_a_plain_loop_finds():
    # Nearly one hash for all, so the bands tell nothing; 40 looks of 4 x 4 squares, lit, with noise, some grey.
    rng = np.random.default_rng(6)
    base = rng.integers(30, 220, (40, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2).reshape(40, 768)
    hashes, thumbs = [], []
    for _ in range(500):
        own = base[rng.integers(40)] * rng.uniform(0.88, 1.0) + rng.integers(-3, 4, 768)
        own = _grey(own) if rng.random() < 0.3 else own
        hashes.append(12345 ^ (1 << int(rng.integers(62))))
        thumbs.append(np.clip(own, 0, 255).astype(np.uint8).tobytes())
    looks, group = looks_of(hashes, thumbs), rng.integers(-1, 3, 500)
    near = [alike(looks, np.full(500, k), np.arange(500)) for k in range(500)]
    for k in range(500):
        left = narrowed(looks, k, np.arange(500))
        assert set(np.flatnonzero(near[k])) <= set(left) and (np.diff(left) > 0).all()
        assert len(left) < 250
    earlier = Earlier(looks)
    for k in range(500):
        before = np.flatnonzero(near[k][:k])
        assert earlier.first_near(k, group) == {
            int(g): int(before[group[before] == g][0]) for g in group[before] if g >= 0
        }
    pairs = list(across(looks, group))
    wanted = {
        (a, b) for b in range(500) for a in np.flatnonzero(near[b][:b]).tolist() if group[a] != group[b]
    }
    assert {(min(pair), max(pair)) for pair in pairs} == wanted
    assert len(pairs) == len(set(pairs)) > 500
    in_both = [pair for pair in pairs if looks.grey[list(pair)].sum() == 1]
    assert in_both


def _of_one_background(n, dark=60, bright=190):
    """Pictures of one hash and one background of squares, each with one small cell of its own; and their sides."""
    rng = np.random.default_rng(8)
    base = rng.integers(dark, bright, (4, 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    thumbs = []
    for _ in range(n):
        own = base + rng.integers(0, 2, (16, 16, 1))
        own[tuple(rng.integers(0, 16, 2))] = rng.integers(0, 256, 3)
        thumbs.append(np.clip(own * rng.uniform(0.9, 1.0), 0, 255).astype(np.uint8).tobytes())
    return looks_of([12345] * n, thumbs), rng.choice(3, n, p=(0.72, 0.08, 0.2))


def _placing(looks, group):
    earlier = Earlier(looks)
    return [earlier.first_near(k, group) for k in range(len(looks))]


@pytest.mark.parametrize("search", [_placing, lambda looks, group: list(across(looks, group))])
def test_pictures_of_one_hash_and_background_are_seldom_compared_whole(monkeypatch, search):
    """Where each differs from the rest is looked at first: without that, three times as many are compared whole."""
    looks, group = _of_one_background(500)
    whole, compared = [], ops.looks._agree
    monkeypatch.setattr(ops.looks, "_agree", lambda a, b: whole.append(len(a[0])) or compared(a, b))
    found = search(looks, group)
    n_compared = sum(whole)
    assert 0 < n_compared < 30 * len(looks)
    whole.clear()
    unseen = replace(looks, loudest=np.full(len(looks), -1, np.int16))
    assert search(unseen, group) == found
    assert sum(whole) > 3 * n_compared


@pytest.mark.parametrize(("dark", "bright"), [(60, 190), (30, 250)])
def test_the_look_at_one_place_rules_out_no_near_picture(dark, bright):
    """Also where a value is too bright to tell how a picture was lit."""
    looks, _ = _of_one_background(300, dark, bright)
    assert np.isnan(looks.light).any() == (bright > 245)
    unseen = replace(looks, loudest=np.full(300, -1, np.int16))
    assert (looks.loudest >= 0).all()
    ones, others = (each.ravel() for each in np.indices((300, 300)))
    near = alike(unseen, ones, others)
    assert 1000 < near.sum() < 45_000
    assert (alike(looks, ones, others) == near).all()
