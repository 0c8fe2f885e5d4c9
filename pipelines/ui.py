"""Opens Dagster's UI on loopback: `python -m pipelines.ui --profile NAME --port N`.

Readies the instance, then becomes `dagster dev`. Only starting it belongs here.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ops.sources import SourceError
from pipelines.home import lacking
from pipelines.instance import opened, prepared_home, sync_sources
from pipelines.resources import environment_of, read
from storage.settings import Settings, SettingsError
from training.config import ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; comes back only with the exit code of a wrong setting."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.ui", description="Dagster's UI on 127.0.0.1.")
    parser.add_argument(
        "--profile", help="which profile its runs use (default: SALIENCY_R1_PROFILE, else tiny)"
    )
    parser.add_argument("--port", type=int, default=3000)
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings.from_environment()
        given = read(replace(settings, profile=chosen.profile or settings.profile))
    except (SettingsError, ConfigError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    home = prepared_home(given.settings)
    if problem := lacking(home):
        print(f"warning: {problem}", file=sys.stderr)
    with opened(home) as instance:
        sync_sources(instance, list(given.sources))
    os.environ.update(environment_of(given.settings), DAGSTER_HOME=str(home))
    # A shell that starts us in the background leaves SIGINT ignored, and dagster would hand that on to all
    # of its processes: nothing but kill -9 would end them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    dagster = str(Path(sys.executable).with_name("dagster"))
    command = [dagster, "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(chosen.port)]
    os.execv(dagster, command)  # noqa: S606 - no shell, our own interpreter's neighbour
    return 0


if __name__ == "__main__":
    sys.exit(main())
