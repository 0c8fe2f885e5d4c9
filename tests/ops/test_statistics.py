import math

import numpy as np
import pytest

from ops.statistics import group_difference, mean_by_cluster, paired_difference, wilson


def test_nothing_is_none():
    assert mean_by_cluster([], []) is None
    assert paired_difference({"a": 1.0}, {"b": 1.0}, {"a": 1, "b": 1}) is None
    assert group_difference(([], []), ([1.0], ["p"])) is None


def test_wilson_by_hand():
    # z = 1.959964, n = 10, rate 0.2: centre = (0.2 + 3.841459/20) / (1 + 0.3841459) = 0.283261
    # half = sqrt(3.841459 * (0.016 + 3.841459/400)) / 1.3841459 = 0.226578
    low, high = wilson(0.2, 10)
    assert low == pytest.approx(0.056682, abs=2e-6)
    assert high == pytest.approx(0.509838, abs=2e-6)
    # nothing in five: the upper end is z^2 / (n + z^2)
    assert wilson(0.0, 5) == (0.0, pytest.approx(3.841459 / 8.841459, abs=1e-6))
    with pytest.raises(ValueError, match="n=0"):
        wilson(0.5, 0)


def test_one_row_of_a_rate_takes_wilson_and_of_a_free_value_has_no_interval():
    rate = mean_by_cluster([1.0], ["p"], kind="rate")
    assert (rate.value, rate.n, rate.n_clusters) == (1.0, 1, 1)
    assert rate.ci_high == 1.0
    assert rate.ci_low == pytest.approx(1 / (1 + 3.841459), abs=1e-6)
    free = mean_by_cluster([0.3], ["p"])
    assert (free.value, free.ci_low, free.ci_high) == (0.3, None, None)
    assert not free.excludes(0.0)


def test_rows_of_one_picture_count_as_one_picture():
    # ten right answers about one picture are worth one toss, not ten
    ten = mean_by_cluster([1.0] * 10, ["p"] * 10, kind="rate")
    assert (ten.n, ten.n_clusters) == (10, 1)
    assert ten.ci_low == pytest.approx(1 / (1 + 3.841459), abs=1e-6)


def test_two_pictures_give_the_three_possible_means():
    # pictures A (one 0) and B (three 1s): draws AA, AB, BB have means 0, 3/4, 1 with chance 1/4, 1/2, 1/4.
    # 2.5 % and 97.5 % lie inside the outer quarters.
    estimate = mean_by_cluster([0.0, 1.0, 1.0, 1.0], ["A", "B", "B", "B"], kind="rate")
    assert estimate.value == 0.75
    assert (estimate.ci_low, estimate.ci_high) == (0.0, 1.0)
    # at level 0.4 the ends are the 30 % and 70 % points: both in the middle half
    middle = mean_by_cluster([0.0, 1.0, 1.0, 1.0], ["A", "B", "B", "B"], kind="rate", level=0.4)
    assert (middle.ci_low, middle.ci_high) == (0.75, 0.75)


def test_clustering_widens_the_interval_by_the_size_of_the_clusters():
    # 100 pictures, 4 equal answers each: the standard error is that of 100 tosses, 0.05, not of 400, 0.025
    values = np.repeat(np.arange(100) % 2, 4).astype(float)
    clustered = mean_by_cluster(values, np.repeat(np.arange(100), 4).tolist(), kind="rate")
    single = mean_by_cluster(values, list(range(400)), kind="rate")
    half = 1.96 * math.sqrt(0.25 / 100)
    assert (clustered.ci_high - clustered.ci_low) / 2 == pytest.approx(half, rel=0.1)
    assert (single.ci_high - single.ci_low) / 2 == pytest.approx(half / 2, rel=0.1)


def test_same_seed_same_numbers_in_any_order_of_rows():
    rng = np.random.default_rng(1)
    values, clusters = rng.random(50), [f"p{i % 17}" for i in range(50)]
    order = rng.permutation(50)
    first = mean_by_cluster(values, clusters, seed=3)
    again = mean_by_cluster(values[order], [clusters[i] for i in order], seed=3)
    assert (again.ci_low, again.ci_high) == pytest.approx((first.ci_low, first.ci_high), abs=1e-12)
    other = mean_by_cluster(values, clusters, seed=4)
    assert (other.ci_low, other.ci_high) != (first.ci_low, first.ci_high)


def test_many_pictures_are_drawn_in_parts():
    # 2,001 pictures x 2,000 draws are drawn in three parts; the interval is still that of 2,001 tosses
    values = (np.arange(2001) % 2).astype(float)
    estimate = mean_by_cluster(values, list(range(2001)), kind="rate")
    half = 1.96 * math.sqrt(0.25 / 2001)
    assert (estimate.ci_high - estimate.ci_low) / 2 == pytest.approx(half, rel=0.1)


def test_paired_difference_by_hand_over_shared_keys_only():
    # shared: a (+1), b (0), c (-0.5); d and e are on one side only. Mean = 0.5 / 3
    mine = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 9.0}
    theirs = {"a": 0.0, "b": 1.0, "c": 0.5, "e": 9.0}
    estimate = paired_difference(mine, theirs, {k: k for k in "abcde"})
    assert estimate.n == 3
    assert estimate.value == pytest.approx(0.5 / 3)
    assert estimate.ci_low < 0 < estimate.ci_high


def test_pairing_removes_what_the_examples_share():
    # one policy is right wherever the other is, and on 10 % more: the paired interval leaves 0 out although
    # the two separate intervals overlap
    rng = np.random.default_rng(0)
    theirs = {i: float(rng.random() < 0.5) for i in range(200)}
    mine = {i: 1.0 if i % 10 == 0 else v for i, v in theirs.items()}
    paired = paired_difference(mine, theirs, {i: i for i in range(200)}, kind="difference")
    one = mean_by_cluster(list(mine.values()), list(mine), kind="rate")
    other = mean_by_cluster(list(theirs.values()), list(theirs), kind="rate")
    assert paired.excludes(0.0) and paired.value > 0
    assert other.ci_high > one.ci_low


def test_no_difference_seen_is_not_certainty():
    # five pictures without any change: +- the Wilson bound of 0 in 5
    estimate = paired_difference(
        dict.fromkeys(range(5), 1.0),
        dict.fromkeys(range(5), 1.0),
        {i: i for i in range(5)},
        kind="difference",
    )
    assert estimate.value == 0.0
    assert estimate.ci_high == pytest.approx(3.841459 / 8.841459, abs=1e-6)
    assert estimate.ci_low == -estimate.ci_high


def test_group_difference_by_hand_and_with_pictures_in_both_groups():
    # control: p1 1, p2 1, p2 0 -> 2/3; conflict: p2 0, p3 1 -> 1/2
    estimate = group_difference(([1.0, 1.0, 0.0], ["p1", "p2", "p2"]), ([0.0, 1.0], ["p2", "p3"]))
    assert estimate.value == pytest.approx(1 / 6)
    assert (estimate.n, estimate.n_clusters) == (5, 3)
    assert estimate.ci_low < 1 / 6 < estimate.ci_high
    assert math.isfinite(estimate.ci_low) and math.isfinite(estimate.ci_high)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        mean_by_cluster([0.1, math.nan], ["a", "b"])
    for values in ([0.1, 0.2], np.full((1, 2), 0.1)):
        with pytest.raises(ValueError, match="one cluster per value"):
            mean_by_cluster(values, ["a"])
