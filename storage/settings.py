"""The settings that come from the environment, read here and nowhere else, and never at import.

What the settings mean (profiles, the list of sources) belongs to the rooms that use them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

DEFAULT_ROOT = "./var"
DEFAULT_PROFILE = "tiny"
ENGINES = ("local", "ray")
"""Where sources are normalised: in this process, or on a Ray cluster."""


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
    """Where everything lives, which sources are read and where that is done, which profile applies."""

    root: str
    sources_file: str | None
    profile: str
    engine: str = ENGINES[0]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read SALIENCY_R1_ROOT, _SOURCES, _PROFILE and _ENGINE; empty counts as unset. Raises SettingsError."""
        found = os.environ if environment is None else environment
        sources = found.get("SALIENCY_R1_SOURCES") or None
        if sources is not None and "://" not in sources:
            sources = str(Path(sources).expanduser().absolute())
        engine = found.get("SALIENCY_R1_ENGINE") or ENGINES[0]
        if engine not in ENGINES:
            raise SettingsError(f"SALIENCY_R1_ENGINE={engine!r}: wanted one of {', '.join(ENGINES)}")
        return cls(
            engine=engine,
            root=absolute_root(found.get("SALIENCY_R1_ROOT") or DEFAULT_ROOT, setting="SALIENCY_R1_ROOT"),
            sources_file=sources,
            profile=found.get("SALIENCY_R1_PROFILE") or DEFAULT_PROFILE,
        )


@dataclass(frozen=True)
class S3Limits:
    """How long a request to S3 may take, how often it is tried, and the size of the parts of a large upload.

    A server that takes connections and never answers costs attempts * read_timeout_s and at most 15 s of waits
    between: two minutes with the defaults. An upload of twice `part_mib` or more goes in parts.
    """

    connect_timeout_s: float = 5
    read_timeout_s: float = 20
    attempts: int = 5
    part_mib: int = 50

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "S3Limits":
        """Read SALIENCY_R1_S3_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S, _ATTEMPTS and _PART_MIB; empty counts as unset.

        Raises SettingsError for what is not a number, too small a part (S3 wants 5 MiB) or a limit of nothing.
        """
        leasts = {"attempts": 1, "part_mib": 5}
        return cls(**_limits(cls, "SALIENCY_R1_S3", leasts, environment))  # type: ignore[arg-type]


@dataclass(frozen=True)
class ArchiveLimits:
    """How much a zip or tar archive may hold: members, unpacked MiB, and unpacked bytes to each of its own.

    The ratio counts from 64 MiB of unpacked bytes on.
    """

    members: int = 2_000_000
    mib: int = 204_800
    ratio: int = 200

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "ArchiveLimits":
        """Read SALIENCY_R1_ARCHIVE_MEMBERS, _MIB and _RATIO; empty counts as unset. Raises SettingsError."""
        leasts = dict.fromkeys(("members", "mib", "ratio"), 1)
        return cls(**_limits(cls, "SALIENCY_R1_ARCHIVE", leasts, environment))  # type: ignore[arg-type]


def cache_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Where copies of what lies in buckets and archives are kept: SALIENCY_R1_CACHE, or a folder of the user's."""
    found = os.environ if environment is None else environment
    told = found.get("SALIENCY_R1_CACHE")
    return Path(told).expanduser().absolute() if told else Path.home() / ".cache" / "saliency-r1"


def hub_endpoint(environment: Mapping[str, str] | None = None) -> str | None:
    """The hub that hf:// addresses are read from: HF_ENDPOINT, or None for the public one."""
    found = os.environ if environment is None else environment
    return (found.get("HF_ENDPOINT") or "").rstrip("/") or None


def hub_timeout_s(environment: Mapping[str, str] | None = None) -> float:
    """Seconds that a request to the hub may take before it is tried again: SALIENCY_R1_HUB_TIMEOUT_S, by default 20."""
    found = os.environ if environment is None else environment
    name = "SALIENCY_R1_HUB_TIMEOUT_S"
    text = found.get(name)
    return _number(name, text, 0.01, whole=False) if text else 20.0


def _limits(
    cls: type, prefix: str, leasts: Mapping[str, float], environment: Mapping[str, str] | None
) -> dict[str, float]:
    """The fields of a class of limits that the environment sets."""
    found = os.environ if environment is None else environment
    given: dict[str, float] = {}
    for field in fields(cls):
        name = f"{prefix}_{field.name.upper()}"
        text = found.get(name)
        if text:
            given[field.name] = _number(name, text, leasts.get(field.name, 0.01), whole=field.type is int)
    return given


def _number(name: str, text: str, least: float, *, whole: bool) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not least <= value < 1e9:
        kind = "a whole number" if whole else "a number"
        raise SettingsError(f"{name}={text!r}: wanted {kind} from {least} up")
    return value
