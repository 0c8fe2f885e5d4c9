"""The objects that assets, ops and sensors are given, made from settings and a profile.

Plain objects, no configuration schema: what they are made of was checked before.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.raw import Sources
from assets.resources import Profile
from ops.engines import engine_of
from ops.sources import load_sources
from ops.steps import Headless
from pipelines.handles import HandleIOManager
from pipelines.instance import scratch_folder
from pipelines.launchers import LocalLauncher
from pipelines.profiles import load_profile
from storage.lineage import Ledger
from storage.objects import Store
from storage.settings import Settings


@dataclass(frozen=True)
class Given:
    """Settings with the profile and the sources that they name."""

    settings: Settings
    profile: Profile
    sources: Sources


def read(settings: Settings, recipes: tuple[str, ...] = ()) -> Given:
    """Read and check everything that the settings name. Raises ConfigError, SourceError."""
    sources = load_sources(settings.sources_file, settings.root)
    return Given(
        settings, load_profile(settings.profile, recipes), {source.name: source for source in sources}
    )


def resources_of(given: Given) -> dict[str, Any]:
    """The resources by the names under which they are asked for."""
    settings = given.settings
    ledger, scratch = Ledger(Store(settings.root)), scratch_folder(settings)
    return {
        "handles": HandleIOManager(ledger),
        "ledger": ledger,
        "profile": given.profile,
        "sources": given.sources,
        "engine": engine_of(settings.engine),
        "scratch": scratch,
        "launch": LocalLauncher(ledger, settings.root, scratch, given.profile.command),
        "headless": Headless((sys.executable, "-m", "pipelines.run"), environment_of(settings), Path.cwd()),
    }


def environment_of(settings: Settings) -> Mapping[str, str]:
    """The environment variables that give these settings to another process."""
    return {
        "SALIENCY_R1_ROOT": settings.root,
        "SALIENCY_R1_PROFILE": settings.profile,
        "SALIENCY_R1_SOURCES": settings.sources_file or "",
        "SALIENCY_R1_ENGINE": settings.engine,
    }
