"""YOLO: data.yaml with the names of the classes and the folders of pictures, and a .txt file per picture.

Convention: a line is "class cx cy width height", the box's middle and sides as shares of the picture's, 0 to 1,
or "class x1 y1 x2 y2 x3 y3 ...", a polygon in shares, of which the box around it is taken. Four corners can be
a polygon or an oriented box: they are refused unless `four_corners` is "polygon". Where pictures lie:
`ops/readers/yolo_pictures.py`. Raw rows: `ops/readers/detections.py`; the row is the line's number from 0. A
picture without a label file is a background: without any box, as one with an empty file is. A label file
without picture is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, rows
from ops.readers.json_files import file_bytes
from ops.readers.rows import FieldError, Origin, PictureRef, RawBox, RawRow, Refusal, shown
from ops.readers.shapes import around, number
from ops.readers.yolo_pictures import SPLITS, labels_of
from ops.source_files import FileProblem, SourceFiles

OPTIONS: dict[str, tuple[type, Any]] = {
    "split": (str, SPLITS),
    "images": (str, None),
    "four_corners": (str, ("refuse", "polygon")),
}
CONVENTION = "cxcywh_normalised"
_MAX_CLASSES = 100_000


def read(
    files: SourceFiles,
    annotations: str,
    *,
    split: str | None = None,
    images: str | None = None,
    four_corners: str = "refuse",
    templates: Sequence[str] = USUAL,
) -> Iterator[RawRow]:
    """Yield the raw rows of a data.yaml, or of the one in a folder: of all its splits or of one.

    With `images`, a folder or a list of pictures, the folders that data.yaml names are not looked at.
    """
    name = annotations if annotations.lower().endswith((".yaml", ".yml")) else f"{annotations}/data.yaml"
    try:
        settings = _settings(files, name)
        names = _names(settings)
    except FieldError as error:
        yield error.refusal(Origin(name, None, None))
        return
    lines = _Lines(names, four_corners == "polygon")
    labels = labels_of(files, name, settings, split, images)
    yield from rows(
        (each if isinstance(each, Refusal) else lines.of(files, *each) for each in labels),
        CONVENTION,
        templates,
    )


def _settings(files: SourceFiles, name: str) -> Mapping[str, Any]:
    data = file_bytes(files, name, "broken_file")
    if isinstance(data, Refusal):
        raise FieldError(data.stage, data.reason, data.detail)
    try:
        _refuse_aliases(data)
        settings = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FieldError("read", "broken_file", f"not YAML: {shown(str(error), 300)}") from error
    if not isinstance(settings, dict):
        raise FieldError(
            "read", "broken_file", f"wanted a mapping with names and train, saw {shown(settings)}"
        )
    if "kpt_shape" in settings:
        raise FieldError("read", "unsupported", "kpt_shape: lines with keypoints are not read")
    return settings


def _refuse_aliases(data: bytes) -> None:
    """An alias repeats what an anchor names; some thousand of them fill any memory."""
    if any(
        isinstance(event, yaml.AliasEvent)
        for event in yaml.parse(data.decode("utf-8"), Loader=yaml.SafeLoader)
    ):
        raise FieldError("read", "unsupported", "YAML aliases are not followed")


def _names(settings: Mapping[str, Any]) -> dict[int, str]:
    """Names of the classes by number. Raises FieldError (missing_field)."""
    names = settings.get("names")
    pairs = (
        list(enumerate(names))
        if isinstance(names, list)
        else list(names.items())
        if isinstance(names, dict)
        else []
    )
    found = {key: str(name).strip() for key, name in pairs[:_MAX_CLASSES] if type(key) is int}
    if not found:
        seen = shown(names) if names is not None else "no such field"
        raise FieldError(
            "read", "missing_field", f"wanted a list or a mapping of classes in 'names', saw {seen}"
        )
    return found


class _Lines:
    """The lines of label files, by the names of the classes."""

    def __init__(self, names: Mapping[int, str], four_corners: bool) -> None:
        self._names, self._four_corners = names, four_corners

    def of(self, files: SourceFiles, picture: str, label_file: str) -> Pictured | Refusal:
        """The detections of one picture; `label_file` may be absent."""
        data = files.read(label_file)
        if isinstance(data, FileProblem):
            if data.reason == "missing_file":
                return Pictured(Origin(picture, None, None), PictureRef(picture))
            return Refusal(Origin(label_file, None, None), "read", data.reason, data.detail)
        origin = Origin(label_file, None, None)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            detail = f"not UTF-8: {error.reason} at byte {error.start}"
            return Refusal(origin, "read", "broken_file", detail)
        pictured = Pictured(origin, PictureRef(picture))
        for place, line in enumerate(text.split("\n")):
            if not line.strip():
                continue
            row = Origin(label_file, place, line.strip())
            try:
                pictured.detections.append(self._detection(row, line.split()))
            except FieldError as error:
                pictured.refusals.append(error.refusal(row))
        return pictured

    def _detection(self, origin: Origin, parts: list[str]) -> Detection:
        class_id = number(parts[0])
        if not isinstance(class_id, float) or not class_id.is_integer():
            detail = f"wanted a line that starts with the number of a class, saw {shown(parts[0])}"
            raise FieldError("read", "missing_field", detail)
        label, unaskable = self._names.get(int(class_id)) or None, None
        if label is None:
            known = f"{len(self._names)} names, {min(self._names)} to {max(self._names)}"
            detail = f"class {int(class_id)} has no name in 'names' ({known})"
            unaskable = FieldError("question", "missing_field", detail)
        values, refused = self._values([number(part) for part in parts[1:]])
        return Detection(origin, RawBox(values, label, origin), class_id, refused, unaskable)

    def _values(self, numbers: list[object]) -> tuple[object, FieldError | None]:
        if len(numbers) < 6 or len(numbers) % 2:
            return numbers, None
        if len(numbers) == 8 and not self._four_corners:
            advice = "an oriented box, or a polygon of four points; for the latter set four_corners: polygon"
            return None, FieldError("box", "unsupported", f"four corners: {advice}")
        box = around([numbers[place : place + 2] for place in range(0, len(numbers), 2)], 3)
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(edge, float) for edge in box):
            return numbers, None
        x1, y1, x2, y2 = box
        return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], None
