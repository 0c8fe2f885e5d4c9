"""RefCOCO, RefCOCO+, RefCOCOg: sentences that refer to one thing of a COCO picture.

Files: COCO's instances.json (`ops/readers/coco.py`, with its convention) and the refs as JSON, a list of
{"image_id": 5, "ann_id": 17, "sentences": [{"sent": "the left cup"}, ...]}; a sentence may be a plain text too.
The published refs(unc).p is a pickle, which can run code when it is opened, so it is refused. A question asks
where the sentence's thing is; its evidence is the box of the annotation that the ref names.
Raw rows are (1) every sentence, at the place of its ref, (2) every ref that is itself refused, (3) every entry
of the COCO file that is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ops.readers.coco import CONVENTION, CocoIndex, identifier, read_index
from ops.readers.coco_questions import box_of
from ops.readers.json_files import file_bytes, whole_list
from ops.readers.rows import (
    FieldError,
    Origin,
    RawExample,
    RawRow,
    Refusal,
    as_object,
    required_text,
    shown,
)
from ops.source_files import SourceFiles

_ADVICE = (
    "a pickle can run code and is not opened; convert it where you trust it: "
    "json.dump(pickle.load(open('refs(unc).p', 'rb')), open('refs.json', 'w'))"
)


def read(
    files: SourceFiles, annotations: str, questions: str | None, boxes_from: str = "bbox", images: str = ""
) -> Iterator[RawRow]:
    """Yield the raw rows: sentences in file order, then what is refused of the COCO file."""
    refs = _refs(files, annotations, questions)
    if isinstance(refs, Refusal):
        yield refs
        return
    index = read_index(files, annotations, boxes_from, images)
    for place, ref in enumerate(refs):
        yield from _sentences(index, Origin(questions or "", place, ref))
    yield from index.refusals
    yield from index.judged()


def _refs(files: SourceFiles, annotations: str, questions: str | None) -> list[object] | Refusal:
    if questions is None:
        detail = "wanted the file of refs under 'questions', beside the COCO file under 'annotations'"
        return Refusal(Origin(annotations, None, None), "read", "missing_field", detail)
    named_so = questions.lower().endswith((".p", ".pkl", ".pickle"))
    if not named_so:
        data = file_bytes(files, questions)
        if isinstance(data, Refusal):
            return data
        named_so = data.startswith(b"\x80")
    if named_so:
        return Refusal(Origin(questions, None, None), "read", "unsupported", _ADVICE)
    return whole_list(files, questions, "refs")


def _sentences(index: CocoIndex, origin: Origin) -> Iterator[RawExample | Refusal]:
    try:
        ref = as_object(origin.raw)
        image = identifier(ref, "image_id")
        if image not in index.images:
            raise FieldError("question", "unknown_image", f"no usable image has the id {image[1]!r}")
        box = box_of(index, identifier(ref, "ann_id"), image)
        sentences = ref.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            detail = f"wanted a list with sentences in 'sentences', saw {shown(sentences)}"
            raise FieldError("question", "no_question", detail)
    except FieldError as error:
        yield error.refusal(origin)
        return
    for sentence in sentences:
        own = replace(origin, raw={**ref, "sentences": [sentence]})
        try:
            said = replace(box, label=_text(sentence))
        except FieldError as error:
            yield error.refusal(own)
        else:
            yield RawExample(own, index.images[image], CONVENTION, (said,), template="phrase")


def _text(sentence: object) -> str:
    row: Mapping[str, object] = {"sent": sentence} if isinstance(sentence, str) else as_object(sentence)
    return required_text(row, "sent", "question", "no_question")
