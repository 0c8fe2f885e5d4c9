"""Files of data sets on a Hugging Face hub, by hf://datasets/OWNER/NAME[@REVISION]/PATH, read only.

The hub is that of HF_ENDPOINT, the token HF_TOKEN's or the one that `hf auth login` keeps. Each request is bounded in
time and repeated by huggingface_hub (429, 500, 502, 503, 504, lost connections; waits of 1, 2, 4, 8, 8 s between).
Not here: what the files hold.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from storage.objects import StoreError
from storage.s3 import StoreUnreachableError
from storage.settings import hub_endpoint, hub_timeout_s

T = TypeVar("T")

SCHEME = "hf://"
_PLACE = r"hf://datasets/[\w.-]+/[\w.-]+(@[^/@\s]+)?(/.*)?"
_FRESH_S = 60.0
"""How long a listing of the hub is taken for what is there."""

_current: tuple[float, str | None, Any] | None = None


def is_place(location: str) -> bool:
    """Whether a text is hf://datasets/OWNER/NAME, with or without @REVISION and a path."""
    return re.fullmatch(_PLACE, location) is not None


def read(address: str) -> bytes:
    """The bytes of one file. Raises StoreError, StoreUnreachableError."""
    return _call(address, "read", lambda fs: bytes(fs.cat_file(address)))


def names(address: str) -> list[str]:
    """Names of the files below a folder, relative to it; none where there is no such folder. Raises StoreError."""

    def listed(fs: Any) -> list[str]:
        start = fs.resolve_path(address).unresolve().rstrip("/") + "/"
        return [name.removeprefix(start) for name in fs.find(address) if name.startswith(start)]

    return _call(address, "listed", listed)


def state(address: str) -> tuple[str | None, int]:
    """What changes when a file does: its size and its name by content. Raises StoreError."""
    info = _call(address, "read", lambda fs: fs.info(address))
    return info.get("blob_id"), info["size"]


def n_bytes(address: str) -> int:
    """The size of one file. Raises StoreError."""
    return int(state(address)[1])


def fetch(address: str, place: Path) -> None:
    """Copy a file to the disk, in pieces. Raises StoreError."""

    def copied(fs: Any) -> None:
        with fs.open(address, "rb") as remote, place.open("wb") as local:
            while piece := remote.read(1 << 24):
                local.write(piece)

    _call(address, "read", copied)


def _call(address: str, what: str, operation: Callable[[Any], T]) -> T:
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise StoreError(f"{address}: cannot be {what}: install huggingface_hub") from error
    try:
        return operation(_file_system())
    except FileNotFoundError as error:
        raise StoreError(f"{address}: cannot be {what} ({_said(error)})") from error
    except errors.EntryNotFoundError as error:
        raise StoreError(f"{address}: cannot be {what} ({_said(error)})") from FileNotFoundError(str(error))
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            wanted = "it wants a token with access: set HF_TOKEN"
            raise StoreError(f"{address}: cannot be {what} ({status}; {wanted})") from PermissionError(
                str(error)
            )
        raise _unreachable(address, what, error) from error
    except (errors.HfUriError, errors.HFValidationError, NotImplementedError) as error:
        raise StoreError(
            f"{address}: wanted hf://datasets/OWNER/NAME[@REVISION]/PATH ({_said(error)})"
        ) from error
    except _connection_failures() as error:
        raise _unreachable(address, what, error) from error


def _unreachable(address: str, what: str, error: Exception) -> StoreUnreachableError:
    hub = hub_endpoint() or "the hub"
    return StoreUnreachableError(
        f"{address}: cannot be {what}; {hub} fails or is not to be reached ({_said(error)})"
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _connection_failures() -> tuple[type[Exception], ...]:
    """OSError covers offline mode; the client's own errors are those of the httpx that huggingface_hub came with."""
    from huggingface_hub import get_session

    client = __import__(type(get_session()).__module__.partition(".")[0])
    return OSError, client.HTTPError, client.InvalidURL


def _file_system() -> Any:
    """One file system for a minute: it keeps listings, and so sees no change while it lives."""
    global _current  # noqa: PLW0603  a cache of one
    from huggingface_hub import HfFileSystem, get_session

    hooks = get_session().event_hooks["request"]
    if _bounded not in hooks:
        hooks.append(_bounded)
    now, endpoint = time.monotonic(), hub_endpoint()
    if _current is None or now - _current[0] > _FRESH_S or _current[1] != endpoint:
        _current = now, endpoint, HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
    return _current[2]


def _bounded(request: Any) -> None:
    """Give a request that would wait for ever a limit."""
    told = request.extensions.get("timeout") or {}
    if all(value is None for value in told.values()):
        seconds = hub_timeout_s()
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)
