"""A whole lineage in miniature, made by hand: two sources, three policies, four answers, two maps.

Source `scenes` has picture a (7 x 5 px) with example e1 and picture b (9 x 4 px) with examples e2 and e3.
Source `more` delivers picture a again and one broken row. e1 trains; e2 (conflict) and e3 (control) test. The
base policy is wrong on e2 and right on e3, saliency_r1 is right on both; e3 never has a map.
"""

import json
from pathlib import Path

import numpy as np

from storage.archive import map_id, pack, region_columns
from storage.lineage import Artifact, Ledger, Work
from storage.objects import sha256_bytes
from storage.tables import from_rows

PICTURES = {"a.png": (b"picture a", 7, 5), "b.png": (b"picture b", 9, 4)}
ANNOTATIONS = b'{"images": []}'
ROW_OF_E2 = 17


class SmallWorld:
    def __init__(self, ledger: Ledger, scratch: Path) -> None:
        self.ledger, self.scratch = ledger, scratch
        self.raw = {name: self._raw(name) for name in ("scenes", "more")}
        self.data = {name: self._data(name) for name in ("scenes", "more")}
        self.splits = self._splits()
        self.policies: dict[str, Artifact] = {}
        for name, parent in (("base", None), ("cold_start", "base"), ("saliency_r1", "cold_start")):
            self.policies[name] = self._policy(name, parent)
        self.evidence = {name: self._evidence(name) for name in ("base", "saliency_r1")}

    def policy_id(self, name: str) -> str:
        return f"{name}@{self.policies[name].work_key[:12]}"

    def map_id(self, name: str) -> str:
        return map_id(
            self.policy_id(name), "e2", sha256_bytes(completion(name, "e2").encode()), "cot_rollout", "answer"
        )

    def delivered(self) -> dict[str, bytes]:
        return {name: data for name, (data, _, _) in PICTURES.items()} | {"annotations.json": ANNOTATIONS}

    def _raw(self, source: str) -> Artifact:
        files = [
            {"path": n, "n_bytes": len(d), "sha256": sha256_bytes(d)}
            for n, d in sorted(self.delivered().items())
        ]
        manifest = json.dumps({"source": source, "files": files}).encode()
        work = Work(producer="ops.sources", name=source, config={"format": "coco"}, outputs=("files",))
        artifact = self.ledger.put_bytes(work, "files", "raw_files", manifest, ".json")
        self.ledger.point("raw/files", source, artifact)
        return artifact

    def _data(self, source: str) -> dict[str, Artifact]:
        names = ("images", "examples", "boxes", "quarantine")
        work = Work(
            producer="ops.normalise",
            name=source,
            parents={"raw": self.raw[source]},
            code=("storage.schema",),
            outputs=names,
        )
        rows = {
            "images": [image(name, source) for name in (PICTURES if source == "scenes" else ["a.png"])],
            "examples": examples() if source == "scenes" else [],
            "boxes": boxes() if source == "scenes" else [],
            "quarantine": [] if source == "scenes" else [refusal()],
        }
        made = {name: self.ledger.put_table(work, name, name, from_rows(name, rows[name])) for name in names}
        for name, artifact in made.items():
            self.ledger.point(f"data/{name}", source, artifact)
        return made

    def _splits(self) -> Artifact:
        parents = {f"{t}:{s}": self.data[s][t] for s in self.data for t in ("images", "examples")}
        sides = {"e1": "train", "e2": "test", "e3": "test"}
        image_of = {row["example_id"]: row["image_sha256"] for row in examples()}
        rows = [
            {"example_id": e, "image_sha256": image_of[e], "split": side, "split_rule": "content_hash"}
            for e, side in sides.items()
        ]
        work = Work(producer="ops.split", parents=parents, config={"test": 0.2})
        artifact = self.ledger.put_table(work, "splits", "splits", from_rows("splits", rows))
        self.ledger.point("data/splits", "", artifact)
        return artifact

    def _policy(self, name: str, parent: str | None) -> Artifact:
        parents = {"policy": self.policies[parent], "splits": self.splits} if parent else {}
        if parent:
            parents |= {"examples:scenes": self.data["scenes"]["examples"]}
        work = Work(producer=f"training.{name}", name=name, parents=parents, seed=3)
        folder = self.scratch / name / "weights"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(f"weights of {name}".encode())
        artifact = self.ledger.put_folder(work, "policy", "policy", folder)
        if parent:
            steps = [
                {"policy_id": f"{name}@{work.key[:12]}", "stage": "sft", "step": s, "loss": 1 / s}
                for s in (1, 2)
            ]
            self.ledger.put_table(
                work, "training_steps", "training_steps", from_rows("training_steps", steps)
            )
        self.ledger.point(f"policy/{name}", "", artifact)
        return artifact

    def _evidence(self, name: str) -> dict[str, Artifact]:
        parents = {"policy": self.policies[name], "splits": self.splits}
        parents |= {f"{t}:scenes": self.data["scenes"][t] for t in ("images", "examples", "boxes")}
        work = Work(producer="training.evaluate", name=name, parents=parents, seed=0)
        made = {
            "predictions": self.ledger.put_table(
                work, "predictions", "predictions", from_rows("predictions", self._said(name))
            ),
            "saliency_maps": self.ledger.put_table(
                work, "saliency_maps", "saliency_maps", from_rows("saliency_maps", [self._map(name)])
            ),
        }
        for table, artifact in made.items():
            self.ledger.point(f"evidence/{table}", name, artifact)
        # As training_steps beside a policy: of the same work, without a handle of its own.
        self.ledger.put_table(
            work, "token_flows", "token_flows", from_rows("token_flows", [self._flow(name)])
        )
        return made

    def _said(self, name: str) -> list[dict]:
        rows = []
        for example in ("e2", "e3"):
            right = name == "saliency_r1" or example == "e3"
            said = completion(name, example)
            row = {
                "policy_id": self.policy_id(name),
                "policy": name,
                "example_id": example,
                "image_sha256": sha256_bytes(b"picture b"),
                "completion": said,
                "completion_sha256": sha256_bytes(said.encode()),
                "answer": "blue" if right else "red",
                "correct": right,
                "accuracy_score": float(right),
                "format_valid": True,
                "truncated": False,
                "n_tokens": 9,
            }
            if example == "e2":
                row |= {**scores(name), "pointing_chance": 0.25, "map_id": self.map_id(name)}
            else:
                row |= {"unscorable_reason": "no_thought"}
            rows.append(row)
        return rows

    def _flow(self, name: str) -> dict:
        map_row = self._map(name)
        identity = ("policy_id", "policy", "example_id", "image_sha256", "completion_sha256", "rows")
        return {column: map_row[column] for column in identity} | {
            "flow_id": f"flow of {name}",
            "thought_tokens": ["it", " is"],
            "answer_tokens": ["blue"],
            "grid_h": 1,
            "grid_w": 3,
            "region_x1": 0.0,
            "region_y1": 0.0,
            "region_x2": 1.0,
            "region_y2": 1.0,
            "looked_at": [0.5, -1.0, 0.25, 0.0, 2.0, 4.0],
            "thoughts_used": [1.5, -0.5],
            "reached_answer": [1.0, 0.0, -8.0],
        }

    def _map(self, name: str) -> dict:
        return {
            "map_id": self.map_id(name),
            "policy_id": self.policy_id(name),
            "policy": name,
            "example_id": "e2",
            "image_sha256": sha256_bytes(b"picture b"),
            "completion_sha256": sha256_bytes(completion(name, "e2").encode()),
            "method": "cot_rollout",
            "rows": "predictor",
            "span": "answer",
            "grid_h": 2,
            "grid_w": 5,
            "image_w_px": 9,
            "image_h_px": 4,
            **region_columns((0, 0, 1, 1)),
            "values": pack(np.arange(10).reshape(2, 5)),
            **scores(name),
        }


def completion(name: str, example: str) -> str:
    return f"<think>\n{name} looks at {example}\n</think>\nblue"


def scores(name: str) -> dict:
    # chance 0.2: lift = (mass - 0.2) / 0.8, so mass 0.2 has lift 0 and mass 0.6 has lift 0.5.
    mass, lift = (0.6, 0.5) if name == "saliency_r1" else (0.2, 0.0)
    return {"mass": mass, "chance": 0.2, "lift": lift, "pointing_hit": name == "saliency_r1"}


def image(name: str, source: str) -> dict:
    data, width, height = PICTURES[name]
    return {
        "image_sha256": sha256_bytes(data),
        "pixels_sha256": sha256_bytes(b"pixels of " + data),
        "thumb": bytes(16 * 16 * 3),
        "source": source,
        "source_file": "annotations.json",
        "file_name": name,
        "uri": f"/raw/{source}/{name}",
        "format": "PNG",
        "width_px": width,
        "height_px": height,
        "n_bytes": len(data),
        "bytes": data,
    }


def examples() -> list[dict]:
    shared = {
        "source": "scenes",
        "source_file": "annotations.json",
        "accepted_answers": ["azure"],
        "answer_type": "word",
    }
    picture = {"e1": b"picture a", "e2": b"picture b", "e3": b"picture b"}
    return [
        {
            **shared,
            "example_id": example,
            "source_row": {"e1": 4, "e2": ROW_OF_E2, "e3": 18}[example],
            "image_sha256": sha256_bytes(data),
            "question": f"What colour is it in {example}?",
            "answer": "blue",
            "question_kind": "colour",
            "slice": None if example == "e1" else "prior_conflict",
            "condition": {"e1": None, "e2": "conflict", "e3": "control"}[example],
            "n_boxes": {"e1": 1, "e2": 2, "e3": 0}[example],
            "evidence_area_frac": 0.2,
        }
        for example, data in picture.items()
    ]


def boxes() -> list[dict]:
    corners = {("e1", 0): (0, 0, 3.5, 2), ("e2", 1): (4, 1, 9, 2.5), ("e2", 0): (1, 0, 2, 4)}
    return [
        {"example_id": e, "box_index": i, "x1_px": x1, "y1_px": y1, "x2_px": x2, "y2_px": y2}
        for (e, i), (x1, y1, x2, y2) in corners.items()
    ]


def refusal() -> dict:
    return {
        "source": "more",
        "source_file": "annotations.json",
        "source_row": 2,
        "stage": "box",
        "reason": "swapped_corners",
        "detail": "x1=5 lies right of x2=3",
        "raw": "{}",
    }
