"""Questions about a scene, each with its answer, its evidence and a short written reasoning.

What a scene shows comes from `ops/scene_pictures.py`; writing files belongs to `ops/scenes.py`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ops.scene_objects import OBJECT_BY_NAME, OBJECTS
from ops.scene_pictures import Placed, Scene

KINDS = ("what", "where", "colour", "count", "relation")

_STEPS = (("to the left of", (0, -1)), ("to the right of", (0, 1)), ("above", (-1, 0)), ("below", (1, 0)))


@dataclass(frozen=True)
class SceneQuestion:
    """One question. `evidence` are indices into the scene's things: what must be seen to answer."""

    kind: str
    question: str
    answer: str
    answer_type: str
    reasoning: str
    evidence: tuple[int, ...]


def questions(scene: Scene) -> list[SceneQuestion]:
    """Every question that has exactly one answer in this scene, in a fixed order."""
    return [*_what(scene), *_where(scene), *_colour(scene), *_count(scene), *_relation(scene)]


def colour_question(scene: Scene, index: int) -> SceneQuestion:
    """'What colour is the strawberry?' for thing `index`, which must be the only one of its name."""
    thing = scene.placed[index]
    reasoning = f"The {thing.name} is {thing.colour}."
    return SceneQuestion(
        "colour", f"What colour is the {thing.name}?", thing.colour, "word", reasoning, (index,)
    )


def caption(scene: Scene) -> str:
    """All things of the scene in reading order: 'a red car at the top left, a green frog at ...'."""
    return ", ".join(f"{_article(t.colour)} {t.colour} {t.name} at the {t.place}" for t in scene.placed)


def vocabulary_sentences() -> list[str]:
    """Sentences that hold every name, for building a tokenizer."""
    return [f"{_article(t.name)} {t.name} . How many {t.plural} are there?" for t in OBJECTS]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _unique(scene: Scene) -> Iterator[tuple[int, Placed]]:
    counts = Counter(thing.name for thing in scene.placed)
    return ((i, thing) for i, thing in enumerate(scene.placed) if counts[thing.name] == 1)


def _what(scene: Scene) -> Iterator[SceneQuestion]:
    for index, thing in enumerate(scene.placed):
        reasoning = f"At the {thing.place} I see {_article(thing.name)} {thing.name}."
        yield SceneQuestion("what", f"What is at the {thing.place}?", thing.name, "word", reasoning, (index,))


def _where(scene: Scene) -> Iterator[SceneQuestion]:
    for index, thing in _unique(scene):
        reasoning = f"I see the {thing.name} at the {thing.place}."
        yield SceneQuestion("where", f"Where is the {thing.name}?", thing.place, "word", reasoning, (index,))


def _colour(scene: Scene) -> Iterator[SceneQuestion]:
    for index, _ in _unique(scene):
        yield colour_question(scene, index)


def _count(scene: Scene) -> Iterator[SceneQuestion]:
    for name in dict.fromkeys(thing.name for thing in scene.placed):
        found = [i for i, thing in enumerate(scene.placed) if thing.name == name]
        counted = ", ".join(str(number + 1) for number in range(len(found)))
        yield SceneQuestion(
            "count",
            f"How many {OBJECT_BY_NAME[name].plural} are there?",
            str(len(found)),
            "number",
            f"I see {OBJECT_BY_NAME[name].plural}: {counted}.",
            tuple(found),
        )


def _relation(scene: Scene) -> Iterator[SceneQuestion]:
    at_cell = {thing.cell_row_column: i for i, thing in enumerate(scene.placed)}
    for index, thing in _unique(scene):
        for words, (down, right) in _STEPS:
            other = at_cell.get((thing.cell_row_column[0] + down, thing.cell_row_column[1] + right))
            if other is None:
                continue
            seen = scene.placed[other]
            start = words[0].upper() + words[1:]
            reasoning = f"{start} the {thing.name} I see {_article(seen.name)} {seen.name}."
            yield SceneQuestion(
                "relation",
                f"What is {words} the {thing.name}?",
                seen.name,
                "word",
                reasoning,
                (index, other),
            )
