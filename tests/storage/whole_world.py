"""The small world with the tables that it leaves out: profile, processed rows, completions, scores, faithfulness."""

from pathlib import Path
from typing import Any

from storage.lineage import Artifact, Ledger, Work
from storage.tables import from_rows
from tests.storage.small_world import SmallWorld, completion, examples


class WholeWorld(SmallWorld):
    """At step 2 saliency_r1 sampled three completions: two about e1, alike, and one about e2."""

    def __init__(self, ledger: Ledger, scratch: Path) -> None:
        super().__init__(ledger, scratch)
        scenes, base = self.data["scenes"], self.policies["base"]
        self.profile = Work("ops.source_profile", "scenes", parents=scenes)
        self._keep(self.profile, "source_profiles", self._figures())
        self._keep(self.profile, "source_warnings", [self._warning()])
        rows = {f"{table}:scenes": scenes[table] for table in ("images", "examples", "boxes")}
        seen = {"policy": base, "splits": self.splits, **rows}
        self._keep(Work("training.process_rows", "base", parents=seen), "processed_rows", self._processed())
        learned = {"policy": self.policies["cold_start"], "splits": self.splits}
        learned |= {"examples:scenes": scenes["examples"]}
        training = Work("training.saliency_r1", "saliency_r1", parents=learned, seed=3)
        assert training.key == self.policies["saliency_r1"].work_key
        self._keep(training, "completions", self._sampled())
        answers = {f"predictions:{name}": made["predictions"] for name, made in self.evidence.items()}
        compared = {"splits": self.splits, "examples:scenes": scenes["examples"], **answers}
        self._keep(Work("ops.comparison", parents=compared), "evaluations", self._compared())
        study = Work("training.evaluate --faithfulness", "base", parents=seen)
        self._keep(study, "faithfulness", [self._measured()])

    def _keep(self, work: Work, table: str, rows: list[dict[str, Any]]) -> Artifact:
        artifact = self.ledger.put_table(work, table, table, from_rows(table, rows))
        self.ledger.point(f"test/{table}", work.name, artifact)
        return artifact

    def _figures(self) -> list[dict[str, Any]]:
        figure = {"source": "scenes", "subset": "all", "unit": "count", "n": 3}
        return [
            {**figure, "measure": "examples", "value": 3.0},
            {**figure, "measure": "answer", "bucket": "blue", "value": 3.0},
        ]

    def _warning(self) -> dict[str, Any]:
        detail = "2 of 3 boxes touch the right edge"
        told = {"kind": "boxes_at_right_or_lower_edge", "fits": ["xywh_px"], "share": 0.5, "n": 3}
        return {"source": "scenes", "detail": detail, **told}

    def _processed(self) -> list[dict[str, Any]]:
        return [
            {
                "policy_id": self.policy_id("base"),
                "example_id": row["example_id"],
                "image_sha256": row["image_sha256"],
                "split": "train" if row["example_id"] == "e1" else "test",
                "n_image_tokens": 10,
                "n_prompt_tokens": 31,
                "fits": row["example_id"] != "e3",
                "reason": "too_many_image_tokens" if row["example_id"] == "e3" else None,
                "detail": "10 image tokens, 9 allowed" if row["example_id"] == "e3" else None,
            }
            for row in examples()
        ]

    def _sampled(self) -> list[dict[str, Any]]:
        shared = {"policy_id": self.policy_id("saliency_r1"), "step": 2, "reward": 1.5, "reward_format": 1.0}
        return [
            {**shared, "example_id": example, "completion": completion("saliency_r1", example)}
            for example in ("e1", "e1", "e2")
        ]

    def _compared(self) -> list[dict[str, Any]]:
        return [
            {
                "policy_id": self.policy_id(name),
                "policy": name,
                "metric": metric,
                "subset": "all",
                "value": 0.5,
                "n": 2,
                "chance": 0.25,
            }
            for name in ("base", "saliency_r1")
            for metric in ("accuracy", "lift")
        ]

    def _measured(self) -> dict[str, Any]:
        return {
            "policy_id": self.policy_id("base"),
            "policy": "base",
            "method": "cot_rollout",
            "rows": "predictor",
            "metric": "deletion_auc",
            "value": -1.5,
            "n": 2,
            "chance": -0.5,
        }
