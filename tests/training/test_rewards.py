from dataclasses import dataclass

import numpy as np
import pytest

from training.rewards import (
    accuracy_reward,
    format_reward,
    map_mass,
    normalise,
    numbers,
    saliency_reward,
    score_answer,
)


@dataclass(frozen=True)
class Map:
    values: np.ndarray | None
    reason: str | None = None
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


def said(text):
    return [{"role": "assistant", "content": text}]


THOUGHT = "<think>\nA cup.\n</think>\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Red  cup.", "red cup"),
        ("don't", "dont"),
        ("\uff22lue", "blue"),  # a full-width B
        ("a", "a"),  # nothing but an article stays
        ("50%", "50%"),
        ("left-hand side", "left hand side"),
    ],
)
def test_normalise(text, wanted):
    assert normalise(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("three", [3.0]),
        ("1,250.5 m", [1250.5]),
        ("-2", [-2.0]),
        ("2 or 3", [2.0, 3.0]),
        ("none", [0.0]),
        ("7.", [7.0]),
        ("no cups", []),
        ("x2", []),
        ("1.2.3", []),
    ],
)
def test_numbers(text, wanted):
    assert numbers(text) == wanted


@pytest.mark.parametrize(
    ("answer", "accepted", "kind", "wanted"),
    [
        ("The Red.", ["red"], "word", 1.0),
        ("dark red", ["red"], "word", 0.0),
        ("crimson", ["red", "Crimson"], "word", 1.0),
        ("Yes, it is.", ["yes"], "yes_no", 1.0),
        ("yes and no", ["yes"], "yes_no", 0.0),
        ("maybe", ["yes"], "yes_no", 0.0),
        ("There are three.", ["3"], "number", 1.0),
        ("3.0", ["three"], "number", 1.0),
        ("2 or 3", ["3"], "number", 0.0),
        ("many", ["3"], "number", 0.0),
        ("(B)", ["B"], "choice", 1.0),
        ("b) the blue cup", ["B"], "choice", 1.0),
        ("blue cup", ["B) blue cup"], "choice", 1.0),
        ("A) blue cup", ["B) blue cup"], "choice", 0.0),  # right words, wrong letter
        ("C", ["B"], "choice", 0.0),
        # said 4 words, wanted 3, shared 2 (red, cup): 2 * 2 / (4 + 3)
        ("red cup on table", ["red metal cup"], "text", 4 / 7),
        ("red metal cup", ["a red metal cup", "mug"], "text", 1.0),
        ("green", ["red"], "text", 0.0),
        (None, ["red"], "word", 0.0),
        ("  ", ["red"], "text", 0.0),
    ],
)
def test_score_answer(answer, accepted, kind, wanted):
    assert score_answer(answer, accepted, kind) == pytest.approx(wanted)


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="answer_type 'essay': want one of word, yes_no, number"):
        score_answer("red", ["red"], "essay")
    with pytest.raises(ValueError, match="without an accepted answer"):
        score_answer("red", [" "], "word")


def test_format_reward():
    texts = [THOUGHT + "red", "red", THOUGHT, "<think>" + THOUGHT + "red"]
    assert format_reward([said(text) for text in texts], prompts=None) == [1.0, 0.0, 0.0, 0.0]


def test_accuracy_reads_the_answer_not_the_thought():
    texts = [THOUGHT + "red", "<think>\nred\n</think>\nblue", THOUGHT + "mug", "<think>red"]
    assert accuracy_reward(
        [said(text) for text in texts],
        answer=["red", "red", "cup", "red"],
        accepted_answers=[[], [], ["mug"], []],
        answer_type=["word"] * 4,
        boxes=None,
    ) == [1.0, 0.0, 1.0, 0.0]


# A picture of 40 x 20 px under a map of 2 rows x 4 columns: cells of 10 x 10 px.
VALUES = np.array([[0, 1, 2, 0], [0, 3, 4, 0]], dtype=np.float32)
WH = (40, 20)
# Column 2 whole and the right half of column 1: mass = (1 + 3) * 0.5 / 10 + (2 + 4) / 10 = 0.8
BOX = [15.0, 0.0, 30.0, 20.0]


def test_mass_of_a_map_by_hand():
    mass, reason = map_mass(Map(VALUES), [BOX], WH, THOUGHT + "red")
    assert mass == pytest.approx(0.8)
    assert reason is None


def test_a_map_of_a_crop_is_held_against_the_boxes_in_it():
    """The grid spans the middle half, x 10 to 30: columns of 10 px. The box covers half of the first and all of the
    second: (1 + 3) / 2 + (2 + 4) of 10. Over the whole picture it would be 0.4."""
    crop = Map(np.array([[1, 2], [3, 4]], dtype=np.float32), region=(0.25, 0.0, 0.75, 1.0))
    assert map_mass(crop, [BOX], WH, THOUGHT + "red")[0] == pytest.approx(0.8)
    assert map_mass(crop, [[0.0, 0.0, 5.0, 20.0]], WH, THOUGHT + "red") == (None, "evidence_not_seen")


def test_several_boxes_count_as_their_union():
    assert map_mass(Map(VALUES), [BOX, BOX], WH, THOUGHT + "red")[0] == pytest.approx(0.8)


def test_saliency_reward_gives_none_and_the_reason():
    logged = {}
    rewards = saliency_reward(
        [said(THOUGHT + "red"), said(THOUGHT + "red"), said("<think>red"), said(THOUGHT + "red")],
        saliency=[Map(VALUES), Map(None, "truncated"), Map(VALUES), Map(VALUES)],
        boxes=[[BOX], [BOX], [BOX], []],
        image_wh=[WH] * 4,
        log_extra=lambda column, values: logged.update({column: values}),
    )
    assert rewards == [pytest.approx(0.8), None, None, None]
    assert logged == {"unscorable_reason": [None, "truncated", "format_invalid", "no_boxes"]}


def test_a_box_over_the_whole_picture_cannot_be_scored():
    assert map_mass(Map(VALUES), [[0, 0, 40, 20]], WH, THOUGHT + "red") == (None, "box_covers_everything")


def test_a_map_of_zeros_cannot_be_scored():
    assert map_mass(Map(VALUES * 0), [BOX], WH, THOUGHT + "red") == (None, "zero_map")
