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
    pictures = _pictures([rgb, rgb // 2 * 2, pixels((96, 64), 2), None])
    assert no_leak(placed("train", "train", "test", "val"), pictures).passed
    assert no_leak(placed("train", "excluded", "test", "val"), pictures).passed
    result = no_leak(placed("train", "test", "test", "val"), pictures)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert result.description == "1 near duplicates lie on two sides, such as i0 and i1"


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
