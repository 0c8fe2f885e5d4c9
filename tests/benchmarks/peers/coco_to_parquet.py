"""From a COCO file to one Parquet file of boxes by other libraries: `python coco_to_parquet.py PEER FILE OUT`.

Each as its own documentation reads COCO, then its boxes as x1, y1, x2, y2 with picture and label. Runs in an
environment of its own, without this project; prints nothing. Pictures are not there and are not opened.
"""

import logging
import sys
import tempfile
from pathlib import Path


def pycocotools(file: str, out: str) -> None:
    """The reference API's index, then pandas."""
    import pandas as pd
    from pycocotools.coco import COCO

    coco = COCO(file).dataset
    boxes, images = pd.DataFrame(coco["annotations"]), pd.DataFrame(coco["images"])
    categories = pd.DataFrame(coco["categories"])
    corners = pd.DataFrame(boxes["bbox"].tolist(), columns=["x", "y", "width", "height"])
    table = pd.DataFrame({"x1": corners.x, "y1": corners.y})
    table["x2"], table["y2"] = corners.x + corners.width, corners.y + corners.height
    table["image"] = boxes["image_id"].map(images.set_index("id")["file_name"])
    table["label"] = boxes["category_id"].map(categories.set_index("id")["name"])
    table.to_parquet(out)


def supervision(file: str, out: str) -> None:
    """Its data set of detections."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import supervision as sv

    found = sv.DetectionDataset.from_coco(images_directory_path="images", annotations_path=file)
    names = [name for name, seen in found.annotations.items() for _ in range(len(seen))]
    corners = np.concatenate([seen.xyxy for seen in found.annotations.values()])
    labels = np.concatenate([seen.class_id for seen in found.annotations.values()])
    columns = {name: corners[:, side] for side, name in enumerate(("x1", "y1", "x2", "y2"))}
    pq.write_table(
        pa.table({**columns, "image": names, "label": [found.classes[each] for each in labels]}), out
    )


def datumaro(file: str, out: str) -> None:
    """Its data set, read from the folders that it wants."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        (Path(folder) / "annotations").mkdir()
        (Path(folder) / "annotations" / "instances_train.json").symlink_to(Path(file).absolute())
        found = Dataset.import_from(folder, "coco_instances")
        names = [each.name for each in found.categories()[AnnotationType.label].items]
        rows = [(item.id, *box.points, names[box.label]) for item in found for box in item.annotations]
    columns = zip(("image", "x1", "y1", "x2", "y2", "label"), zip(*rows, strict=True), strict=True)
    pq.write_table(pa.table(dict(columns)), out)


PEERS = {"pycocotools": pycocotools, "supervision": supervision, "datumaro": datumaro}

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    PEERS[sys.argv[1]](*sys.argv[2:])
