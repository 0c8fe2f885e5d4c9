"""GQA: questions about pictures whose scene graphs hold the boxes.

Files: questions as an object by id, each with imageId, question, answer, fullAnswer and annotations, which map words
of question, answer and fullAnswer to objects; scene graphs as an object by imageId, each with objects of x, y, w, h.
Convention: x, y, width, height in pixels, x and y the top left corner. The picture of imageId 2370799 is
2370799.jpg in the folder `images`. Evidence is every object that the annotations name, each once; a question that
names none, as "Is it cloudy?", is refused, since it is about no place. Raw rows are (1) the questions, at their
place in the file, (2) every scene graph and object of one that is itself refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ops.readers.coco import annotated_wh
from ops.readers.detections import picture_name
from ops.readers.json_files import whole_object
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawAnnotation,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    entries_of,
    guessed_answer_type,
    optional_text,
    required_text,
    shown,
    taken,
)
from ops.source_files import SourceFiles

CONVENTION = "xywh_px"
_TEXTS = ("question", "answer", "fullAnswer")


@dataclass
class _Graphs:
    """Scene graphs by imageId: the picture, and its objects by id."""

    pictures: dict[str, PictureRef] = field(default_factory=dict)
    objects: dict[str, dict[str, RawBox]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)


def read(
    files: SourceFiles, annotations: str, scene_graphs: str | None = None, images: str = "images"
) -> Iterator[RawRow]:
    """Yield the raw rows: questions in file order, then what is refused of the scene graphs."""
    if scene_graphs is None:
        detail = "wanted the option scene_graphs: the questions have no boxes of their own"
        yield Refusal(Origin(annotations, None, None), "read", "missing_field", detail)
        return
    questions = whole_object(files, annotations, "questions by id")
    content = whole_object(files, scene_graphs, "scene graphs by imageId")
    refused = [each for each in (questions, content) if isinstance(each, Refusal)]
    if isinstance(questions, Refusal) or isinstance(content, Refusal):
        yield from refused
        return
    graphs = _graphs(scene_graphs, content, images)
    for place, (name, row, is_again) in enumerate(entries_of(questions)):
        origin = Origin(annotations, place, {name: row})
        try:
            if is_again:
                raise taken(name, "question id")
            yield _example(graphs, origin, as_object(row))
        except FieldError as error:
            yield error.refusal(origin)
    yield from graphs.refusals
    for image, objects in graphs.objects.items():
        for box in objects.values():
            if box.annotation is not None:
                yield RawAnnotation(box.annotation, graphs.pictures[image], CONVENTION, box.values)


def _graphs(name: str, content: Mapping[str, object], images: str) -> _Graphs:
    graphs = _Graphs()
    for place, (image, value, is_again) in enumerate(entries_of(content)):
        origin = Origin(name, place, {image: value})
        try:
            if is_again:
                raise taken(image, "imageId")
            graph = as_object(value)
            objects = _objects(graph)
        except FieldError as error:
            graphs.refusals.append(error.refusal(origin))
            continue
        graphs.pictures[image] = PictureRef(picture_name(images, f"{image}.jpg"), None, annotated_wh(graph))
        graphs.objects[image] = {}
        for key, entry, object_again in entries_of(objects):
            own = Origin(name, place, {image: {key: entry}})
            try:
                if object_again:
                    raise taken(key, "object")
                graphs.objects[image][key] = _box(own, as_object(entry))
            except FieldError as error:
                graphs.refusals.append(error.refusal(own))
    return graphs


def _objects(graph: Mapping[str, object]) -> Mapping[str, object]:
    objects = graph.get("objects")
    if not isinstance(objects, dict):
        raise FieldError("read", "missing_field", f"wanted an object in 'objects', saw {shown(objects)}")
    return objects


def _box(origin: Origin, entry: Mapping[str, object]) -> RawBox:
    return RawBox([entry.get(key) for key in ("x", "y", "w", "h")], optional_text(entry, "name"), origin)


def _example(graphs: _Graphs, origin: Origin, row: Mapping[str, object]) -> RawExample:
    image = required_text(row, "imageId", "read", "missing_field")
    if image not in graphs.pictures:
        raise FieldError("question", "unknown_image", f"no usable scene graph has the imageId {image!r}")
    answer = required_text(row, "answer", "question", "no_answer")
    types = row.get("types")
    return RawExample(
        origin=origin,
        picture=graphs.pictures[image],
        convention=CONVENTION,
        boxes=_evidence(graphs.objects[image], row),
        question=required_text(row, "question", "question", "no_question"),
        answer=answer,
        answer_type=guessed_answer_type(answer),
        question_kind=optional_text(types, "structural") if isinstance(types, dict) else None,
    )


def _evidence(objects: Mapping[str, RawBox], row: Mapping[str, object]) -> tuple[RawBox, ...]:
    annotations = row.get("annotations")
    if not isinstance(annotations, dict):
        detail = f"wanted an object in 'annotations', saw {shown(annotations)}"
        raise FieldError("question", "no_boxes", detail)
    named: dict[str, None] = {}
    for text in _TEXTS:
        spans = as_object(annotations).get(text, {})
        if not isinstance(spans, dict) or not all(isinstance(each, str) for each in spans.values()):
            detail = f"wanted ids of objects by words in annotations.{text}, saw {shown(spans)}"
            raise FieldError("question", "unsupported", detail)
        as_object(spans)
        named |= dict.fromkeys(spans.values())
    if not named:
        raise FieldError(
            "question", "no_boxes", "the annotations name no object: the question has no evidence"
        )
    missing = [each for each in named if each not in objects]
    if missing:
        raise FieldError("question", "no_boxes", f"the scene graph has no usable objects {shown(missing)}")
    return tuple(objects[each] for each in named)
