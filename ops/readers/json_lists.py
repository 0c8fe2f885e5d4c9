"""Files that hold one JSON list, entry by entry; a large one takes no more memory than a few entries.

Not here: what entries mean, and where they begin and end in the bytes (`ops/readers/json_arrays.py`).
"""

from collections.abc import Iterator

from ops.readers.json_arrays import BrokenJsonError, NotStreamable, values
from ops.readers.json_files import whole_list
from ops.readers.rows import Origin, Refusal, shown
from ops.source_files import FileProblem, SourceFiles

LARGE_BYTES = 64 * 2**20
"""A longer file is walked over twice, since a file that is broken anywhere is refused as a whole."""


def list_entries(files: SourceFiles, name: str, what: str) -> Iterator[tuple[Origin, object] | Refusal]:
    """The entries of a list of `what` with their 0-based places, or the refusal of the whole file."""
    if is_large(files, name):
        with files.opened(name) as stream:
            if not isinstance(stream, FileProblem):
                try:
                    for _ in values(stream):
                        pass
                except BrokenJsonError as error:
                    yield broken(name, f"a list of {what}", error)
                    return
                except NotStreamable:
                    pass
                else:
                    stream.seek(0)
                    yield from _placed(name, values(stream))
                    return
    content = whole_list(files, name, what)
    if isinstance(content, Refusal):
        yield content
    else:
        yield from _placed(name, iter(content))


def is_large(files: SourceFiles, name: str) -> bool:
    """Whether a file is too long to be read whole only to learn what a walk over it found already."""
    n_bytes = files.n_bytes(name)
    return not isinstance(n_bytes, FileProblem) and n_bytes > LARGE_BYTES


def broken(name: str, wanted: str, error: BrokenJsonError) -> Refusal:
    """The refusal of a file that a walk found to be no JSON, or to hold something else than what is `wanted`."""
    detail = f"{wanted} cannot be read: {shown(str(error), 300)}"
    return Refusal(Origin(name, None, None), "read", "broken_json", detail)


def _placed(name: str, entries: Iterator[object]) -> Iterator[tuple[Origin, object]]:
    return ((Origin(name, place, value), value) for place, value in enumerate(entries))
