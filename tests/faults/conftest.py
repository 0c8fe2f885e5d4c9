from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from storage.lineage import Ledger
from storage.objects import Store
from tests.faults.faulty_s3 import FaultyS3
from tests.s3_server import clients_of, s3_server
from tests.storage.small_world import SmallWorld


@pytest.fixture(scope="session")
def sound_s3() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(sound_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    limits = {"CONNECT_TIMEOUT_S": "1", "READ_TIMEOUT_S": "1", "ATTEMPTS": "2", "PART_MIB": "5"}
    told = {f"SALIENCY_R1_S3_{name}": value for name, value in limits.items()}
    with FaultyS3(sound_s3) as proxy, clients_of(proxy.url, tmp_path, monkeypatch, **told):
        yield proxy


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
