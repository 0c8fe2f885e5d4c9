"""Products: the decision and the page that a person reads."""

import json
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets import checks_evidence as checks
from assets.evidence import answers_of, current_policy, current_splits, together
from assets.handles import offer, once, rows_behind
from assets.profiles import profile_behind
from assets.resources import Profile
from ops import flow_section
from ops.champion import decide
from ops.gallery import pictures_needed
from ops.report import TEMPLATES, ReportInputs, render
from storage.chain import Records
from storage.code import code_of
from storage.lineage import Artifact, Ledger, Work
from storage.objects import sha256_folder
from storage.rows import pictures_by_sha256
from storage.tables import empty
from training.recipes import RECIPES

REPORT = "report/index.html"
LOOK: dict[str, Any] = {
    "group_name": "product",
    "owners": ["team:evaluation"],
    "io_manager_key": "handles",
    "dagster_type": dg.Any,
}


@dg.asset(
    key=["product", "champion"],
    ins={"evaluations": dg.AssetIn(["evidence", "comparison"])},
    kinds={"json"},
    description="The best policy by a stated rule that reads no map, with the numbers that decided.",
    check_specs=[checks.DECIDED],
    **LOOK,
)
def champion(
    evaluations: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
) -> dg.MaterializeResult:
    """Read the answers, decide, offer the decision."""
    splits = current_splits(ledger)
    answers = answers_of(ledger, profile, splits)
    examples = of_table(rows_behind(ledger, splits), "examples")
    rewards = {"cold_start": 0} | {name: RECIPES[name].n_signals for name in profile.recipes}
    work = Work(
        producer="ops.champion",
        config={"rewards_of": rewards, "draws": profile.draws},
        parents={"evaluations": evaluations, "splits": splits, **examples, **answers},
        seed=profile.seed,
        code=code_of("ops.champion"),
        outputs=("champion",),
    )

    def make() -> dict[str, Artifact]:
        tables = together(ledger, answers), together(ledger, examples), ledger.read_table(splits)
        decision = decide(*tables, rewards, seed=profile.seed, draws=profile.draws)
        data = json.dumps(decision, indent=1, sort_keys=True).encode()
        summary = {name: decision[name] for name in ("champion", "runner_up", "decided_by")}
        return {"champion": ledger.put_bytes(work, "champion", "champion", data, ".json", summary)}

    outputs, fresh = once(ledger, work, make)
    decision = json.loads(ledger.read_bytes(outputs["champion"]))
    told = {
        name: dg.MetadataValue.text(str(decision[name])) for name in ("champion", "runner_up", "why", "rule")
    }
    check = checks.decided(decision, profile.policies)
    return offer(ledger, outputs["champion"], fresh=fresh, checks=[check], metadata=told)


@dg.asset(
    key=["product", "report"],
    ins={
        "evaluations": dg.AssetIn(["evidence", "comparison"]),
        "champion": dg.AssetIn(["product", "champion"]),
    },
    kinds={"html"},
    description="One self-contained page: results with intervals and chance, curves, maps over pictures.",
    check_specs=[checks.PAGE_OPENS],
    **LOOK,
)
def report(
    evaluations: Artifact,
    champion: Artifact,
    ledger: dg.ResourceParam[Ledger],
    profile: dg.ResourceParam[Profile],
) -> dg.MaterializeResult:
    """Gather the tables, render the page, put it where people look for it."""
    splits = current_splits(ledger)
    parts = parts_of_report(ledger, profile, splits, evaluations)
    work = Work(
        producer="ops.report",
        config={"profile": profile.name, "draws": profile.draws, "templates": sha256_folder(TEMPLATES)},
        parents={"splits": splits, "evaluations": evaluations, "champion": champion, **parts},
        seed=profile.seed,
        code=code_of("ops.report"),
        outputs=("report",),
    )

    def make() -> dict[str, Artifact]:
        page = render(report_inputs(ledger, profile, splits, evaluations, champion, parts))
        return {"report": ledger.put_bytes(work, "report", "report", page, ".html")}

    outputs, fresh = once(ledger, work, make)
    page = ledger.read_bytes(outputs["report"])
    told = {
        "page": dg.MetadataValue.url(ledger.store.url(REPORT)),
        "n_bytes": dg.MetadataValue.int(len(page)),
    }
    check = publish(ledger, page, profile.policies)
    return offer(ledger, outputs["report"], fresh=fresh, checks=[check], metadata=told)


def publish(ledger: Ledger, page: bytes, policies: tuple[str, ...]) -> dg.AssetCheckResult:
    """Put the page where people look for it; a page that does not open never replaces one that does."""
    check = checks.page_opens(page, policies)
    if check.passed:
        ledger.store.write_bytes(REPORT, page)
    return check


def of_table(artifacts: dict[str, Artifact], table: str) -> dict[str, Artifact]:
    """The artifacts whose role begins with the table's name."""
    return {role: artifact for role, artifact in artifacts.items() if role.partition(":")[0] == table}


def parts_of_report(
    ledger: Ledger, profile: Profile, splits: Artifact, evaluations: Artifact
) -> dict[str, Artifact]:
    """Everything that the page shows besides splits, evaluations and decision, by role."""
    rows = rows_behind(ledger, splits)
    maps = answers_of(ledger, profile, splits, "saliency_maps")
    parts = rows | answers_of(ledger, profile, splits) | maps
    for role, each in maps.items():
        parts |= beside(ledger, each, "token_flows", role.partition(":")[2])
    for role in of_table(rows, "examples"):
        source = role.partition(":")[2]
        parts[f"quarantine:{source}"] = ledger.require(
            ledger.current("data/quarantine", source), kind="quarantine"
        )
        parts |= profile_behind(ledger, source, rows)
    for name in profile.policies[1:]:
        parts |= beside(ledger, current_policy(ledger, name), "training_steps", name)
    return parts


def beside(ledger: Ledger, artifact: Artifact, output: str, name: str) -> dict[str, Artifact]:
    """What the same work put down under another output's name, by role; empty when there is none."""
    found = ledger.outputs_of(artifact.work_key)
    return {f"{output}:{name}": each for each in found if each.output == output}


def report_inputs(
    ledger: Ledger,
    profile: Profile,
    splits: Artifact,
    evaluations: Artifact,
    champion: Artifact,
    parts: dict[str, Artifact],
) -> ReportInputs:
    """The tables behind the page; its date is its youngest input's, so equal inputs give equal pages."""
    tables = {
        name: together(ledger, of_table(parts, name)) if of_table(parts, name) else empty(name)
        for name in (
            "images",
            "examples",
            "boxes",
            "quarantine",
            "source_profiles",
            "source_warnings",
            "training_steps",
            "predictions",
            "saliency_maps",
            "token_flows",
        )
    }
    decision = json.loads(ledger.read_bytes(champion))
    needed = pictures_needed(tables["predictions"], tables["examples"], profile.seed)
    needed += flow_section.pictures_needed(decision["champion"], profile.seed, tables)
    images = [str(ledger.path(each)) for each in of_table(parts, "images").values()]
    lineage = Records(ledger).ancestors
    behind = {
        each.record: each for start in (champion, evaluations, *parts.values()) for each in lineage(start)
    }
    return ReportInputs(
        generated_on=max(each.created_at for each in behind.values())[:10],
        profile=profile.name,
        seed=profile.seed,
        splits=ledger.read_table(splits),
        evaluations=ledger.read_table(evaluations),
        champion=decision,
        artifacts=[asdict(each) for each in behind.values()],
        contact_sheets={
            role.partition(":")[2]: ledger.read_bytes(sheet)
            for role, sheet in of_table(parts, "contact_sheet").items()
        },
        pictures=pictures_by_sha256(images, needed, root=ledger.store.root),
        draws=profile.draws,
        **tables,
    )
