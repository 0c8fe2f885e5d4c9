import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import launchers
from pipelines.launchers import LocalLauncher, StageError
from storage.lineage import Ledger, Work
from storage.objects import Store
from training.config import ConfigError

STAGE = Path(__file__).with_name("scripted_stage.py")
WORK = Work("training.sft", "cold_start", {"a": 1}, {}, seed=3, outputs=("policy",))
CONFIG = {
    "policy": "embedded",
    "policy_name": "cold_start",
    "policy_id": "cold_start@x",
    "tables": {name: ["x.parquet"] for name in ("images", "examples", "boxes", "splits")},
    "settings": {},
}
DONE = [["log", {"step": 1, "total_steps": 2, "loss": 2.0}], ["result", "weights"]]


@pytest.fixture
def launcher(tmp_path: Path) -> LocalLauncher:
    (tmp_path / "work").mkdir()
    store = Store(str(tmp_path / "root"))
    return LocalLauncher(Ledger(store), store.root, tmp_path / "work", (sys.executable, str(STAGE)))


def script(launcher: LocalLauncher, commands: list[list[object]]) -> None:
    (launcher.scratch / "script.json").write_text(json.dumps(commands))


def started(launcher: LocalLauncher) -> list[str]:
    path = launcher.scratch / "started.txt"
    return path.read_text().splitlines() if path.exists() else []


def until(path: Path) -> Path:
    while not path.exists():
        time.sleep(0.02)
    return path


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected by its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_outputs_are_stored_with_what_the_stage_said_of_them(launcher: LocalLauncher) -> None:
    script(launcher, DONE)
    seen: list[dict[str, float]] = []
    policy = launcher("sft", WORK, CONFIG, lambda row: seen.append(dict(row)))["policy"]
    assert (policy.kind, policy.name, policy.seed, policy.device) == ("policy", "cold_start", 3, "cpu")
    assert policy.summary == {"loss": 0.5}
    assert (launcher.ledger.path(policy) / "model.safetensors").read_text() == "weights"
    assert seen == [{"step": 1.0, "total_steps": 2.0, "loss": 2.0}]
    config = json.loads(next(launcher.scratch.glob("sft-*/CONFIG.json")).read_text())
    assert (config["stage"], config["seed"], config["root"]) == ("sft", 3, launcher.root)


def test_work_that_is_done_starts_no_process(launcher: LocalLauncher) -> None:
    script(launcher, DONE)
    first = launcher("sft", WORK, CONFIG, lambda row: None)
    assert launcher("sft", WORK, CONFIG, lambda row: None) == first
    assert len(started(launcher)) == 1


def test_finished_work_leaves_no_checkpoints_behind(launcher: LocalLauncher) -> None:
    script(launcher, DONE)
    launcher("sft", WORK, CONFIG, lambda row: None)
    (folder,) = launcher.scratch.glob("sft-*")
    assert {path.name for path in folder.iterdir()} == {"CONFIG.json", "lock", "metrics.jsonl", "stage.log"}


def test_a_failure_gives_the_stages_last_words_and_keeps_its_folder(launcher: LocalLauncher) -> None:
    script(launcher, [["say", "loading"], ["fail", "sft failed: no row has a reasoning"]])
    with pytest.raises(
        StageError, match=r"exit code 3 .*: sft failed: no row has a reasoning; its whole log is"
    ):
        launcher("sft", WORK, CONFIG, lambda row: None)
    assert launcher.ledger.find(WORK) is None
    script(launcher, DONE)  # and the next run goes on in the same folder
    assert launcher("sft", WORK, CONFIG, lambda row: None)["policy"].summary == {"loss": 0.5}
    assert len(list(launcher.scratch.glob("sft-*"))) == 1


def test_a_stage_that_ends_well_without_a_result_has_failed(launcher: LocalLauncher) -> None:
    script(launcher, [["say", "that was all"]])
    with pytest.raises(StageError, match=r"exit code 0 and no result: that was all"):
        launcher("sft", WORK, CONFIG, lambda row: None)


def test_a_wrong_setting_is_named_before_anything_starts(launcher: LocalLauncher) -> None:
    with pytest.raises(ConfigError, match=r"settings\.learning_rate = -1: want a number above 0"):
        launcher("sft", WORK, {**CONFIG, "settings": {"learning_rate": -1}}, lambda row: None)
    assert started(launcher) == []


def test_a_result_whose_runner_was_killed_is_taken_over(launcher: LocalLauncher) -> None:
    """The stage finished, but nobody was left to store its outputs."""
    script(launcher, DONE)
    folder = launcher.scratch / f"sft-{WORK.key[:16]}"
    folder.mkdir()
    data = {**CONFIG, "stage": "sft", "root": launcher.root, "work_dir": str(folder), "seed": 3}
    (folder / "CONFIG.json").write_text(json.dumps(data, indent=2, sort_keys=True))
    subprocess.run([sys.executable, str(STAGE), "training.sft", str(folder / "CONFIG.json")], check=True)
    assert launcher("sft", WORK, CONFIG, lambda row: None)["policy"].summary == {"loss": 0.5}
    assert len(started(launcher)) == 1


def test_a_result_for_another_configuration_is_not_taken_over(launcher: LocalLauncher) -> None:
    script(launcher, DONE)
    folder = launcher.scratch / f"sft-{WORK.key[:16]}"
    folder.mkdir()
    (folder / "CONFIG.json").write_text("{}")
    (folder / "result.json").write_text('{"outputs": {}}')
    assert "policy" in launcher("sft", WORK, CONFIG, lambda row: None)
    assert len(started(launcher)) == 1


def test_two_at_once_do_the_work_once(launcher: LocalLauncher) -> None:
    script(launcher, [["wait_for", "go"], *DONE])
    outputs: list[object] = []
    threads = [
        threading.Thread(target=lambda: outputs.append(launcher("sft", WORK, CONFIG, lambda row: None)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(launcher.scratch / "started.txt")
    (launcher.scratch / "go").touch()
    for thread in threads:
        thread.join()
    assert len(outputs) == 2
    assert outputs[0] == outputs[1]
    assert len(started(launcher)) == 1


def test_an_interrupt_ends_the_stage_and_what_it_started(launcher: LocalLauncher) -> None:
    script(launcher, [["child", None], ["log", {"step": 1, "total_steps": 9}], ["wait_for", "never"]])

    def interrupt(row: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launcher("sft", WORK, CONFIG, interrupt)
    stage = int(started(launcher)[0].split()[0])
    grandchild = int((launcher.scratch / "child.txt").read_text())
    assert not is_alive(stage)
    while is_alive(grandchild):  # a kill takes a moment; without one this would hang until the time limit
        time.sleep(0.02)
    assert launcher.ledger.find(WORK) is None


def test_a_stage_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    launchers.end_group(process, grace_seconds=0.3)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_runner_leaves_the_lock_with_its_stage(launcher: LocalLauncher, tmp_path: Path) -> None:
    """kill -9 of the runner: the orphan keeps the lock, the next run waits for it and takes its result over."""
    script(launcher, [["wait_for", "go"], *DONE])
    code = f"""
import sys; sys.path.insert(0, {str(Path.cwd())!r})
from tests.pipelines.test_launchers import *
store = Store({launcher.root!r})
LocalLauncher(Ledger(store), store.root, Path({str(launcher.scratch)!r}), (sys.executable, str(STAGE)))(
    "sft", WORK, CONFIG, lambda row: None)
"""
    runner = subprocess.Popen([sys.executable, "-c", code])
    until(launcher.scratch / "started.txt")
    runner.kill()
    runner.wait()
    outputs: list[object] = []
    thread = threading.Thread(target=lambda: outputs.append(launcher("sft", WORK, CONFIG, lambda row: None)))
    thread.start()
    assert is_alive(int(started(launcher)[0].split()[0]))
    (launcher.scratch / "go").touch()
    thread.join()
    assert len(outputs) == 1
    assert len(started(launcher)) == 1


def test_the_last_line_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "stage.log"
    log.write_text("start\nValueError: 3 rows\n 50%|#####     | 5/10 [00:01<00:01,  4.00it/s]\r\n\n")
    assert launchers.last_line(log) == "ValueError: 3 rows"
    assert launchers.last_line(tmp_path / "absent") == "(it wrote nothing)"


def test_the_stages_work_offline_unless_a_hub_is_named(launcher: LocalLauncher, tmp_path: Path) -> None:
    assert launchers.environment("embedded")["HF_HUB_OFFLINE"] == "1"
    assert launchers.environment(str(tmp_path))["HF_HUB_OFFLINE"] == "1"
    named = launchers.environment("Qwen/Qwen2.5-VL-3B-Instruct")
    assert named.get("HF_HUB_OFFLINE") == os.environ.get("HF_HUB_OFFLINE")
    assert named["HF_HUB_DISABLE_TELEMETRY"] == "1"
