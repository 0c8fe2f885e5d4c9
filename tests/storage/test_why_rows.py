"""From a row of any table back to the raw file and row, or to the raw files where a row is made of many."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from storage import lineage
from storage.catalog import build, query
from storage.lineage import Ledger, Work
from storage.objects import sha256_bytes
from storage.schema import ROW_KEYS, TABLES
from storage.tables import from_rows
from tests.storage import small_world
from tests.storage.small_world import ANNOTATIONS, ROW_OF_E2, SmallWorld, completion, examples, image, refusal
from tests.storage.whole_world import WholeWorld

REPO = Path(__file__).parents[2]
PICTURE_A, PICTURE_B = sha256_bytes(b"picture a"), sha256_bytes(b"picture b")


@pytest.fixture
def whole(ledger: Ledger, tmp_path: Path) -> WholeWorld:
    return WholeWorld(ledger, tmp_path / "scratch")


def why(world: SmallWorld, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = lineage.main(["--root", world.ledger.store.root, "why", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def steps(out: str) -> list[tuple[int, str]]:
    """The steps that were printed, without the lines about them: depth and title."""
    lines = [line for line in out.splitlines() if not line.startswith("note: ")]
    told = [line for i, line in enumerate(lines) if i == 0 or line.lstrip().startswith("<- ")]
    return [((len(line) - len(line.lstrip())) // 2, line.strip().removeprefix("<- ")) for line in told]


def numbered(*titles: str) -> list[tuple[int, str]]:
    return list(enumerate(titles))


def raw_of(example: str, picture: str, row: int) -> list[str]:
    """The last steps of every walk of an example, but for the file of its picture."""
    size = "7 x 5" if picture == "a" else "9 x 4"
    sha256 = PICTURE_A if picture == "a" else PICTURE_B
    n_boxes = {"e1": 1, "e2": 2, "e3": 0}[example]
    return [
        f"example {example} of source scenes, {n_boxes} evidence boxes",
        f"picture {sha256[:12]}, PNG, {size} px",
        "raw manifest of scenes, 3 files",
        f"raw file annotations.json, row {row} (0-based)",
    ]


def walked(*titles: str, picture: str = "b") -> list[tuple[int, str]]:
    """One step under another, and the file of the picture beside the last."""
    return [*numbered(*titles), (len(titles) - 1, f"raw picture {picture}.png")]


def test_an_example_a_box_and_a_place_are_walked_row_by_row(whole: WholeWorld, capsys):
    of_e2 = raw_of("e2", "b", ROW_OF_E2)
    for words, first in (
        (("examples", "example_id=e2"), []),
        (("boxes", "example_id=e2", "box_index=1"), ["box 1 of example e2"]),
        (("splits", "example_id=e2"), ["split test by content_hash"]),
    ):
        code, out, err = why(whole, capsys, *words)
        assert (code, err, steps(out)) == (0, "", walked(*first, *of_e2))
        artifact = whole.splits if words[0] == "splits" else whole.data["scenes"][words[0]]
        assert f"{artifact.uri}  sha256 {artifact.sha256[:12]}" in out
        assert f"work {artifact.work_key[:12]}, config {artifact.config_sha256[:12]}, code" in out
        assert f"{len(ANNOTATIONS)} bytes, sha256 {sha256_bytes(ANNOTATIONS)}" in out
        assert f"9 bytes, sha256 {PICTURE_B}" in out
    assert "x1, y1, x2, y2 = 4, 1, 9, 2.5 px" in why(whole, capsys, "boxes", "x2_px=9")[1]


def test_a_picture_leads_to_its_file_and_says_who_delivered_it_too(whole: WholeWorld, capsys):
    code, out, err = why(whole, capsys, "images", f"image_sha256={PICTURE_A}")
    # the catalogue shows the row of the first source by name
    wanted = (
        f"picture {PICTURE_A[:12]}, PNG, 7 x 5 px",
        "raw manifest of more, 3 files",
        "raw picture a.png",
    )
    assert (code, err, steps(out)) == (0, "", numbered(*wanted))
    assert out.startswith("note: delivered too with source=scenes as a.png\n")
    build(whole.ledger)
    shown = query(whole.ledger.store.root, "SELECT source FROM images WHERE image_sha256 = ?", [PICTURE_A])
    assert shown.to_pylist() == [{"source": "more"}]
    _, out, _ = why(whole, capsys, "images", f"image_sha256={PICTURE_A}", "source=scenes")
    assert steps(out)[1] == (1, "raw manifest of scenes, 3 files") and "note" not in out


def test_a_refused_row_leads_to_the_row_that_was_delivered(whole: WholeWorld, capsys):
    code, out, err = why(whole, capsys, "quarantine", "source=more", "source_row=2")
    wanted = ("row of source more refused at box: swapped_corners", "raw manifest of more, 3 files")
    assert (code, err, steps(out)) == (0, "", numbered(*wanted, "raw file annotations.json, row 2 (0-based)"))
    assert "x1=5 lies right of x2=3" in out


def test_what_a_source_wrote_cannot_forge_a_step_or_steer_a_terminal(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    hostile = small_world.refusal() | {"detail": "no \x1b[2J\n<- raw file forged.json\u202e é"}
    monkeypatch.setattr(small_world, "refusal", lambda: hostile)
    world = SmallWorld(ledger, tmp_path / "scratch")
    code, out, err = why(world, capsys, "quarantine", "source=more")
    assert (code, err) == (0, "")
    assert r"no \x1b[2J\n<- raw file forged.json\u202e é" in [line.strip() for line in out.splitlines()]
    assert [title for _, title in steps(out)] == [
        "row of source more refused at box: swapped_corners",
        "raw manifest of more, 3 files",
        "raw file annotations.json, row 2 (0-based)",
    ]
    twice = [hostile | {"detail": f"\x1b[2J{n}"} for n in range(2)]
    ledger.point(
        "data/quarantine",
        "more",
        ledger.put_table(
            Work("ops.normalise", "more", outputs=("rows",)),
            "rows",
            "quarantine",
            from_rows("quarantine", twice),
        ),
    )
    _, _, err = why(world, capsys, "quarantine", "source=more")
    assert r"give also detail (\x1b[2J0, \x1b[2J1, " in err


def test_what_a_policy_did_leads_to_the_policies_and_to_the_example(whole: WholeWorld, capsys):
    r1, cold, base = (f"policy {whole.policy_id(n)}, seed 3" for n in ("saliency_r1", "cold_start", "base"))
    rest = ["split test by content_hash", *raw_of("e2", "b", ROW_OF_E2)]
    said = sha256_bytes(completion("base", "e2").encode())[:12]
    whose = f"policy_id={whole.policy_id('saliency_r1')}"
    for words, titles in (
        (
            ("predictions", "policy=saliency_r1", "example_id=e2"),
            [f"prediction of {whole.policy_id('saliency_r1')} for example e2, right", r1, cold, base, *rest],
        ),
        (
            ("completions", whose, "example_id=e2"),
            [
                f"completion that {whole.policy_id('saliency_r1')} sampled at step 2 for example e2",
                *(r1, cold, base),
                *rest,
            ],
        ),
        (
            ("processed_rows", "example_id=e2"),
            [f"example e2 as {whole.policy_id('base')} gets it, fits", base, *rest],
        ),
        (
            ("saliency_maps", "policy=base"),
            [
                f"map {whole.map_id('base')}",
                f"completion {said} of {whole.policy_id('base')}, wrong",
                base,
                *rest,
            ],
        ),
    ):
        code, out, err = why(whole, capsys, *words)
        assert (code, err, steps(out)) == (0, "", walked(*titles))
    _, by_table, _ = why(whole, capsys, "token_flows", "policy=base")
    assert by_table == why(whole, capsys, "flow of base")[1]
    _, out, _ = why(whole, capsys, "processed_rows", "fits=false")
    assert "e3" in out and "too_many_image_tokens, 10 image tokens, 9 allowed" in out


def test_what_was_not_measured_leads_to_the_example_too(whole: WholeWorld, capsys):
    name = whole.policy_id("base")
    row = {"policy_id": name, "policy": "base", "example_id": "e1", "image_sha256": PICTURE_A}
    row |= {"unscorable_reason": "undecodable_picture"}
    parents = {"policy": whole.policies["base"], "splits": whole.splits}
    parents |= {"examples:scenes": whole.data["scenes"]["examples"]}
    work = Work("training.evaluate", "again", parents=parents)
    for table, more in (("predictions", {}), ("token_flows", {"flow_id": "none", "rows": "state"})):
        made = whole.ledger.put_table(work, table, table, from_rows(table, [row | more]))
        whole.ledger.point(f"test/{table}", "again", made)
    rest = [f"policy {name}, seed 3", "split train by content_hash", *raw_of("e1", "a", 4)]
    for words, first in (
        (
            ("predictions", "example_id=e1"),
            f"prediction of {name} for example e1, not measured: undecodable_picture",
        ),
        (("none",), "token flow none"),
    ):
        code, out, err = why(whole, capsys, *words)
        assert (code, err, steps(out)) == (0, "", walked(first, *rest, picture="a"))
    assert "no flow: undecodable_picture (state rows)" in out


def data_of(source: str, *, without: str = "") -> list[tuple[int, str]]:
    """The tables of a source as parents of a work, and the manifest, named in full once."""
    n_rows = {"boxes": 3, "examples": 3, "images": 2, "quarantine": 0}
    out: list[tuple[int, str]] = []
    for table in sorted(n_rows):
        out.append((1, f"{table} of {source}, {n_rows[table]} rows, as {table}"))
        out.append((2, f"raw_files of {source}, as raw" + (", as above" if out[1:] else "")))
    return out


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("source_profiles", "measure=answer"), "answer of source scenes (all, blue): 3 count, n 3"),
        (("source_profiles", "bucket=null"), "examples of source scenes (all): 3 count, n 3"),
        (("source_warnings", "share=0.5"), "boxes_at_right_or_lower_edge in source scenes, 0.5 of 3 boxes"),
    ],
)
def test_a_figure_about_many_rows_leads_to_the_raw_files(whole: WholeWorld, capsys, words, title: str):
    code, out, err = why(whole, capsys, *words)
    assert (code, err, steps(out)) == (0, "", [(0, title), *data_of("scenes")])
    assert "walked by artifacts, since it is made from many rows" in out
    # the manifest names no annotation file: its first files are shown, once, with their hashes
    assert out.count(f"raw file annotations.json, 14 bytes, sha256 {sha256_bytes(ANNOTATIONS)}") == 1


def test_a_score_leads_to_the_answers_of_its_own_policy_alone(whole: WholeWorld, capsys):
    code, out, err = why(whole, capsys, "evaluations", "policy=base", "metric=lift")
    name = whole.policy_id("base")
    wanted = [
        (0, f"lift of {name} (all): 0.5, n 2"),
        (1, "examples of scenes, 3 rows, as examples:scenes"),
        (2, "raw_files of scenes, as raw"),
        (1, "predictions of base, 2 rows, as predictions:base"),
        (2, "boxes of scenes, 3 rows, as boxes:scenes"),
        (3, "raw_files of scenes, as raw, as above"),
        (2, "examples of scenes, 3 rows, as examples:scenes, as above"),
        (2, "images of scenes, 2 rows, as images:scenes"),
        (3, "raw_files of scenes, as raw, as above"),
        (2, f"policy {name}, as policy"),
        (2, "splits, 3 rows, as splits"),
        (3, "examples of more, 0 rows, as examples:more"),
        (4, "raw_files of more, as raw"),
        (3, "examples of scenes, 3 rows, as examples:scenes, as above"),
        (3, "images of more, 1 rows, as images:more"),
        (4, "raw_files of more, as raw, as above"),
        (3, "images of scenes, 2 rows, as images:scenes, as above"),
        (1, "splits, 3 rows, as splits, as above"),
    ]
    assert (code, err, steps(out)) == (0, "", wanted)
    _, out, _ = why(whole, capsys, "faithfulness", "metric=deletion_auc")
    assert steps(out)[0] == (0, f"deletion_auc of {name} (cot_rollout:predictor): -1.5, n 2")
    assert (1, f"policy {name}, as policy") in steps(out)


def test_a_step_of_training_leads_to_its_policy_and_names_what_it_sampled(whole: WholeWorld, capsys):
    name = whole.policy_id("saliency_r1")
    code, out, err = why(whole, capsys, "training_steps", f"policy_id={name}", "step=2")
    assert (code, err) == (0, "")
    assert steps(out)[:6] == [
        (0, f"step 2 of the sft training of {name}, loss 0.5"),
        (1, "3 completions about 2 examples, each walked by"),
        (2, f"policy {name}"),
        (3, "examples of scenes, 3 rows, as examples:scenes"),
        (4, "raw_files of scenes, as raw"),
        (3, f"policy {whole.policy_id('cold_start')}, as policy"),
    ]
    assert f"why completions policy_id={name} step=2 example_id=e1\n" in out
    _, out, _ = why(whole, capsys, "training_steps", f"policy_id={name}", "step=1")
    assert steps(out)[1] == (1, f"policy {name}")


def test_records_and_links_of_the_ledger_are_walked_too(whole: WholeWorld, capsys):
    code, out, err = why(whole, capsys, "artifacts", "kind=policy", "name=cold_start")
    cold, base = whole.policy_id("cold_start"), whole.policy_id("base")
    assert (code, err) == (0, "")
    assert steps(out)[0] == (0, f"policy {cold}") and (1, f"policy {base}, as policy") in steps(out)
    child = f"child_record={whole.policies['cold_start'].record}"
    code, out, err = why(whole, capsys, "lineage_edges", child, "role=policy")
    assert (code, err) == (0, "")
    parent = whole.policies["base"].sha256[:12]
    assert steps(out)[0][1].endswith(f"was made from {parent}, its policy")
    assert steps(out)[1] == (1, f"policy {cold}")


def test_every_table_of_the_catalogue_is_walked(whole: WholeWorld, capsys):
    build(whole.ledger)
    assert set(ROW_KEYS) == set(TABLES)
    for table, keys in ROW_KEYS.items():
        assert set(keys) <= set(TABLES[table].names)
        row = query(whole.ledger.store.root, f"SELECT * FROM {table} ORDER BY ALL LIMIT 1").to_pylist()[0]
        code, out, err = why(whole, capsys, table, *(f"{key}={_text(row[key])}" for key in keys))
        assert (code, err) == (0, ""), table
        assert "raw file " in out or "raw picture " in out, table


def _text(value: object) -> str:
    return "null" if value is None else str(value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exampels", "example_id=e2"), "no table 'exampels'; there are images, examples, boxes"),
        (("examples",), "which row of examples? give KEY=VALUE, such as example_id=..."),
        (("examples", "e2"), "'e2': wanted KEY=VALUE"),
        (("examples", "id=e2"), "examples has no column 'id'; it has example_id, source,"),
        (("boxes", "example_id=e2", "box_index=one"), "box_index=one: wanted a value of type int32, or null"),
        (("boxes", f"box_index={2**40}"), "box_index=1099511627776: wanted a value of type int32"),
        (("predictions", "correct=maybe"), "correct=maybe: wanted a value of type bool"),
        (("images", "thumb=x"), "thumb=x: wanted a value of type binary"),
        (("examples", "question=caf\udce9"), "question=caf\\udce9: wanted a value of type string"),
        (("splits", "split=test", "split=val"), "split is given twice"),
        (("examples", "example_id=e9"), "no row of examples has example_id=e9, in 2 stored tables"),
        (("boxes", "label=cup"), "no row of boxes has label=cup, in 2 stored tables"),
        (("boxes", "example_id=e2"), "2 rows of boxes have example_id=e2; give also box_index (0, 1)"),
        (("splits", "split=test"), "2 rows of splits have split=test; give also example_id (e2, e3)"),
        (
            ("evaluations", "subset=all"),
            "4 rows of evaluations have subset=all; give also policy_id (base@",
        ),
        (("artifacts", "kind=nothing"), "no row of artifacts has kind=nothing"),
        (("scores_by_policy", "policy=base"), "scores_by_policy is counted from other tables"),
    ],
)
def test_words_that_name_no_row_say_what_would(whole: WholeWorld, capsys, words, said: str):
    code, out, err = why(whole, capsys, *words)
    assert (code, out) == (2, "")
    assert said in err and err.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(whole: WholeWorld):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "storage.lineage", "--root", whole.ledger.store.root]
    words = ["why", "evaluations", "policy=base", "metric=lift"]
    done = subprocess.run([*command, *words], stdout=write, stderr=subprocess.PIPE, text=True, cwd=REPO)
    os.close(write)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


def test_all_that_is_wrong_is_said_at_once(whole: WholeWorld, capsys):
    _, _, err = why(whole, capsys, "boxes", "id=e2", "box_index=x", "e2")
    assert all(each in err for each in ("no column 'id'", "box_index=x", "'e2': wanted KEY=VALUE"))


def test_rows_that_are_alike_are_told_apart_by_nothing_and_walked(whole: WholeWorld, capsys):
    code, out, _ = why(whole, capsys, "completions", "example_id=e1")
    assert code == 0 and out.startswith("note: 2 rows are alike in every column\n")
    assert steps(out)[-2:] == walked(*["above"] * 8, *raw_of("e1", "a", 4)[-1:], picture="a")[-2:]


def test_an_older_table_is_looked_at_when_no_current_one_has_the_row(whole: WholeWorld, capsys):
    for text in ("first", "second"):
        row = {**refusal(), "source": "scenes", "detail": text}
        work = Work("ops.normalise", "scenes", {"t": text}, parents={"raw": whole.raw["scenes"]})
        table = whole.ledger.put_table(work, "quarantine", "quarantine", from_rows("quarantine", [row]))
        whole.ledger.point("data/quarantine", "scenes", table)
    code, out, _ = why(whole, capsys, "quarantine", "source=scenes")
    assert code == 0 and "second" in out and "note" not in out
    code, out, _ = why(whole, capsys, "quarantine", "detail=first")
    assert code == 0 and out.startswith("note: no longer current")


def test_an_altered_table_is_not_believed(whole: WholeWorld, capsys):
    place = Path(whole.ledger.store.url(whole.data["scenes"]["boxes"].uri))
    place.write_bytes(place.read_bytes() + b" ")
    code, out, err = why(whole, capsys, "boxes", "example_id=e2", "box_index=1")
    assert (code, out) == (2, "") and "content was altered" in err
    code, _, err = why(whole, capsys, "source_profiles", "bucket=null")
    assert code == 1 and "problem: boxes scenes" in err and "altered" in err


def test_a_lost_parent_is_said(whole: WholeWorld, capsys):
    whole.ledger.store.delete(f"lineage/{whole.raw['scenes'].record}.json")
    code, out, err = why(whole, capsys, "source_profiles", "bucket=null")
    assert code == 1 and "NOT FOUND: parent raw" in out and "has no record" in err
    code, out, _ = why(whole, capsys, "examples", "example_id=e2")
    assert code == 1 and "NOT FOUND: the raw manifest of source scenes" in out


def test_a_picture_that_was_never_read_has_no_hash_to_hold(ledger: Ledger, tmp_path: Path, capsys):
    class Unread(SmallWorld):
        def delivered(self) -> dict[str, bytes]:
            return {"annotations.json": ANNOTATIONS}

        def _data(self, source: str):
            work = Work("ops.normalise", source, parents={"raw": self.raw[source]})
            unread = [{**image("b.png", source), "pixels_sha256": None, "format": None, "bytes": None}]
            rows = {"images": unread, "examples": examples() if source == "scenes" else [], "boxes": []}
            rows["quarantine"] = []
            made = {n: ledger.put_table(work, n, n, from_rows(n, each)) for n, each in rows.items()}
            for name, artifact in made.items():
                ledger.point(f"data/{name}", source, artifact)
            return made

    code, out, err = why(Unread(ledger, tmp_path / "scratch"), capsys, "examples", "example_id=e2")
    assert (code, err) == (0, "")
    assert steps(out)[-1] == (3, "raw picture b.png, never read")
