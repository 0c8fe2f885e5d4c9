"""A root with small sources, the definitions over it, and an instance to run them on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pyarrow as pa

from pipelines.definitions import build_defs
from pipelines.instance import sync_sources
from pipelines.resources import Given, read
from pipelines.run import QUIET
from storage.lineage import Ledger
from storage.objects import Store
from storage.settings import Settings
from storage.tables import from_rows
from tests.assets.small_source import write_source, write_sources_file

NORMALISED = ("data/images", "data/examples", "data/boxes", "data/quarantine")


class SmallWorld:
    """Sources `blocks` and `more` as files, and a root of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks = write_source(folder / "blocks", 30, seed=1)
        self.more = write_source(folder / "more", 12, seed=2)
        self.list_sources(blocks=self.blocks, more=self.more)
        self.ledger = Ledger(Store(str(folder / "root")))

    def list_sources(self, **folders: Path) -> None:
        self.settings = Settings(
            root=str(self.folder / "root"),
            sources_file=str(write_sources_file(self.folder / "sources.yaml", **folders)),
            profile="tiny",
        )

    @property
    def given(self) -> Given:
        return read(self.settings)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """In memory: an event log on disk is flushed at each of its hundreds of rows. The journey has one."""
        with dg.DagsterInstance.ephemeral() as instance:
            sync_sources(instance, list(self.given.sources))
            yield instance

    def run(
        self, instance: dg.DagsterInstance, job: str, *assets: str, partition: str | None = None
    ) -> dg.ExecuteInProcessResult:
        return (
            build_defs(given=self.given)
            .resolve_job_def(job)
            .execute_in_process(
                run_config=QUIET,
                instance=instance,
                partition_key=partition,
                asset_selection=[dg.AssetKey(name.split("/")) for name in assets] or None,
                raise_on_error=False,
            )
        )

    def prepare(self, instance: dg.DagsterInstance) -> None:
        """Everything up to the splits."""
        for source in self.given.sources:
            assert self.run(instance, "prepare_data", "raw/files", *NORMALISED, partition=source).success
        assert self.run(instance, "prepare_data", "data/splits").success


def placed(*sides: str) -> pa.Table:
    """A splits table with one example and one picture for each of the sides."""
    return from_rows(
        "splits",
        [
            {"example_id": str(n), "image_sha256": f"i{n}", "split": side, "split_rule": "content_hash"}
            for n, side in enumerate(sides)
        ],
    )
