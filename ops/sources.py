"""Sources: the list of them, checked before anything is computed; their delivery, fingerprint and raw rows.

Here: which data there is and by which reader it is read. Not here: what a reader does (`ops/readers/`), what
becomes of the rows (`ops/normalise.py`), and what a generator draws (`ops/scenes.py`, `ops/easy_vqa.py`).
"""

import hashlib
import importlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ops.ahead import ahead
from ops.readers.coco_scan import DetectionPiece
from ops.readers.formats import FORMATS
from ops.readers.rows import RawExample, RawRow
from ops.source_files import GENERATED, FileProblem, ReadLimits, SourceFiles
from storage.hub import is_place
from storage.objects import Store, StoreError, checked_relative, sha256_file
from storage.scratch import temporary_folder

EMBEDDED = Path(__file__).with_name("embedded_sources.yaml")
MARKER = "generator.json"

_FIELDS = ("name", "format", "location", "annotations", "questions", "options", "licence")
_REQUIRED = ("name", "format", "location", "annotations")

# Options that any source may set: (type, smallest allowed value or allowed values).
_READING_OPTIONS: dict[str, tuple[type, Any]] = {
    "max_pixels": (int, 1),
    "clip_boxes": (bool, None),
    "annotated_size": (str, ("must_agree", "ignore")),
    "max_file_mib": (int, 1),
    "max_rows": (int, 1),
    "max_boxes": (int, 1),
    "pictures": (str, ("kept", "referenced", "unread")),
}
_GENERATOR_OPTIONS: dict[str, dict[str, tuple[type, Any]]] = {
    "scenes": {
        "n_pictures": (int, 1),
        "questions_per_picture": (int, 1),
        "n_conflict_pairs": (int, 0),
        "seed": (int, 0),
    },
    "easy_vqa": {"n_pictures": (int, 1), "seed": (int, 0)},
}
_GENERATOR_CODE = {"scenes": "scene*.py", "easy_vqa": "easy_vqa.py"}


class SourceError(ValueError):
    """A list of sources that cannot be used; the message names settings, values and what is allowed."""


@dataclass(frozen=True)
class Source:
    """One source. `location` is absolute, s3://, hf://, or generated/NAME below the root; a folder or an archive.

    `annotations` and `questions` are files relative to the location, as are the names of pictures.
    """

    name: str
    format: str
    location: str
    annotations: str
    questions: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None

    @property
    def generator(self) -> str | None:
        """The generator that writes this source, if one does."""
        return self.options.get("generator")


def load_sources(path: str | Path | None, root: str) -> tuple[Source, ...]:
    """Read the list of sources from a YAML file, or the embedded list for None.

    A relative location is relative to the list's own folder; generated/NAME lies below `root`, which appears
    in messages only. Raises SourceError with all that is wrong at once.
    """
    file = EMBEDDED if path is None else Path(path).expanduser()
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SourceError(f"list of sources {file} cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, no date, too deep
        raise SourceError(f"list of sources {file} is not YAML: {error}") from error
    entries = content.get("sources") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise SourceError(
            f"{file}: wanted a list under 'sources:' with at least one entry, saw {content!r:.200}"
        )
    problems = [problem for place, entry in enumerate(entries) for problem in _problems(place, entry)]
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    doubled = sorted({str(name) for name in names if names.count(name) > 1})
    problems += [f"name={name!r} is used more than once" for name in doubled]
    if problems:
        raise SourceError("\n".join([f"{file} (root {root}):", *(f"  - {problem}" for problem in problems)]))
    return tuple(_source(entry, file.absolute().parent) for entry in entries)


def files_of(source: Source, store: Store) -> SourceFiles:
    """The files of a source, within the limits that its options set."""
    named = (limit.name for limit in fields(ReadLimits))
    told = {name: source.options[name] for name in named if name in source.options}
    return SourceFiles(source.location, store, ReadLimits(**told))


def pieces_of(
    source: Source, files: SourceFiles, folder: Path
) -> Iterator[DetectionPiece | Iterator[RawRow]]:
    """The raw rows of a source in pieces, by its format's reader, as columns where that can.

    `folder` takes what is laid aside meanwhile.
    """
    yield from FORMATS[source.format].pieces(files, source, folder)


def deliver(source: Source, store: Store) -> bool:
    """Write a generated source's files unless they are there for these settings; True if they were written.

    A source without a generator is delivered by whoever owns it. The marker file with the hash of settings
    and generating code is written last, so a generator that was killed runs again.
    """
    if source.generator is None:
        return False
    settings = {
        key: value for key, value in source.options.items() if key in _GENERATOR_OPTIONS[source.generator]
    }
    marker = json.dumps(
        {"generator": source.generator, "settings": settings, "hash": _hash(source.generator, settings)}
    )
    place = f"{source.location}/{MARKER}"
    if store.exists(place) and store.read_bytes(place) == marker.encode():
        return False
    generate = importlib.import_module(f"ops.{source.generator}").generate
    with temporary_folder(source.name) as folder:
        generate(settings, folder)
        (folder / MARKER).unlink(missing_ok=True)
        store.delete(place)  # in a bucket the folder is replaced file by file: no marker while it is mixed
        store.put_folder(folder, source.location)
    store.write_bytes(place, marker.encode())
    return True


def fingerprint(source: Source, store: Store) -> dict[str, Any]:
    """What was delivered, by content: {"source", "format", "files": [{"path", "n_bytes", "sha256"}, ...], ...}.

    Lists every file that the rows were read from or stand in and every picture that is asked about, sorted by path. A
    file that cannot be read has null for both figures and a "problem"; so has a name that leads out of the source's
    folder. "annotation_files" names those that are told of, and where that is a folder, those inside it; "pictures"
    the pictures among the files, "n_pictures_in_rows" counts others, which stand in the rows themselves;
    "refused_members" are those members of an archive that cannot be had, with why; "unnameable_files" those that were
    passed over since their names are no text.
    """
    files = files_of(source, store)
    told = {source.annotations} | ({source.questions} if source.questions else set())
    pictures: set[str] = set()
    in_rows: set[bytes] = set()
    written: set[str] = set()
    with temporary_folder("pieces") as aside:
        for piece in pieces_of(source, files, aside):
            if isinstance(piece, DetectionPiece):
                written.add(piece.source_file)
                pictures |= set(piece.asked_about())
                continue
            for row in piece:
                written.add(row.origin.source_file)
                if isinstance(row, RawExample) and row.picture.data is None:
                    pictures.add(row.picture.file_name)
                elif isinstance(row, RawExample) and row.picture.data is not None:
                    in_rows.add(hashlib.sha256(row.picture.data).digest())
    if source.options.get("pictures") == "unread":
        pictures = set()
    further = FORMATS[source.format].file_options.items()
    told |= {name for key, usual in further if (name := source.options.get(key, usual))}
    inside = {name: {file for file in written if file.startswith(f"{name}/")} for name in told}
    annotation_files = {file for name in told for file in inside[name] or {name}}
    names = pictures | written | annotation_files | files.given
    return {
        "source": source.name,
        "format": source.format,
        "annotation_files": sorted(annotation_files),
        "pictures": sorted(pictures),
        "n_pictures_in_rows": len(in_rows),
        "files": list(ahead(partial(_file_entry, files), sorted(names), n_threads=4, n_ahead=16)),
        **({"refused_members": refused} if (refused := files.refused_members()) else {}),
        **({"unnameable_files": sorted(files.unnameable)} if files.unnameable else {}),
    }


def _file_entry(files: SourceFiles, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="hashed-") as folder:
        path = files.local_copy(name, Path(folder))
        if isinstance(path, FileProblem):
            return {"path": name, "n_bytes": None, "sha256": None, "problem": path.reason}
        try:
            return {"path": name, "n_bytes": path.stat().st_size, "sha256": sha256_file(path)}
        except OSError:
            return {"path": name, "n_bytes": None, "sha256": None, "problem": "unreadable_file"}


def _hash(generator: str, settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for code in sorted(Path(__file__).parent.glob(_GENERATOR_CODE[generator])):
        digest.update(code.name.encode() + b"\0" + code.read_bytes())
    return digest.hexdigest()


def _source(entry: Mapping[str, Any], folder: Path) -> Source:
    location = str(entry["location"]).rstrip("/") or "/"
    if "://" not in location and not f"{location}/".startswith(GENERATED):
        location = str(folder / Path(location).expanduser())
    return Source(
        name=entry["name"],
        format=entry["format"],
        location=location,
        annotations=entry["annotations"],
        questions=entry.get("questions"),
        options=dict(entry.get("options") or {}),
        licence=entry.get("licence"),
    )


def _problems(place: int, entry: object) -> list[str]:
    if not isinstance(entry, dict):
        return [f"sources[{place}]={entry!r}: wanted a mapping with {', '.join(_REQUIRED)}"]
    label = f"sources[{place}]"
    found = [f"{label}: {key} is missing" for key in _REQUIRED if entry.get(key) is None]
    unknown = sorted(str(key) for key in set(entry) - set(_FIELDS))
    found += [f"{label}.{key}: no such setting; allowed are {', '.join(_FIELDS)}" for key in unknown]
    texts = [key for key in _FIELDS if key != "options" and entry.get(key) is not None]
    wrong = [key for key in texts if not _is_text(entry[key])]
    found += [f"{label}.{key}={entry[key]!r}: wanted text" for key in wrong]
    right = {key: entry[key] for key in texts if key not in wrong}
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", right.get("name", "x")):
        found.append(f"{label}.name={right['name']!r}: wanted small letters, digits, _ and -, at most 63")
    format_ = FORMATS.get(right.get("format", ""))
    if format_ is None and "format" in right:
        found.append(f"{label}.format={right['format']!r}: allowed are {', '.join(FORMATS)}")
    if format_ is not None and not format_.takes_questions and entry.get("questions") is not None:
        known = f"format {right['format']} has no questions file"
        found.append(f"{label}.questions={entry['questions']!r}: {known}")
    found += _path_problems(label, right)
    options = entry.get("options")
    if options is not None and not isinstance(options, dict):
        return [*found, f"{label}.options={options!r}: wanted a mapping"]
    of_format = format_.options if format_ is not None else {}
    return found + _option_problems(label, options or {}, right.get("location", ""), of_format)


def _is_text(value: object) -> bool:
    """Whether a setting is text that can be written out, with something in it."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return False
    try:
        return bool(value.encode())
    except UnicodeEncodeError:
        return False


def _path_problems(label: str, right: Mapping[str, str]) -> list[str]:
    found = []
    for key in ("annotations", "questions"):
        try:
            checked_relative(right.get(key, "x"))
        except StoreError as error:
            found.append(f"{label}.{key}: {error}")
    location = right.get("location", ".")
    try:
        Path(location).expanduser()
    except RuntimeError as error:
        found.append(f"{label}.location={location!r}: {error}")
    if "://" in location and not (location.startswith("s3://") or is_place(location)):
        wanted = "wanted a folder or s3://bucket/prefix or hf://datasets/OWNER/NAME[@REVISION][/PATH], or an archive"
        found.append(f"{label}.location={location!r}: {wanted}")
    if location.startswith(GENERATED) and not re.fullmatch(r"generated/[A-Za-z0-9_-]+/?", location):
        found.append(f"{label}.location={location!r}: below the root only generated/NAME is allowed")
    return found


def _option_problems(
    label: str, options: Mapping[str, Any], location: str, of_format: Mapping[str, tuple[type, Any]]
) -> list[str]:
    generator = options.get("generator")
    allowed = {**_READING_OPTIONS, **of_format}
    found = []
    if generator is not None:
        if not isinstance(generator, str) or generator not in _GENERATOR_OPTIONS:
            known = ", ".join(_GENERATOR_OPTIONS)
            return [f"{label}.options.generator={generator!r}: allowed are {known}"]
        allowed |= _GENERATOR_OPTIONS[generator]
        if not location.startswith(GENERATED):
            found.append(f"{label}.location={location!r}: a generator writes to generated/NAME only")
    for key, value in options.items():
        if key == "generator":
            continue
        if key not in allowed:
            names = ", ".join(["generator", *allowed])
            found.append(f"{label}.options.{key}={value!r}: no such option; allowed are {names}")
        elif not _fits(value, *allowed[key]):
            found.append(f"{label}.options.{key}={value!r}: wanted {_wanted(*allowed[key])}")
    return found


def _fits(value: object, kind: type, limit: Any) -> bool:
    if type(value) is not kind:
        return False
    if kind is int:
        return isinstance(value, int) and limit <= value < 2**31
    if isinstance(value, dict):
        texts = all(isinstance(text, str) and text for text in value.values())
        return texts and (limit is None or set(value) <= set(limit))
    if isinstance(value, list):
        known = [each for each in value if isinstance(each, str) and each in limit]
        return 0 < len(set(known)) == len(value)
    if kind is str and not value:
        return False
    return limit is None or value in limit


def _wanted(kind: type, limit: Any) -> str:
    if kind is int:
        return f"a whole number from {limit} to {2**31 - 1}"
    if kind is dict:
        return f"a mapping to texts of {', '.join(limit) if limit else 'any keys'}"
    if kind is list:
        return f"a list, each once, of {', '.join(limit)}"
    return "true or false" if kind is bool else f"one of {', '.join(limit)}" if limit else "text"
