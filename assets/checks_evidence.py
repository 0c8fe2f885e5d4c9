"""Asset checks of evaluation and product; how checks work is said in assets/checks.py."""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dagster import AssetCheckResult

from assets.checks import blocking, outcome
from storage.lineage import Ledger, unbroken
from storage.measured import too_many_lost, was_measured

ANSWERED = blocking(
    "every_row_answered_or_explained",
    ["evidence", "predictions"],
    "One row a held-out example; a row without an answer says why, and few of them have no picture that can be read.",
)
ONE_MAP = blocking(
    "one_map_per_scorable_answer",
    ["evidence", "saliency_maps"],
    "Every answer has exactly one archived map, or the reason why it has none.",
)
ONE_FLOW = blocking(
    "one_flow_per_chosen_example",
    ["evidence", "saliency_maps"],
    "As many token flows as the setting asks for, each of an archived answer.",
)
UNBROKEN = blocking(
    "lineage_unbroken",
    ["evidence", "comparison"],
    "Every artifact behind what is current is recorded, and its content has the recorded hash.",
)
CHANCE_BESIDE = blocking(
    "chance_beside_every_score", ["evidence", "comparison"], "No score without its chance value and n."
)
PAGE_OPENS = blocking(
    "page_opens", ["product", "report"], "The page is whole, names every policy and fetches nothing."
)
DECIDED = blocking(
    "decision_recorded",
    ["product", "champion"],
    "The decision names an evaluated policy, the rule and the numbers.",
)


def answered(predictions: pa.Table, splits: pa.Table, split: str, max_rows: int) -> AssetCheckResult:
    """Hold the predictions against the examples of the split; max_rows = 0 means all of them."""
    wanted = splits.filter(pc.equal(splits["split"], split))["example_id"]
    expected = min(len(wanted), max_rows) if max_rows else len(wanted)
    seen = predictions["example_id"]
    strangers = pc.sum(pc.invert(pc.is_in(seen, wanted.combine_chunks()))).as_py() or 0
    silent = pc.sum(pc.and_(pc.is_null(predictions["answer"]), pc.is_null(predictions["unscorable_reason"])))
    problems = [
        text
        for bad, text in (
            (len(seen) != expected, f"{len(seen)} rows for {expected} examples of {split}"),
            (
                len(pc.unique(seen)) != len(seen),
                f"{len(seen) - len(pc.unique(seen))} examples answered twice",
            ),
            (strangers, f"{strangers} rows answer examples outside {split}"),
            (silent.as_py(), f"{silent.as_py()} rows have neither an answer nor a reason"),
        )
        if bad
    ]
    not_measured = predictions.filter(pc.invert(was_measured(predictions)))
    lost = too_many_lost(not_measured.num_rows, len(seen))
    problems += [lost] if lost else []
    said, told = f"{len(seen)} of {expected}", {}
    if not_measured.num_rows:
        said += f", {not_measured.num_rows} of them not measured: the picture cannot be read"
        names = zip(
            *(not_measured[name].to_pylist() for name in ("example_id", "unscorable_reason")), strict=True
        )
        told = {"not_measured": [f"{example_id} ({reason})" for example_id, reason in names][:20]}
    return outcome(ANSWERED, problems, said, n=len(seen), n_not_measured=not_measured.num_rows, **told)


def one_map(predictions: pa.Table, maps: pa.Table) -> AssetCheckResult:
    """Hold the archive against the predictions, by map_id."""
    claimed, kept = predictions["map_id"].drop_null(), maps["map_id"]
    without = predictions.filter(pc.is_null(predictions["map_id"]))
    unexplained = without["unscorable_reason"].null_count
    problems = []
    if len(pc.unique(kept)) != len(kept):
        problems.append(f"{len(kept) - len(pc.unique(kept))} maps are archived twice")
    if set(claimed.to_pylist()) != set(kept.to_pylist()):
        problems.append(
            f"{len(claimed)} answers name a map, {len(kept)} are archived; they are not the same ones"
        )
    if unexplained:
        problems.append(f"{unexplained} answers have neither a map nor a reason")
    return outcome(ONE_MAP, problems, f"{len(kept)} maps, {without.num_rows} explained", n=len(kept))


def one_flow(predictions: pa.Table, flows: pa.Table, n_wanted: int) -> AssetCheckResult:
    """Hold the token flows (or the reasons why there is none) against the answers that they explain."""
    keys = ("policy_id", "example_id", "completion_sha256")
    given, kept = (
        list(zip(*(table[key].to_pylist() for key in keys), strict=True)) for table in (predictions, flows)
    )
    expected, n_strange = min(n_wanted, len(given)), len(set(kept) - set(given))
    problems = [f"{len(kept)} flows, wanted {expected}"] if len(kept) != expected else []
    problems += [f"{len(kept) - len(set(kept))} flows are kept twice"] if len(set(kept)) < len(kept) else []
    problems += [f"{n_strange} flows explain no answer of this table"] if n_strange else []
    return outcome(ONE_FLOW, problems, f"{len(kept)} flows", n=len(kept))


def lineage_unbroken(ledger: Ledger) -> AssetCheckResult:
    """Follow every parent of what is current and hash the content again."""
    problems = unbroken(ledger)
    return outcome(
        UNBROKEN, problems[:20], "every parent found, every hash as recorded", n_problems=len(problems)
    )


def chance_beside(evaluations: pa.Table) -> AssetCheckResult:
    """A plain score has its chance value, a paired difference is against a named policy; both have an n."""
    lonely = evaluations.filter(pc.and_(pc.is_null(evaluations["chance"]), pc.is_null(evaluations["versus"])))
    names = sorted(set(lonely["metric"].to_pylist()))
    empty = pc.sum(pc.less_equal(evaluations["n"], 0)).as_py() or 0
    problems = [f"{lonely.num_rows} scores without a chance value: {', '.join(names)}"] if names else []
    problems += [f"{empty} scores over no example"] if empty else []
    problems += ["nothing was compared"] if not evaluations.num_rows else []
    return outcome(CHANCE_BESIDE, problems, f"{evaluations.num_rows} scores", n=evaluations.num_rows)


class _Page(HTMLParser):
    """What a browser would fetch, the elements, and the text."""

    FETCHING = frozenset({"src", "href", "data", "poster", "srcset"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in self.FETCHING and value and tag != "a" and not value.startswith(("data:", "#")):
                self.fetched.append(f"<{tag} {name}={value[:60]}>")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_opens(page: bytes, policies: tuple[str, ...]) -> AssetCheckResult:
    """Parse the page as a browser would."""
    parser = _Page()
    parser.feed(page.decode("utf-8"))
    text = " ".join(parser.text)
    problems = [f"it fetches {', '.join(parser.fetched[:5])}"] if parser.fetched else []
    problems += [f"it does not name the policy {name}" for name in policies if name not in text]
    problems += [f"it has no <{tag}>" for tag in ("html", "head", "body", "table") if tag not in parser.tags]
    problems += [] if page.rstrip().endswith(b"</html>") else ["it ends before </html>"]
    return outcome(PAGE_OPENS, problems, f"{len(page):,} bytes", n_bytes=len(page))


def decided(decision: Mapping[str, Any], policies: tuple[str, ...]) -> AssetCheckResult:
    """Look at the stored decision."""
    problems = [
        f"{name} is missing"
        for name in ("champion", "policy_id", "rule", "why", "steps")
        if not decision.get(name)
    ]
    if decision.get("champion") not in policies:
        problems.append(f"champion {decision.get('champion')!r} is none of {', '.join(policies)}")
    return outcome(DECIDED, problems, str(decision.get("why", "")))
