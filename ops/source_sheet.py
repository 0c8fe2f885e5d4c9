"""The contact sheet of one source from its stored tables and files: the chosen pictures are read, and no other.

Which pictures, and how they are drawn, is `ops/contact_sheet.py`.
"""

from collections.abc import Mapping, Sequence

from ops.contact_sheet import MOST_REFUSED, Shown, candidates, chosen, draw, refused
from ops.convention_check import told_convention
from ops.pictures import MAX_PIXELS, Picture, open_upright
from ops.source_files import FileProblem
from ops.sources import Source, files_of
from storage.asking import Rows
from storage.objects import Store
from storage.rows import RowsError, pictures_by_sha256


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
    for candidate in candidates(quarantine, source.options.get("images", "")):
        for name in candidate.names:
            data = files.read(name)
            picture = None if isinstance(data, FileProblem) else open_upright(data, max_pixels)
            if isinstance(data, bytes) and isinstance(picture, Picture):
                out.append((refused(candidate, convention, name, picture.size_wh), data))
                break
        if len(out) == MOST_REFUSED:
            break
    return out


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
