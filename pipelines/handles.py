"""The IO manager: an accepted candidate becomes the current artifact, a consumer is given the current one.

Only JSON handles travel. The content was stored by the asset, and is checked by hash when it is read.
"""

import typing

import dagster as dg

from assets.handles import Candidate
from storage.lineage import Artifact, Ledger, LineageError


class HandleIOManager(dg.IOManager):
    """Points the ledger at what assets offer, and loads `Artifact` or `dict[partition, Artifact]` inputs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle_output(self, context: dg.OutputContext, obj: Candidate) -> None:
        """Make the candidate current, unless a blocking check failed."""
        if obj.accepted:
            partition = context.partition_key if context.has_partition_key else ""
            self._ledger.point(context.asset_key.to_user_string(), partition, obj.artifact)

    def load_input(self, context: dg.InputContext) -> Artifact | dict[str, Artifact]:
        """The current artifact, or those of all upstream partitions. Raises LineageError."""
        key = context.asset_key.to_user_string()
        partitions = list(context.asset_partition_keys) if context.has_asset_partitions else [""]
        found = {partition: self._ledger.current(key, partition) for partition in partitions}
        missing = [partition for partition, artifact in found.items() if artifact is None]
        if missing:
            named = f" [{', '.join(missing)}]" if missing != [""] else ""
            raise LineageError(
                f"{key}{named} has not been made yet, or failed its checks; materialise it first"
            )
        artifacts = {partition: artifact for partition, artifact in found.items() if artifact is not None}
        if typing.get_origin(context.dagster_type.typing_type) is dict:
            return artifacts
        return next(iter(artifacts.values()))
