"""The settings that come from the environment, read here and nowhere else, and never at import.

What the settings mean (profiles, the list of sources) belongs to the rooms that use them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = "./var"
DEFAULT_PROFILE = "tiny"


class SettingsError(ValueError):
    """A setting that cannot be used; the message names the setting, its value and what is allowed."""


def absolute_root(root: str, *, setting: str = "root") -> str:
    """Return `root` as an absolute local path or as s3://bucket/prefix without a trailing slash.

    Raises SettingsError for another scheme or an address without a bucket.
    """
    if "://" not in root:
        return str(Path(root).expanduser().absolute())
    scheme, _, rest = root.partition("://")
    if scheme != "s3" or not rest.strip("/") or rest.startswith("/"):
        raise SettingsError(f"{setting}={root!r}: wanted a local path or s3://bucket/prefix")
    return "s3://" + rest.rstrip("/")


@dataclass(frozen=True)
class Settings:
    """Where everything lives, which sources are read, which profile applies."""

    root: str
    sources_file: str | None
    profile: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read SALIENCY_R1_ROOT, SALIENCY_R1_SOURCES and SALIENCY_R1_PROFILE; empty counts as unset."""
        found = os.environ if environment is None else environment
        sources = found.get("SALIENCY_R1_SOURCES") or None
        if sources is not None and "://" not in sources:
            sources = str(Path(sources).expanduser().absolute())
        return cls(
            root=absolute_root(found.get("SALIENCY_R1_ROOT") or DEFAULT_ROOT, setting="SALIENCY_R1_ROOT"),
            sources_file=sources,
            profile=found.get("SALIENCY_R1_PROFILE") or DEFAULT_PROFILE,
        )
