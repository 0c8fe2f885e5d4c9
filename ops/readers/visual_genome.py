"""Visual Genome: regions with phrases, objects, or questions and answers, beside image_data.json.

Convention: x, y, width, height in pixels, x and y the top left corner. A picture's name is the last two parts of its
`url` in image_data.json, VG_100K_2/1.jpg, in the folder `images` if there is one. What is read, by `part`:
regions (region_descriptions.json): where is what the phrase tells of; the evidence is the region.
objects (objects.json): detections, asked about by templates; the kind of a thing is the first of its names.
qas (question_answers.json): the evidence is the region that the file `qa_to_region` gives for a qa_id, looked up in
the file `regions`. Questions have no other boxes, so without these files the part is refused.
Raw rows are the regions, questions or the templates' questions, at the place of their picture's entry, and every entry,
also of image_data.json and the regions of qas, that is itself refused.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from ops.questions import USUAL
from ops.readers import detections
from ops.readers.coco import Identifier, annotated_wh, identifier
from ops.readers.detections import Detection, Pictured, picture_name
from ops.readers.json_files import whole_object
from ops.readers.json_lists import list_entries
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
    required_text,
    shown,
    taken,
)
from ops.source_files import SourceFiles

CONVENTION = "xywh_px"
PARTS = ("regions", "objects", "qas")
FILE_OPTIONS: Mapping[str, str | None] = {
    "image_data": "image_data.json",
    "regions": None,
    "qa_to_region": None,
}

Pictures = Mapping[Identifier, PictureRef]
Regions = dict[Identifier, tuple[PictureRef, RawBox]]
Entry = tuple[Origin, Identifier, list[object]]


def read(
    files: SourceFiles,
    annotations: str,
    part: str = "regions",
    image_data: str = "image_data.json",
    regions: str | None = None,
    qa_to_region: str | None = None,
    images: str = "",
    templates: Sequence[str] = USUAL,
) -> Iterator[RawRow]:
    """Yield the raw rows of one part, then what is refused of image_data.json."""
    pictures, refusals = _pictures(files, image_data, images)
    if any(each.origin.source_row is None for each in refusals):  # the file itself: nothing can be looked up
        pass
    elif part == "regions":
        yield from _members(files, annotations, pictures, "regions", _region)
    elif part == "objects":
        yield from detections.rows(_pictured(files, annotations, pictures), CONVENTION, templates)
    else:
        yield from _qas(files, annotations, pictures, regions, qa_to_region)
    yield from refusals


def _pictures(files: SourceFiles, name: str, images: str) -> tuple[Pictures, list[Refusal]]:
    pictures: dict[Identifier, PictureRef] = {}
    refusals = []
    for row in list_entries(files, name, "pictures"):
        if isinstance(row, Refusal):
            return {}, [row]
        origin, value = row
        try:
            entry = as_object(value)
            image = identifier(entry, "image_id")
            if image in pictures:
                raise FieldError("read", "duplicate_example", f"image_id {image[1]!r} is taken")
            url = required_text(entry, "url", "read", "missing_field")
            pictures[image] = PictureRef(_file_name(url, images), annotated_wh=annotated_wh(entry))
        except FieldError as error:
            refusals.append(error.refusal(origin))
    return pictures, refusals


def _file_name(url: str, images: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError as error:
        raise FieldError("read", "missing_field", f"wanted an address in 'url', saw {shown(url)}") from error
    return picture_name(images, "/".join(path.split("/")[-2:]))


def _entries(files: SourceFiles, name: str, key: str, pictures: Pictures) -> Iterator[Entry | Refusal]:
    """The pictures of a file, each with its list `key`; an entry without a known picture is refused as one row."""
    for row in list_entries(files, name, f"pictures with {key}"):
        if isinstance(row, Refusal):
            yield row
            return
        origin, value = row
        try:
            entry = as_object(value)
            image = identifier(entry, "image_id" if "image_id" in entry else "id")
            if image not in pictures:
                raise FieldError("read", "unknown_image", f"no usable image has the id {image[1]!r}")
            members = entry.get(key)
            if not isinstance(members, list):
                raise FieldError("read", "missing_field", f"wanted a list {key!r}, saw {shown(members)}")
        except FieldError as error:
            yield error.refusal(origin)
        else:
            yield origin, image, members


def _members(
    files: SourceFiles,
    name: str,
    pictures: Pictures,
    key: str,
    take: Callable[[Origin, PictureRef, Mapping[str, object]], RawExample | None],
) -> Iterator[RawExample | Refusal]:
    """What `take` makes of each member of the lists `key`, if anything, and what is refused."""
    for entry in _entries(files, name, key, pictures):
        if isinstance(entry, Refusal):
            yield entry
            continue
        origin, image, members = entry
        for member in members:
            own = Origin(origin.source_file, origin.source_row, member)
            try:
                made = take(own, pictures[image], as_object(member))
            except FieldError as error:
                yield error.refusal(own)
            else:
                if made is not None:
                    yield made


def _region(origin: Origin, picture: PictureRef, row: Mapping[str, object]) -> RawExample:
    phrase = required_text(row, "phrase", "question", "no_question")
    return RawExample(origin, picture, CONVENTION, (RawBox(_xywh(row), phrase),), template="phrase")


def _xywh(row: Mapping[str, object]) -> list[object]:
    return [row.get("x"), row.get("y"), row.get("width", row.get("w")), row.get("height", row.get("h"))]


def _pictured(files: SourceFiles, name: str, pictures: Pictures) -> Iterator[Pictured | Refusal]:
    seen = set()
    for entry in _entries(files, name, "objects", pictures):
        if isinstance(entry, Refusal):
            yield entry
            continue
        origin, image, members = entry
        if image in seen:
            detail = f"the objects of image {image[1]!r} stand in an earlier entry"
            yield Refusal(origin, "read", "duplicate_example", detail)
            continue
        seen.add(image)
        pictured = Pictured(origin, pictures[image])
        for member in members:
            own = Origin(origin.source_file, origin.source_row, member)
            try:
                pictured.detections.append(_detection(own, as_object(member)))
            except FieldError as error:
                pictured.refusals.append(error.refusal(own))
        yield pictured


def _detection(origin: Origin, row: Mapping[str, object]) -> Detection:
    names = row.get("names")
    if not isinstance(names, list):
        raise FieldError("read", "missing_field", f"wanted a list of names in 'names', saw {shown(names)}")
    name = required_text({"names": names[0]}, "names", "read", "missing_field") if names else None
    return Detection(origin, RawBox(_xywh(row), name, origin), name)


def _qas(
    files: SourceFiles, name: str, pictures: Pictures, regions: str | None, qa_to_region: str | None
) -> Iterator[RawRow]:
    if regions is None or qa_to_region is None:
        detail = "wanted the options regions and qa_to_region: questions have no boxes of their own"
        yield Refusal(Origin(name, None, None), "question", "no_boxes", detail)
        return
    mapping = whole_object(files, qa_to_region, "region ids by qa_id")
    if isinstance(mapping, Refusal):
        yield mapping
        return
    for place, (qa, region, is_again) in enumerate(entries_of(mapping)):
        if is_again:
            yield taken(qa, "qa_id").refusal(Origin(qa_to_region, place, {qa: region}))
    known: Regions = {}
    refusals = list(_index_regions(files, regions, pictures, known))

    def example(origin: Origin, picture: PictureRef, row: Mapping[str, object]) -> RawExample:
        return _qa(mapping, known, origin, picture, row)

    yield from _members(files, name, pictures, "qas", example)
    yield from refusals
    for picture, box in known.values():
        if box.annotation is not None:
            yield RawAnnotation(box.annotation, picture, CONVENTION, box.values)


def _qa(
    mapping: Mapping[str, object],
    known: Regions,
    origin: Origin,
    picture: PictureRef,
    row: Mapping[str, object],
) -> RawExample:
    qa = str(identifier(row, "qa_id")[1])
    if qa not in mapping:
        raise FieldError("question", "no_boxes", f"qa_to_region gives no region for the qa_id {qa}")
    region = identifier(mapping, qa)
    seen_on, box = known.get(region, (None, None))
    if box is None or seen_on != picture:
        detail = f"qa_to_region gives the region {region[1]!r}, which is no usable one on this picture"
        raise FieldError("question", "no_boxes", detail)
    answer = required_text(row, "answer", "question", "no_answer")
    question = required_text(row, "question", "question", "no_question")
    kind = guessed_answer_type(answer)
    return RawExample(origin, picture, CONVENTION, (box,), question, answer, answer_type=kind)


def _index_regions(
    files: SourceFiles,
    name: str,
    pictures: Pictures,
    known: Regions,
) -> Iterator[Refusal]:
    def keep(own: Origin, picture: PictureRef, row: Mapping[str, object]) -> None:
        region = identifier(row, "region_id")
        if region in known:
            raise FieldError("read", "duplicate_example", f"region_id {region[1]!r} is taken")
        phrase = required_text(row, "phrase", "read", "missing_field")
        known[region] = picture, RawBox(_xywh(row), phrase, own)

    return (row for row in _members(files, name, pictures, "regions", keep) if isinstance(row, Refusal))
