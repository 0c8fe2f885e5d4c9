import dataclasses
import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from ops import charts, gallery
from ops.champion import decide
from ops.comparison import compare
from ops.findings import Evaluations, finding
from ops.report import ReportInputs, render
from ops.report_tables import refused, sources
from storage.schema import TABLES
from storage.tables import empty, from_rows
from tests.ops.synthetic_evidence import COINS, make

REWARDS = {"cold_start": 0, "accuracy": 2, "saliency_r1": 3}
HOSTILE = "<script>alert('x')</script> & \" ' <img src=http://example.org/x.png> ]]> {{ 7*7 }}"


def inputs_of(evidence, **changes):
    evaluations = compare(evidence.predictions, evidence.examples, evidence.splits, draws=200)
    needed = gallery.pictures_needed(evidence.predictions, evidence.examples, 1)
    inputs = ReportInputs(
        generated_on="2026-01-02",
        profile="tiny",
        seed=1,
        images=evidence.images,
        examples=evidence.examples,
        boxes=evidence.boxes,
        quarantine=evidence.quarantine,
        source_profiles=empty("source_profiles"),
        source_warnings=empty("source_warnings"),
        splits=evidence.splits,
        training_steps=evidence.training_steps,
        predictions=evidence.predictions,
        saliency_maps=evidence.saliency_maps,
        token_flows=empty("token_flows"),
        evaluations=evaluations,
        champion=decide(evidence.predictions, evidence.examples, evidence.splits, REWARDS, draws=200),
        artifacts=evidence.artifacts,
        pictures={sha: evidence.pictures[sha] for sha in needed},
        draws=200,
    )
    return dataclasses.replace(inputs, **changes)


@pytest.fixture(scope="module")
def evidence():
    return make(seed=3, n_pictures=45)


@pytest.fixture(scope="module")
def page(evidence):
    return render(inputs_of(evidence)).decode()


class Seen(HTMLParser):
    """Tags with attributes, text, and whether every element is closed in order."""

    VOID = frozenset({"meta", "input", "br", "img", "link", "hr"})

    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open, self.faults = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def with_column(table, name, values):
    index = table.schema.get_field_index(name)
    return table.set_column(
        index, table.schema.field(index), pa.array(values, table.schema.field(index).type)
    )


def test_the_page_is_well_formed_and_small(page):
    seen = Seen(page)
    assert seen.faults == [] and seen.open == []
    assert len(page) < 5_000_000


def test_nothing_is_fetched_and_no_script_runs(page):
    for tag, attributes in Seen(page).tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, name, value[:60])
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_same_inputs_same_bytes(evidence, page):
    assert render(inputs_of(evidence)).decode() == page


def test_text_of_the_data_is_escaped_everywhere(evidence):
    n, labels = evidence.examples.num_rows, [HOSTILE] * evidence.boxes.num_rows
    examples = evidence.examples
    for column in ("question", "answer", "question_kind", "source"):
        examples = with_column(examples, column, [HOSTILE] * n)
    predictions = evidence.predictions
    for column in ("answer", "thought", "completion"):
        predictions = with_column(predictions, column, [HOSTILE] * predictions.num_rows)
    quarantine = evidence.quarantine
    for column in ("detail", "source"):
        quarantine = with_column(quarantine, column, [HOSTILE] * quarantine.num_rows)
    hostile = dataclasses.replace(
        evidence,
        examples=examples,
        boxes=with_column(evidence.boxes, "label", labels),
        predictions=predictions,
        quarantine=quarantine,
        artifacts=[{**a, "name": HOSTILE, "versions": {HOSTILE: HOSTILE}} for a in evidence.artifacts],
    )
    page = render(inputs_of(hostile, profile=HOSTILE)).decode()
    assert "<script" not in page and "<img src=http" not in page
    seen = Seen(page)
    assert seen.faults == []
    assert seen.text.count("alert('x')") > 20  # it is there, as text
    assert "{{ 7*7 }}" in seen.text


def test_a_hostile_policy_name_is_escaped_in_charts_too(evidence):
    name = "<b onload=x>"
    renamed = [name if p == "saliency_r1" else p for p in evidence.predictions["policy"].to_pylist()]
    changed = dataclasses.replace(evidence, predictions=with_column(evidence.predictions, "policy", renamed))
    inputs = inputs_of(evidence)
    evaluations = compare(changed.predictions, changed.examples, changed.splits, draws=200)
    page = render(
        dataclasses.replace(inputs, predictions=changed.predictions, evaluations=evaluations)
    ).decode()
    assert "<b onload" not in page and "&lt;b onload" in page


def test_pictures_have_alt_texts_and_tables_have_heads(page):
    seen = Seen(page)
    for tag, attributes in seen.tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes["aria-label"].strip()
        if tag == "th":
            assert attributes["scope"] in {"col", "row", "colgroup"}
    assert dict(seen.tags)["html"]["lang"] == "en"
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_no_score_without_chance_and_n(page):
    body = page[page.index('class="results"') : page.index('id="differences"')]
    cells = re.findall(r"<td role=\"cell\".*?</td>", body, re.S)
    with_value = [cell for cell in cells if 'class="value"' in cell]
    assert len(with_value) > 30
    assert all(
        re.search(r"chance [\d\N{MINUS SIGN}]", cell) and re.search(r"n&nbsp;\d", cell) for cell in with_value
    )


def test_the_headline_follows_the_numbers():
    def row(policy, metric, value, low, high, versus=None, subset="all"):
        return {
            "policy": policy,
            "metric": metric,
            "subset": subset,
            "value": value,
            "ci_low": low,
            "ci_high": high,
            "n": 412,
            "chance": 0.0,
            "versus": versus,
        }

    def headline(accuracy, lift):
        rows = [row("cold_start", "accuracy", 0.60, 0.5, 0.7), row("accuracy", "accuracy", 0.6, 0.5, 0.7)]
        rows += [
            row("saliency_r1", "accuracy", 0.66, 0.6, 0.7),
            row("saliency_r1", "accuracy", *accuracy, "cold_start"),
        ]
        return finding(Evaluations([*rows, row("saliency_r1", "lift", *lift, "accuracy")]))

    up, down, same = (0.06, 0.02, 0.1), (-0.06, -0.1, -0.02), (0.01, -0.03, 0.05)
    best = headline(up, up)
    assert (
        "raised accuracy from 60\N{NO-BREAK SPACE}% to 66\N{NO-BREAK SPACE}%, and put more" in best.headline
    )
    assert "+6.0 points (95\N{NO-BREAK SPACE}% CI +2.0 to +10.0)." in best.support[0]
    assert "412 questions" in best.support[0]
    null = headline(same, same)
    assert "did not clearly change accuracy" in null.headline
    assert "and moved the map no closer to the evidence than training on accuracy alone" in null.headline
    assert null.support[0].endswith("which may be chance.")
    assert "lowered accuracy" in headline(down, up).headline and "but put more" in headline(down, up).headline
    assert "but put less of the map" in headline(up, down).headline
    assert "\N{MINUS SIGN}6.0 points" in headline(down, up).support[0]


def test_a_base_policy_alone_gives_a_page(evidence):
    only = evidence.predictions.filter(
        pa.array([p == "base" for p in evidence.predictions["policy"].to_pylist()])
    )
    alone = dataclasses.replace(evidence, predictions=only)
    evaluations = compare(only, evidence.examples, evidence.splits, draws=200)
    whole = inputs_of(evidence)
    page = render(
        dataclasses.replace(
            whole,
            predictions=alone.predictions,
            evaluations=evaluations,
            saliency_maps=empty("saliency_maps"),
            training_steps=empty("training_steps"),
            quarantine=empty("quarantine"),
            pictures={},
            artifacts=[],
        )
    ).decode()
    seen = Seen(page)
    assert "base answers" in seen.text
    assert "No training steps were recorded" in seen.text
    assert "The picture is not stored with the tables" in seen.text


def test_examples_are_chosen_by_seed_not_by_score(evidence):
    groups = gallery.choose(evidence.predictions, evidence.examples, 1)
    assert [g.title for g in groups] == [
        "Picture and expectation disagree",
        "Won: cold_start wrong, saliency_r1 right",
        "Lost: cold_start right, saliency_r1 wrong",
        "Both right",
        "Both wrong",
    ]
    right = {
        (r["policy"], r["example_id"]): r["correct"]
        for r in evidence.predictions.select(["policy", "example_id", "correct"]).to_pylist()
    }
    for example_id in groups[2].example_ids:
        assert right["cold_start", example_id] and not right["saliency_r1", example_id]
    n_answered = len(set(evidence.predictions["example_id"].to_pylist()))
    assert sum(g.n_all for g in groups[1:]) == n_answered  # the four outcomes cover everything
    pictures = gallery.pictures_needed(evidence.predictions, evidence.examples, 1)
    assert len(set(pictures)) == len(pictures) == sum(len(g.example_ids) for g in groups)
    shuffled = evidence.predictions.take(list(range(evidence.predictions.num_rows))[::-1])
    assert gallery.choose(shuffled, evidence.examples, 1) == groups
    assert gallery.choose(evidence.predictions, evidence.examples, 2) != groups


def test_figures_share_one_scale_and_keep_boxes_in_picture_pixels(evidence):
    example_id = gallery.choose(evidence.predictions, evidence.examples, 1)[0].example_ids[0]
    figures = gallery.figures(
        [example_id],
        evidence.predictions,
        evidence.examples,
        evidence.boxes,
        evidence.saliency_maps,
        evidence.images,
        evidence.pictures,
    )
    figure = figures[example_id]
    assert [a.policy for a in figure.answers] == list(COINS)
    assert figure.answers[0].heat_uri is None and figure.answers[0].reason == "no_thought"
    box = next(b for b in evidence.boxes.to_pylist() if b["example_id"] == example_id)
    assert figure.boxes == ((box["x1_px"], box["y1_px"], box["x2_px"], box["y2_px"]),)
    assert figure.width_px != figure.height_px
    assert figure.top > 1


def test_the_map_of_a_crop_lies_on_what_was_cropped_and_is_cut_at_the_picture(evidence):
    """A region from a quarter to three quarters of the width, padded by a tenth of the height above and below."""
    region = {"region_x1": 0.25, "region_y1": -0.1, "region_x2": 0.75, "region_y2": 1.1}
    rows = [row | region for row in evidence.saliency_maps.to_pylist()]
    cropped = inputs_of(evidence, saliency_maps=from_rows("saliency_maps", rows))
    needed = gallery.choose(evidence.predictions, evidence.examples, 1)[0].example_ids[:1]
    tables = (evidence.predictions, evidence.examples, evidence.boxes, cropped.saliency_maps, evidence.images)
    figure = gallery.figures(needed, *tables, evidence.pictures)[needed[0]]
    width, height = figure.width_px, figure.height_px
    wanted = (width / 4, -0.1 * height, width / 2, 1.2 * height)
    with_map = [said for said in figure.answers if said.heat_uri]
    assert with_map and all(said.heat_xywh == pytest.approx(wanted) for said in with_map)
    layers = re.findall(
        r'<svg width="(\d+)" height="(\d+)" overflow="hidden" aria-hidden="true"><image class="heat" ([^>]*)/></svg>',
        render(cropped).decode(),
    )
    assert layers
    for w, h, said in layers:
        x, y, across, down = (
            float(re.search(rf' {name}="([^"]+)"', said)[1]) for name in ("x", "y", "width", "height")
        )
        assert (x, y, across, down) == pytest.approx((int(w) / 4, -0.1 * int(h), int(w) / 2, 1.2 * int(h)))


def test_rows_in_are_examples_and_refused():
    columns = {name: [] for name in TABLES["quarantine"].names}
    for source, reason in (("s", "no_answer"), ("s", "no_answer"), ("s", "nan_box"), ("t", "nan_box")):
        for name, value in (
            ("source", source),
            ("stage", "box"),
            ("reason", reason),
            ("detail", f"{source} {reason}"),
            ("raw", "{}"),
            ("source_file", None),
            ("source_row", None),
        ):
            columns[name].append(value)
    quarantine = pa.table(columns, schema=TABLES["quarantine"])
    evidence = make(n_pictures=6)
    found = {
        row["name"]: row for row in sources(evidence.examples, quarantine, evidence.splits, evidence.images)
    }
    # 6 pictures, 2 questions each; index 0 and 4 belong to more_figures; every third picture is train
    assert (found["more_figures"]["rows_in"], found["more_figures"]["pictures"]) == (4, 2)
    assert (found["s"]["rows_in"], found["s"]["examples"], found["s"]["refused"]) == (3, 0, 3)
    assert (found["all"]["rows_in"], found["all"]["examples"], found["all"]["refused"]) == (16, 12, 4)
    assert found["all"]["splits"] == {"train": 4, "val": 0, "test": 8, "excluded": 0}
    assert [(r["source"], r["reason"], r["n"]) for r in refused(quarantine)] == [
        ("s", "no_answer", 2),
        ("s", "nan_box", 1),
        ("t", "nan_box", 1),
    ]


def test_chart_numbers_by_hand():
    assert charts.moving_mean([1.0, None, 3.0, 8.0], 3) == [1.0, None, 5.5, 5.5]
    assert charts.nice_ticks(0.0, 10.0, 5) == [0, 2, 4, 6, 8, 10]
    assert charts.nice_ticks(-0.13, 0.13, 6) == [-0.1, -0.05, 0, 0.05, 0.1]
    assert charts.nice_ticks(3.0, 3.0, 4) == [3.0]
    # a gap in the data is a gap in the line: two moves of the pen
    chart = charts.lines(
        "x", [charts.Line("a", 1, [1, 2, 3, 4], [0.0, None, 1.0, 0.5])], unit_range=True, smooth=1
    )
    raw = re.search(r'class="raw p1" d="([^"]*)"', chart)[1]
    # x from 44 to 412 over steps 1 to 4, y from 176 (0) to 10 (1)
    assert raw == "M44 176M289.33 10L412 93"
    # logged in every third step only: its points are marked and joined, or nothing of it would be seen
    chart = charts.lines(
        "x", [charts.Line("a", 0, [1, 2, 3, 4], [0.0, None, None, 1.0])], unit_range=True, smooth=1
    )
    assert re.search(r'class="curve p0" d="([^"]*)"', chart)[1] == "M44 176L412 10"
    assert re.findall(r'<circle class="mark p0" cx="([^"]*)" cy="([^"]*)"', chart) == [
        ("44", "176"),
        ("412", "10"),
    ]


def test_marks_of_policies_differ_in_shape_and_colour():
    marks = [str(charts.marker(i, 0, 0)) for i in range(4)]
    assert len({re.sub(r'class="[^"]*"', "", mark) for mark in marks}) == 4
    assert len({re.search(r"p\d", mark)[0] for mark in marks}) == 4
