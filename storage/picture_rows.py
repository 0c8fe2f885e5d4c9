"""Every row of some splits, picture after picture: what looks at all rows once and must hold few of them.

Examples, boxes and places stay in Arrow; pictures are read a few at a time. Whole splits as lists are `rows`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.rows import (
    IMAGE_COLUMNS,
    PICTURES_AT_ONCE,
    Row,
    RowsError,
    bring,
    brought,
    opened,
    read_all,
    row_of,
)
from storage.tables import read_table


@dataclass(frozen=True)
class PictureRows:
    """One picture and the rows that ask about it, ordered by example_id; `splits` has the side of each.

    problem: why the picture cannot be read (its rows then hold no bytes), or None.
    """

    rows: tuple[Row, ...]
    splits: tuple[str, ...]
    problem: str | None


class RowsByPicture:
    """The rows of some splits by picture. Raises RowsError where the tables do not fit together.

    paths: examples, boxes, images and splits, each a list of paths (local or s3://). root: where pictures lie that
    are kept by a reference relative to it.
    """

    def __init__(
        self, paths: Mapping[str, Sequence[str]], splits: Sequence[str], *, root: str | None = None
    ) -> None:
        self._images, self._root = paths["images"], root
        placed = read_all(paths["splits"], "splits", ["example_id", "split"])
        placed = placed.filter(pc.is_in(placed["split"], value_set=pa.array(splits, type=pa.string())))
        examples = read_all(paths["examples"], "examples")
        places = pc.index_in(examples["example_id"], value_set=placed["example_id"].combine_chunks())
        examples = examples.append_column("split", placed["split"].combine_chunks().take(places))
        examples = examples.filter(pc.is_valid(places))
        self._examples = examples.sort_by([("image_sha256", "ascending"), ("example_id", "ascending")])
        if len(pc.unique(self._examples["example_id"])) < placed.num_rows:
            lost = placed.num_rows - len(pc.unique(self._examples["example_id"]))
            raise RowsError(f"{lost} of {placed.num_rows} examples with a place are in no examples table")
        boxes = read_all(
            paths["boxes"], "boxes", ["example_id", "box_index", "x1_px", "y1_px", "x2_px", "y2_px"]
        )
        ids = self._examples["example_id"].combine_chunks()
        owners = pc.index_in(boxes["example_id"], value_set=ids)
        boxes = boxes.append_column("owner", owners).filter(pc.is_valid(owners))
        boxes = boxes.sort_by([("owner", "ascending"), ("box_index", "ascending")])
        self._corners = np.stack(
            [boxes[f"{side}_px"].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1
        )
        self._first_box = np.searchsorted(boxes["owner"].to_numpy(), np.arange(len(ids) + 1))
        wrong = np.flatnonzero(np.diff(self._first_box) != self._examples["n_boxes"].to_numpy())
        if len(wrong):
            raise RowsError(
                f"{len(wrong)} examples have another number of boxes than they say, such as {ids[int(wrong[0])]}"
            )

    @cached_property
    def _pictures(self) -> tuple[pa.Array, NDArray[np.int64]]:
        """The sha256 of every picture, sorted, and where its examples start."""
        runs = pc.run_end_encode(self._examples["image_sha256"].combine_chunks(), run_end_type=pa.int64())
        return runs.values, np.append(0, runs.run_ends.to_numpy())

    @property
    def n_rows(self) -> int:
        """Rows in all."""
        return int(self._examples.num_rows)

    @property
    def n_pictures(self) -> int:
        """Pictures in all."""
        return len(self._pictures[0])

    def after(self, n_skipped: int = 0) -> Iterator[PictureRows]:
        """Every picture in the order of the image tables, without the first `n_skipped`, which are not read.

        Raises RowsError, at the end, for rows whose picture is in no table.
        """
        names, starts = self._pictures
        met, n_met = np.zeros(len(names), dtype=bool), 0
        for path in self._images:
            source = brought(path)
            listed = read_table(source, ["image_sha256"], name="images")["image_sha256"]
            places = pc.fill_null(
                pc.index_in(listed, value_set=names), -1
            ).to_numpy()  # once a file, not a batch
            for record, place in zip(_image_records(source), places.tolist(), strict=True):
                if place < 0 or met[place]:
                    continue
                met[place] = True
                n_met += 1
                if n_met > n_skipped:
                    yield self._built(record, int(starts[place]), int(starts[place + 1]))
        if not met.all():
            lost = int(np.argmin(met))
            raise RowsError(
                f"{int((~met).sum())} pictures are in no images table, such as {names[lost].as_py()[:12]} of example "
                f"{self._examples['example_id'][int(starts[lost])]}"
            )

    def _built(self, record: dict[str, Any], start: int, stop: int) -> PictureRows:
        problem = bring(record, self._root) if record["bytes"] is None else None
        picture = record | {"bytes": record["bytes"] or b""}
        rows, splits = [], []
        for place, example in enumerate(self._examples.slice(start, stop - start).to_pylist(), start=start):
            around = self._corners[self._first_box[place] : self._first_box[place + 1]]
            splits.append(example["split"])
            rows.append(row_of(example, picture, tuple(tuple(box) for box in around.tolist())))
        return PictureRows(tuple(rows), tuple(splits), problem)


def _image_records(source: bytes | str) -> Iterator[dict[str, Any]]:
    """The rows of an images table, a few in memory at a time; a page of the file is read when it is wanted."""
    with opened(source) as file:
        for batch in file.iter_batches(PICTURES_AT_ONCE, columns=IMAGE_COLUMNS):
            yield from batch.to_pylist()
