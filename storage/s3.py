"""The S3 client: how long it waits, how often it asks again, and one error for whatever fails.

What is stored, and what "whole or absent" asks of it, belongs to `objects`.

Each request is repeated by botocore (standard mode: refused, reset, timed out, 429, 500, 502, 503, 504; waits of up
to 1, 2, 4, ... 20 s between). s3fs would repeat each of these five times more, which makes hours of a dead server, so
its own loop is off. An answer that breaks off while its body is read is nobody's there: `call` does the whole
operation again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from storage.settings import S3Limits

T = TypeVar("T")


class StoreError(Exception):
    """A path that may not be used, or content that is not there."""


class StoreUnreachableError(StoreError):
    """The server failed or did not answer, all attempts through: it says nothing of the content; run again."""


def filesystem() -> Any:
    """The S3 file system by the standard AWS variables, AWS_ENDPOINT_URL too; listings are not cached."""
    limits = S3Limits.from_environment()
    found = fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": limits.connect_timeout_s,
            "read_timeout": limits.read_timeout_s,
            "retries": {"mode": "standard", "total_max_attempts": limits.attempts},
        },
    )
    found.retries = 1
    return found


def call(address: str, what: str, operation: Callable[[Any], T]) -> T:
    """The result of `operation(file system)`, which must be safe to repeat; `what` is read, written, ...

    Raises StoreError where something is absent or forbidden, StoreUnreachableError where the server fails.
    """
    attempts = S3Limits.from_environment().attempts
    for attempt in range(1, attempts + 1):
        try:
            return operation(filesystem())
        except Exception as error:
            if _broke_off(error) and attempt < attempts:
                continue
            if not isinstance(error, _client_errors()):
                raise
            certain = isinstance(error, FileNotFoundError | PermissionError)
            kind = StoreError if certain else StoreUnreachableError
            raise kind(f"{address}: cannot be {what} ({error})") from error
    raise AssertionError("unreachable: attempts is at least 1")


def _client_errors() -> tuple[type[Exception], ...]:
    from aiohttp import ClientError as ConnectionFailure
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return OSError, BotoCoreError, ClientError, ResponseParserError, ConnectionFailure


def _broke_off(error: Exception) -> bool:
    """Whether the body of an answer ended early or stalled, which no request below notices."""
    from aiobotocore.response import AioReadTimeoutError
    from aiohttp import ClientPayloadError
    from botocore.exceptions import IncompleteReadError, ResponseStreamingError

    lost = (AioReadTimeoutError, ClientPayloadError, IncompleteReadError, ResponseStreamingError)
    return isinstance(error, lost)
