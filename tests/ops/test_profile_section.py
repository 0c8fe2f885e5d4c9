"""What the report says of each source, held against figures written down here."""

import dataclasses
import io

import pytest
from PIL import Image

from ops.profile_section import sources
from ops.report import render
from storage.tables import empty, from_rows
from tests.ops.synthetic_evidence import make
from tests.ops.test_report import HOSTILE, Seen, inputs_of

NBSP = "\N{NO-BREAK SPACE}"


def figure(measure, value, n, bucket=None, of="all", unit="count", source="shelf"):
    return {"source": source, "measure": measure, "subset": of, "bucket": bucket, "unit": unit} | {
        "value": float(value),
        "n": n,
    }


def spread(measure, least, middle, most, unit="px"):
    told = {"min": least, "p05": least, "p25": least, "p50": middle, "p75": most, "p95": most, "max": most}
    return [figure(measure, value, 9, bucket, unit=unit) for bucket, value in told.items()]


def rows(name="shelf", label="cup"):
    """10 rows in, 8 out, 2 refused; 4 pictures, 3 of them landscape; 8 boxes."""
    found = [
        figure("rows_in", 10, 10),
        figure("rows_out", 8, 10),
        figure("rows_refused", 2, 10),
        figure("rows_refused", 2, 10, "swapped_corners"),
        figure("pictures", 4, 4),
        figure("pictures_with_the_same_pixels", 1, 4),
        figure("picture_shape", 3, 4, "landscape"),
        figure("picture_shape", 1, 4, "portrait"),
        figure("picture_shape", 0, 4, "square"),
        *spread("picture_width_px", 640, 640, 640),
        *spread("picture_height_px", 480, 500, 1200),
        figure("boxes", 8, 8),
        *spread("boxes_per_example", 1, 1, 3, "boxes"),
        *spread("box_area_frac", 0.0004, 0.05, 0.31, "share"),
        figure("boxes_near_empty", 2, 8),
        figure("boxes_whole_picture", 0, 8),
        figure("boxes_touching_edge", 2, 8, "left"),
        figure("boxes_touching_edge", 0, 8, "lower"),
        figure("labels_distinct", 1, 8),
        figure("label", 8, 8, label),
        figure("answers_distinct", 7, 8),
        *(figure("answer", 2 - n // 4, 8, f"{label}{n}") for n in range(7)),
        figure("answers_distinct", 7, 8, of="answer_type=yes_no"),
        figure("answer", 2, 8, f"{label}0", of="answer_type=yes_no"),
        figure("questions_distinct", 3, 8),
        *spread("question_characters", 5, 6, 9, "characters"),
        figure("text_script", 8, 8, "Latin"),
        figure("text_script", 1, 8, "Han"),
    ]
    return [row | {"source": name} for row in found]


def warning(source, detail="source shelf: 12 boxes look wrong; set box_convention: xywh_px"):
    return {"source": source, "kind": "swapped_corners", "told": "xyxy_px", "fits": ["xywh_px"], "share": 0.5,
            "n": 12, "detail": detail}  # fmt: skip


def test_every_figure_is_said():
    (shelf,) = sources(from_rows("source_profiles", rows()), empty("source_warnings"), {})
    assert (shelf["rows_in"], shelf["rows_out"], shelf["refused"]) == (10, 8, 2)
    assert shelf["reasons"] == [{"reason": "swapped corners", "n": 2}]
    said = {fact["term"]: [text.replace(NBSP, " ") for text in fact["said"]] for fact in shelf["facts"]}
    assert said == {
        "Pictures": [
            "4, 640 px wide, 480 to 1,200 (median 500) px high",
            "75.0 % landscape, 25.0 % portrait",
            "1 with the same pixels as another",
        ],
        "Boxes": [
            "8, 1 to 3 (median 1) per example",
            "area 5.0 % of the picture in the middle, < 0.1 % to 31.0 % for nine in ten",
            "2 near-empty, 0 over the whole picture",
        ],
        "At the edge": ["left 25.0 %, lower 0 %"],
        "Labels": ["1 different: “cup” 100.0 %"],
        "Answers": [
            "7 different: “cup0” 25.0 %, “cup1” 25.0 %, “cup2” 25.0 %, “cup3” 25.0 %, “cup4” 12.5 %, …",
            "yes no, 8: 7 different, “cup0” 25.0 %",
        ],
        "Questions": ["3 different, 5 to 9 (median 6) characters"],
        "Writing": ["Latin 100.0 %, Han 12.5 %"],
    }


def test_warnings_and_sheets_stand_with_their_own_source():
    figures = from_rows("source_profiles", [*rows("b"), *rows("a")])
    told = from_rows("source_warnings", [warning("b", "source b: looks wrong")])
    first, second = sources(figures, told, {"a": b"sheet"})
    assert (first["name"], first["warnings"], first["sheet_uri"]) == (
        "a",
        [],
        "data:image/webp;base64,c2hlZXQ=",
    )
    assert (second["name"], second["warnings"], second["sheet_uri"]) == ("b", ["looks wrong"], None)


def test_a_source_of_which_little_is_known_says_less():
    few = [
        figure("rows_in", 0, 0),
        figure("pictures", 0, 0),
        figure("boxes", 0, 0),
        figure("answers_distinct", 0, 0),
    ]
    (shelf,) = sources(from_rows("source_profiles", few), empty("source_warnings"), {})
    assert shelf["facts"] == []


@pytest.fixture(scope="module")
def evidence():
    return make(seed=3, n_pictures=12)


def sheet():
    out = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(out, "WEBP")
    return out.getvalue()


def test_the_page_shows_sources_with_rows_warnings_and_sheet(evidence):
    profiles = from_rows("source_profiles", [*rows("shelf"), *rows("good")])
    told = from_rows("source_warnings", [warning("shelf")])
    inputs = inputs_of(
        evidence, source_profiles=profiles, source_warnings=told, contact_sheets={"shelf": sheet()}
    )
    seen = Seen(render(inputs).decode())
    assert seen.faults == [] and seen.open == []
    assert "10 rows in = 8 examples + 2 refused: swapped corners 2" in seen.text
    assert seen.text.count("Was it read by the wrong box convention?") == 1
    assert "12 boxes look wrong; set box_convention: xywh_px" in seen.text
    assert seen.text.count("Nothing about its boxes looks as if another convention had written them.") == 1
    pictures = [a["src"] for tag, a in seen.tags if tag == "img" and a["src"].startswith("data:image/webp")]
    assert len(pictures) == 1


def test_text_of_the_data_is_escaped(evidence):
    profiles = from_rows("source_profiles", rows(HOSTILE, label=HOSTILE))
    told = from_rows("source_warnings", [warning(HOSTILE, HOSTILE)])
    inputs = inputs_of(
        evidence, source_profiles=profiles, source_warnings=told, contact_sheets={HOSTILE: sheet()}
    )
    page = render(dataclasses.replace(inputs)).decode()
    assert "<script" not in page and "<img src=http" not in page
    seen = Seen(page)
    assert seen.faults == [] and seen.open == []
    assert seen.text.count("alert('x')") >= 4  # name, warning, label, answers
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
