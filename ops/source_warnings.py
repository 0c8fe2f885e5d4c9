"""What looks wrong with a source's boxes, in words and as a table: what was seen, what would fit, what to change.

The evidence is `ops/convention_check.py`; here it is put to a person who has a list of sources to mend.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from ops.convention_check import Sign, another_fits, evidence, signs, told_convention
from ops.readers.formats import FORMATS
from ops.source_profile import PlacedBoxes
from ops.sources import Source
from storage.asking import Rows
from storage.tables import from_rows


def warnings_of(source: Source, tables: Mapping[str, Rows]) -> pa.Table:
    """The table source_warnings of one source; empty where nothing looks wrong.

    tables: images, examples, boxes and quarantine.
    """
    told = told_convention(source.format, source.options)
    boxes = PlacedBoxes(tables)
    clipped = bool(source.options.get("clip_boxes", False))
    # Where nothing was told, every row was refused for that; pixels are then only what boxes are undone to.
    found = signs(told or "xyxy_px", boxes, tables["quarantine"], clipped=clipped)
    rows = [
        {
            "source": source.name,
            "kind": sign.kind,
            "told": told,
            "fits": list(sign.fits),
            "share": sign.share,
            "n": sign.n,
            "detail": f"source {source.name}: {sign.seen}; {advice(source, sign.fits)}",
        }
        for sign in found
    ]
    return from_rows("source_warnings", rows)


def hint(source: Source, quarantine: Rows) -> str:
    """For a source of which no row is left: the conventions that fit the refused numbers, in words; or nothing."""
    told = told_convention(source.format, source.options)
    if told is None:
        return ""
    sign: Sign | None = another_fits(told, evidence(told, [], quarantine))
    return "" if sign is None else f"{sign.seen}; {advice(source, sign.fits)}"


def advice(source: Source, fits: Sequence[str]) -> str:
    """What to change in the list of sources so that the source is read by a convention that fits."""
    if not fits:
        return (
            "no other convention fits these numbers better: look at the contact sheet and at the refused rows"
        )
    names = " or ".join(fits)
    if source.format == "table":
        return f"{names} fits: set box_convention: {fits[0]}"
    if source.format == "voc" and fits[0] in ("xyxy_px", "xyxy_px_from_1"):
        return f"{names} fits: set from_zero: {'true' if fits[0] == 'xyxy_px' else 'false'}"
    return (
        f"{names} fits, but format {source.format} reads {FORMATS[source.format].boxes}: "
        f"mend the export, or read it as format table with box_convention: {fits[0]}"
    )
