import io
import json
from pathlib import Path

from pipelines.progress import Progress, Tail, line, numbers


def append(path: Path, *steps: int) -> None:
    with path.open("a") as file:
        file.write("".join(json.dumps({"step": step, "total_steps": 9}) + "\n" for step in steps))


def steps(tail: Tail) -> list[int]:
    return [row["step"] for row in tail.new_rows()]


def test_rows_are_given_once(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert steps(tail) == []
    append(tmp_path / "metrics.jsonl", 1, 2)
    assert steps(tail) == [1, 2]
    assert steps(tail) == []
    append(tmp_path / "metrics.jsonl", 3)
    assert steps(tail) == [3]


def test_what_an_earlier_run_logged_is_left_out(tmp_path: Path) -> None:
    append(tmp_path / "metrics.jsonl", 1, 2)
    tail = Tail(tmp_path / "metrics.jsonl")
    append(tmp_path / "metrics.jsonl", 3)
    assert steps(tail) == [3]


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1}\n{"st')
        file.flush()
        assert steps(tail) == [1]
        file.write('ep": 2}\n')
        file.flush()
        assert steps(tail) == [2]


def test_a_resumed_stage_that_cut_its_log_back_repeats_nothing(tmp_path: Path) -> None:
    """Steps 1 to 5 were logged; the checkpoint is of step 3, so the stage writes 1 to 3 anew, then 4, 5, 6."""
    path = tmp_path / "metrics.jsonl"
    append(path, 1, 2, 3, 4, 5)
    tail = Tail(path)
    part = tmp_path / "part"
    append(part, 1, 2, 3)
    part.replace(path)
    assert steps(tail) == []
    append(path, 4, 5)
    assert steps(tail) == [4, 5]
    append(path, 6)
    assert steps(tail) == [6]


def test_lines_that_are_no_rows_are_left_out(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('broken\n[1]\n{"step": 4}\n')
    assert steps(tail) == [4]


def test_observations_are_thinned_out_and_the_last_step_is_among_them() -> None:
    """600 steps, at most 60 observations: every 10th from the first on, and the last."""
    seen: list[float] = []
    progress = Progress("sft", lambda row: seen.append(row["step"]), io.StringIO())
    progress.show([{"step": step, "total_steps": 600} for step in range(1, 601)])
    assert seen == [*map(float, range(1, 600, 10)), 600.0]


def test_a_line_says_how_far_and_what_matters() -> None:
    row = {"step": 5, "total_steps": 20, "loss": 1.23456, "grad_norm": 9.0, "reward_mean": None}
    assert line("sft cold_start", row, 83.0) == "sft cold_start [#####...............] 5/20  loss 1.23  1:23"


def test_only_finite_numbers_are_plotted() -> None:
    row = {"step": 1, "loss": float("nan"), "reward": 0.5, "done": True, "by_reason": {"truncated": 1}}
    assert numbers(row) == {"step": 1.0, "reward": 0.5}
