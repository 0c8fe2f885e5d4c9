"""The headless runner: `python -m pipelines.run JOB --profile NAME` works through a job by partition.

Each step is a Dagster run on the instance of the root, so the UI shows the same runs. Settings are checked
before anything is computed. Exit codes: 0 done, 1 failed, 2 a setting cannot be used, 130 interrupted; except
on success, the last line on stderr says why.
"""

import argparse
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType

import dagster as dg

from ops.sources import SourceError
from pipelines.definitions import build_defs
from pipelines.home import lacking
from pipelines.instance import (
    RUNNER_TAG,
    holders,
    opened,
    prepared_home,
    runner_alive,
    sweep_dead_runs,
    sync_sources,
)
from pipelines.jobs import JOB_NAMES, RAW_AND_DATA, Step, steps_of
from pipelines.profiles import profile_names
from pipelines.resources import Given, read
from storage.catalog import CatalogError
from storage.lineage import Ledger, LineageError
from storage.objects import StoreError
from storage.settings import Settings, SettingsError
from training.config import ConfigError
from training.recipes import RECIPES

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class StepError(Exception):
    """A step that did not end well; the message is the one line to show last."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    chosen = parsed(arguments)
    try:
        settings = Settings.from_environment()
        given = read(
            replace(settings, profile=chosen.profile or settings.profile), tuple(chosen.recipe or ())
        )
    except (SettingsError, ConfigError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    try:
        work(given, chosen.job)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: {chosen.job} stopped; run it again to go on where it was", file=sys.stderr)
        return 130
    except (StepError, LineageError, StoreError, CatalogError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.run", description="Works through one job.")
    parser.add_argument("job", choices=JOB_NAMES, help="what to do; `everything` is the other three in order")
    parser.add_argument(
        "--profile",
        help=f"one of {', '.join(profile_names())}, or a YAML file (default: SALIENCY_R1_PROFILE, else tiny)",
    )
    parser.add_argument(
        "--recipe",
        action="append",
        help=f"train this recipe only, repeatable: {', '.join(RECIPES)} (default: the profile's)",
    )
    return parser.parse_args(arguments)


def work(given: Given, job: str) -> None:
    """Run the job's steps in order. Raises StepError, KeyboardInterrupt."""
    home = prepared_home(given.settings)
    if problem := lacking(home):
        print(f"warning: {problem}", file=sys.stderr)
    os.environ["DAGSTER_HOME"] = str(home)
    with (
        warnings.catch_warnings(),
        opened(home) as instance,
        runner_alive(home) as alive,
    ):
        warnings.simplefilter("ignore")  # beta notices of the orchestrator: nothing a user can act on
        for run_id in sweep_dead_runs(instance, home):
            print(f"run {run_id[:8]} of a process that is gone is marked as failed", file=sys.stderr)
        definitions = build_defs(given=given)
        ledger: Ledger = definitions.resources["ledger"]  # type: ignore[index]
        for name in sync_sources(instance, list(given.sources)):
            forget_source(ledger, name)
        steps = steps_of(job, given.sources, given.profile.policies)
        started = time.monotonic()
        for number, step in enumerate(steps, start=1):
            print(f"[{number}/{len(steps)}] {step.title}", file=sys.stderr, flush=True)
            told = run_step(
                definitions, instance, step, {RUNNER_TAG: alive, "saliency_r1/profile": given.profile.name}
            )
            print(f"      {told}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    print(
        f"done: {job} with profile {given.profile.name} in {seconds:.0f} s, under {given.settings.root}; "
        f"largest process {peak_memory_gb():.1f} GB",
        file=sys.stderr,
    )


def peak_memory_gb() -> float:
    """Peak resident memory of this process or of its largest child, in GB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1e6


def run_step(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, tags: dict[str, str]
) -> str:
    """One Dagster run; returns what to say of it. Raises StepError, KeyboardInterrupt."""
    started = time.monotonic()
    graph, keys = definitions.resolve_asset_graph(), [dg.AssetKey(name.split("/")) for name in step.assets]
    for run_id in holders(instance, {pool for key in keys for pool in graph.get(key).pools or ()}):
        print(
            f"      waiting for run {run_id[:8]}, which holds the pool that this step needs", file=sys.stderr
        )
    result = definitions.resolve_job_def(step.job).execute_in_process(
        run_config=QUIET,
        instance=instance,
        partition_key=step.partition,
        asset_selection=keys,
        tags=tags,
        raise_on_error=False,
    )
    if was_interrupted(result):
        raise KeyboardInterrupt
    tell_checks(result)
    if not result.success:
        raise StepError(f"{step.title}: {reason(result)} (run {result.run_id[:8]})")
    worked = [
        event.materialization.metadata.get("work") for event in result.get_asset_materialization_events()
    ]
    fresh = [value for value in worked if value and not str(value.value).startswith("unchanged")]
    state = "" if fresh or not any(worked) else ", unchanged"
    return f"{time.monotonic() - started:.1f} s{state}"


def tell_checks(result: dg.ExecuteInProcessResult) -> None:
    """Say which checks that do not block did not pass; a blocking one is the reason of the failure."""
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.WARN:
            print(f"      warning: {_said(check)}", file=sys.stderr)


def reason(result: dg.ExecuteInProcessResult) -> str:
    """Why it failed: the blocking checks, else the innermost cause of the first failed step."""
    checks = [check for check in result.get_asset_check_evaluations() if not check.passed]
    blocking = [_said(check) for check in checks if check.severity == dg.AssetCheckSeverity.ERROR]
    if blocking:
        return "blocked by " + " | ".join(blocking)
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause:
                error = error.cause
            described = event.step_failure_data.user_failure_data
            text = described.description if described and described.description else error.message
            return " ".join(text.split())
    failures = [event.message for event in result.all_events if event.is_failure and event.message]
    return failures[0] if failures else "failed without an event that says why"


def was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run: the orchestrator turns it into a failure of the step, or of a run that waits."""
    events = result.all_events
    errors = [event.step_failure_data.error for event in events if event.is_step_failure]
    errors += [event.job_failure_data.error for event in events if event.is_job_failure]
    return any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def _said(check: dg.AssetCheckEvaluation) -> str:
    return f"check {check.check_name} of {check.asset_key.to_user_string()}: {check.description}"


def forget_source(ledger: Ledger, name: str) -> None:
    """Take away the handles of a source that is no longer listed; its artifacts and records stay."""
    for key in RAW_AND_DATA:
        ledger.forget(key, name)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
