"""Artifacts, works and what the ledger trusts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from storage import lineage, provenance
from storage.lineage import Artifact, Ledger, LineageError, Work, unbroken
from storage.objects import Store
from storage.tables import empty, from_rows
from tests.storage.small_world import SmallWorld, refusal

REPO = Path(__file__).parents[2]


def put(ledger: Ledger, work: Work, data: bytes = b"x", output: str = "out") -> Artifact:
    return ledger.put_bytes(work, output, "note", data, ".txt")


def test_each_part_of_a_work_is_in_its_key_and_nothing_else(ledger: Ledger, monkeypatch):
    parent, other = put(ledger, Work("maker"), b"one"), put(ledger, Work("maker2"), b"two")
    base = Work("verb", "scenes", {"a": 1, "b": [1, 2]}, {"raw": parent}, 7, ("storage.schema",))
    variants = [
        replace(base, producer="verb2"),
        replace(base, name="more"),
        replace(base, config={"a": 1, "b": [2, 1]}),
        replace(base, parents={"raw": other}),
        replace(base, parents={"raw2": parent}),
        replace(base, parents={"raw": parent, "more": other}),
        replace(base, seed=8),
        replace(base, seed=None),
        replace(base, code=("storage.tables",)),
    ]
    assert len({work.key for work in [base, *variants]}) == len(variants) + 1
    # Not in the key: order of settings, tuple or list, declared outputs, where and when the parent was made.
    elsewhere = replace(
        parent, host="mars", created_at="1999", git_commit="f" * 40, versions={"torch": "9"}, uri="z"
    )
    monkeypatch.setattr(provenance, "git_state", lambda: ("e" * 40, True))
    same = Work("verb", "scenes", {"b": (1, 2), "a": 1}, {"raw": elsewhere}, 7, ("storage.schema",), ("out",))
    assert same.key == base.key


def test_a_work_is_found_once_it_is_done(ledger: Ledger):
    work = Work("verb", config={"a": 1})
    assert ledger.find(work) is None
    made = put(ledger, work)
    assert ledger.find(Work("verb", config={"a": 1})) == {"out": made}
    assert ledger.find(Work("verb", config={"a": 2})) is None
    assert Artifact.from_json(made.to_json()) == made
    assert made.n_rows is None and made.config == {"a": 1}


def test_missing_or_altered_content_has_to_be_made_again(ledger: Ledger):
    work = Work("verb")
    made = put(ledger, work, b"truth")
    place = Path(ledger.store.url(made.uri))
    place.write_bytes(b"forged")
    assert ledger.find(work) is None
    with pytest.raises(LineageError, match="content was altered"):
        ledger.path(made)
    assert put(ledger, work, b"truth") == made  # written again, although a file of that name is there
    assert place.read_bytes() == b"truth"
    place.unlink()
    assert ledger.find(work) is None
    with pytest.raises(LineageError, match="content is missing"):
        ledger.read_bytes(made)


def test_a_work_killed_between_two_outputs_is_not_done(ledger: Ledger):
    work = Work("verb", outputs=("first", "second"))
    put(ledger, work, output="first")
    assert ledger.find(work) is None
    put(ledger, work, output="second")
    assert set(ledger.find(work) or {}) == {"first", "second"}


def test_a_writer_killed_in_the_middle_leaves_no_record(ledger: Ledger):
    script = """
import resource, signal, sys
from storage.lineage import Ledger, Work
from storage.objects import Store
ledger = Ledger(Store(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
ledger.put_bytes(Work("verb"), "out", "note", b"n" * 8_000_000, ".txt")
"""
    done = subprocess.run([sys.executable, "-c", script, ledger.store.root], capture_output=True, cwd=REPO)
    assert done.returncode < 0
    assert ledger.everything() == []
    assert ledger.find(Work("verb")) is None
    assert ledger.store.list() == []


def test_content_is_written_before_its_record(ledger: Ledger, monkeypatch):
    written = []
    original = Store.write_bytes

    def note(self: Store, relative: str, data: bytes) -> None:
        written.append(relative.split("/")[0])
        original(self, relative, data)

    monkeypatch.setattr(Store, "write_bytes", note)
    put(ledger, Work("verb"))
    assert written == ["files", "lineage"]


def test_identical_content_and_record_are_not_rewritten(ledger: Ledger):
    work = Work("verb", "scenes")
    first = ledger.put_table(work, "boxes", "boxes", empty("boxes"), {"n": 1})
    files = [Path(ledger.store.url(name)) for name in ledger.store.list()]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    assert ledger.put_table(work, "boxes", "boxes", empty("boxes"), {"n": 1}) == first
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
    assert first.uri == f"tables/boxes/scenes/{first.sha256[:16]}.parquet"
    assert ledger.store.list("lineage") == [f"lineage/{work.key}.boxes.json"]


def test_another_result_of_the_same_work_keeps_the_old_record_for_its_children(ledger: Ledger):
    work = Work("train")
    old = put(ledger, work, b"old weights")
    child = put(ledger, Work("evaluate", parents={"policy": old}), b"scores")
    new = put(ledger, work, b"new weights")
    assert ledger.find(work) == {"out": new}
    assert {a.sha256 for a in ledger.everything()} == {old.sha256, new.sha256, child.sha256}
    assert unbroken(ledger) == []


def test_a_folder_is_kept_whole(ledger: Ledger, tmp_path):
    (tmp_path / "policy" / "sub").mkdir(parents=True)
    (tmp_path / "policy" / "sub" / "w.safetensors").write_bytes(b"weights")
    work = Work("train", "accuracy")
    made = ledger.put_folder(work, "policy", "policy", tmp_path / "policy", {"loss": 0.5}, device="cpu")
    assert made.uri == f"policies/accuracy/{made.sha256[:16]}"
    assert (made.device, made.summary) == ("cpu", {"loss": 0.5})
    assert (ledger.path(made) / "sub" / "w.safetensors").read_bytes() == b"weights"
    (ledger.path(made) / "sub" / "w.safetensors").write_bytes(b"forged")
    assert ledger.find(work) is None
    assert ledger.put_folder(work, "policy", "policy", tmp_path / "policy", {"loss": 0.5}) == made
    assert ledger.find(work) == {"policy": made}


def test_handles_name_what_is_current(ledger: Ledger):
    first, second = put(ledger, Work("a")), put(ledger, Work("b"))
    assert ledger.current("data/examples", "scenes") is None
    ledger.point("data/examples", "scenes", first)
    ledger.point("data/examples", "easy-vqa", first)
    ledger.point("data/examples", "scenes", second)
    ledger.point("data/splits", "", first)
    assert ledger.current("data/examples", "scenes") == second
    assert ledger.current_all("data/examples") == {"easy-vqa": first, "scenes": second}
    assert ledger.current_all("data/splits") == {"": first}
    assert ledger.current_all("data") == {}
    assert ledger.store.exists("handles/data/splits/_.json")
    ledger.forget("data/examples", "easy-vqa")
    assert list(ledger.current_all("data/examples")) == ["scenes"]
    for key, partition in (
        ("data/../x", ""),
        ("data/x", "a/b"),
        ("data/x", "_"),
        ("/data", ""),
        ("data/x", ".."),
    ):
        with pytest.raises(LineageError):
            ledger.point(key, partition, first)


def test_hostile_names_do_not_reach_the_store(ledger: Ledger):
    for work, output in ((Work("v", "../up"), "out"), (Work("v"), "../up"), (Work("v", "a b"), "out")):
        with pytest.raises(LineageError, match="plain name"):
            put(ledger, work, output=output)
    assert ledger.store.list() == []


def test_require_lists_every_mismatch(ledger: Ledger):
    made = ledger.put_table(Work("v"), "quarantine", "quarantine", from_rows("quarantine", [refusal()]))
    assert ledger.require(made, kind="quarantine", n_rows_at_least=1) == made
    Path(ledger.store.url(made.uri)).unlink()
    with pytest.raises(LineageError) as caught:
        ledger.require(made, kind="examples", n_rows_at_least=2)
    for part in ("is a quarantine, wanted a examples", "has 1 rows, wanted at least 2", "content is missing"):
        assert part in str(caught.value)
    with pytest.raises(LineageError, match="no policy has been made yet"):
        ledger.require(None, kind="policy")


def test_a_configuration_that_is_not_json_is_refused_before_anything_is_written(ledger: Ledger):
    for config in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="config: cannot be written as JSON"):
            put(ledger, Work("v", config=config))
    with pytest.raises(ValueError, match="summary of out: cannot be written"):
        ledger.put_bytes(Work("v"), "out", "note", b"x", ".txt", {"loss": float("inf")})
    assert ledger.store.list() == []


def test_a_damaged_record_is_named(ledger: Ledger):
    made = put(ledger, Work("v"))
    place = Path(ledger.store.url(f"lineage/{made.record}.json"))
    place.write_text("{")
    with pytest.raises(LineageError, match=str(place)):
        ledger.everything()


def test_the_code_fingerprint_follows_the_files_and_not_the_folder(tmp_path, monkeypatch):
    def installed(folder: str, files: dict[str, str]) -> str:
        for name, text in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        for module in [name for name in sys.modules if name.startswith("fingerprinted")]:
            del sys.modules[module]
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / folder))
            return provenance.code_sha256(("fingerprinted",))

    files = {
        "fingerprinted/__init__.py": "",
        "fingerprinted/a.py": "A = 1",
        "fingerprinted/sub/b.py": "B = 1",
    }
    first = installed("here", files)
    assert installed("there", {**files, "fingerprinted/data.txt": "not code"}) == first
    assert installed("edited", {**files, "fingerprinted/sub/b.py": "B = 2"}) != first
    renamed = {**files, "fingerprinted/c.py": files["fingerprinted/a.py"]}
    del renamed["fingerprinted/a.py"]
    assert installed("renamed", renamed) != first


def test_code_may_name_one_module_and_must_exist():
    both = provenance.code_sha256(("storage.schema", "storage.tables"))
    assert both == provenance.code_sha256(("storage.tables", "storage.schema"))
    assert both != provenance.code_sha256(("storage",))
    with pytest.raises(ValueError, match=r"code \['no_such_thing', 'storage.nothing'\]"):
        _ = Work("v", code=("storage", "storage.nothing", "no_such_thing")).key


def test_git_is_read_when_there_is_one_and_never_fails(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    assert provenance.git_state(tmp_path / "nowhere") == (None, None)
    git("init")
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit, dirty = provenance.git_state(tmp_path)
    assert commit is not None and len(commit) == 40 and dirty is False
    assert provenance.git_state(tmp_path / "sub") == (None, None)  # somebody else's checkout around us
    (tmp_path / "file").write_text("2")
    provenance.git_state.cache_clear()
    assert provenance.git_state(tmp_path) == (commit, True)
    provenance.git_state.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state(tmp_path) == (None, None)
    provenance.git_state.cache_clear()


def test_an_unbroken_lineage_has_no_problems(world: SmallWorld):
    assert unbroken(world.ledger) == []


def test_a_lost_parent_is_a_problem(world: SmallWorld):
    world.ledger.store.delete(f"lineage/{world.raw['scenes'].record}.json")
    world.ledger.forget("raw/files", "scenes")
    problems = unbroken(world.ledger)
    assert len(problems) == 4  # the four data tables of scenes lost their parent
    assert all("its parent raw" in problem and "has no record" in problem for problem in problems)


def test_altered_and_missing_content_behind_the_current_artifacts_are_problems(world: SmallWorld):
    store = world.ledger.store
    for partition in ("scenes", "more"):
        world.ledger.forget("raw/files", partition)  # only reached through its children now
    Path(store.url(world.raw["scenes"].uri)).write_bytes(b"forged")
    store.delete(world.policies["cold_start"].uri)
    problems = unbroken(world.ledger)
    assert len(problems) == 2
    assert "policy cold_start" in problems[0] and "missing" in problems[0]
    assert "raw_files scenes" in problems[1] and "altered" in problems[1]


def test_a_handle_without_a_record_is_a_problem(world: SmallWorld):
    record = world.evidence["base"]["saliency_maps"].record
    world.ledger.store.delete(f"lineage/{record}.json")
    assert [p for p in unbroken(world.ledger) if "saliency_maps base" in p and "has no record" in p]


def test_what_is_no_longer_current_may_be_cleaned_away(world: SmallWorld):
    stale = put(world.ledger, Work("experiment"), b"old")
    world.ledger.store.delete(stale.uri)
    assert unbroken(world.ledger) == []
    assert lineage.main(["--root", world.ledger.store.root, "verify"]) == 1


def test_records_are_plain_json_with_versions(world: SmallWorld):
    name = f"lineage/{world.splits.record}.json"
    record = json.loads(world.ledger.store.read_bytes(name))
    assert record["versions"]["pyarrow"] and record["versions"]["schema"] == "5"
    assert {parent["role"] for parent in record["parents"]} == {
        "images:scenes", "examples:scenes", "images:more", "examples:more"
    }  # fmt: skip
