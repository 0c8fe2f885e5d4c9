"""Copies on two sides, and strata that stray, in splits made by hand."""

import dagster as dg
import pyarrow as pa

from assets.checks_data import no_leak
from assets.checks_strata import strata
from ops.pictures import phash, pixels_sha256, thumb
from storage.tables import from_rows
from tests.assets.small_world import placed
from tests.ops.delivery import pixels


def _pictures(rgbs) -> pa.Table:
    told = dict.fromkeys(("source", "source_file", "file_name", "uri", "format"), "x")
    rows = [
        {"image_sha256": f"i{n}", "width_px": 1, "height_px": 1, "n_bytes": 1, **told}
        | (
            {}
            if rgb is None
            else {"pixels_sha256": pixels_sha256(rgb), "thumb": thumb(rgb), "phash": phash(rgb)}
        )
        for n, rgb in enumerate(rgbs)
    ]
    return from_rows("images", rows)


def test_a_near_duplicate_on_another_side_is_a_leak() -> None:
    rgb = pixels((96, 64), 1)
    whole = _pictures([rgb, rgb // 2 * 2, pixels((96, 64), 2), None])
    pictures = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    assert no_leak(placed("train", "train", "test", "val"), pictures).passed
    assert no_leak(placed("train", "excluded", "test", "val"), pictures).passed
    result = no_leak(placed("train", "test", "test", "val"), pictures)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert result.description == "1 near duplicates lie on two sides, such as i0 and i1"


def _read(*pixels: str | None) -> pa.Table:
    """Pictures i0, i1, ... of these pixels, without a look."""
    told = dict.fromkeys(("source", "source_file", "file_name", "uri", "format"), "x")
    told |= {"width_px": 1, "height_px": 1, "n_bytes": 1}
    rows = [{"image_sha256": f"i{n}", "pixels_sha256": own, **told} for n, own in enumerate(pixels)]
    return from_rows("images", rows)


def test_the_same_pixels_on_two_sides_are_a_leak_in_one_file_or_in_two() -> None:
    assert no_leak(placed("train", "train", "test"), _read("p", "p", None)).passed
    assert no_leak(placed("train", "excluded", "test"), _read("p", "p", None)).passed
    in_two = no_leak(placed("train", "test", "test"), _read("p", "p", None))
    assert (in_two.passed, in_two.description) == (False, "1 pictures are on two sides, such as p")
    twice = placed("train", "test").set_column(1, "image_sha256", pa.array(["i0", "i0"]))
    in_one = no_leak(twice, _read(None))
    assert (in_one.passed, in_one.description) == (False, "1 pictures are on two sides, such as i0")


def test_a_picture_that_no_table_holds_and_a_side_that_is_none_are_named() -> None:
    lost = no_leak(placed("train", "test"), _read("p"))
    assert (lost.passed, lost.description) == (False, "1 examples are of pictures that no table holds")
    sides = placed("train", "test").set_column(2, "split", pa.array(["train", "dev"]))
    strange = no_leak(sides, _read("p", "q"))
    assert (strange.passed, strange.description) == (False, "unknown sides ['dev']")


def _asked(n: int) -> pa.Table:
    """Examples 0, 1, ... of one source and kind."""
    told = {"source": "s", "source_file": "f", "source_row": 0, "question": "?", "answer": "a", "n_boxes": 0}
    told |= {"accepted_answers": [], "evidence_area_frac": 0.0, "answer_type": "word"}
    return from_rows("examples", [{"example_id": str(k), "image_sha256": f"i{k}", **told} for k in range(n)])


def _counted(splits: pa.Table, marked: list[str] | None = None) -> dict[str, object]:
    result = strata(splits, _asked(splits.num_rows), {"val": 0.08, "test": 0.2}, marked or [])
    (row,) = result.metadata["strata"].records
    return {side: row.data[side] for side in ("n", "train", "val", "test")}


def test_a_stratum_counts_groups_and_neither_marked_nor_excluded_pictures() -> None:
    splits = placed("train", "train", "train", "val", "test", "test", "excluded")
    assert _counted(splits) == {"n": 6, "train": 3, "val": 1, "test": 2}
    assert _counted(splits, ["i5", "i0"]) == {"n": 4, "train": 2, "val": 1, "test": 1}
    group = pa.array(["i0", "i0", "i2", "i3", "i4", "i5", None])
    assert _counted(splits.set_column(4, "group_sha256", group)) == {"n": 5, "train": 2, "val": 1, "test": 2}


def test_a_share_just_beyond_three_deviations_is_named_on_either_side() -> None:
    """Of 100, 20 wanted in test: 0.2 +- 3 * 0.04 is 8 to 32."""
    shares = {"val": 0.08, "test": 0.2}
    for n_test, passed in ((7, False), (9, True), (31, True), (33, False)):
        splits = placed(*["train"] * (92 - n_test), *["val"] * 8, *["test"] * n_test)
        assert strata(splits, _asked(100), shares).passed == passed, n_test


def test_a_stratum_that_strays_or_misses_a_side_is_named() -> None:
    told = {"source": "s", "source_file": "f", "source_row": 0, "question": "?", "answer": "a", "n_boxes": 0}
    told |= {"accepted_answers": [], "evidence_area_frac": 0.0}
    splits = placed(*["train"] * 72, *["val"] * 8, *["test"] * 20)
    kinds = ["word"] * 60 + ["number"] * 40
    rows = [
        {"example_id": str(n), "image_sha256": f"i{n}", "answer_type": kind, **told}
        for n, kind in enumerate(kinds)
    ]
    shares = {"val": 0.08, "test": 0.2}
    assert strata(splits, from_rows("examples", [{**r, "answer_type": "word"} for r in rows]), shares).passed
    result = strata(splits, from_rows("examples", rows), shares)
    # word: 60 in train. number: 12 train, 8 val, 20 test; 0.2 +- 3 * sqrt(0.16 / 40) = 0.19.
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert "s, word: none of 60 in test, 12.0 expected" in str(result.description)
    assert "s, number: 50.0% of 40 in test, expected 1.0% to 39.0%" in str(result.description)
