"""A real S3 server on loopback for the tests, and the environment in which clients find it and no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of a server that runs inside the block."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def clients_of(
    endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str
) -> Iterator[None]:
    """Clients inside the block ask that endpoint; `folder` is their home, `variables` come on top."""
    told = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "HOME": str(folder / "home"),
    }
    for name, value in (told | variables).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    fsspec.filesystem("s3").clear_instance_cache()  # an instance of another test has another server
    yield
    fsspec.filesystem("s3").clear_instance_cache()
