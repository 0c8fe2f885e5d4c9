"""Splits: which side (train, val, test) a picture is on, from its pixels alone.

Here: the side of one picture and the table of sides for all examples. Not here: who reads a side, and
balancing; a side is a matter of pixels so that adding data moves nothing.
"""

import hashlib
from collections.abc import Mapping

DEFAULT_FRACTIONS: Mapping[str, float] = {"val": 0.08, "test": 0.2}
DEFAULT_SALT = "saliency-r1/splits/1"


def side_of(
    pixels_sha256: str, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, salt: str = DEFAULT_SALT
) -> str:
    """Return "train", "val" or "test" for a picture by its pixels' hash; nothing else is looked at.

    `fractions` gives the expected shares of "val" and "test", the rest is "train". ValueError if they are not
    shares. The draw is sha256(salt, hash) as a number in [0, 1): below test = test, below test + val = val.
    """
    check_fractions(fractions)
    digest = hashlib.sha256(f"{salt}:{pixels_sha256}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2.0**64
    test, val = fractions.get("test", 0.0), fractions.get("val", 0.0)
    if draw < test:
        return "test"
    return "val" if draw < test + val else "train"


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError, naming the value, unless `fractions` are shares of "val" and "test" below 1."""
    strange = sorted(set(fractions) - {"val", "test"})
    values = list(fractions.values())
    if strange or any(not 0.0 <= value < 1.0 for value in values) or not sum(values) < 1.0:
        raise ValueError(
            f"split fractions {dict(fractions)}: wanted shares for 'val' and 'test', "
            "each at least 0, together below 1"
        )
