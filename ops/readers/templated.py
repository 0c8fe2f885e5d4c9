"""The rows of a picture's questions by templates: which boxes each template is asked about, and its evidence.

Not here: what a template says (`ops/questions.py`), which kinds of a format nothing can be asked about.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ops.questions import OF_DETECTIONS, TEMPLATES, USUAL
from ops.readers.rows import Origin, PictureRef, RawBox, RawExample

OPTIONS: dict[str, tuple[type, object]] = {"templates": (list, OF_DETECTIONS)}
"""What every source of detections may say, in the form of a format's options."""

Member = tuple[Origin, RawBox]


def kind_questions(
    members: Sequence[Member],
    everything: Sequence[RawBox],
    picture: PictureRef,
    convention: str,
    templates: Sequence[str] = USUAL,
) -> Iterator[RawExample]:
    """The questions about all things of one kind in a picture; `everything` is every box of the picture."""
    boxes = tuple(box for _, box in members)
    for name in templates:
        about = TEMPLATES[name]["about"]
        if about == "all" or (about == "alone" and len(members) == 1):
            yield RawExample(members[0][0], picture, convention, boxes, template=name)
        if about == "place":
            for origin, box in members:
                others = tuple(other for other in everything if other is not box)
                yield RawExample(origin, picture, convention, (box,), template=name, others=others)


def pair_questions(
    alone: Sequence[Member],
    picture: PictureRef,
    convention: str,
    templates: Sequence[str] = USUAL,
) -> Iterator[RawExample]:
    """The questions about two things: each that is alone of its kind with the next one, in file order.

    So a picture with n of them has n - 1 pairs, and not n (n - 1) / 2. Two of the same label are no pair.
    """
    for name in templates:
        if TEMPLATES[name]["about"] != "pair":
            continue
        for (origin, one), (_, other) in pairwise(alone):
            if one.label != other.label:
                yield RawExample(origin, picture, convention, (one, other), template=name)
