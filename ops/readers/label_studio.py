"""Label Studio: the JSON export, a list of tasks with their "data", "annotations" and "predictions".

Convention: x, y, width, height and the points of polygons in percent of the picture's sides, 0 to 100. A
rectangle is turned clockwise about its upper left corner (`rotation`, degrees); of it and of polygons the upright
box around is taken. Which annotation of a task counts: `chosen`. Where its picture lies: `picture_of`. Other
kinds of results are refused. Raw rows: `ops/readers/detections.py`; the row is the place of the result, or of a
task without results that of the task, among the tasks and the results that count.
"""

import math
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ops.questions import USUAL
from ops.readers.detections import Detection, Pictured, annotation_files, picture_name, rows
from ops.readers.json_lists import list_entries
from ops.readers.rows import FieldError, Origin, PictureRef, RawBox, RawRow, Refusal, as_object, shown
from ops.readers.shapes import around, around_turned
from ops.source_files import SourceFiles

OPTIONS: dict[str, tuple[type, Any]] = {
    "images": (str, None),
    "image_field": (str, None),
    "take": (str, ("annotations", "predictions")),
    "annotator": (str, None),
}
CONVENTION = "xyxy_percent"
_SHAPES = ("rectanglelabels", "polygonlabels")
_DRAWN = (*_SHAPES, "ellipselabels", "keypointlabels", "brushlabels", "bitmasklabels", "vectorlabels")


def read(
    files: SourceFiles,
    annotations: str,
    *,
    images: str | None = None,
    image_field: str | None = None,
    take: str = "annotations",
    annotator: str | None = None,
    templates: Sequence[str] = USUAL,
) -> Iterator[RawRow]:
    """Yield the raw rows of one JSON file, or of all below a folder."""
    for name in annotation_files(files, annotations, ".json"):
        tasks = list_entries(files, name, "tasks")
        yield from rows(_pictures(name, tasks, images, image_field, take, annotator), CONVENTION, templates)


def picture_of(data: Mapping[str, object], image_field: str | None, images: str | None) -> str:
    """The picture's name relative to the source. Raises FieldError (missing_field, unsupported).

    The address stands in the field `image_field`, or "image", or the only field that holds text. Uploads
    (/data/upload/1/NAME) and web addresses lie by their last part in `images`, by default "images"; local files
    (/data/local-files/?d=PATH) and plain paths with their whole path in `images`, by default the source's folder.
    """
    texts = [key for key, value in data.items() if isinstance(value, str) and value]
    only = texts[0] if len(texts) == 1 else "image"
    field = image_field or ("image" if "image" in data else only)
    address = data.get(field)
    if not isinstance(address, str) or not address:
        raise FieldError("read", "missing_field", f"wanted a picture in data.{field}, saw {shown(data)}")
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise FieldError("read", "unsupported", f"no address: {shown(address)} ({error})") from error
    if parts.path.startswith("/data/local-files") and not parts.netloc:
        path = "".join(parse_qs(parts.query).get("d", []))
    elif parts.scheme in ("http", "https", "s3", "gs") or parts.path.startswith("/data/upload/"):
        path, images = posixpath.basename(unquote(parts.path)), images or "images"
    elif parts.scheme or parts.netloc:
        raise FieldError("read", "unsupported", f"pictures in {shown(address)} are not read")
    else:
        path = address
    if not path:
        raise FieldError("read", "missing_field", f"no file is named in {shown(address)}")
    return picture_name(images or "", path)


def chosen(task: Mapping[str, object], take: str, annotator: str | None) -> list[object]:
    """The results of the one annotation or prediction of a task that counts. Raises FieldError.

    Cancelled ones do not count. Of several the one that is marked as ground truth counts, else that of
    `annotator`: "first" or "latest" in the file, or the number or e-mail address of who completed it (for
    predictions the model's version). Without any of these nobody can say which is right (unsupported).
    """
    entries = task.get(take)
    if not isinstance(entries, list):
        seen = shown(entries) if take in task else "no such field"
        raise FieldError("read", "missing_field", f"wanted a list {take!r}, saw {seen}")
    counting = [as_object(entry) for entry in entries]
    counting = [entry for entry in counting if not entry.get("was_cancelled")]
    if annotator not in (None, "first", "latest"):
        counting = [entry for entry in counting if annotator in _names(entry)]
    if not counting:
        raise FieldError(
            "question", "no_boxes", f"none of {len(entries)} {take} counts (annotator: {annotator})"
        )
    truths = [entry for entry in counting if entry.get("ground_truth") is True]
    kept = truths if len(truths) == 1 else counting
    if len(kept) > 1 and annotator not in ("first", "latest"):
        detail = f"{len(kept)} {take} of one picture; say which counts with annotator: first, latest or who"
        raise FieldError("question", "unsupported", detail)
    results = kept[-1 if annotator == "latest" else 0].get("result")
    if not isinstance(results, list):
        raise FieldError("read", "missing_field", f"wanted a list 'result', saw {shown(results)}")
    return results


def _names(entry: Mapping[str, object]) -> set[str]:
    who = entry.get("completed_by", entry.get("model_version"))
    told = [who.get("id"), who.get("email")] if isinstance(who, dict) else [who]
    return {str(name) for name in told if isinstance(name, int | str)}


def _pictures(
    name: str,
    tasks: Iterable[tuple[Origin, object] | Refusal],
    images: str | None,
    image_field: str | None,
    take: str,
    annotator: str | None,
) -> Iterator[Pictured | Refusal]:
    place = 0
    for entry in tasks:
        if isinstance(entry, Refusal):
            yield entry
            return
        _, task = entry
        origin = Origin(name, place, task)
        place += 1
        try:
            row = as_object(task)
            data = row.get("data")
            picture = picture_of(as_object(data) if isinstance(data, dict) else {}, image_field, images)
            results = chosen(row, take, annotator)
        except FieldError as error:
            yield error.refusal(origin)
            continue
        yield _pictured(origin, picture, results)
        place += len(results)


def _pictured(origin: Origin, picture: str, results: list[object]) -> Pictured:
    sizes = [_size_wh(result) for result in results]
    pictured = Pictured(
        origin, PictureRef(picture, annotated_wh=next((size for size in sizes if size), None))
    )
    first = (origin.source_row or 0) + 1
    for place, (result, size) in enumerate(zip(results, sizes, strict=True), start=first):
        here = Origin(origin.source_file, place, result)
        try:
            pictured.detections.append(_detection(here, as_object(result), size))
        except FieldError as error:
            pictured.refusals.append(error.refusal(here))
    return pictured


def _size_wh(result: object) -> tuple[int, int] | None:
    row = result if isinstance(result, dict) else {}
    width, height = row.get("original_width"), row.get("original_height")
    return (
        (width, height) if type(width) is int and type(height) is int and width > 0 and height > 0 else None
    )


def _detection(origin: Origin, result: Mapping[str, object], size_wh: tuple[int, int] | None) -> Detection:
    kind, value = result.get("type"), result.get("value")
    if kind not in _DRAWN or not isinstance(value, dict):
        detail = f"a result of type {shown(kind)}; read are {', '.join(_SHAPES)}"
        raise FieldError("read", "unsupported", detail)
    labels = as_object(value).get(str(kind))
    if not isinstance(labels, list) or len(labels) != 1 or not isinstance(labels[0], str):
        raise FieldError("read", "unsupported", f"wanted one label in {kind!r}, saw {shown(labels)}")
    label = labels[0].strip() or None
    values, refused = None, None
    try:
        if result.get("image_rotation"):
            turn = shown(result["image_rotation"])
            raise FieldError("box", "unsupported", f"marked on a picture that was turned by {turn} degrees")
        if kind not in _SHAPES:
            raise FieldError("box", "unsupported", f"type {kind!r}; read are {', '.join(_SHAPES)}")
        values = _rectangle(value, size_wh) if kind == "rectanglelabels" else around(value.get("points"), 3)
    except FieldError as error:
        refused = error
    return Detection(origin, RawBox(values, label, origin), label, refused)


def _rectangle(value: Mapping[str, object], size_wh: tuple[int, int] | None) -> object:
    """Edges in percent; a turned rectangle is turned in pixels, since a percent is not as wide as high."""
    sides = [value.get(key) for key in ("x", "y", "width", "height")]
    turned = value.get("rotation") or 0
    numbers = [float(n) for n in (*sides, turned) if type(n) is float or (type(n) is int and abs(n) < 1e300)]
    if len(numbers) < 5:
        return f"x, y, width, height, rotation = {shown([*sides, turned])}"
    if not all(map(math.isfinite, numbers)):
        return [math.nan] * 4
    x, y, width, height, degrees = numbers
    if degrees == 0 or width < 0 or height < 0:
        return [x, y, x + width, y + height]
    if size_wh is None:
        detail = "a turned rectangle without original_width and original_height"
        raise FieldError("box", "missing_field", detail)
    if max(size_wh) >= 2**31:
        raise FieldError("box", "missing_field", f"no picture is {shown(list(size_wh))} pixels large")
    x_px, y_px = size_wh[0] / 100, size_wh[1] / 100
    corner_wh = (x * x_px, y * y_px, width * x_px, height * y_px)
    box = around_turned(corner_wh, degrees, (corner_wh[0], corner_wh[1]))
    return [edge / side for edge, side in zip(box, (x_px, y_px, x_px, y_px), strict=True)]
