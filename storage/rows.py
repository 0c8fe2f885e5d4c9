"""One split's examples as plain rows with picture bytes and boxes: what training and evaluation iterate over.

The join of four tables belongs here; decoding pictures and building prompts does not.
"""

import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.lineage import Artifact, Ledger
from storage.objects import Store, StoreError, StoreUnreachableError, read_uri, sha256_bytes
from storage.reading import read_address
from storage.tables import read_table

PICTURES_AT_ONCE = 16
IMAGE_COLUMNS = ["image_sha256", "uri", "width_px", "height_px", "bytes"]
_TABLES = ("examples", "boxes", "images", "splits")


class RowsError(ValueError):
    """Tables that do not fit together; the message lists what is missing."""


@dataclass(frozen=True)
class Row:
    """One question about one picture.

    `image_bytes` is the file as delivered (apply the EXIF turn when decoding); `width_px`, `height_px` and
    `boxes` (x1, y1, x2, y2 in pixels, x2 and y2 exclusive) are those of the upright picture.
    """

    example_id: str
    image_sha256: str
    image_bytes: bytes
    width_px: int
    height_px: int
    question: str
    answer: str
    accepted_answers: tuple[str, ...]
    answer_type: str
    question_kind: str | None
    slice: str | None
    condition: str | None
    reasoning: str | None
    boxes: tuple[tuple[float, float, float, float], ...]
    source: str


def rows_of_split(
    ledger: Ledger,
    examples: Sequence[Artifact],
    boxes: Sequence[Artifact],
    images: Sequence[Artifact],
    splits: Artifact,
    split: str = "train",
    unreadable: dict[str, str] | None = None,
) -> list[Row]:
    """The rows of one split, ordered by example_id, from artifacts whose sha256 is checked first.

    `unreadable`: as in `rows_from_paths`.

    Raises LineageError for altered content and RowsError when the tables do not fit together.
    """
    given = {"examples": examples, "boxes": boxes, "images": images, "splits": [splits]}
    return rows_from_paths(
        {name: [str(ledger.path(artifact)) for artifact in artifacts] for name, artifacts in given.items()},
        split,
        root=ledger.store.root,
        unreadable=unreadable,
    )


def rows_from_paths(
    paths: Mapping[str, Sequence[str]],
    split: str,
    *,
    root: str | None = None,
    without: Collection[str] = (),
    unreadable: dict[str, str] | None = None,
) -> list[Row]:
    """The rows of one split, ordered by example_id, from Parquet files.

    `paths` maps examples, boxes, images and splits to lists of paths (local or s3://). `root` is where
    pictures lie that are kept by a reference relative to it. `without`: example_ids to leave out, whose pictures are
    not read. `unreadable`: where given, rows whose picture cannot be read hold no bytes, and the dict gets
    image_sha256 -> what is wrong. Raises RowsError with all that is missing: no such split, no row left of it, an
    example without picture or with another number of boxes; StoreUnreachableError where a server fails.
    """
    absent = [name for name in _TABLES if not paths.get(name)]
    if absent:
        raise RowsError(
            f"tables {absent}: no file given, wanted at least one for each of {', '.join(_TABLES)}"
        )
    placed = read_all(paths["splits"], "splits")
    wanted = placed.filter(pc.equal(placed.column("split"), split)).column("example_id")
    if not len(wanted):
        counts = {v["values"]: v["counts"] for v in pc.value_counts(placed.column("split")).to_pylist()}
        raise RowsError(f"split {split!r} has no example; the splits table has {counts}")
    if without:
        n_placed, left_out = len(wanted), pa.array(sorted(without), type=pa.string())
        wanted = wanted.filter(pc.invert(pc.is_in(wanted, value_set=left_out)))
        if not len(wanted):
            raise RowsError(
                f"split {split!r}: all of its {n_placed} examples are left out; no row to work on"
            )
    examples = _only(read_all(paths["examples"], "examples"), "example_id", wanted)
    pictures = _pictures(paths["images"], examples.column("image_sha256"), root, unreadable)
    boxes = _boxes(paths["boxes"], wanted)
    problems = []
    found = {row["example_id"]: row for row in examples.to_pylist()}
    lost = sorted(set(wanted.to_pylist()) - set(found))
    if lost:
        problems.append(f"{len(lost)} examples of the split are in no examples table, such as {lost[0]}")
    rows = []
    for example_id, example in sorted(found.items()):
        picture, around = pictures.get(example["image_sha256"]), boxes.get(example_id, ())
        if picture is None:
            problems.append(f"example {example_id}: no picture {example['image_sha256'][:12]}")
        elif len(around) != example["n_boxes"]:
            problems.append(f"example {example_id}: {len(around)} boxes, wanted {example['n_boxes']}")
        else:
            rows.append(row_of(example, picture, around))
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise RowsError(f"split {split!r}: " + "; ".join(problems[:10]) + more)
    return rows


def left_out(paths: Mapping[str, Sequence[str]], split: str) -> dict[str, str]:
    """The examples of a split that do not fit, by example_id, with the reason; from the table processed_rows.

    Empty where `paths` names no such table: then nobody looked.
    """
    found: dict[str, str] = {}
    for table in (read_all([path], "processed_rows") for path in paths.get("processed_rows", ())):
        bad = table.filter(pc.and_(pc.equal(table["split"], split), pc.invert(table["fits"])))
        found |= zip(bad["example_id"].to_pylist(), bad["reason"].to_pylist(), strict=True)
    return dict(sorted(found.items()))


def pictures_by_sha256(
    paths: Sequence[str], wanted: Iterable[str], *, root: str | None = None
) -> dict[str, bytes]:
    """The bytes of the wanted pictures (image_sha256) from images tables, given as paths (local or s3://).

    `root` is where pictures lie that are kept by a reference relative to it. A wanted picture that no table
    has is left out. Raises RowsError if one kept by reference cannot be read, StoreUnreachableError where a server
    fails.
    """
    found = _pictures(paths, pa.chunked_array([pa.array(sorted(set(wanted)), type=pa.string())]), root)
    return {sha256: picture["bytes"] for sha256, picture in found.items()}


def row_of(example: Mapping[str, Any], picture: Mapping[str, Any], boxes: tuple[Any, ...]) -> Row:
    """A row of the tables examples and images, the latter with its bytes, and the boxes as Row holds them."""
    return Row(
        example_id=example["example_id"],
        image_sha256=example["image_sha256"],
        image_bytes=picture["bytes"],
        width_px=picture["width_px"],
        height_px=picture["height_px"],
        question=example["question"],
        answer=example["answer"],
        accepted_answers=tuple(example["accepted_answers"]),
        answer_type=example["answer_type"],
        question_kind=example["question_kind"],
        slice=example["slice"],
        condition=example["condition"],
        reasoning=example["reasoning"],
        boxes=boxes,
        source=example["source"],
    )


def read_all(paths: Sequence[str], name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of several files of one table. Raises TableError, StoreError."""
    return pa.concat_tables([read_table(brought(path), columns, name=name) for path in paths])


def brought(path: str) -> bytes | str:
    """What Parquet is read from: the bytes of a file on S3, a local path as it is."""
    return read_uri(path) if path.startswith("s3://") else path


def opened(source: bytes | str) -> pq.ParquetFile:
    """A Parquet file that is read page by page, without read-ahead, which would hold a whole row group."""
    where = io.BytesIO(source) if isinstance(source, bytes) else source
    return pq.ParquetFile(where, buffer_size=1 << 20, pre_buffer=False)


def _only(table: pa.Table, column: str, wanted: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table.column(column), value_set=wanted.combine_chunks()))


def _pictures(
    paths: Sequence[str],
    wanted: pa.ChunkedArray,
    root: str | None,
    unreadable: dict[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Pictures by sha256; one kept by reference is read from its uri and held against its sha256.

    What cannot be read goes into `unreadable` where that is given; otherwise RowsError names it.
    """
    found: dict[str, dict[str, Any]] = {}
    problems = []
    for path in paths:
        for picture in _wanted_rows(path, wanted):
            if picture["image_sha256"] in found:
                continue
            if picture["bytes"] is None:
                problem = bring(picture, root)
                if problem and unreadable is not None:
                    unreadable[picture["image_sha256"]] = problem
                    picture["bytes"] = b""
                elif problem:
                    problems.append(problem)
            found[picture["image_sha256"]] = picture
    if problems:
        raise RowsError(
            "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if problems[10:] else "")
        )
    return found


def _wanted_rows(path: str, wanted: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    """The wanted rows of one images table; row groups without any are not read, and one is in memory at a time."""
    source = brought(path)
    at = pc.is_in(
        read_table(source, ["image_sha256"], name="images").column(0), value_set=wanted.combine_chunks()
    )
    if not pc.any(at).as_py():
        return
    with opened(source) as file:
        start = 0
        for group in range(file.num_row_groups):
            n_rows = file.metadata.row_group(group).num_rows
            here = at.slice(start, n_rows)
            start += n_rows
            if not pc.any(here).as_py():
                continue
            done = 0
            for batch in file.iter_batches(PICTURES_AT_ONCE, row_groups=[group], columns=IMAGE_COLUMNS):
                yield from pa.Table.from_batches([batch]).filter(here.slice(done, batch.num_rows)).to_pylist()
                done += batch.num_rows


def bring(picture: dict[str, Any], root: str | None) -> str | None:
    """Fill in a picture's bytes from its uri; returns what is wrong with them, or None.

    Raises StoreUnreachableError where the server fails: that is no word on the picture.
    """
    uri = picture["uri"]
    try:
        if uri.startswith(("/", "s3://", "hf://")):
            data = read_address(uri)
        elif root is None:
            return f"picture {uri}: kept relative to the root, and no root was given"
        else:
            data = Store(root).read_bytes(uri)
    except StoreUnreachableError:
        raise
    except StoreError as error:
        return f"picture {picture['image_sha256'][:12]}: {error}"
    seen = sha256_bytes(data)
    if seen != picture["image_sha256"]:
        return f"picture {uri}: sha256 is {seen[:12]}, recorded {picture['image_sha256'][:12]}"
    picture["bytes"] = data
    return None


def _boxes(paths: Sequence[str], wanted: pa.ChunkedArray) -> dict[str, tuple[Any, ...]]:
    """Boxes (x1, y1, x2, y2) by example, in the order of box_index."""
    table = _only(read_all(paths, "boxes"), "example_id", wanted)
    found: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    for box in table.sort_by([("example_id", "ascending"), ("box_index", "ascending")]).to_pylist():
        found[box["example_id"]].append((box["x1_px"], box["y1_px"], box["x2_px"], box["y2_px"]))
    return {example_id: tuple(boxes) for example_id, boxes in found.items()}
