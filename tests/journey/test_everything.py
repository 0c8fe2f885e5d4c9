"""From generated raw files to archived maps, report and decision, through Dagster, on every real part.

A few dozen pictures, a short cold start and two steps of GRPO: enough that every stage has something to do, far
too little to learn anything. What is checked is that the parts fit, not that they are good.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.instance import opened, prepared_home
from storage.catalog import query
from storage.lineage import Ledger, main, unbroken
from storage.objects import Store
from storage.schema import ROW_KEYS
from storage.settings import Settings
from training.recipes import RECIPES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes; more where others use the machine

TOP = Path(__file__).resolve().parents[2]
POLICIES = ["accuracy", "base", "cold_start", "saliency_loss", "saliency_r1"]
PROMPT = "Think, then answer."
PROFILE = {
    "description": "a few pictures, two steps of GRPO",
    "draws": 200,
    "base": {"max_rows": 4},
    "sft": {
        "max_steps": 48,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "lr_scheduler": "constant",
        "save_steps": 48,
        "logging_steps": 4,
        "system_prompt": PROMPT,
    },
    "grpo": {
        "steps": 2,
        "prompts_per_step": 4,
        "num_generations": 8,
        "max_completion_length": 48,
        "lora_rank": 4,
        "save_steps": 2,
        "system_prompt": PROMPT,
    },
    "evaluate": {"batch_size": 32, "max_completion_length": 48, "max_rows": 16, "system_prompt": PROMPT},
}
SOURCES = """
sources:
  - name: scenes
    format: coco
    location: generated/scenes
    annotations: annotations.json
    questions: questions.jsonl
    options: {generator: scenes, n_pictures: 40, n_conflict_pairs: 4, seed: 3}
"""


class Journey:
    """One root, worked through by the command that a person types."""

    def __init__(self, folder: Path) -> None:
        (folder / "profile.yaml").write_text(json.dumps(PROFILE))
        (folder / "sources.yaml").write_text(SOURCES)
        self.profile = str(folder / "profile.yaml")
        self.root = folder / "root"
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"},
            "SALIENCY_R1_ROOT": str(self.root),
            "SALIENCY_R1_SOURCES": str(folder / "sources.yaml"),
        }
        self.ledger = Ledger(Store(str(self.root)))

    def work(self, job: str = "everything") -> str:
        """Run the headless runner; returns what it said."""
        command = [sys.executable, "-m", "pipelines.run", job, "--profile", self.profile]
        done = subprocess.run(command, cwd=TOP, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stderr

    def written(self, *folders: str) -> dict[str, int]:
        """When each file of some folders of the root was written."""
        files = [path for folder in folders for path in (self.root / folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    journey = Journey(tmp_path_factory.mktemp("journey"))
    journey.work()
    return journey


def test_every_policy_has_answers_and_maps(journey: Journey) -> None:
    counts = query(
        str(journey.root), "SELECT policy, count(*) AS n FROM predictions GROUP BY policy ORDER BY policy"
    ).to_pydict()
    assert counts == {"policy": POLICIES, "n": [16] * 5}
    mapped = "SELECT count(*) AS n FROM predictions AS p WHERE p.map_id IS NOT NULL"
    archived = "SELECT count(*) AS n FROM saliency_maps JOIN predictions USING (map_id)"
    n_maps = query(str(journey.root), mapped).to_pylist()[0]["n"]
    assert n_maps > 0
    assert query(str(journey.root), archived).to_pylist()[0]["n"] == n_maps


def test_every_table_of_the_catalogue_is_filled(journey: Journey) -> None:
    names = ("images", "examples", "boxes", "splits", "processed_rows", "training_steps", "completions")
    names += ("evaluations",)
    for name in (*names, "artifacts", "lineage_edges"):
        assert query(str(journey.root), f"SELECT count(*) AS n FROM {name}").to_pylist()[0]["n"] > 0, name
    stages = query(
        str(journey.root),
        "SELECT split_part(policy_id, '@', 1) AS p, count(*) AS n FROM training_steps GROUP BY 1 ORDER BY 1",
    ).to_pylist()
    assert [row["p"] for row in stages] == ["accuracy", "cold_start", "saliency_loss", "saliency_r1"]


def test_a_map_can_be_walked_back_to_its_raw_row(journey: Journey) -> None:
    found = query(
        str(journey.root), "SELECT map_id FROM saliency_maps WHERE policy = 'saliency_r1' ORDER BY 1 LIMIT 1"
    )
    map_id = found.to_pylist()[0]["map_id"]
    command = [sys.executable, "-m", "storage.lineage", "why", map_id]
    done = subprocess.run(command, cwd=TOP, env=journey.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [line.strip() for line in done.stdout.splitlines()]
    steps = [line for line in told if line.startswith(("map ", "<- "))]
    for start in (
        f"map {map_id}",
        "<- completion ",
        "<- policy saliency_r1@",
        "<- policy cold_start@",
        "<- policy base@",
        "<- split test",
        "<- example ",
        "<- raw manifest of scenes",
        "<- raw file questions.jsonl, row ",
    ):
        assert any(line.startswith(start) for line in steps), (start, done.stdout)


def test_a_row_of_every_table_can_be_walked_back_to_raw_files(journey: Journey, capsys) -> None:
    empty = []
    for table, keys in ROW_KEYS.items():
        rows = query(str(journey.root), f"SELECT * FROM {table} ORDER BY ALL LIMIT 1").to_pylist()
        if not rows:
            empty.append(table)
            continue
        words = [f"{key}={'null' if rows[0][key] is None else rows[0][key]}" for key in keys]
        assert main(["--root", str(journey.root), "why", table, *words]) == 0, words
        printed = capsys.readouterr()
        assert printed.err == ""
        assert "raw file questions.jsonl, " in printed.out or "raw picture images/" in printed.out, words
    assert empty == ["quarantine", "source_warnings", "faithfulness"]  # generated data have nothing to refuse
    (example,) = re.findall(r"storage\.lineage why (evaluations .*)", (TOP / "README.md").read_text())
    assert main(["--root", str(journey.root), "why", *example.split()]) == 0


def test_nothing_in_the_lineage_is_broken(journey: Journey) -> None:
    assert unbroken(journey.ledger) == []


def test_the_report_and_the_decision_are_there(journey: Journey) -> None:
    page = (journey.root / "report" / "index.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    champion = journey.ledger.require(journey.ledger.current("product/champion"))
    decision = json.loads(journey.ledger.read_bytes(champion))
    assert decision["champion"] in POLICIES
    assert decision["champion"] in page
    assert 'aria-label="Source scenes"' in page
    assert page.count("data:image/webp") > page.count('alt="Pictures of scenes, evenly spread') == 1


def test_the_ui_has_the_same_runs_and_the_curves(journey: Journey) -> None:
    settings = Settings(root=str(journey.root), sources_file=None, profile="tiny")
    with opened(prepared_home(settings)) as instance:
        runs = [(run.job_name, run.tags.get("dagster/partition")) for run in instance.get_runs()][::-1]
        key = dg.AssetKey(["policy", "grpo"])
        filters = dg.AssetRecordsFilter(asset_key=key, asset_partitions=["saliency_r1"])
        observed = instance.fetch_observations(filters, limit=50).records
    expected = [
        *(("prepare_data", "scenes"), ("prepare_data", None)),
        *(("train", None), *(("train", name) for name in RECIPES), ("train", None)),
        *(("evaluate", name) for name in ("base", "cold_start", *RECIPES)),
        ("evaluate", None),
    ]
    assert runs[: len(expected)] == expected
    steps = [
        record.asset_observation.metadata["step"].value for record in observed if record.asset_observation
    ]
    assert sorted(steps)[:2] == [1.0, 2.0]


def test_a_second_run_does_no_work_twice(journey: Journey) -> None:
    """No stage starts (its log would grow), no record and no content is written again."""
    kept = ("lineage", "tables", "policies", "files", "raw", "generated", "work")
    before = journey.written(*kept)
    told = journey.work()
    assert journey.written(*kept) == before
    spoken = [line.strip() for line in told.splitlines() if line.strip().endswith("unchanged")]
    assert len(spoken) == 12  # all steps but the one that only builds the catalogue
