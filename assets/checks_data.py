"""Asset checks of raw files and data; how checks work is said in assets/checks.py."""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dagster import AssetCheckResult, AssetCheckSpec

from assets.checks import blocking, outcome, warning
from ops.looks import looks_by_name
from ops.near import across
from ops.sources import Source
from storage.asking import (
    Rows,
    column,
    n_examples_by_side,
    n_outside,
    n_pictures_by_side,
    n_rows,
    pixels_on_sides,
    placed_pictures,
)
from storage.lineage import Artifact, Ledger
from storage.tables import schema_of

TABLES = ("images", "examples", "boxes", "quarantine")
SIDES = ("train", "val", "test")
FULL_PICTURE, SPECK = 0.95, 0.0005  # shares of the picture's area
ODD_LIMIT = 0.2
MOST_PAIRS = 1000  # of near duplicates on two sides; the first few are enough to stop

DELIVERED = blocking(
    "delivered_and_readable",
    ["raw", "files"],
    "The annotation files are there and readable, and name pictures.",
)
CONSERVED = blocking(
    "rows_conserved",
    ["data", "examples"],
    "Raw rows = examples + quarantined; no box or picture is lost or left over.",
)
SCHEMAS = {
    table: blocking(
        "schema", ["data", table], "The stored Parquet has exactly the columns of storage.schema."
    )
    for table in TABLES
}
PLAUSIBLE = warning(
    "boxes_plausible",
    ["data", "boxes"],
    f"At most {ODD_LIMIT:.0%} of the examples have evidence over nearly all or nearly none of the picture.",
)
CONVENTION = warning(
    "convention_looks_right",
    ["data", "profile"],
    "Nothing about the boxes looks as if another convention had written them.",
)
NO_LEAK = blocking(
    "no_picture_on_two_sides",
    ["data", "splits"],
    "No picture is on two sides, nor a copy of it: same pixels, or a near duplicate (encoded, resized, lit anew).",
)
SIZES = warning(
    "sizes", ["data", "splits"], "Every side has examples, in about the shares that were asked for."
)
AGREES = blocking(
    "rebuildable_and_counts_agree",
    ["data", "catalog"],
    "Every view has as many rows as its Parquet files, and a second build gives the same catalogue.",
)


def delivered(manifest: Mapping[str, Any], source: Source) -> AssetCheckResult:
    """Missing pictures are no failure here: each costs the rows that need it."""
    files = {file["path"]: file for file in manifest["files"]}
    told = [name for name in (source.annotations, source.questions) if name]
    needed = manifest.get("annotation_files", told)
    problems = [f"{name}: {files[name].get('problem')}" for name in needed if not files[name]["sha256"]]
    lost = [path for path, file in files.items() if path not in needed and not file["sha256"]]
    pictures = manifest["pictures"]
    found = sum(bool(files[name]["sha256"]) for name in pictures) + manifest["n_pictures_in_rows"]
    if pictures and not found:
        problems.append(
            f"{source.location}: none of the {len(pictures)} pictures that the rows name can be read"
        )
    refused = manifest.get("refused_members", {})
    said = f"{found} pictures, {len(lost)} files missing or unreadable"
    if refused:
        said += f", {len(refused)} members of the archive refused"
    counted = {"n_pictures": found, "n_missing": len(lost), "missing": lost[:20]}
    unnameable = manifest.get("unnameable_files", [])
    if unnameable:
        said += f", {len(unnameable)} files passed over, whose names are no text"
        counted["unnameable"] = unnameable[:20]
    return outcome(DELIVERED, problems, said, **counted, refused_members=dict(list(refused.items())[:20]))


def conserved(tables: Mapping[str, Rows], rows_in: int) -> AssetCheckResult:
    """Count rows of the stored tables against the raw rows that the reader counted."""
    examples, boxes, images = tables["examples"], tables["boxes"], tables["images"]
    kept, refused, n_boxes = n_rows(examples), n_rows(tables["quarantine"]), n_rows(boxes)
    wanted_boxes = pc.sum(column(examples, "n_boxes")).as_py() or 0
    strays = n_outside(boxes, "example_id", examples)
    unseen = n_outside(examples, "image_sha256", images)
    unasked = n_outside(images, "image_sha256", examples)
    problems = [
        text
        for bad, text in (
            (rows_in != kept + refused, f"{rows_in} raw rows, but {kept} examples + {refused} quarantined"),
            (n_boxes != wanted_boxes, f"{n_boxes} boxes for {wanted_boxes} counted in examples"),
            (strays, f"{strays} boxes belong to no example"),
            (unseen, f"{unseen} examples have no picture"),
            (unasked, f"{unasked} pictures have no example"),
        )
        if bad
    ]
    return outcome(
        CONSERVED, problems, f"{rows_in} = {kept} + {refused}", rows_in=rows_in, kept=kept, refused=refused
    )


def schema(ledger: Ledger, table: str, artifact: Artifact) -> AssetCheckResult:
    """Read the schema from the stored file itself, its version included."""
    seen, wanted = pq.read_schema(ledger.path(artifact)), schema_of(table)
    columns = {name: (_column(seen, name), _column(wanted, name)) for name in [*wanted.names, *seen.names]}
    problems = [
        f"{name}: saw {_shown(is_there)}, wanted {_shown(should_be)}"
        for name, (is_there, should_be) in columns.items()
        if is_there != should_be
    ]
    versions = [dict(each.metadata or {}) for each in (seen, wanted)]
    problems += [
        f"{key.decode()}: saw {versions[0].get(key)!r}, wanted {value!r}"
        for key, value in versions[1].items()
        if versions[0].get(key) != value
    ]
    return outcome(SCHEMAS[table], problems, f"{len(wanted)} columns")


def plausible(examples: Rows) -> AssetCheckResult:
    """Evidence over the whole picture tells nothing, a speck of it cannot be looked at on a token grid."""
    share = column(examples, "evidence_area_frac")
    full = pc.sum(pc.greater(share, FULL_PICTURE)).as_py() or 0
    speck = pc.sum(pc.less(share, SPECK)).as_py() or 0
    odd = (full + speck) / max(1, len(share))
    said = f"{full} examples with evidence over the whole picture, {speck} with a speck, of {len(share)}"
    mean = pc.mean(share).as_py() or 0.0
    return outcome(
        PLAUSIBLE, [said] if odd > ODD_LIMIT else [], said, full=full, speck=speck, mean_area_frac=mean
    )


def convention_looks_right(warnings: pa.Table) -> AssetCheckResult:
    """Tell every warning as it was worded; its figures and the conventions that would fit go along."""
    rows = warnings.to_pylist()
    fits = list(dict.fromkeys(name for row in rows for name in row["fits"]))
    signs = {row["kind"]: row["share"] for row in rows}
    return outcome(CONVENTION, [row["detail"] for row in rows], "nothing looks wrong", fits=fits, **signs)


def no_leak(splits: Rows, images: Rows) -> AssetCheckResult:
    """Group the pictures by their pixels and count the sides; then compare what lies on two sides.

    A picture that was never read counts by its image_sha256. Near duplicates are searched from the stored hashes
    and thumbnails alone, by another way than the one that placed them (`ops.near.across`).
    """
    n_pixels, n_torn, torn = pixels_on_sides(splits, images, SIDES)
    problems = [f"{n_torn} pictures are on two sides, such as {torn}"] if n_torn else []
    n_compared, pairs = near_across(splits, images)
    if pairs:
        count = f"{len(pairs)}{' or more' if len(pairs) == MOST_PAIRS else ''}"
        problems.append(f"{count} near duplicates lie on two sides, such as {' and '.join(pairs[0])}")
    lost = n_outside(splits, "image_sha256", images)
    problems += [f"{lost} examples are of pictures that no table holds"] if lost else []
    strange = sorted(set(n_examples_by_side(splits)) - {*SIDES, "excluded"})
    problems += [f"unknown sides {strange}"] if strange else []
    said = f"{n_pixels} pictures, each on one side, and no near duplicate among {n_compared} on another"
    return outcome(NO_LEAK, problems, said, n_pictures=n_pixels, n_compared=n_compared)


def near_across(splits: Rows, images: Rows) -> tuple[int, list[tuple[str, str]]]:
    """How many pictures have a look to compare, and the pairs of near duplicates on two sides, at most MOST_PAIRS."""
    rows = placed_pictures(splits, SIDES)
    looks, seen = looks_by_name(images, rows["image_sha256"])
    names = rows["image_sha256"].filter(pa.array(seen))
    sides = pc.index_in(rows["split"].filter(pa.array(seen)), value_set=pa.array(SIDES))
    found = list(islice(across(looks, sides.to_numpy().astype(np.int8)), MOST_PAIRS))
    return len(names), [(names[a].as_py(), names[b].as_py()) for a, b in found]


def sizes(splits: Rows, fractions: Mapping[str, float], marked: Collection[str] = ()) -> AssetCheckResult:
    """Shares of the pictures by side, against the shares asked for; few pictures may stray far.

    `marked`: pictures (image_sha256) of a marked slice, which a source may have made for one side; not counted.
    """
    counts = n_pictures_by_side(splits, marked)
    n = sum(counts.get(side, 0) for side in SIDES)
    wanted = {**fractions, "train": 1 - sum(fractions.values())}
    problems = [f"no example in {side}" for side in SIDES if not counts.get(side)]
    strayed = n_examples_by_side(splits, marked).get("train", 0)
    if strayed:
        problems.append(
            f"{strayed} examples about pictures of a marked slice are in train: give them other shares"
        )
    problems += [
        f"{side}: {counts.get(side, 0) / n:.1%} of {n} pictures, wanted {share:.1%}"
        for side, share in wanted.items()
        if n and abs(counts.get(side, 0) / n - share) > 0.02 + 3 * (share * (1 - share) / n) ** 0.5
    ]
    return outcome(
        SIZES,
        problems,
        str(counts),
        **{f"pictures_{side}": counts.get(side, 0) for side in (*SIDES, "excluded")},
    )


def agrees(problems: Sequence[str]) -> AssetCheckResult:
    """Tell where the stored catalogue differs from the Parquet files, or from a second build."""
    return outcome(AGREES, problems, "every view has the rows of its files, and a rebuild is equal")


def all_specs() -> list[AssetCheckSpec]:
    """The checks of the normalised tables."""
    return [CONSERVED, *SCHEMAS.values(), PLAUSIBLE]


def _column(table: pa.Schema, name: str) -> tuple[pa.DataType, bool] | None:
    return (table.field(name).type, table.field(name).nullable) if name in table.names else None


def _shown(column: tuple[pa.DataType, bool] | None) -> str:
    return "no such column" if column is None else f"{column[0]}{'' if column[1] else ' not null'}"
