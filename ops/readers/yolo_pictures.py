"""Where the pictures of a YOLO data set lie, and which label file belongs to which picture.

A split of data.yaml is a folder, a list of folders, or a .txt file that lists pictures. Folders are relative to
`path`, or to the folder of data.yaml where `path` is not told, leads out of the source or has no such folder; a
leading "../" is left out then (Roboflow writes it). The label file has the picture's name with .txt, in the
folder "labels" in place of the last "images". Not here: what a label file holds (`ops/readers/yolo.py`).
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from ops.readers.detections import picture_name
from ops.readers.rows import Origin, Refusal, shown
from ops.source_files import FileProblem, SourceFiles

SPLITS = ("train", "val", "test")
_SUFFIXES = (".bmp", ".dng", ".gif", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
_NO_LABELS = ("classes.txt", *(f"{name}.txt" for name in SPLITS))


def labels_of(
    files: SourceFiles, data_yaml: str, settings: Mapping[str, Any], split: str | None, images: str | None
) -> Iterator[tuple[str, str] | Refusal]:
    """Pairs of picture and label file, each picture once, and refusals: of places, and of labels without picture."""
    seen: set[str] = set()
    for place in [images] if images else _places(data_yaml, settings, split):
        found = (
            place if isinstance(place, Refusal) else _found(files, place, data_yaml, settings, bool(images))
        )
        if isinstance(found, Refusal):
            yield found
            continue
        folder, pictures = found
        labels = {picture: _label_file(picture) for picture in pictures}
        yield from (pair for pair in labels.items() if pair[0] not in seen)
        if folder is not None and not seen.issuperset(pictures):
            yield from _orphans(files, folder, set(labels.values()))
        seen.update(pictures)


def _places(data_yaml: str, settings: Mapping[str, Any], split: str | None) -> list[str | Refusal]:
    wanted = [split] if split else [name for name in SPLITS if settings.get(name)]
    places: list[str | Refusal] = []
    for name in wanted:
        told = settings.get(name)
        for place in told if isinstance(told, list) else [told]:
            if isinstance(place, str) and place.strip():
                places.append(place.strip())
            else:
                places.append(
                    _refusal(data_yaml, "missing_field", f"wanted a folder in {name!r}, saw {shown(place)}")
                )
    if not places:
        seen = shown(list(settings))
        return [
            _refusal(
                data_yaml, "missing_field", f"wanted train, val or test, or the option images; saw {seen}"
            )
        ]
    return list(dict.fromkeys(places))


def _found(
    files: SourceFiles, place: str, data_yaml: str, settings: Mapping[str, Any], told: bool
) -> tuple[str | None, list[str]] | Refusal:
    """The folder, None for a text file, and the pictures of the first place where there are any."""
    beside, path, cut = posixpath.dirname(data_yaml), str(settings.get("path") or ""), place
    while cut.startswith("../"):
        cut = cut.removeprefix("../")
    root = picture_name(beside, path) if path else beside
    candidates = [picture_name(root, place), picture_name(beside, place), picture_name(beside, cut)]
    for candidate in [picture_name("", place)] if told else dict.fromkeys(candidates):
        if candidate.lower().endswith(".txt"):
            listed = _listed(files, candidate)
            if listed is not None:
                return None, listed
            continue
        folder = "" if candidate == "." else candidate
        if pictures := files.names(folder, _SUFFIXES):
            return folder, pictures
    outside = place.startswith("/") or "://" in place
    reason, advice = "unsafe_path" if outside else "missing_file", "the option images can name another folder"
    return _refusal(data_yaml, reason, f"no picture lies in {shown(place)}; {advice}")


def _listed(files: SourceFiles, name: str) -> list[str] | None:
    """The pictures that a text file lists, relative to its folder; None if it cannot be read."""
    data = files.read(name)
    if isinstance(data, FileProblem):
        return None
    lines = data.decode("utf-8-sig", "replace").split("\n")
    return [picture_name(posixpath.dirname(name), line.strip()) for line in lines if line.strip()]


def _label_file(picture: str) -> str:
    before, images, after = f"/{picture}".rpartition("/images/")
    moved = f"{before}/labels/{after}" if images else f"/{picture}"
    return moved[1:].rpartition(".")[0] + ".txt" if not picture.startswith("/") else picture


def _orphans(files: SourceFiles, folder: str, known: set[str]) -> Iterator[Refusal]:
    """Label files that no picture has: below the folder of labels, or beside the pictures."""
    labels = posixpath.dirname(_label_file(f"{folder}/x.png".removeprefix("/")))
    apart = labels != folder
    for name in files.names(labels, (".txt",)):
        beside = posixpath.dirname(name) == labels and posixpath.basename(name) not in _NO_LABELS
        if name not in known and (apart or beside):
            yield Refusal(Origin(name, None, None), "read", "unknown_image", "no picture has this label file")


def _refusal(data_yaml: str, reason: str, detail: str) -> Refusal:
    return Refusal(Origin(data_yaml, None, None), "read", reason, detail)
