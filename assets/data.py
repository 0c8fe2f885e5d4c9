"""Data: normalised tables of each source, the splits over all of them, the catalogue over everything."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from assets import checks_data as checks
from assets import checks_strata
from assets.checks import outcome, warning
from assets.handles import offer, once
from assets.metadata import pictures, table_spec
from assets.partitions import SOURCES
from assets.raw import Sources
from assets.resources import Profile
from ops.engines import Engine
from ops.normalise import NothingLeft, normalise_into
from ops.source_warnings import hint
from ops.sources import Source
from ops.split import assign
from storage.asking import Rows, parts
from storage.catalog import CATALOG, CatalogError, build, build_and_compare, left_out, questions
from storage.code import code_of
from storage.lineage import Artifact, Ledger, LineageError, Work
from storage.objects import StoreError
from storage.scratch import temporary_folder
from storage.tables import TableWriter, batches

THUMBNAIL_BYTES = 30_000
DESCRIPTIONS = {
    "images": "Distinct pictures, with pixel hashes that survive re-encoding.",
    "examples": "Questions about pictures, with answers and, where written, a reasoning.",
    "boxes": "Evidence boxes in pixels of the upright picture.",
    "quarantine": "Refused rows, each with its reason, its detail and itself.",
}

ALL_SHOWN = warning(
    "all_tables_shown",
    ["data", "catalog"],
    "Every current table is of this schema version, so that a view has it.",
)


def table_out(name: str) -> dg.AssetOut:
    """An output that is one table of the catalogue."""
    return dg.AssetOut(
        key=["data", name],
        group_name="data",
        owners=["team:data"],
        kinds={"parquet"},
        io_manager_key="handles",
        description=DESCRIPTIONS[name],
        metadata=table_spec(name),
    )


@dg.multi_asset(
    name="normalised",
    partitions_def=SOURCES,
    ins={"files": dg.AssetIn(["raw", "files"])},
    outs={name: table_out(name) for name in checks.TABLES},
    check_specs=checks.all_specs(),
)
def normalised(
    context: dg.AssetExecutionContext,
    files: Artifact,
    ledger: dg.ResourceParam[Ledger],
    sources: dg.ResourceParam[Sources],
    engine: dg.ResourceParam[Engine],
) -> Iterator[dg.MaterializeResult]:
    """Read the raw rows, offer four tables."""
    source = sources[context.partition_key]
    work = normalising(source, files)
    outputs, fresh = once(ledger, work, lambda: store_normalised(ledger, work, source, engine))
    tables = {name: [ledger.path(outputs[name])] for name in checks.TABLES}
    rows_in = int(outputs["examples"].summary["rows_in"])
    results = {name: [checks.schema(ledger, name, outputs[name])] for name in checks.TABLES}
    results["examples"].append(checks.conserved(tables, rows_in))
    results["boxes"].append(checks.plausible(tables["examples"]))
    thumbs = {"thumbnails": pictures(thumbnails(ledger, outputs["images"]))}
    for name in checks.TABLES:
        yield offer(
            ledger,
            outputs[name],
            fresh=fresh,
            checks=results[name],
            together_with=[check for other in results.values() for check in other],
            metadata=thumbs if name == "images" else None,
            key=["data", name],
        )


@dg.asset(
    key=["data", "splits"],
    ins={"images": dg.AssetIn(["data", "images"]), "examples": dg.AssetIn(["data", "examples"])},
    deps=[["data", "boxes"]],
    group_name="data",
    owners=["team:data"],
    kinds={"parquet"},
    io_manager_key="handles",
    dagster_type=dg.Any,
    description="The side of every example: by the pixels of its picture, so that adding data moves nothing.",
    metadata=table_spec("splits"),
    check_specs=[checks.NO_LEAK, checks.SIZES, checks_strata.STRATA],
)
def splits(
    images: dict[str, Artifact],
    examples: dict[str, Artifact],
    ledger: dg.ResourceParam[Ledger],
    sources: dg.ResourceParam[Sources],
    profile: dg.ResourceParam[Profile],
) -> dg.MaterializeResult:
    """Place every picture, sources in the order of their list; offer the splits."""
    rows = rows_of_sources(ledger, sources, {"images": images, "examples": examples})
    work = Work(
        producer="ops.split",
        config={"fractions": dict(profile.split_fractions), "order": list(sources)},
        parents=rows,
        code=code_of("ops.split"),
        outputs=("splits",),
    )
    pictures_, asked = (
        [ledger.path(rows[f"{table}:{name}"]) for name in sources] for table in ("images", "examples")
    )

    def make() -> dict[str, Artifact]:
        placed = assign(pictures_, asked, profile.split_fractions)
        return {"splits": store_splits(ledger, work, placed)}

    outputs, fresh = once(ledger, work, make)
    table = [ledger.path(outputs["splits"])]
    marked = marked_pictures(asked)
    results = [
        checks.no_leak(table, pictures_),
        checks.sizes(table, profile.split_fractions, marked),
        checks_strata.strata(table, asked, profile.split_fractions, marked),
    ]
    return offer(ledger, outputs["splits"], fresh=fresh, checks=results)


@dg.asset(
    key=["data", "catalog"],
    # It shows everything; the rest is behind these, the last of what each job makes.
    deps=[
        ["data", "quarantine"],
        ["data", "profile"],
        ["data", "splits"],
        ["policy", "grpo"],
        ["product", "champion"],
    ],
    group_name="data",
    owners=["team:data"],
    kinds={"duckdb"},
    description="One DuckDB file of views over all that is current; rebuilt whole at the end of each job.",
    check_specs=[checks.AGREES, ALL_SHOWN],
    pool="catalog",
)
def catalog(ledger: dg.ResourceParam[Ledger]) -> dg.MaterializeResult:
    """Build aside, swap in, hold against a second build."""
    state, problems = build_and_compare(ledger)
    shown = state.shown
    rows: dict[str, int] = {}
    for artifact in shown:
        if artifact.n_rows is not None:
            rows[f"rows_{artifact.kind}"] = rows.get(f"rows_{artifact.kind}", 0) + artifact.n_rows
    return dg.MaterializeResult(
        metadata={
            "dagster/uri": dg.MetadataValue.url(ledger.store.url(CATALOG)),
            "questions": dg.MetadataValue.json(questions()),
            "n_artifacts": dg.MetadataValue.int(len(shown)),
            "left_out": dg.MetadataValue.text("; ".join(left_out(state)) or "none"),
            **{name: dg.MetadataValue.int(count) for name, count in sorted(rows.items())},
        },
        check_results=[
            checks.agrees(problems),
            outcome(ALL_SHOWN, left_out(state), "all are shown", n_left_out=len(state.left_out)),
        ],
    )


def normalising(source: Source, files: Artifact) -> Work:
    """The work of reading one source."""
    return Work(
        producer="ops.normalise",
        name=source.name,
        config=asdict(source),
        parents={"raw": files},
        code=code_of("ops.normalise"),
        outputs=checks.TABLES,
    )


def store_normalised(
    ledger: Ledger, work: Work, source: Source, engine: Engine | None = None
) -> dict[str, Artifact]:
    """Read, check and convert the rows of the source, and store the tables."""
    with temporary_folder(source.name) as folder:
        try:
            made = normalise_into(source, ledger.store, folder, engine)
        except NothingLeft as error:  # the run fails, but what was refused and why can still be asked for
            refused = replace(work, outputs=("quarantine",), producer=f"{work.producer}.refused")
            path = error.written.path("quarantine")
            table = ledger.put_table_file(refused, "quarantine", "quarantine", path)
            ledger.point("data/quarantine", source.name, table)
            unbuilt = catalog_problem(ledger)
            advice = hint(source, [ledger.path(table)])
            said = [str(error), *([advice] if advice else []), *unbuilt]
            raise dg.Failure("; ".join(said)) from error
        summaries = {"examples": dict(made.counts), "quarantine": dict(made.refused_by_reason)}
        return {
            name: ledger.put_table_file(work, name, name, made.path(name), summaries.get(name))
            for name in checks.TABLES
        }


def catalog_problem(ledger: Ledger) -> list[str]:
    """Build the catalogue; why it cannot be built, or []."""
    try:
        build(ledger)
    except (CatalogError, LineageError, StoreError, OSError) as error:
        return [f"nor could the catalogue be built: {error}"]
    return []


def rows_of_sources(
    ledger: Ledger, sources: Sources, given: dict[str, dict[str, Artifact]]
) -> dict[str, Artifact]:
    """The tables of all sources by role, boxes included. Raises LineageError naming what is missing."""
    given = {**given, "boxes": ledger.current_all("data/boxes")}
    missing = [
        f"data/{table} [{name}]" for table, found in given.items() for name in sources if name not in found
    ]
    if missing:
        raise LineageError(f"{', '.join(missing)} not made yet; materialise these partitions first")
    return {f"{table}:{name}": found[name] for table, found in given.items() for name in sources}


def store_splits(ledger: Ledger, work: Work, placed: Iterable[pa.Table]) -> Artifact:
    """Store the table as it comes; its summary counts the examples by side."""
    counts: Counter[str] = Counter()
    with temporary_folder("splits") as folder:
        path = folder / "splits.parquet"
        with TableWriter("splits", path) as writer:
            for part in placed:
                writer.write(part)
                counts.update(part["split"].to_pylist())
        return ledger.put_table_file(work, "splits", "splits", path, dict(counts))


def thumbnails(ledger: Ledger, images: Artifact, n: int = 4) -> list[tuple[str, bytes, str]]:
    """The first small pictures among the first that are stored together, ready to be shown."""
    few = next(batches(ledger.path(images), ["file_name", "bytes", "format", "n_bytes"], name="images"))
    small = few.filter(pc.less(few["n_bytes"], THUMBNAIL_BYTES)).slice(0, n)
    return [
        (row["file_name"], row["bytes"], f"image/{row['format'].lower()}")
        for row in small.to_pylist()
        if row["bytes"] and row["format"] in ("PNG", "JPEG", "WEBP")
    ]


def marked_pictures(examples: Rows) -> set[str]:
    """Pictures of any marked slice, by image_sha256."""
    return {
        image
        for part in parts(examples, ["slice", "image_sha256"])
        for image in part.filter(pc.is_valid(part["slice"]))["image_sha256"].to_pylist()
    }
