from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer

from storage.lineage import Ledger
from storage.objects import Store
from tests.faults.faulty_s3 import FaultyS3
from tests.storage.small_world import SmallWorld


@pytest.fixture(scope="session")
def sound_s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(sound_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    with FaultyS3(sound_s3) as proxy:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "HOME": str(tmp_path / "home"),
            "SALIENCY_R1_S3_CONNECT_TIMEOUT_S": "1",
            "SALIENCY_R1_S3_READ_TIMEOUT_S": "1",
            "SALIENCY_R1_S3_ATTEMPTS": "2",
            "SALIENCY_R1_S3_PART_MIB": "5",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        fsspec.filesystem("s3").clear_instance_cache()  # an instance of another test has another server
        yield proxy
        fsspec.filesystem("s3").clear_instance_cache()


class Behind:
    """What the server really has, asked past the faults."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self.client, self.bucket = boto3.client("s3", endpoint_url=endpoint), bucket
        self.client.create_bucket(Bucket=bucket)

    def names(self, prefix: str = "root/") -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [entry["Key"].removeprefix("root/") for entry in found]

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"root/{name}")["Body"].read()


@pytest.fixture
def behind(s3: FaultyS3, sound_s3: str, tmp_path: Path) -> Behind:
    return Behind(sound_s3, tmp_path.name.replace("_", "-"))


@pytest.fixture
def store(behind: Behind, tmp_path: Path) -> Store:
    return Store(f"s3://{behind.bucket}/root", cache_dir=tmp_path / "cache")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


@pytest.fixture
def world(s3: FaultyS3, ledger: Ledger, tmp_path: Path) -> SmallWorld:
    made = SmallWorld(ledger, tmp_path / "scratch")
    s3.heal()
    return made
