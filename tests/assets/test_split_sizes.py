"""The sizes of the sides, held against the shares that were asked for."""

import dagster as dg
import pyarrow as pa

from assets import checks_data
from tests.assets.small_world import placed

WARN = dg.AssetCheckSeverity.WARN
SHARES = {"val": 0.08, "test": 0.2}


def test_sides_have_about_the_sizes_that_were_asked_for() -> None:
    """Of 100 pictures 20 are wanted in test: 0.2 +- (0.02 + 3 * 0.04) allows 6 to 34."""
    assert checks_data.sizes(placed(*["train"] * 72, *["val"] * 8, *["test"] * 20), SHARES).passed
    bad = checks_data.sizes(placed(*["train"] * 60, *["test"] * 40), SHARES)
    assert bad.severity == WARN
    assert "no example in val" in str(bad.description)
    assert "test: 40.0% of 100 pictures, wanted 20.0%" in str(bad.description)


def test_pictures_made_for_the_test_side_do_not_count_and_may_not_train() -> None:
    """Of 140 pictures 60 are in test, 40 of them made for it: the other 100 are as asked for."""
    splits = placed(*["train"] * 72, *["val"] * 8, *["test"] * 60)
    pictures = splits["image_sha256"].to_pylist()
    assert not checks_data.sizes(splits, SHARES).passed
    assert checks_data.sizes(splits, SHARES, pictures[-40:]).passed
    assert not checks_data.sizes(splits, SHARES, [*pictures[-40:], pictures[0]]).passed


def test_pictures_count_and_not_their_examples_and_excluded_ones_do_not() -> None:
    """Of 100 pictures 20 are in test, with three examples each; 60 more are excluded."""
    sides = [*["train"] * 72, *["val"] * 8, *["test"] * 60, *["excluded"] * 60]
    splits = placed(*sides)
    images = [f"i{n if n < 80 else 80 + (n - 80) // 3 if n < 140 else n}" for n in range(200)]
    result = checks_data.sizes(splits.set_column(1, "image_sha256", pa.array(images)), SHARES)
    assert result.passed
    counts = {
        side: result.metadata[f"pictures_{side}"].value for side in ("train", "val", "test", "excluded")
    }
    assert counts == {"train": 72, "val": 8, "test": 20, "excluded": 60}
    assert not checks_data.sizes(splits, SHARES).passed
