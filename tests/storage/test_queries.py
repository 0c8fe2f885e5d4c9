"""The answers of the stored queries about data and maps, worked out by hand, and the tables kept for them."""

from pathlib import Path

import pytest

from storage import catalog
from storage.catalog import CatalogError, build, connect, kept, query, questions
from storage.lineage import Ledger, Work
from storage.tables import from_rows
from tests.benchmarks.queries import Size, fill, reads_kept, same, without_kept
from tests.storage import small_world
from tests.storage.small_world import SmallWorld


def rows(ledger: Ledger, name: str) -> list[dict]:
    build(ledger)
    return query(ledger.store.root, name).to_pylist()


def put(ledger: Ledger, table: str, source: str, values: list[dict], summary: dict | None = None) -> None:
    made = ledger.put_table(Work("by_hand", source), table, table, from_rows(table, values), summary)
    ledger.point(f"data/{table}", source, made)


def example(example_id: str, source: str, **other: object) -> dict:
    return {**small_world.examples()[0], "example_id": example_id, "source": source, **other}


def test_rows_in_and_out_shows_a_lost_row_and_what_was_never_counted(ledger: Ledger) -> None:
    # harbour: 4 came in, 2 are examples, 1 was refused: 1 is lost. meadow: 1 in, refused.
    # loft holds attic's and did not count.
    put(ledger, "examples", "harbour", [example("h1", "harbour"), example("h2", "harbour")], {"rows_in": 4})
    put(ledger, "examples", "meadow", [], {"rows_in": 1})
    put(ledger, "examples", "loft", [example("a1", "attic")])
    refused = [{**small_world.refusal(), "source": source} for source in ("harbour", "meadow")]
    put(ledger, "quarantine", "both", refused)
    columns = ("source", "rows_in", "n_examples", "n_refused", "lost")
    assert [tuple(row[c] for c in columns) for row in rows(ledger, "rows_in_and_out")] == [
        ("harbour", 4, 2, 1, 1),
        ("meadow", 1, 0, 1, 0),
        ("attic", None, 1, 0, None),
        ("loft", None, 0, 0, None),
    ]


def test_duplicates_across_sources_finds_a_re_encoding_and_the_same_file(ledger: Ledger) -> None:
    # harbour has a (2 examples) and b (1). meadow has a again, re-encoded (1 example), and the file of b (3).
    a, b = (small_world.image(name, "harbour") for name in ("a.png", "b.png"))
    again = {**a, "image_sha256": "re-encoded", "source": "meadow"}
    put(ledger, "images", "harbour", [a, b])
    put(ledger, "images", "meadow", [again, {**b, "source": "meadow"}])
    pictures = {
        "harbour": [a["image_sha256"]] * 2 + [b["image_sha256"]],
        "meadow": ["re-encoded"] + [b["image_sha256"]] * 3,
    }
    for source, names in pictures.items():
        made = [example(f"{source}{i}", source, image_sha256=name) for i, name in enumerate(names)]
        put(ledger, "examples", source, made)
    (row,) = rows(ledger, "duplicates_across_sources")
    assert row["a_picture"] in (a["pixels_sha256"], b["pixels_sha256"])
    del row["a_picture"]
    assert row == {
        "source": "harbour",
        "also_in": "meadow",
        "n_pictures": 2,
        "n_examples": 3,
        "n_examples_there": 4,
    }


def splits(*rows: tuple[str, str, str, str, str]) -> list[dict]:
    return [
        dict(zip(("example_id", "image_sha256", "split", "split_rule", "group_sha256"), row, strict=True))
        for row in rows
    ]


def test_duplicate_pictures_tells_files_pixels_and_near_ones_apart(ledger: Ledger) -> None:
    # a: its file in meadow under another name (the catalogue keeps the first), its pixels and a near one (2 bits)
    # in loft. b is like nothing.
    a, b = ({**small_world.image(name, "harbour"), "phash": 0b1011} for name in ("a.png", "b.png"))
    again = {**a, "image_sha256": "0again", "source": "loft", "file_name": "z.bmp"}
    near = {**again, "image_sha256": "0near", "pixels_sha256": "n", "file_name": "y.jpg", "phash": 0b1110}
    put(ledger, "images", "harbour", [a, b])
    put(ledger, "images", "loft", [again, near])
    put(ledger, "images", "meadow", [{**a, "source": "meadow", "file_name": "other.png"}])
    first = a["image_sha256"]
    rows_ = splits(
        ("e1", first, "train", "content_hash", first),
        ("e2", first, "train", "content_hash", first),
        ("m1", first, "train", "content_hash", first),
        ("e3", "0again", "train", "same_pixels", first),
        ("e4", "0near", "excluded", "near_two_sides", first),
        ("e5", b["image_sha256"], "test", "content_hash", b["image_sha256"]),
    )
    sources = {"e1": "harbour", "e2": "harbour", "m1": "meadow", "e3": "loft", "e4": "loft", "e5": "harbour"}
    for source in ("harbour", "loft", "meadow"):
        put(ledger, "examples", source, [example(e, source) for e, own in sources.items() if own == source])
    put(ledger, "splits", "", rows_)
    columns = ("likeness", "bits_apart", "source", "file_name", "split", "split_rule")
    found = rows(ledger, "duplicate_pictures")
    assert [tuple(row[c] for c in columns) for row in found] == [
        ("first", 0, "harbour", "a.png", "train", "content_hash"),
        ("near duplicate", 2, "loft", "y.jpg", "excluded", "near_two_sides"),
        ("same pixels", 0, "loft", "z.bmp", "train", "same_pixels"),
        ("same file", 0, "meadow", "a.png", "train", "content_hash"),
    ]
    assert {(row["first_picture"], row["n_in_group"]) for row in found} == {(first, 4)}


def test_split_strata_counts_draws_and_shows_a_missing_side(ledger: Ledger) -> None:
    # harbour: p1 (asked twice), p2, p3 of words, p4 of a number. meadow: a copy of p1, p6; p5 is excluded and p7
    # marked. Draws p1, p2, p4 in train, p3 in test, p6 in val: shares of all 0.6, 0.2, 0.2.
    asked = [
        *(example(f"h{n}", "harbour", image_sha256=p) for n, p in enumerate(["p1", "p1", "p2", "p3"])),
        example("h4", "harbour", image_sha256="p4", answer_type="number"),
    ]
    there = [example(f"m{n}", "meadow", image_sha256=p) for n, p in enumerate(["copy", "p5", "p6"])]
    there.append(example("m3", "meadow", image_sha256="p7", slice="conflict"))
    put(ledger, "examples", "harbour", asked)
    put(ledger, "examples", "meadow", there)
    sides = {"p1": "train", "copy": "train", "p2": "train", "p3": "test", "p4": "train", "p5": "excluded"}
    sides |= {"p6": "val", "p7": "test"}
    placed = [
        (e["example_id"], e["image_sha256"], sides[e["image_sha256"]], "content_hash", e["image_sha256"])
        for e in [*asked, *there]
    ]
    placed = [row if row[1] != "copy" else (*row[:3], "near_duplicate", "p1") for row in placed]
    put(ledger, "splits", "", splits(*placed))
    found = rows(ledger, "split_strata")
    columns = ("source", "answer_type", "split", "n", "n_of_stratum")
    assert [tuple(row[c] for c in columns) for row in found] == [
        ("harbour", "number", "test", 0, 1),
        ("harbour", "number", "train", 1, 1),
        ("harbour", "number", "val", 0, 1),
        ("harbour", "word", "test", 1, 3),
        ("harbour", "word", "train", 2, 3),
        ("harbour", "word", "val", 0, 3),
        ("meadow", "word", "test", 0, 2),
        ("meadow", "word", "train", 1, 2),
        ("meadow", "word", "val", 1, 2),
    ]
    assert [row["share_of_all"] for row in found] == pytest.approx([0.2, 0.6, 0.2] * 3)
    # (share - share of all) / sqrt(share of all * (1 - share of all) / n_of_stratum), such as (0 - 0.2) / 0.4
    wanted = [-0.5, 0.8165, -0.5, 0.5774, 0.2357, -0.8660, -0.7071, -0.2887, 1.0607]
    assert [row["sigmas"] for row in found] == pytest.approx(wanted, abs=1e-4)


def test_evidence_sizes_counts_whole_and_nearly_empty_and_leaves_out_what_has_no_box(ledger: Ledger) -> None:
    # Of 4 with boxes: 0.97 is nearly all, 0.0004 and 0.0008 nearly nothing; median (0.0008 + 0.3) / 2 = 0.1504.
    areas = {"e1": 0.97, "e2": 0.0008, "e3": 0.3, "e4": 0.0004}
    made = [example(name, "harbour", n_boxes=2, evidence_area_frac=area) for name, area in areas.items()]
    put(ledger, "examples", "harbour", [*made, example("e5", "harbour", n_boxes=0, evidence_area_frac=0.0)])
    (row,) = rows(ledger, "evidence_sizes")
    assert row.pop("median_area_frac") == pytest.approx(0.1504)
    assert row == {
        "source": "harbour",
        "n_with_boxes": 4,
        "share_nearly_all": 0.25,
        "share_nearly_nothing": 0.5,
        "smallest_area_frac": 0.0004,
        "smallest_example": "e4",
    }


def test_rows_that_do_not_fit_by_side_and_reason_beside_those_that_do(ledger: Ledger) -> None:
    def row(
        example_id: str, split: str, prompt: int | None, reason: str | None = None, **more: object
    ) -> dict:
        told = {"fits": reason is None, "reason": reason, "detail": reason and f"of {example_id}"}
        place = {"policy_id": "base@0", "image_sha256": "s", "example_id": example_id, "split": split}
        return {**place, "n_prompt_tokens": prompt, **told, **more}

    rows = [
        row("e1", "train", 30, smallest_box_cells=0.5, n_image_tokens=9),
        row("e2", "train", 50, smallest_box_cells=2.0, n_image_tokens=7, n_reference_tokens=12),
        row("e3", "train", 40, smallest_box_cells=1.5),
        row("e5", "train", 900, "prompt_too_long"),
        row("e4", "train", 800, "prompt_too_long"),
        row("e6", "test", None, "undecodable_picture"),
    ]
    made = ledger.put_table(
        Work("by_hand"), "processed_rows", "processed_rows", from_rows("processed_rows", rows)
    )
    ledger.point("policy/processed_rows", "", made)
    build(ledger)
    answer = query(ledger.store.root, "rows_that_do_not_fit")
    assert [tuple(each.values()) for each in answer.to_pylist()] == [
        ("test", "undecodable_picture", 1, None, None, None, None, 0, "e6", "of e6"),
        ("train", "fits", 3, 40, 50, 9, 12, 1, "e1", None),
        ("train", "prompt_too_long", 2, 800, 900, None, None, 0, "e4", "of e4"),
    ]


def test_why_no_map(world: SmallWorld) -> None:
    # Each policy has no thought on e3 and a map on e2.
    assert rows(world.ledger, "why_no_map") == [
        {"policy": name, "unscorable_reason": "no_thought", "n": 1, "share_of_unscorable": 1.0}
        for name in ("base", "saliency_r1")
    ]


def test_what_is_in_the_archive(world: SmallWorld) -> None:
    # One map each, on 2 x 5 cells; base has mass 0.2 at chance 0.2, so lift 0.
    first, second = rows(world.ledger, "what_is_in_the_archive")
    assert first == {
        "policy": "base",
        "method": "cot_rollout",
        "rows": "predictor",
        "span": "answer",
        "n_maps": 1,
        "cells_least": 10,
        "cells_most": 10,
        "mass": 0.2,
        "chance": 0.2,
        "lift": 0.0,
        "pointing": 0.0,
        "n_scored": 1,
    }
    assert (second["policy"], second["lift"], second["pointing"]) == ("saliency_r1", 0.5, 1.0)


def test_right_without_looking_lists_the_lowest_hundred_of_each_policy_and_counts_all(
    world: SmallWorld,
) -> None:
    # 103 right answers of lift 0 to -1.02, one wrong, one that looked, one without a map; one of another policy.
    right = {**world._said("saliency_r1")[0], "policy": "many", "lift": None}
    said = [{**right, "example_id": f"m{i:03}", "lift": -i / 100} for i in range(103)]
    said += [
        {**right, "example_id": "wrong", "lift": -2.0, "correct": False},
        {**right, "example_id": "looked", "lift": 0.001},
        {**right, "example_id": "no map"},
        {**right, "example_id": "m000", "policy": "one", "lift": 0.0},
    ]
    put(world.ledger, "predictions", "many", said)
    put(world.ledger, "examples", "many", [example(f"m{i:03}", "many") for i in range(103)])
    found = rows(world.ledger, "right_without_looking")
    assert [row["example_id"] for row in found if row["policy"] == "many"] == [
        f"m{i:03}" for i in range(102, 2, -1)
    ]
    assert {(row["policy"], row["n_of_policy"]) for row in found} == {("many", 103), ("one", 1)}
    assert found == sorted(found, key=lambda row: (row["lift"], row["policy"], row["example_id"]))


def test_kept_tables_say_what_their_views_would(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, Size(n_examples=600, n_policies=2))
    build(ledger)
    readers = [name for name in questions() if reads_kept(name)]
    assert {table for name in readers for table in reads_kept(name)} == set(kept())
    for name in readers:
        found = query(ledger.store.root, name)
        assert found.num_rows
        assert same(found, without_kept(ledger.store.root, name)), name


def test_a_kept_table_that_lags_behind_is_noticed(world: SmallWorld) -> None:
    build(world.ledger)
    assert catalog.problems(world.ledger) == []
    with connect(world.ledger.store.root, read_only=False) as writer:
        writer.execute("UPDATE scores_by_policy SET lift = lift + 1e-6 WHERE policy = 'base'")
    assert catalog.problems(world.ledger) == [
        "scores_by_policy: not as a rebuild makes it; build the catalogue again"
    ]
    with connect(world.ledger.store.root, read_only=False) as writer:
        writer.execute("DROP TABLE scores_by_policy")
    assert [problem.split(":")[0] for problem in catalog.problems(world.ledger)] == ["scores_by_policy"]


def test_a_catalogue_from_before_a_kept_table_says_what_to_do(world: SmallWorld) -> None:
    build(world.ledger)
    with connect(world.ledger.store.root, read_only=False) as writer:
        writer.execute("DROP TABLE scores_by_policy")
    with pytest.raises(
        CatalogError, match=r"(?s)'lift_by_policy'.*older than the query, run the job prepare_data"
    ):
        query(world.ledger.store.root, "lift_by_policy")
    with pytest.raises(CatalogError) as own:
        query(world.ledger.store.root, "SELECT 1 FROM scores_by_policy")
    assert "older" not in str(own.value)


def test_source_profile_gives_counts_their_share_and_measures_none(ledger: Ledger) -> None:
    figure = {"source": "harbour", "subset": "all"}
    counted = {**figure, "measure": "label", "bucket": "boat", "unit": "count", "value": 3.0, "n": 12}
    measured = {
        **figure,
        "measure": "box_area_frac",
        "bucket": "p50",
        "unit": "share",
        "value": 0.2,
        "n": 4,
    }
    put(ledger, "source_profiles", "harbour", [measured, counted])
    columns = ("measure", "bucket", "value", "n", "share")
    assert [tuple(row[c] for c in columns) for row in rows(ledger, "source_profile")] == [
        ("box_area_frac", "p50", 0.2, 4, None),
        ("label", "boat", 3.0, 12, 0.25),
    ]


def test_source_warnings_come_worst_first(ledger: Ledger) -> None:
    sign = {"kind": "swapped_corners", "told": "xyxy_px", "fits": ["xywh_px"], "n": 10, "detail": "seen"}
    put(ledger, "source_warnings", "harbour", [{**sign, "source": "harbour", "share": 0.2}])
    put(
        ledger,
        "source_warnings",
        "meadow",
        [{**sign, "source": "meadow", "share": 0.7, "told": None, "fits": []}],
    )
    columns = ("source", "share", "told", "fits")
    assert [tuple(row[c] for c in columns) for row in rows(ledger, "source_warnings")] == [
        ("meadow", 0.7, None, []),
        ("harbour", 0.2, "xyxy_px", ["xywh_px"]),
    ]
