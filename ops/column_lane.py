"""Detections of many pictures at once, as columns, to a piece of the tables; what is out of the ordinary, row by row.

A picture goes this way if all that stands on it is good: then only questions are left to be made, and their texts,
ids and boxes are those that `ops/row_lane.py` would make of the same rows. Not here: what is wrong with the others.
"""

import functools
import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ops.boxes import union_areas, xywh_columns
from ops.pieces import Piece
from ops.questions import TEMPLATES, Asked, ask_of_kind, ninth_of, words_of
from ops.readers.coco_columns import looked_up
from ops.readers.coco_scan import DetectionPiece
from storage.tables import digests, schema_of

CONVENTION = "xywh_px"
_KINDS = {"all", "alone"}
_WORDED = ("question", "answer", "accepted_answers", "answer_type", "question_kind", "reasoning")


def can_take(piece: DetectionPiece) -> bool:
    """Whether this lane knows the piece's convention and templates."""
    asked = {TEMPLATES[name]["about"] for name in piece.templates}
    return piece.convention == CONVENTION and asked <= _KINDS


def plain_pictures(
    piece: DetectionPiece, sizes_wh: np.ndarray, usable: np.ndarray, most_boxes: int, *, clip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the piece's pictures hold good boxes and nothing else, bool [pictures]; edges of all boxes [boxes, 4].

    `sizes_wh`: upright sizes [pictures, 2]; `usable`: pictures that are open and of the annotated size;
    with more than `most_boxes` boxes a picture is not plain.
    """
    pictures = _picture_rows(piece)
    xywh = np.column_stack([piece.boxes[name].to_numpy() for name in ("x", "y", "width", "height")])
    edges, good = xywh_columns(xywh, sizes_wh[pictures], clip=clip)
    good &= piece.boxes["plain"].to_numpy()
    n_boxes, n_good = (
        np.bincount(each, minlength=piece.pictures.num_rows) for each in (pictures, pictures[good])
    )
    return usable & (n_boxes > 0) & (n_boxes <= most_boxes) & (n_boxes == n_good), edges


def take(piece: DetectionPiece, source: str, images: pa.Table, plain: np.ndarray, edges: np.ndarray) -> Piece:
    """The examples of the plain pictures. `images`: their rows of the images table, and no others.

    `plain`, `edges`: as `plain_pictures` gave them. Examples stand in the order of pictures, then of first boxes of a
    kind, then of templates.
    """
    groups = _Groups(piece, plain, edges)
    of_picture = np.cumsum(plain) - 1  # the row of images, by the row of the piece's pictures
    at = of_picture[groups.picture]
    width, height = (images[name].to_numpy()[at] for name in ("width_px", "height_px"))
    around = groups.around()
    ninth = ninth_of(around[:, 0], around[:, 1], around[:, 2], around[:, 3], width, height)
    area_frac = np.minimum(groups.areas() / (width * height), 1.0)
    group, template = _asked(piece.templates, groups.n_boxes)
    texts, wordings = _texts(piece, template, groups.label[group], groups.n_boxes[group], ninth[group])
    sha = images["image_sha256"].take(pa.array(at[group]))
    ids = _ids(source, sha, wordings["identity"].take(texts), groups.box_texts().take(pa.array(group)))
    n = len(group)
    columns: dict[str, Any] = {
        "example_id": ids,
        "source": _repeated(source, n),
        "source_file": _repeated(piece.source_file, n),
        "source_row": pa.array(groups.first_place[group]),
        "image_sha256": sha,
        **{name: wordings[name].take(texts) for name in wordings.column_names if name != "identity"},
        "slice": pa.nulls(n, pa.string()),
        "condition": pa.nulls(n, pa.string()),
        "n_boxes": pa.array(groups.n_boxes[group].astype(np.int32)),
        "evidence_area_frac": pa.array(area_frac[group]),
    }
    place = piece.pictures["place"].to_numpy()
    boxes, of_example = groups.box_rows(group, ids)
    first_box = groups.box[groups.start[group]]
    return Piece(
        images=images,
        examples=pa.table(columns).select(schema_of("examples").names).cast(schema_of("examples")),
        boxes=boxes,
        refusals=(),
        n_raw=n,
        origins=piece.origins(first_box),
        n_before=np.zeros(n, np.int64),
        order={
            "images": place[plain],
            "examples": place[groups.picture[group]],
            "boxes": place[groups.picture[group]][of_example],
        },
    )


class _Groups:
    """The boxes of plain pictures by picture and kind, in the order of first boxes.

    Per group: picture (row of the piece's pictures), label, n_boxes, first_place, start (of its boxes among `box`).
    `box`: rows of the piece's boxes.
    """

    def __init__(self, piece: DetectionPiece, plain: np.ndarray, edges: np.ndarray) -> None:
        self._labels = piece.labels
        pictures = _picture_rows(piece)
        rows = np.flatnonzero(plain[pictures])
        category, place = (piece.boxes[name].to_numpy() for name in ("category", "place"))
        kinds, kind = np.unique(category[rows], return_inverse=True)
        keys = pictures[rows] * len(kinds) + kind  # boxes of a picture are in file order, and stay so
        order = np.argsort(keys, kind="stable")
        rows, keys = rows[order], keys[order]
        starts = _starts(keys)
        n_boxes = np.diff(np.append(starts, len(rows)))
        first_place = place[rows[starts]]
        order = np.argsort(pictures[rows[starts]] * (int(place.max(initial=0)) + 1) + first_place)
        self.n_boxes, self.first_place = n_boxes[order], first_place[order]
        self.start = np.concatenate([[0], np.cumsum(self.n_boxes)[:-1]]).astype(np.int64)
        self.box = rows[_runs(starts[order], self.n_boxes)]
        firsts = self.box[self.start]
        self.picture, self.label = pictures[firsts], piece.boxes["label"].to_numpy()[firsts]
        self._edges = edges[self.box]

    def around(self) -> np.ndarray:
        """The box around each group, float64 [groups, 4]."""
        if not len(self.start):
            return np.zeros((0, 4))
        upper = np.minimum.reduceat(self._edges[:, :2], self.start)
        lower = np.maximum.reduceat(self._edges[:, 2:], self.start)
        return np.hstack([upper, lower])

    def areas(self) -> np.ndarray:
        """Area of each group's union in square pixels."""
        found = np.zeros(len(self.start))
        for n in np.unique(self.n_boxes):
            alike = np.flatnonzero(self.n_boxes == n)
            found[alike] = union_areas(self._edges[self.start[alike, None] + np.arange(n)])
        return found

    def box_texts(self) -> pa.Array:
        """The boxes of each group as JSON, without the two brackets on either side."""
        numbers = [_as_python_writes(self._edges[:, side]) for side in range(4)]
        texts = pc.binary_join_element_wise(*numbers, ", ")
        offsets = pa.array(np.append(self.start, len(self.box)).astype(np.int32))
        return pc.binary_join(pa.ListArray.from_arrays(offsets, texts), "], [")

    def box_rows(self, group: np.ndarray, ids: pa.Array) -> tuple[pa.Table, np.ndarray]:
        """The boxes table for examples about these groups, and of which example each box is."""
        n = self.n_boxes[group]
        of_example = np.repeat(np.arange(len(group)), n)
        index = np.arange(len(of_example)) - np.repeat(np.cumsum(n) - n, n)
        at = self.start[group][of_example] + index
        labels = pa.DictionaryArray.from_arrays(
            self.label[group][of_example], pa.array(self._labels, pa.string())
        )
        columns = {
            "example_id": ids.take(pa.array(of_example)),
            "box_index": pa.array(index.astype(np.int32)),
            **{
                f"{name}_px": pa.array(self._edges[at, side])
                for side, name in enumerate(("x1", "y1", "x2", "y2"))
            },
            "label": labels.cast(pa.string()),
        }
        return pa.table(columns).cast(schema_of("boxes")), of_example


def _picture_rows(piece: DetectionPiece) -> np.ndarray:
    """The row of each box's picture among the piece's pictures."""
    places = piece.pictures["place"].to_numpy()
    return looked_up(piece.boxes["picture"].to_numpy(), places, np.arange(len(places)))


def _starts(keys: np.ndarray) -> np.ndarray:
    """Where runs of equal keys start."""
    return np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)


def _runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of every run, one run after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _asked(templates: Sequence[str], n_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every question as its group and the number of its template, groups in order, templates as they are named."""
    alone = [TEMPLATES[name]["about"] == "alone" for name in templates]
    wanted = np.array([(n_boxes == 1) if each else (n_boxes > 0) for each in alone])
    group, template = np.nonzero(wanted.T)
    return group, template


def _texts(
    piece: DetectionPiece, template: np.ndarray, label: np.ndarray, count: np.ndarray, ninth: np.ndarray
) -> tuple[pa.Array, pa.Table]:
    """Which wording each question has, and the wordings: columns of the examples table, and `identity`."""
    needs = [words_of(name) for name in piece.templates]
    count = np.where(np.array(["count" in each for each in needs])[template], count, 1)
    ninth = np.where(np.array(["place" in each for each in needs])[template], ninth, 0)
    most = int(count.max(initial=0)) + 1
    keys = ((template * len(piece.labels) + label) * 9 + ninth) * most + count
    different, which = np.unique(keys, return_inverse=True)
    asked = []
    for key in different.tolist():
        rest, n = divmod(key, most)
        rest, place = divmod(rest, 9)
        number, of_label = divmod(rest, len(piece.labels))
        asked.append(ask_of_kind(piece.templates[number], piece.labels[of_label], n, place))
    return pa.array(which), _wordings(asked)


def _wordings(asked: Sequence[Asked]) -> pa.Table:
    schema = schema_of("examples")
    rows = list(zip(*map(_in_columns, asked), strict=True)) or [()] * (len(_WORDED) + 1)
    columns = {name: pa.array(rows[at], schema.field(name).type) for at, name in enumerate(_WORDED)}
    return pa.table({**columns, "identity": pa.array(rows[-1], pa.string())})


@functools.lru_cache(maxsize=100_000)
def _in_columns(asked: Asked) -> tuple[Any, ...]:
    """What stands in the examples table, and the part of the JSON that is hashed between picture and boxes."""
    identity = f'", {json.dumps(asked.question)}, {json.dumps(asked.answer)}, [['
    return (*(getattr(asked, name) for name in _WORDED), identity)


def _ids(source: str, sha: pa.ChunkedArray, texts: pa.ChunkedArray, boxes: pa.Array) -> pa.Array:
    """What `ops.row_lane.example_id` gives, for all at once: the hash of the same JSON."""
    written = pc.binary_join_element_wise(f'[{json.dumps(source)}, "', sha, texts, boxes, "]]]", "")
    hashes = b"".join([each.digest() for each in map(sha256, written.cast(pa.binary()).to_pylist())])
    return digests(np.frombuffer(hashes, np.uint8).reshape(-1, 32)[:, :12].tobytes(), 24)


def _as_python_writes(values: np.ndarray) -> pa.Array:
    """Numbers as `repr` writes them; those of at most two decimals, as people write them, from a list."""
    known = _hundredths()
    near = np.rint(values * 100)
    listed = (near / 100 == values) & (near < len(known)) & ~np.signbit(values)
    at = np.where(listed, near, 0).astype(np.int32)
    at[~listed] = len(known) + np.arange(len(values) - listed.sum())
    return pa.concat_arrays([known, _written(values[~listed])]).take(pa.array(at))


@functools.cache
def _hundredths() -> pa.Array:
    return _written(np.arange(100_000) / 100)


def _written(values: np.ndarray) -> pa.Array:
    size = np.abs(values)
    texts = pc.cast(pa.array(values), pa.string())
    other = (values == np.floor(values)) | (size < 1e-4) | (size >= 1e15)
    if other.any():
        written = [repr(value) for value in values[other].tolist()]
        texts = pc.replace_with_mask(texts, pa.array(other), pa.array(written, pa.string()))
    return texts


def _repeated(text: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text])).cast(pa.string())
