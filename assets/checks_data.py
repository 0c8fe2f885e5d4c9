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
from ops.near import across, looks_of
from ops.sources import Source
from storage.lineage import Artifact, Ledger
from storage.tables import schema_of

TABLES = ("images", "examples", "boxes", "quarantine")
NEEDED = {
    "images": ["image_sha256"],
    "examples": ["image_sha256", "example_id", "n_boxes", "evidence_area_frac"],
    "boxes": ["example_id"],
    "quarantine": ["reason"],
}
"""The columns that the checks of the normalised tables read."""
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
    return outcome(DELIVERED, problems, said, **counted, refused_members=dict(list(refused.items())[:20]))


def conserved(tables: Mapping[str, pa.Table], rows_in: int) -> AssetCheckResult:
    """Count rows of the stored tables against the raw rows that the reader counted."""
    examples, boxes, images = tables["examples"], tables["boxes"], tables["images"]
    kept, refused = examples.num_rows, tables["quarantine"].num_rows
    wanted_boxes = pc.sum(examples["n_boxes"]).as_py() or 0
    strays = _outside(boxes["example_id"], examples["example_id"])
    unseen = _outside(examples["image_sha256"], images["image_sha256"])
    unasked = _outside(images["image_sha256"], examples["image_sha256"])
    problems = [
        text
        for bad, text in (
            (rows_in != kept + refused, f"{rows_in} raw rows, but {kept} examples + {refused} quarantined"),
            (
                boxes.num_rows != wanted_boxes,
                f"{boxes.num_rows} boxes for {wanted_boxes} counted in examples",
            ),
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


def plausible(examples: pa.Table) -> AssetCheckResult:
    """Evidence over the whole picture tells nothing, a speck of it cannot be looked at on a token grid."""
    share = examples["evidence_area_frac"]
    full = pc.sum(pc.greater(share, FULL_PICTURE)).as_py() or 0
    speck = pc.sum(pc.less(share, SPECK)).as_py() or 0
    odd = (full + speck) / max(1, examples.num_rows)
    said = (
        f"{full} examples with evidence over the whole picture, {speck} with a speck, of {examples.num_rows}"
    )
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


def no_leak(splits: pa.Table, images: pa.Table) -> AssetCheckResult:
    """Group the examples by the pixels of their picture and count the sides; then compare what lies on two sides.

    A picture that was never read counts by its image_sha256. Near duplicates are searched from the stored hashes
    and thumbnails alone, by another way than the one that placed them (`ops.near.across`).
    """
    own = pc.coalesce(images["pixels_sha256"], images["image_sha256"])
    pixels = pa.table({"image_sha256": images["image_sha256"], "own": own}).group_by(["image_sha256", "own"])
    sided = splits.filter(pc.is_in(splits["split"], pa.array(SIDES)))
    placed = sided.join(pixels.aggregate([]), keys="image_sha256", join_type="left outer")
    sides = placed.group_by("own").aggregate([("split", "count_distinct")])
    torn = sides.filter(pc.greater(sides["split_count_distinct"], 1))
    lost = placed["own"].null_count
    problems = (
        [f"{torn.num_rows} pictures are on two sides, such as {torn['own'][0]}"] if torn.num_rows else []
    )
    n_compared, pairs = near_across(sided, images)
    if pairs:
        count = f"{len(pairs)}{' or more' if len(pairs) == MOST_PAIRS else ''}"
        problems.append(f"{count} near duplicates lie on two sides, such as {' and '.join(pairs[0])}")
    problems += [f"{lost} examples are of pictures that no table holds"] if lost else []
    strange = sorted(set(splits["split"].to_pylist()) - {*SIDES, "excluded"})
    problems += [f"unknown sides {strange}"] if strange else []
    said = f"{sides.num_rows} pictures, each on one side, and no near duplicate among {n_compared} on another"
    return outcome(NO_LEAK, problems, said, n_pictures=sides.num_rows, n_compared=n_compared)


def near_across(splits: pa.Table, images: pa.Table) -> tuple[int, list[tuple[str, str]]]:
    """How many pictures have a look to compare, and the pairs of near duplicates on two sides, at most MOST_PAIRS."""
    seen = images.filter(pc.and_(pc.is_valid(images["phash"]), pc.is_valid(images["thumb"])))
    by_picture = splits.group_by(["image_sha256", "split"]).aggregate([])
    rows = by_picture.join(
        seen.select(["image_sha256", "phash", "thumb"])
        .group_by("image_sha256", use_threads=False)
        .aggregate([("phash", "first"), ("thumb", "first")]),
        keys="image_sha256",
        join_type="inner",
    ).sort_by([("image_sha256", "ascending"), ("split", "ascending")])
    names, looks = rows["image_sha256"].to_pylist(), (rows["phash_first"], rows["thumb_first"])
    groups = np.array([SIDES.index(side) for side in rows["split"].to_pylist()], np.int8)
    found = across(looks_of(*(column.to_pylist() for column in looks)), groups)
    return len(names), [(names[a], names[b]) for a, b in islice(found, MOST_PAIRS)]


def sizes(splits: pa.Table, fractions: Mapping[str, float], marked: Collection[str] = ()) -> AssetCheckResult:
    """Shares of the pictures by side, against the shares asked for; few pictures may stray far.

    `marked`: pictures (image_sha256) of a marked slice, which a source may have made for one side; not counted.
    """
    counted = pc.invert(pc.is_in(splits["image_sha256"], pa.array(sorted(marked), pa.string())))
    by_picture = splits.filter(counted).group_by("image_sha256").aggregate([("split", "min")])
    counts = {row["values"]: row["counts"] for row in pc.value_counts(by_picture["split_min"]).to_pylist()}
    n = sum(counts.get(side, 0) for side in SIDES)
    wanted = {**fractions, "train": 1 - sum(fractions.values())}
    problems = [f"no example in {side}" for side in SIDES if not counts.get(side)]
    strayed = pc.sum(pc.and_(pc.invert(counted), pc.equal(splits["split"], "train"))).as_py() or 0
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


def _outside(values: pa.ChunkedArray, allowed: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.invert(pc.is_in(values, allowed.combine_chunks()))).as_py() or 0)


def _column(table: pa.Schema, name: str) -> tuple[pa.DataType, bool] | None:
    return (table.field(name).type, table.field(name).nullable) if name in table.names else None


def _shown(column: tuple[pa.DataType, bool] | None) -> str:
    return "no such column" if column is None else f"{column[0]}{'' if column[1] else ' not null'}"
