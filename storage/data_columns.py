"""The columns of the normalised data: pictures, examples, boxes, what was refused, and the side of every example.

Closed lists of values and the tables of policies and their evidence are in `schema`.
"""

import pyarrow as pa

from storage.columns import column as _column
from storage.columns import maybe as _maybe

_TEXT = pa.string()
_F64 = pa.float64()
_I32 = pa.int32()
_I64 = pa.int64()
_BYTES = pa.binary()

EXAMPLE_ID = _column(
    "example_id", _TEXT, "stable hash of source, picture, question, answer and boxes, not of its place"
)
IMAGE = _column(
    "image_sha256",
    _TEXT,
    "sha256 of the picture file's bytes; of its uri where it was not read (pixels_sha256 null)",
)

IMAGES = pa.schema(
    [
        IMAGE,
        _maybe(
            "pixels_sha256",
            _TEXT,
            "sha256 of '<width>x<height>' and the upright RGB bytes: same for re-encodings; null when not read",
        ),
        _maybe("thumb", _BYTES, "16 x 16 x 3 uint8 RGB, box-averaged, row-major: finds near duplicates"),
        _column("source", _TEXT, "the source that delivered the picture first"),
        _column("source_file", _TEXT, "the annotation file that named the picture, relative to the source"),
        _column("file_name", _TEXT, "the picture's name as delivered, relative to the source"),
        _column(
            "uri",
            _TEXT,
            "where the picture lies: relative to the root if made there, else a path or s3:// address",
        ),
        _maybe("format", _TEXT, "the encoding found in the bytes, such as PNG or JPEG; null when not read"),
        _column("width_px", _I32, "width of the EXIF-upright picture in pixels; as annotated when not read"),
        _column(
            "height_px", _I32, "height of the EXIF-upright picture in pixels; as annotated when not read"
        ),
        _maybe("n_bytes", _I64, "size of the picture file in bytes; null when not read"),
        _maybe("bytes", _BYTES, "the picture file itself, as delivered; null when kept by reference"),
    ]
)

EXAMPLES = pa.schema(
    [
        EXAMPLE_ID,
        _column("source", _TEXT, "the source that the example came from"),
        _column("source_file", _TEXT, "the raw file that holds the row, relative to the source"),
        _column("source_row", _I64, "0-based row in that file's list"),
        IMAGE,
        _column("question", _TEXT, "the question as it is put to the policy"),
        _column("answer", _TEXT, "the reference answer"),
        _column("accepted_answers", pa.list_(_TEXT), "other answers that count as right; may be empty"),
        _column("answer_type", _TEXT, "which scorer judges the answer: word, yes_no, number, choice or text"),
        _maybe("question_kind", _TEXT, "what the question asks about, such as colour, count or relation"),
        _maybe("slice", _TEXT, "name of a marked test slice, such as prior_conflict"),
        _maybe("condition", _TEXT, "side of the slice: conflict or control"),
        _maybe("reasoning", _TEXT, "a written reasoning for the cold start"),
        _column("n_boxes", _I32, "number of evidence boxes"),
        _column("evidence_area_frac", _F64, "share of the picture covered by the union of the boxes, 0 to 1"),
    ]
)

BOXES = pa.schema(
    [
        EXAMPLE_ID,
        _column("box_index", _I32, "0-based place of the box in its example"),
        _column("x1_px", _F64, "left edge in pixels of the upright picture"),
        _column("y1_px", _F64, "top edge in pixels"),
        _column("x2_px", _F64, "right edge in pixels, exclusive"),
        _column("y2_px", _F64, "bottom edge in pixels, exclusive"),
        _maybe("label", _TEXT, "what the box holds, as the source names it"),
    ]
)

QUARANTINE = pa.schema(
    [
        _column("source", _TEXT, "the source that delivered the refused row"),
        _maybe("source_file", _TEXT, "the raw file that holds the row; null when the file itself is missing"),
        _maybe("source_row", _I64, "0-based row in that file's list; null when the whole file was refused"),
        _column("stage", _TEXT, "where it was refused: read, picture, box, question or split"),
        _column("reason", _TEXT, "why, from a closed list"),
        _column("detail", _TEXT, "what was seen and what was wanted"),
        _column("raw", _TEXT, "the row as JSON, cut at 2,000 characters"),
    ]
)

SPLITS = pa.schema(
    [
        EXAMPLE_ID,
        IMAGE,
        _column("split", _TEXT, "train, val, test or excluded"),
        _column("split_rule", _TEXT, "the rule that placed the picture: content_hash, near_duplicate, ..."),
    ]
)
