"""XML of any origin as a tree of elements; nothing in it is expanded, fetched or executed.

A document type declaration, which is where entities come from, is refused before it is acted on, and so is a
file above MAX_BYTES. Not here: what the elements mean.
"""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ops.readers.json_files import file_bytes
from ops.readers.rows import FieldError, Origin, Refusal, shown
from ops.source_files import SourceFiles

MAX_BYTES = 256 * 1024 * 1024
MAX_DEPTH = 100


def whole_tree(files: SourceFiles, name: str, root: str) -> Element | Refusal:
    """The root element of an XML file, whose tag must be `root`, or the refusal of the whole file."""
    data = file_bytes(files, name, "broken_file")
    if isinstance(data, Refusal):
        return data
    try:
        tree = parsed(data)
        if tree.tag != root:
            raise FieldError("read", "unsupported", f"wanted <{root}>, saw <{tree.tag[:100]}>")
        return tree
    except FieldError as error:
        return error.refusal(Origin(name, None, data[:2000].decode("utf-8", "replace")))


def parsed(data: bytes) -> Element:
    """Parse XML in the encoding that it declares. Raises FieldError (broken_file, unsupported)."""
    if len(data) > MAX_BYTES:
        raise FieldError("read", "unsupported", f"{len(data)} bytes of XML; at most {MAX_BYTES} are read")
    builder, parser, depth = TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise FieldError("read", "unsupported", f"elements inside one another {depth} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: encodings unknown to Python
        raise FieldError("read", "broken_file", f"not XML: {shown(str(error), 300)}") from error
    return builder.close()


def as_raw(element: Element) -> dict[str, object]:
    """An element with its attributes, text and children as JSON values, for the quarantine."""
    raw: dict[str, object] = {"tag": element.tag, **element.attrib}
    if element.text and element.text.strip():
        raw["text"] = element.text.strip()
    if len(element):
        raw["children"] = [as_raw(child) for child in element]
    return raw


def size_wh(width: str | None, height: str | None) -> tuple[int, int] | None:
    """A width and a height in pixels as they are written, or None if they are not two whole numbers above 0."""
    texts = ((width or "").strip(), (height or "").strip())
    if not all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        return None
    sides = int(texts[0]), int(texts[1])
    return sides if min(sides) > 0 else None


def texts_of(element: Element) -> Mapping[str, str]:
    """The texts of an element's children by their tags; of children with one tag the first."""
    texts: dict[str, str] = {}
    for child in element:
        texts.setdefault(child.tag, (child.text or "").strip())
    return texts


def _refuse_doctype(*declared: object) -> None:
    raise FieldError("read", "unsupported", "a document type declaration; entities are not expanded here")
