"""Flickr30k Entities: phrases of captions (Sentences/ID.txt) with the boxes of what they name (Annotations/ID.xml).

Convention: <bndbox> holds xmin, ymin, xmax, ymax as numbers of pixels counted from 1, the last one included. A phrase
is written [/EN#ID/TYPE words], and becomes a question which part of the picture shows it, with all boxes of its
entity as evidence. Raw rows are (1) every phrase, at the line of its file, refused where its entity is the scene, is
not to be seen, has no box, or where the same words name another entity of the picture too; (2) every box that is
refused; (3) every file that is, and one without its partner. A picture lies in the folder that the option images names.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ops.readers.detections import annotation_files, picture_name
from ops.readers.json_files import file_bytes
from ops.readers.rows import (
    FieldError,
    Origin,
    PictureRef,
    RawAnnotation,
    RawBox,
    RawExample,
    RawRow,
    Refusal,
    file_name,
    shown,
)
from ops.readers.shapes import number
from ops.readers.xml_files import as_raw, size_wh, texts_of, whole_tree
from ops.source_files import SourceFiles

CONVENTION = "xyxy_px_from_1"
OPTIONS: Mapping[str, tuple[type, Any]] = {"images": (str, None)}
_PHRASE = re.compile(r"\[/EN#(\d+)(?:/[^\s/\]]+)+ +([^\s\[\]][^\[\]]*)\]")


@dataclass
class _Entities:
    """What one XML file says of a picture; `without` tells why an entity has no box."""

    picture: PictureRef
    boxes: dict[str, list[RawBox]] = field(default_factory=dict)
    without: dict[str, str] = field(default_factory=dict)
    all_boxes: list[RawBox] = field(default_factory=list)


@dataclass(frozen=True)
class _Phrase:
    origin: Origin
    entity: str
    words: str


def read(
    files: SourceFiles, annotations: str, *, questions: str | None = None, images: str = ""
) -> Iterator[RawRow]:
    """Yield the raw rows picture by picture. `questions` is the folder of sentences, by default beside annotations."""
    sentences = picture_name(annotations, "../Sentences") if questions is None else questions
    trees: dict[str, str] = {}
    texts: dict[str, str] = {}
    for found, names in (
        (trees, annotation_files(files, annotations, ".xml")),
        (texts, annotation_files(files, sentences, ".txt")),
    ):
        for name in names:
            if found.setdefault(_stem(name), name) != name:
                detail = f"{found[_stem(name)]} is of the same picture"
                yield Refusal(Origin(name, None, None), "read", "duplicate_example", detail)
    for picture in sorted(trees | texts):
        entities = _entities(files, trees[picture], images) if picture in trees else None
        if isinstance(entities, Refusal):
            yield entities
        known = entities if isinstance(entities, _Entities) else None
        if picture in texts:
            yield from _questions(files, texts[picture], known)
        else:
            detail = f"no sentences {picture}.txt in {sentences}"
            yield Refusal(Origin(trees[picture], None, None), "question", "no_question", detail)
        for box in known.all_boxes if known else ():
            if box.annotation is not None and known is not None:
                yield RawAnnotation(box.annotation, known.picture, CONVENTION, box.values)


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0]


def _entities(files: SourceFiles, name: str, images: str) -> _Entities | Refusal:
    tree = whole_tree(files, name, "annotation")
    if isinstance(tree, Refusal):
        return tree
    try:
        picture = picture_name(images, file_name(texts_of(tree), "filename"))
    except FieldError as error:
        return error.refusal(Origin(name, None, as_raw(tree)))
    size = tree.find("size")
    sides = {} if size is None else texts_of(size)
    entities = _Entities(PictureRef(picture, annotated_wh=size_wh(sides.get("width"), sides.get("height"))))
    for place, thing in enumerate(tree.findall("object")):
        names = [(each.text or "").strip() for each in thing.findall("name")]
        bndbox, told = thing.find("bndbox"), texts_of(thing)
        if bndbox is None:
            why = "is the whole scene" if told.get("scene") == "1" else "is not to be seen"
            entities.without.update(dict.fromkeys(names, why))
            continue
        edges = texts_of(bndbox)
        values = [number(edges.get(edge)) for edge in ("xmin", "ymin", "xmax", "ymax")]
        box = RawBox(values, None, Origin(name, place, as_raw(thing)))
        entities.all_boxes.append(box)
        for entity in dict.fromkeys(names):
            entities.boxes.setdefault(entity, []).append(box)
    return entities


def _questions(files: SourceFiles, name: str, entities: _Entities | None) -> Iterator[RawRow]:
    data = file_bytes(files, name, "broken_file")
    if isinstance(data, Refusal):
        yield data
        return
    found = [each for place, line in enumerate(data.split(b"\n")) for each in _phrases(name, place, line)]
    named: dict[str, set[str]] = {}
    for each in found:
        if isinstance(each, _Phrase):
            named.setdefault(each.words.casefold(), set()).add(each.entity)
    if not found:
        yield Refusal(Origin(name, None, None), "question", "no_question", "no phrase [/EN#ID/TYPE words]")
    for each in found:
        if isinstance(each, Refusal):
            yield each
            continue
        try:
            yield _example(each, entities, named[each.words.casefold()])
        except FieldError as error:
            yield error.refusal(each.origin)


def _phrases(name: str, place: int, line: bytes) -> Iterator[_Phrase | Refusal]:
    """The phrases of a caption; a refusal in place of each that is not written as one."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raw = line[:2000].decode("utf-8", "replace")
        yield Refusal(Origin(name, place, raw), "read", "broken_file", f"not UTF-8 at byte {error.start}")
        return
    for start in (match.start() for match in re.finditer(re.escape("[/EN#"), text)):
        phrase = _PHRASE.match(text, start)
        if phrase is None:
            origin = Origin(name, place, text[start : start + 200])
            detail = f"wanted [/EN#ID/TYPE words], saw {shown(origin.raw)}"
            yield Refusal(origin, "read", "broken_file", detail)
        else:
            yield _Phrase(Origin(name, place, phrase.group()), phrase.group(1), phrase.group(2).strip())


def _example(phrase: _Phrase, entities: _Entities | None, named: set[str]) -> RawExample:
    if entities is None:
        raise FieldError("question", "no_boxes", "the picture's file of annotations is missing or refused")
    boxes = entities.boxes.get(phrase.entity, [])
    if not boxes:
        why = entities.without.get(phrase.entity, "has no box")
        raise FieldError("question", "no_boxes", f"entity {phrase.entity} {why}")
    if len(named) > 1:
        detail = f"these words name {len(named)} entities of the picture: {', '.join(sorted(named))}"
        raise FieldError("question", "unsupported", detail)
    evidence = tuple(RawBox(box.values, phrase.words, box.annotation) for box in boxes)
    return RawExample(phrase.origin, entities.picture, CONVENTION, evidence, template="phrase")
