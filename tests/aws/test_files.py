"""Files in S3, where the contract of all stores of files does not look: at the objects."""

import hashlib
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from answerback.core.uploads import FileKey
from answerback.protocol.limits import PIECE_BYTES
from answerback_aws.emulator.emulator import CREDENTIALS, REGION
from answerback_aws.runtime.client import Calls
from answerback_aws.runtime.dynamodb.database import Database
from answerback_aws.runtime.s3_files import S3Files
from dynamo import NOW_MS, own_tables

DATA = b"x" * PIECE_BYTES + b"rest"


class Bucket:
    def __init__(self, files: S3Files, client: Any, name: str) -> None:
        self.files = files
        self._client = client
        self._name = name

    @property
    def folders(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self._name).get("Contents", [])
        return sorted(one["Key"].split("/")[0] for one in found)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with mock_aws():
        session = boto3.Session(region_name=REGION, **CREDENTIALS)
        dynamodb, s3, calls = session.client("dynamodb"), session.client("s3"), Calls(threads=2)
        s3.create_bucket(Bucket="files")
        with own_tables(dynamodb) as tables:
            database = Database(client=dynamodb, calls=calls, tables=tables)
            yield Bucket(
                S3Files(database, s3=lambda: s3, calls=calls, bucket="files", clock=lambda: NOW_MS), s3, "files"
            )


async def bring(files: S3Files, key: FileKey, data: bytes) -> None:
    await files.begin(key, "up", now_ms=NOW_MS)
    for number in range(key.pieces):
        piece = data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
        await files.put(key, "up", number, piece, now_ms=NOW_MS)


async def test_bytes_of_another_file_are_never_written_whole(bucket: Bucket) -> None:
    key = FileKey("ann", hashlib.sha256(DATA).hexdigest(), len(DATA))
    await bring(bucket.files, key, DATA[:-1] + b"T")
    assert await bucket.files.examine(key) is None
    assert bucket.folders == ["up", "up"]
    assert await bucket.files.read_range(key, 0, 9) is None


async def test_pieces_and_files_of_a_user_are_erased(bucket: Bucket) -> None:
    key = FileKey("ann", hashlib.sha256(DATA).hexdigest(), len(DATA))
    await bring(bucket.files, key, DATA)
    assert await bucket.files.examine(key) == "text/plain"
    await bucket.files.complete(key, "up", content="text/plain", now_ms=NOW_MS)
    assert bucket.folders == ["blob", "up", "up"]
    assert await bucket.files.erase("bob") is False
    assert await bucket.files.erase("ann") is True
    assert bucket.folders == []
