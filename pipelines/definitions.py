"""The code location: everything that Dagster shows and runs, put together once.

Only assembly belongs here. Loading it imports no torch; the environment is read when `defs` is called.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import data, evidence, policies, processed, product, profiles, raw
from pipelines import jobs, resources, schedules, sensors
from storage.settings import Settings


def build_defs(
    overrides: Mapping[str, Any] | None = None, given: resources.Given | None = None
) -> dg.Definitions:
    """The definitions for what is given (default: what the environment names); overrides replace resources.

    Raises SettingsError, ConfigError, SourceError naming every wrong setting.
    """
    given = given or resources.read(Settings.from_environment())
    return dg.Definitions(
        assets=dg.load_assets_from_modules([raw, data, profiles, policies, processed, evidence, product]),
        jobs=jobs.JOBS,
        schedules=[schedules.weekly_retraining],
        sensors=[sensors.changed_sources],
        resources={**resources.resources_of(given), **(overrides or {})},
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions as the Dagster tools load them."""
    return build_defs()
