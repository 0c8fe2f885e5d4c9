"""GQA and Visual Genome on a 60 x 40 px picture: questions, evidence, and what is refused."""

import pytest

from ops.normalise import NothingLeft
from ops.sources import fingerprint
from tests.ops.cup_and_plate import CUP, CUP_XYXY, PLATE, PLATE_XYXY, details, said, tables_of, where
from tests.ops.delivery import encoded, new_store, pixels, refused, source, write

GQA = {"annotations": "questions.json", "options": {"scene_graphs": "graphs.json"}}


def _thing(name, box):
    return {"name": name, **dict(zip("xywh", box, strict=True)), "attributes": [], "relations": []}


def _gqa(folder, questions, **objects):
    write(folder, "images/24.jpg", encoded(pixels((60, 40))))
    things = {"101": _thing("cup", CUP), "102": _thing("plate", PLATE), **objects}
    write(folder, "graphs.json", {"24": {"width": 60, "height": 40, "objects": things}})
    write(folder, "questions.json", questions)


def _asked(question=None, answer=None, full=None):
    named = {"question": question or {}, "answer": answer or {}, "fullAnswer": full or {}}
    row = {
        "imageId": "24",
        "question": "What is left of the plate?",
        "answer": "cup",
        "fullAnswer": "The cup is.",
    }
    return row | {"annotations": named, "types": {"structural": "query", "semantic": "rel"}}


def test_the_evidence_of_gqa_is_what_the_annotations_name(tmp_path):
    questions = {
        "0712": _asked({"5": "102"}, {"0": "101"}, {"1": "101", "5:7": "102"}),
        "0713": _asked(full={"1": "101"}) | {"question": "What is it?"},
    }
    _gqa(tmp_path, questions)
    tables = tables_of(tmp_path, "gqa", **GQA)
    # Of the first: the plate by the question's word, the cup by the answer's; both again by the full answer's.
    assert said(tables) == [
        ("What is left of the plate?", "cup", [PLATE_XYXY, CUP_XYXY]),
        ("What is it?", "cup", [CUP_XYXY]),
    ]
    assert tables.boxes["label"].to_pylist() == ["plate", "cup", "cup"]
    assert tables.examples["question_kind"].to_pylist() == ["query", "query"]
    assert tables.images["file_name"].to_pylist() == ["images/24.jpg"]
    assert refused(tables) == []


def test_questions_of_gqa_without_usable_evidence_are_refused(tmp_path):
    cup = {"0": "101"}
    questions = {
        "0": _asked(cup),
        "1": _asked(),  # names nothing
        "2": _asked({"0": "999"}),
        "3": _asked({"0": "103"}),  # a flat box
        "4": _asked({"0": "104"}),  # no x
        "5": _asked({"0": "105"}),  # no object at all
        "6": _asked({"0": 101}),
        "7": _asked(cup) | {"imageId": "25"},
        "8": _asked(cup) | {"answer": ""},
        "9": _asked(cup) | {"question": None},
        "10": _asked() | {"annotations": None},
        "11": 5,
        "12": _asked(cup),  # as the first
    }
    _gqa(tmp_path, questions, **{"103": _thing("fork", [1, 1, 0, 5]), "104": {"y": 1}, "105": []})
    tables = tables_of(tmp_path, "gqa", **GQA)
    assert len(said(tables)) == 1
    reasons = [
        "no_boxes",
        "no_boxes",
        "zero_area_box",
        "bad_box_format",
        "no_boxes",
        "unsupported",
        "unknown_image",
    ]
    reasons += ["no_answer", "no_question", "no_boxes", "broken_json"]
    wanted = [("questions.json", n, reason) for n, reason in enumerate(reasons, start=1)]
    # Of the one scene graph, at place 0: 105 as it is read, 103 and 104 as they are judged.
    wanted += [("graphs.json", 0, reason) for reason in ("broken_json", "zero_area_box", "bad_box_format")]
    wanted.append(("questions.json", 12, "duplicate_example"))
    assert refused(tables) == wanted


def test_a_scene_graph_that_is_none_costs_its_questions(tmp_path):
    write(tmp_path, "images/24.jpg", encoded(pixels((60, 40))))
    graphs = {"24": {"objects": {"101": _thing("cup", CUP)}}, "25": {"objects": []}, "26": None}
    graphs["../../out"] = graphs["24"]
    write(tmp_path, "graphs.json", graphs)
    names = ["24", "25", "26", "../../out"]
    write(tmp_path, "questions.json", {n: _asked({"0": "101"}) | {"imageId": n} for n in names})
    tables = tables_of(tmp_path, "gqa", **GQA)
    assert refused(tables) == [
        ("questions.json", 1, "unknown_image"),
        ("questions.json", 2, "unknown_image"),
        ("questions.json", 3, "unsafe_path"),
        ("graphs.json", 1, "missing_field"),
        ("graphs.json", 2, "broken_json"),
    ]


def test_gqa_without_its_scene_graphs_is_refused_in_one_row(tmp_path):
    _gqa(tmp_path, {"1": _asked({"0": "101"})})
    with pytest.raises(NothingLeft, match="wanted the option scene_graphs"):
        tables_of(tmp_path, "gqa", annotations="questions.json")
    write(tmp_path, "graphs.json", "[]")
    with pytest.raises(NothingLeft) as caught:
        tables_of(tmp_path, "gqa", **GQA)
    assert refused(caught.value.tables) == [("graphs.json", None, "broken_json")]


def test_the_pictures_of_gqa_lie_in_the_folder_that_is_named(tmp_path):
    _gqa(tmp_path, {"1": _asked({"0": "101"})})
    write(tmp_path, "24.jpg", encoded(pixels((60, 40))))
    here = {**GQA, "options": {"scene_graphs": "graphs.json", "images": "."}}
    assert tables_of(tmp_path, "gqa", **here).images["file_name"].to_pylist() == ["24.jpg"]


def test_further_files_are_part_of_what_was_delivered(tmp_path):
    _gqa(tmp_path, {"1": _asked({"0": "101"})})
    seen = fingerprint(source(tmp_path, "gqa", **GQA), new_store(tmp_path))
    assert [entry["path"] for entry in seen["files"]] == ["graphs.json", "images/24.jpg", "questions.json"]


URL = "https://cs.stanford.edu/people/rak248/VG_100K_2/24.jpg"


def _genome(folder, name, entries, **options):
    write(folder, "VG_100K_2/24.jpg", encoded(pixels((60, 40))))
    images = [
        {"image_id": 24, "width": 60, "height": 40, "url": URL},
        {"image_id": 25},
        {"image_id": 24, "url": URL},
    ]
    write(folder, "image_data.json", images)
    write(folder, name, entries)
    return tables_of(
        folder, "visual_genome", annotations=name, options={"image_data": "image_data.json", **options}
    )


# Of image_data.json, in every delivery: one entry without an address, one whose id is taken.
IMAGE_REFUSALS = [("image_data.json", 1, "missing_field"), ("image_data.json", 2, "duplicate_example")]


def _region(region_id, phrase, box):
    sides = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return {"region_id": region_id, "image_id": 24, "phrase": phrase} | sides


REGIONS = [
    {
        "id": 24,
        "regions": [
            _region(1, "a small cup", CUP),
            _region(2, "", PLATE),
            _region(3, "flat", [1, 1, 5, 0]),
            4,
        ],
    },
    {"id": 26, "regions": []},
    {"id": 24, "regions": None},
    {"id": 24, "regions": [_region(5, "a plate", PLATE)]},
]


def test_a_region_asks_for_the_place_of_its_phrase(tmp_path):
    tables = _genome(tmp_path, "regions.json", REGIONS)
    assert said(tables) == [
        (where("a small cup"), "top left", [CUP_XYXY]),
        (where("a plate"), "bottom right", [PLATE_XYXY]),
    ]
    assert tables.images["file_name"].to_pylist() == ["VG_100K_2/24.jpg"]
    reasons = [
        (0, "no_question"),
        (0, "zero_area_box"),
        (0, "broken_json"),
        (1, "unknown_image"),
        (2, "missing_field"),
    ]
    assert refused(tables) == [("regions.json", *each) for each in reasons] + IMAGE_REFUSALS


def _object(object_id, names, box):
    return {"object_id": object_id, "names": names, **dict(zip("xywh", box, strict=True))}


def test_objects_are_detections_with_templates(tmp_path):
    things = [_object(1, ["cup", "mug"], CUP), _object(2, ["plate"], PLATE), _object(3, [], CUP), "x"]
    entries = [{"image_id": 24, "objects": things}, {"image_id": 24, "objects": things}, {"image_id": 25}]
    tables = _genome(tmp_path, "objects.json", entries, part="objects", templates=["where", "count"])
    assert [(answer, boxes) for _, answer, boxes in said(tables)] == [
        ("top left", [CUP_XYXY]),
        ("1", [CUP_XYXY]),
        ("bottom right", [PLATE_XYXY]),
        ("1", [PLATE_XYXY]),
    ]
    assert tables.boxes["label"].to_pylist() == ["cup", "cup", "plate", "plate"]
    assert refused(tables) == [
        ("objects.json", 0, "missing_field"),  # nothing can be asked about a thing without a name
        ("objects.json", 0, "broken_json"),
        ("objects.json", 1, "duplicate_example"),
        ("objects.json", 2, "unknown_image"),
        *IMAGE_REFUSALS,
    ]


def _qa(qa_id, answer="cup"):
    return {"qa_id": qa_id, "question": f"What is {qa_id}?", "answer": answer, "image_id": 24}


def test_questions_have_the_region_that_the_mapping_gives(tmp_path):
    write(tmp_path, "regions.json", REGIONS)
    # Question 11 has no region, 12 the flat one, 13 one that is not there, 14 no answer, 15 a broken id.
    write(tmp_path, "map.json", {"10": 1, "12": 3, "13": 99, "14": 1, "15": [1]})
    qas = [_qa(10), _qa(11), _qa(12), _qa(13), _qa(14, ""), _qa(15), {"question": "?"}]
    files = {"regions": "regions.json", "qa_to_region": "map.json"}
    tables = _genome(tmp_path, "qas.json", [{"id": 24, "qas": qas}], part="qas", **files)
    assert said(tables) == [("What is 10?", "cup", [CUP_XYXY])]
    assert tables.boxes["label"].to_pylist() == ["a small cup"]
    reasons = ["no_boxes", "zero_area_box", "no_boxes", "no_answer", "missing_field", "missing_field"]
    of_regions = [(0, "missing_field"), (0, "broken_json"), (1, "unknown_image"), (2, "missing_field")]
    assert refused(tables) == [
        *(("qas.json", 0, reason) for reason in reasons),
        *(("regions.json", *each) for each in of_regions),
        ("regions.json", 0, "zero_area_box"),
        *IMAGE_REFUSALS,
    ]


def test_the_usual_file_of_pictures_is_delivered_too(tmp_path):
    _genome(tmp_path, "regions.json", REGIONS)
    seen = fingerprint(source(tmp_path, "visual_genome", annotations="regions.json"), new_store(tmp_path))
    wanted = ["VG_100K_2/24.jpg", "image_data.json", "regions.json"]
    assert [entry["path"] for entry in seen["files"]] == wanted


def test_a_region_of_another_picture_is_no_evidence(tmp_path):
    write(tmp_path, "regions.json", [{"id": 27, "regions": [_region(1, "cup", CUP)]}, *REGIONS[3:]])
    write(tmp_path, "map.json", {"10": 1, "11": 5})
    write(
        tmp_path, "pictures.json", [{"image_id": n, "url": f"http://x/VG_100K_2/{n}.jpg"} for n in (24, 27)]
    )
    files = {"regions": "regions.json", "qa_to_region": "map.json", "image_data": "pictures.json"}
    tables = _genome(tmp_path, "qas.json", [{"id": 24, "qas": [_qa(10), _qa(11)]}], part="qas", **files)
    assert said(tables) == [("What is 11?", "cup", [PLATE_XYXY])]
    assert refused(tables) == [("qas.json", 0, "no_boxes")]
    assert "the region 1, which is no usable one on this picture" in details(tables)


@pytest.mark.parametrize("given", [{"regions": "regions.json"}, {"qa_to_region": "map.json"}])
def test_questions_without_a_mapping_are_refused_in_one_row(given, tmp_path):
    with pytest.raises(NothingLeft) as caught:
        _genome(tmp_path, "qas.json", [{"id": 24, "qas": [_qa(10), _qa(11)]}], part="qas", **given)
    assert refused(caught.value.tables) == [("qas.json", None, "no_boxes"), *IMAGE_REFUSALS]
    assert "wanted the options regions and qa_to_region" in details(caught.value.tables)


def test_a_picture_lies_in_the_folder_that_is_named_and_in_no_other(tmp_path):
    write(tmp_path, "all/VG_100K/1.jpg", encoded(pixels((60, 40))))
    names = ["http://x/VG_100K/1.jpg", "http://x/../../etc/passwd", "http://[x/1.jpg"]
    write(tmp_path, "pictures.json", [{"image_id": n, "url": url} for n, url in enumerate(names)])
    entries = [{"id": n, "regions": [_region(1, "a cup", CUP)]} for n in range(3)]
    write(tmp_path, "regions.json", entries)
    options = {"image_data": "pictures.json", "images": "all"}
    tables = tables_of(tmp_path, "visual_genome", annotations="regions.json", options=options)
    assert tables.images["file_name"].to_pylist() == ["all/VG_100K/1.jpg"]
    assert refused(tables) == [
        ("regions.json", 1, "missing_file"),
        ("regions.json", 2, "unknown_image"),
        ("pictures.json", 2, "missing_field"),
    ]
