"""The flow of one answer: tokens to words, words to gaps, and the numbers that the figure shows."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest

from ops import flow_figure, flow_section
from ops.flow_figure import Word, chosen, figure, flow_of, folded, numbers, words_of
from ops.report import render
from storage.schema import TABLES
from tests.ops.synthetic_evidence import make
from tests.ops.test_report import Seen, inputs_of

# "a stra|wber|ry is red" -> "red .": tokens 1 to 3 of the thought are one word, the answer has a leading newline.
# The grid is 1 row of 2 cells; in logits.
ROW = {
    "flow_id": "f1",
    "policy_id": "p@0123456789ab",
    "policy": "p",
    "example_id": "e1",
    "image_sha256": "s1",
    "completion_sha256": "c1",
    "rows": "predictor",
    "unscorable_reason": None,
    "thought_tokens": ["a", " stra", "wber", "ry", " is"],
    "answer_tokens": ["\n", "red", " now"],
    "grid_h": 1,
    "grid_w": 2,
    "region_x1": 0.0,
    "region_y1": 0.0,
    "region_x2": 1.0,
    "region_y2": 1.0,
    "looked_at": [1, 0, 2, 1, 3, -1, 1, 1, 0, -2],
    "thoughts_used": [0, 1, 0, 0, 0, 1, 1, 2, 0, -1, 0, 0, 2, 1, -1],
    "reached_answer": [0, 1, 2, 3, -4, 5],
}


def test_pieces_become_words_and_their_shares_are_summed():
    flow = flow_of(ROW)
    assert [word.text for word in flow.thoughts] == ["a", "strawberry", "is"]
    assert [word.text for word in flow.answers] == ["red", "now"]
    assert flow.thought_maps.tolist() == [[[1, 0]], [[2 + 3 + 1, 1 - 1 + 1]], [[0, -2]]]
    # red = "\n" + "red": a 0+1, strawberry (1+0+0) + (1+2+0), is 0-1; now: 0, 0+2+1, -1
    assert flow.used.tolist() == [[1, 4, -1], [0, 3, -1]]
    assert flow.answer_maps.tolist() == [[[2, 4]], [[-4, 5]]]
    assert flow.shares.tolist() == [1 / 8, 7 / 8, 0]  # what speaks against the answer has no share in it
    assert numbers(ROW)[1] == {"word": "strawberry", "looked": "+7", "used": ["+4", "+3"], "share": "88%"}
    assert numbers(ROW)[2]["used"] == ["\N{MINUS SIGN}1", "\N{MINUS SIGN}1"]


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        (["I", " see", ",", " you", "."], ["I", "see,", "you."]),
        (["\n", "top", " ", "left", " "], ["top", "left"]),
        (["one\n", "two"], ["one", "two"]),
        ([" "], [""]),
        ([], []),
    ],
)
def test_words_begin_where_white_space_stands(tokens, wanted):
    words = words_of(tokens)
    assert [word.text for word in words] == wanted
    assert [i for word in words for i in word.tokens] == list(range(len(tokens)))  # no token is lost


def test_a_long_thought_is_folded_and_says_how_much():
    words = words_of(["a", " b", " c", " d", " e"])
    assert folded(words, [5, 1, 1, 9, 2], keep=2) == [
        Word("a", range(1)),
        Word("b c", range(1, 3), True, 2),
        Word("d", range(3, 4)),
        Word("e", range(4, 5), True, 1),
    ]
    n = 40
    long = ROW | {
        "thought_tokens": [f" w{i}" for i in range(n)],
        "answer_tokens": ["red"],
        "looked_at": [1.0] * (2 * n),
        "thoughts_used": [float(i) for i in range(n)],
        "reached_answer": [1.0, 1.0],
    }
    flow = flow_of(long)
    assert [(w.n_words, w.folded) for w in flow.thoughts] == [(28, True)] + [(1, False)] * 12
    assert flow.used.sum() == sum(range(n)) and flow.thought_maps.sum() == 2 * n
    drawn = figure(long, {"question": "Which?"}, [], (90, 60), 1)
    assert "\N{HORIZONTAL ELLIPSIS} 28" in drawn and "28 more words" in drawn


def test_links_are_as_wide_as_what_was_given_and_signs_are_told_apart():
    drawn = figure(ROW, {"question": "What <b> is it?"}, [(10, 20, 40, 50)], (90, 60), 3)
    links = re.findall(r'class="link (for|against)" d="M([\d.]+) .*?L([\d.]+) \d+C.*? ([\d.]+) \d+Z"', drawn)
    told = re.findall(r"<title>([^<]*\N{RIGHTWARDS ARROW}[^<]*) logits</title>", drawn)
    assert told == [
        "a \N{RIGHTWARDS ARROW} red: +1",
        "strawberry \N{RIGHTWARDS ARROW} red: +4",
        "is \N{RIGHTWARDS ARROW} red: \N{MINUS SIGN}1",
        "strawberry \N{RIGHTWARDS ARROW} now: +3",
        "is \N{RIGHTWARDS ARROW} now: \N{MINUS SIGN}1",
    ]  # a -> now is 0: no link
    assert [kind for kind, *_ in links] == ["for", "for", "against", "for", "against"]
    tops = [float(stop) for *_, stop in links]
    widths = [stop - float(start) for (_, start, _, _), stop in zip(links, tops, strict=True)]
    assert np.allclose(np.array(widths) / widths[0], [1, 4, 1, 3, 1], atol=0.02)  # rounded to 0.1 px
    assert 'href="#flow-picture-3"' in drawn and "What &lt;b&gt; is it?" in drawn


def test_the_rule_takes_right_answers_with_evidence_of_the_champion_each_picture_once():
    evidence = make(seed=3, n_pictures=24)
    said = [row for row in evidence.predictions.to_pylist() if row["policy"] in ("accuracy", "saliency_r1")]
    columns = ("policy_id", "policy", "example_id", "image_sha256", "completion_sha256")
    rows = [ROW | {c: row[c] for c in columns} | {"flow_id": str(i)} for i, row in enumerate(said)]
    flows = pa.Table.from_pylist(rows, schema=TABLES["token_flows"])
    found = chosen(flows, evidence.predictions, evidence.examples, "saliency_r1", 1)
    right = {row["example_id"] for row in said if row["correct"] and row["policy"] == "saliency_r1"}
    assert len(found) == 6 and len({row["image_sha256"] for row in found}) == 6
    assert {row["example_id"] for row in found} <= right and {row["policy"] for row in found} == {
        "saliency_r1"
    }
    reversed_rows = pa.Table.from_pylist(rows[::-1], schema=TABLES["token_flows"])
    again = chosen(reversed_rows, evidence.predictions, evidence.examples, "saliency_r1", 1)
    assert [row["flow_id"] for row in again] == [row["flow_id"] for row in found]
    tables = {"token_flows": flows, "predictions": evidence.predictions, "examples": evidence.examples}
    needed = flow_section.pictures_needed("saliency_r1", 1, tables)
    assert needed == [row["image_sha256"] for row in found]
    shown = flow_section.figures(
        "saliency_r1",
        1,
        *(flows, evidence.predictions, evidence.examples, evidence.boxes, evidence.images, evidence.pictures),
    )
    assert [each["flow_id"] for each in shown] == [row["flow_id"] for row in found]
    assert sum(len(each["figure"]) + len(each["picture_uri"]) for each in shown) < 1_000_000
    assert flow_figure.MOST == 6


def test_the_page_shows_the_flows_of_the_champion_and_stays_whole():
    evidence = make(seed=3, n_pictures=24)
    inputs = inputs_of(evidence)
    columns = ("policy_id", "policy", "example_id", "image_sha256", "completion_sha256")
    rows = [ROW | {c: row[c] for c in columns} for row in evidence.predictions.to_pylist()]
    flows = pa.Table.from_pylist(rows, schema=TABLES["token_flows"])
    page = render(dataclasses.replace(inputs, token_flows=flows, pictures=evidence.pictures)).decode()
    without = render(dataclasses.replace(inputs, pictures=evidence.pictures)).decode()
    seen = Seen(page)
    assert seen.faults == [] and page.count('class="chart flow"') == 6
    assert f"what {inputs.champion['champion']} read off the picture" in seen.text
    assert "No flow of the champion" in without and 0 < len(page) - len(without) < 1_000_000


def test_wrong_answers_questions_without_evidence_and_answers_without_a_flow_are_not_drawn():
    def flow(example, **changes):
        return ROW | {"example_id": example, "image_sha256": f"picture of {example}"} | changes

    # only e1 has all: right, with evidence, a flow, of policy p
    flows = [
        *(flow("e1"), flow("wrong"), flow("no_boxes"), flow("no_flow", unscorable_reason="no_thought")),
        flow("other", policy="q"),
    ]
    correct = {"e1": True, "wrong": False, "no_boxes": True, "no_flow": True, "other": True}
    said = pa.table(
        {
            "policy": ["q" if e == "other" else "p" for e in correct],
            "example_id": list(correct),
            "correct": list(correct.values()),
        }
    )
    asked = pa.table({"example_id": list(correct), "n_boxes": [0 if e == "no_boxes" else 2 for e in correct]})
    table = pa.Table.from_pylist(flows, schema=TABLES["token_flows"])
    assert [row["example_id"] for row in chosen(table, said, asked, "p", 1)] == ["e1"]
