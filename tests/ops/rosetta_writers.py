"""The Rosetta set written down in every format that is read, and in the variants of each.

Each writer puts its files into a folder and gives the source; what the tables must hold is said in test_readers.py.
The pictures lie as images/NUMBER.jpg, which every format can say. Not here: any reader, any conversion of ours, and
formats of rows (`rosetta_tables.py`).
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ops.sources import Source
from tests.ops.delivery import json_lines, packed_runs, question, runs_of, source, write
from tests.ops.rosetta_set import LABELS, Picture, Pictures, Thing, Write, numbered, xywh
from tests.ops.rosetta_tables import (
    TABLE_CONVENTIONS,
    open_images,
    table_csv,
    table_folder,
    table_jsonl,
    table_parquet,
    table_questions,
    visual_cot,
)


def _outline(x1: float, y1: float, x2: float, y2: float) -> list[list[float]]:
    """Six corners whose extent is the box, none of them one of its own corners but the last."""
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
    return [[middle_x, y1], [x2, middle_y], [middle_x, y2], [x1, middle_y], [middle_x, middle_y], [x1, y1]]


# COCO, RefCOCO


def _mask(picture: Picture, thing: Thing) -> np.ndarray:
    mask = np.zeros(picture.size_wh[::-1], bool)
    x1, y1, x2, y2 = map(int, thing[1:])
    mask[y1:y2, x1:x2] = True
    return mask


def _coco_box(picture: Picture, thing: Thing, shape: str) -> dict[str, Any]:
    if shape == "bbox":
        return {"bbox": xywh(thing)}
    if shape == "polygon":
        return {"segmentation": [[side for point in _outline(*thing[1:]) for side in point]]}
    counts = runs_of(_mask(picture, thing))
    written = packed_runs(counts) if shape == "packed runs" else counts
    return {"segmentation": {"size": list(picture.size_wh[::-1]), "counts": written}}


def _coco_file(folder: Path, pictures: Pictures, shape: str) -> dict[str, Any]:
    images = [
        {"id": each.number, "file_name": each.file, "width": each.size_wh[0], "height": each.size_wh[1]}
        for each in pictures
    ]
    annotations = [
        {"id": number, "image_id": picture.number, "category_id": LABELS.index(thing[0]) + 10}
        | _coco_box(picture, thing, shape)
        for number, picture, thing in numbered(pictures)
    ]
    categories = [{"id": n, "name": label} for n, label in enumerate(LABELS, start=10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(folder, "instances.json", content)
    boxes_from = "bbox" if shape == "bbox" else "segmentation"
    return {"annotations": "instances.json", "options": {"images": "images", "boxes_from": boxes_from}}


def _coco(shape: str, folder: Path, pictures: Pictures) -> Source:
    return source(folder, "coco", **_coco_file(folder, pictures, shape))


def _coco_questions(shape: str, folder: Path, pictures: Pictures) -> Source:
    rows: list[object] = [question(picture.number, [n]) for n, picture, _ in numbered(pictures)]
    write(folder, "questions.jsonl", json_lines(rows))
    return source(folder, "coco", questions="questions.jsonl", **_coco_file(folder, pictures, shape))


def _refcoco(shape: str, folder: Path, pictures: Pictures) -> Source:
    refs = [
        {"ref_id": n, "image_id": picture.number, "ann_id": n, "sentences": [{"sent": thing[0]}]}
        for n, picture, thing in numbered(pictures)
    ]
    write(folder, "refs.json", refs)
    return source(folder, "refcoco", questions="refs.json", **_coco_file(folder, pictures, shape))


# XML: Pascal VOC, Flickr30k Entities, CVAT


def _tags(**fields: object) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())


def _annotation(picture: Picture, objects: list[str]) -> str:
    size = _tags(width=picture.size_wh[0], height=picture.size_wh[1], depth=3)
    head = _tags(filename=picture.file, size=size)
    return _tags(annotation=head + "".join(_tags(object=each) for each in objects))


def _bndbox(thing: Thing, first: int) -> str:
    """Pixels counted from `first`; from 1 the last one is included, from 0 it is not: x2 and y2 are the same."""
    _, x1, y1, x2, y2 = thing
    return _tags(bndbox=_tags(xmin=x1 + first, ymin=y1 + first, xmax=x2, ymax=y2))


def _voc(first: int, folder: Path, pictures: Pictures) -> Source:
    for picture in pictures:
        objects = [_tags(name=thing[0]) + _bndbox(thing, first) for thing in picture.things]
        write(folder, f"Annotations/{picture.number}.xml", _annotation(picture, objects))
    options = {"images": "images"} | ({} if first else {"from_zero": True})
    return source(folder, "voc", annotations="Annotations", options=options)


def _flickr30k(folder: Path, pictures: Pictures) -> Source:
    for picture in pictures:
        objects = [_tags(name=LABELS.index(thing[0])) + _bndbox(thing, 1) for thing in picture.things]
        write(folder, f"Annotations/{picture.number}.xml", _annotation(picture, objects))
        labels = dict.fromkeys(thing[0] for thing in picture.things)
        phrases = [f"[/EN#{LABELS.index(label)}/other {label}]" for label in labels]
        write(folder, f"Sentences/{picture.number}.txt", " and ".join(phrases) + " .\n")
    return source(folder, "flickr30k", annotations="Annotations", options={"images": "images"})


def _cvat(shape: str, folder: Path, pictures: Pictures) -> Source:
    def drawn(thing: Thing) -> str:
        label, x1, y1, x2, y2 = thing
        if shape == "box":
            return f'<box label="{label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}"/>'
        points = ";".join(f"{x},{y}" for x, y in _outline(x1, y1, x2, y2))
        return f'<polygon label="{label}" points="{points}"/>'

    images = [
        f'<image id="{each.number}" name="{each.file}" width="{each.size_wh[0]}" height="{each.size_wh[1]}">'
        + "".join(map(drawn, each.things))
        + "</image>"
        for each in pictures
    ]
    write(folder, "annotations.xml", _tags(annotations=_tags(version="1.1") + "".join(images)))
    return source(folder, "cvat", annotations="annotations.xml")


# YOLO, LabelMe, Label Studio


def _yolo(shape: str, folder: Path, pictures: Pictures) -> Source:
    def line(picture: Picture, thing: Thing) -> str:
        x1, y1, x2, y2 = picture.share(thing)
        values = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        if shape == "polygon":
            values = [side for point in _outline(x1, y1, x2, y2) for side in point]
        if shape == "four corners":
            values = [x1, y1, x2, y1, x2, y2, x1, y2]
        return " ".join(map(str, [LABELS.index(thing[0]), *values]))

    for picture in pictures:
        lines = [line(picture, thing) for thing in picture.things]
        write(folder, f"labels/{picture.number}.txt", "\n".join(lines))
    write(folder, "data.yaml", f"train: images\nnames: [{', '.join(LABELS)}]\n")
    options = {"four_corners": "polygon"} if shape == "four corners" else {}
    return source(folder, "yolo", annotations="data.yaml", options=options)


def _labelme(shape: str, folder: Path, pictures: Pictures) -> Source:
    for picture in pictures:
        shapes = [
            {
                "label": label,
                "shape_type": shape,
                "points": _outline(*edges) if shape == "polygon" else [edges[2:], edges[:2]],
            }
            for label, *edges in picture.things
        ]
        width, height = picture.size_wh
        head = {"imagePath": f"../images/{picture.file}", "imageWidth": width, "imageHeight": height}
        write(folder, f"marked/{picture.number}.json", head | {"imageData": None, "shapes": shapes})
    return source(folder, "labelme", annotations="marked")


def _label_studio(shape: str, folder: Path, pictures: Pictures) -> Source:
    def result(picture: Picture, thing: Thing) -> dict[str, Any]:
        x1, y1, x2, y2 = picture.share(thing, 100.0)
        value: dict[str, Any] = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
        if shape == "polygonlabels":
            value = {"points": _outline(x1, y1, x2, y2)}
        width, height = picture.size_wh
        size = {"original_width": width, "original_height": height, "image_rotation": 0}
        return {"id": "r", "type": shape, "value": value | {shape: [thing[0]]}} | size

    tasks = [
        {
            "id": picture.number,
            "data": {"image": f"/data/upload/1/{picture.file}"},
            "annotations": [{"completed_by": 1, "result": [result(picture, one) for one in picture.things]}],
        }
        for picture in pictures
    ]
    write(folder, "export.json", tasks)
    return source(folder, "label_studio", annotations="export.json")


# Scene graphs: GQA, Visual Genome


def _gqa(folder: Path, pictures: Pictures) -> Source:
    graphs: dict[str, Any] = {}
    for picture in pictures:
        width, height = picture.size_wh
        graphs[str(picture.number)] = {"width": width, "height": height, "objects": {}}
    questions = {}
    for number, picture, thing in numbered(pictures):
        sides = dict(zip("xywh", xywh(thing), strict=True))
        graphs[str(picture.number)]["objects"][str(number)] = {"name": thing[0], **sides}
        named = {"question": {"2": str(number)}, "answer": {}, "fullAnswer": {}}
        questions[f"q{number}"] = {
            "imageId": str(picture.number),
            "question": f"What is {number}?",
            "answer": thing[0],
            "annotations": named,
        }
    write(folder, "questions.json", questions)
    write(folder, "graphs.json", graphs)
    return source(folder, "gqa", annotations="questions.json", options={"scene_graphs": "graphs.json"})


def _visual_genome(part: str, folder: Path, pictures: Pictures) -> Source:
    images = [
        {"image_id": each.number, "width": each.size_wh[0], "height": each.size_wh[1]}
        | {"url": f"https://pictures.example/images/{each.file}"}
        for each in pictures
    ]
    write(folder, "image_data.json", images)
    entries: dict[str, dict[int, dict[str, Any]]] = {"regions": {}, "objects": {}, "qas": {}}
    for number, picture, thing in numbered(pictures):
        x, y, width, height = xywh(thing)
        members = {
            "regions": {"region_id": number, "phrase": thing[0]}
            | {"x": x, "y": y, "width": width, "height": height},
            "objects": {"object_id": number, "names": [thing[0]], "x": x, "y": y, "w": width, "h": height},
            "qas": {"qa_id": 100 + number, "question": f"What is {number}?", "answer": thing[0]},
        }
        for name, member in members.items():
            entry = entries[name].setdefault(picture.number, {"image_id": picture.number, name: []})
            entry[name].append(member)
    for name, by_picture in entries.items():
        write(folder, f"{name}.json", list(by_picture.values()))
    write(folder, "map.json", {str(100 + number): number for number, _, _ in numbered(pictures)})
    files = {"regions": "regions.json", "qa_to_region": "map.json"} if part == "qas" else {}
    return source(folder, "visual_genome", annotations=f"{part}.json", options={"part": part, **files})


DETECTIONS: dict[str, Write] = {
    **{f"coco {shape}": partial(_coco, shape) for shape in ("bbox", "polygon")},
    "voc from_zero": partial(_voc, 0),
    **{f"yolo {shape}": partial(_yolo, shape) for shape in ("box", "polygon", "four corners")},
    **{f"labelme {shape}": partial(_labelme, shape) for shape in ("rectangle", "polygon")},
    **{f"cvat {shape}": partial(_cvat, shape) for shape in ("box", "polygon")},
    **{f"label_studio {kind}": partial(_label_studio, kind) for kind in ("rectanglelabels", "polygonlabels")},
    "open_images": open_images,
    "visual_genome objects": partial(_visual_genome, "objects"),
    "table folder": partial(table_folder, "xyxy_px"),
    **{f"table csv {name}": partial(table_csv, name) for name in TABLE_CONVENTIONS},
    **{f"table jsonl {name}": partial(table_jsonl, name) for name in TABLE_CONVENTIONS},
    **{f"table parquet {name}": partial(table_parquet, name) for name in TABLE_CONVENTIONS},
}
"""Formats of boxes that questions are made of by templates; by format and variant."""
WHOLE_DETECTIONS: dict[str, Write] = {
    **{f"coco {shape}": partial(_coco, shape) for shape in ("runs", "packed runs")},
    "voc": partial(_voc, 1),
    "table csv xyxy_px_from_1": partial(table_csv, "xyxy_px_from_1"),
}
"""Those of them that hold whole pixels only."""
QUESTIONS: dict[str, Write] = {
    **{f"coco questions {shape}": partial(_coco_questions, shape) for shape in ("bbox", "polygon")},
    **{f"refcoco {shape}": partial(_refcoco, shape) for shape in ("bbox", "polygon")},
    **{f"visual_cot {kind}": partial(visual_cot, kind) for kind in ("jsonl", "json", "parquet")},
    "table questions": table_questions,
    "gqa": _gqa,
    **{f"visual_genome {part}": partial(_visual_genome, part) for part in ("regions", "qas")},
}
"""Formats that bring questions of their own."""
WHOLE_QUESTIONS: dict[str, Write] = {
    **{f"refcoco {shape}": partial(_refcoco, shape) for shape in ("runs", "packed runs")},
    "flickr30k": _flickr30k,
}
"""Those of them that hold whole pixels only."""
UNNAMED = ("visual_cot",)
"""Formats whose boxes have no label."""
