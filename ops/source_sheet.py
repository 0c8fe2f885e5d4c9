"""The contact sheet of one source from its stored tables and files: the chosen pictures are read, and no other.

Which pictures, and how they are drawn, is `ops/contact_sheet.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ops.contact_sheet import MOST_REFUSED, Candidate, Shown, candidates, chosen, draw, refused
from ops.convention_check import told_convention
from ops.pictures import MAX_PIXELS, Picture, open_upright
from ops.readers.coco_columns import ANNOTATION, IMAGE, pictures_of
from ops.readers.detections import picture_name
from ops.readers.json_arrays import NotStreamable, blocks
from ops.source_files import FileProblem, SourceFiles
from ops.sources import Source, files_of
from storage.asking import Rows
from storage.objects import Store
from storage.rows import RowsError, pictures_by_sha256
from storage.scratch import temporary_folder


def sheet_of(source: Source, tables: Mapping[str, Rows], images: Sequence[str], store: Store) -> bytes:
    """The sheet as WebP. images: addresses of the stored images tables, which hold the bytes or refer to them.

    Refused boxes are shown where their row names a picture and the numbers are known. What cannot be read leaves its
    place empty, with a word on it.
    """
    max_pixels = int(source.options.get("max_pixels", MAX_PIXELS))
    shown: list[Shown] = chosen(tables)
    found = _pictures(images, [each.image_sha256 for each in shown if each.image_sha256], store.root)
    data = [found.get(each.image_sha256 or "") for each in shown]
    for each, picture in _refused(source, tables["quarantine"], store, max_pixels):
        shown.append(each)
        data.append(picture)
    return draw(shown, data, max_pixels=max_pixels)


def _refused(source: Source, quarantine: Rows, store: Store, max_pixels: int) -> list[tuple[Shown, bytes]]:
    """Rows refused for their boxes, with the files of their pictures, read by name from the source's folder."""
    convention = told_convention(source.format, source.options)
    if convention is None:
        return []
    files, out = files_of(source, store), []
    images = source.options.get("images", "")
    found = candidates(quarantine, images)
    named = _names_by_number(files, found, images) if source.format == "coco" else {}
    for candidate in found:
        by_number = named.get((candidate.source_file or "", candidate.image_id), ())
        for name in (*candidate.names, *by_number):
            data = files.read(name)
            picture = None if isinstance(data, FileProblem) else open_upright(data, max_pixels)
            if isinstance(data, bytes) and isinstance(picture, Picture):
                out.append((refused(candidate, convention, name, picture.size_wh), data))
                break
        if len(out) == MOST_REFUSED:
            break
    return out


def _names_by_number(
    files: SourceFiles, candidates: Sequence[Candidate], images_folder: str
) -> dict[tuple[str, int | None], tuple[str, ...]]:
    """Names of the pictures that COCO's entries refer to, by annotation file and number; a file is walked over once."""
    found: dict[tuple[str, int | None], tuple[str, ...]] = {}
    with temporary_folder("annotations") as folder:
        for name in sorted({each.source_file for each in candidates if each.source_file and not each.names}):
            wanted = {
                each.image_id for each in candidates if each.source_file == name and each.image_id is not None
            }
            path = files.local_copy(name, folder)
            if isinstance(path, Path):
                for number, file_name in names_of(path, wanted).items():
                    found[name, number] = (picture_name(images_folder, file_name),)
    return found


def _pictures(images: Sequence[str], wanted: Sequence[str], root: str) -> dict[str, bytes]:
    """Bytes by image_sha256; a picture kept by reference that is gone costs itself only."""
    try:
        return pictures_by_sha256(images, wanted, root=root)
    except RowsError:
        found: dict[str, bytes] = {}
        for sha256 in wanted:
            try:
                found |= pictures_by_sha256(images, [sha256], root=root)
            except RowsError:
                continue
        return found


def names_of(path: Path, wanted: Collection[int]) -> dict[int, str]:
    """File names of some pictures of a COCO file by their ids; of a file that has to be read whole, none."""
    found: dict[int, str] = {}
    with path.open("rb") as stream:
        try:
            for block in blocks(stream, {"images": IMAGE, "annotations": ANNOTATION}):
                if block.key != "images":
                    continue
                pictures = pictures_of(block, {})
                meant = pc.is_in(pictures["id"], pa.array(sorted(wanted), pa.int64()))
                told = pictures.filter(pc.and_(pictures["usable"], meant))
                found |= zip(told["id"].to_pylist(), told["file_name"].to_pylist(), strict=True)
                if len(found) == len(wanted):
                    break
        except NotStreamable:
            return {}
    return found
