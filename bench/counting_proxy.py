"""A proxy before the emulator that counts every call of AWS which the functions make, and what it is billed as."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from answerback_aws.emulator.bedrock import ThreadedServer
from answerback_aws.runtime.dynamodb.items import Item, decode

_READ_UNIT_BYTES: Final = 4096
_MAX_BODY_BYTES: Final = 8 * 1024 * 1024
_HOP_BY_HOP: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})
_READS: Final = frozenset({"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"})
_BILLED: Final = _READS | {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"}
_CONNECTIONS: Final = re.compile(r".*/@connections/[^/]+")
_FILES: Final = re.compile(r"/[^/]+/(up|blob)/.*")
_POSTS: Final = {"POST": "PostToConnection", "GET": "GetConnection", "DELETE": "DeleteConnection"}
_PATHS: Final = {
    "/Execute": ("RDSData", "ExecuteStatement"),
    "/BatchExecute": ("RDSData", "BatchExecuteStatement"),
    "/BeginTransaction": ("RDSData", "BeginTransaction"),
    "/CommitTransaction": ("RDSData", "CommitTransaction"),
    "/RollbackTransaction": ("RDSData", "RollbackTransaction"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: bytes of its body, and DynamoDB's units. `table`: of a single-table operation."""

    service: str
    operation: str
    status: int
    sent_bytes: int
    table: str = ""
    read_units: float = 0.0
    write_units: float = 0.0


class CountingProxy(ThreadedServer):
    """Hands what it takes to `endpoint`. `calls` is what went through so far.

    DynamoDB is asked for the units of each call. Anything else is counted by its rules: a write whose condition
    failed is billed like one that did not.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__("counting proxy", self._app)
        self.calls: list[Call] = []
        self._endpoint = endpoint

    @asynccontextmanager
    async def _app(self) -> AsyncIterator[web.Application]:
        connector = TCPConnector(limit=0)
        async with ClientSession(timeout=ClientTimeout(total=None), connector=connector, auto_decompress=False) as up:

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._forward(up, request)

            app = web.Application(client_max_size=_MAX_BODY_BYTES)
            app.router.add_route("*", "/{path:.*}", handle)
            yield app

    async def _forward(self, up: ClientSession, request: web.Request) -> web.StreamResponse:
        service, operation = _named(request.method, request.path, request.headers.get("X-Amz-Target", ""))
        body = await request.read()
        sent = _asking(body) if service == "DynamoDB" and operation in _BILLED else body
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        received = bytearray()
        url = f"{self._endpoint}{request.raw_path}"
        async with up.request(request.method, url, data=sent, headers=headers, skip_auto_headers=("Accept",)) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            # DynamoDB's checksum is of what it says without the units that it was asked for.
            response = web.StreamResponse(status=answer.status, headers=headers)
            response.headers.popall("X-Amz-Crc32", None)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                received += piece
                await response.write(piece)
        read, written = _units(operation, body, bytes(received), answer.status) if service == "DynamoDB" else (0.0, 0.0)
        self.calls.append(
            Call(
                service=service,
                operation=operation,
                status=answer.status,
                sent_bytes=len(body),
                table=_table(body) if service == "DynamoDB" else "",
                read_units=read,
                write_units=written,
            )
        )
        await response.write_eof()
        return response


def _named(method: str, path: str, target: str) -> tuple[str, str]:
    """Service and operation."""
    if target:
        service, _, operation = target.partition(".")
        return service.partition("_")[0].removeprefix("Amazon"), operation
    if _CONNECTIONS.fullmatch(path):
        return "ApiGatewayManagement", _POSTS.get(method, method)
    if path in _PATHS:
        return _PATHS[path]
    if path.endswith("/converse-stream"):
        return "Bedrock", "ConverseStream"
    if _FILES.fullmatch(path):
        return "S3", method
    return "other", f"{method} {path}"


def _asking(body: bytes) -> bytes:
    return json.dumps({**json.loads(body), "ReturnConsumedCapacity": "TOTAL"}).encode()


def _table(body: bytes) -> str:
    return str(json.loads(body).get("TableName", ""))


def _units(operation: str, body: bytes, received: bytes, status: int) -> tuple[float, float]:
    """Read and write units of a call of DynamoDB."""
    answer = json.loads(received or b"{}")
    if status >= 400:
        return 0.0, _refused(answer, json.loads(body))
    if operation == "BatchGetItem" and "ConsumedCapacity" not in answer:
        # The emulator does not count it; we always ask it to be consistent.
        return float(sum(read_units_of(item) for items in answer["Responses"].values() for item in items)), 0.0
    consumed: Any = answer.get("ConsumedCapacity", [])
    units = float(sum(part["CapacityUnits"] for part in (consumed if isinstance(consumed, list) else [consumed])))
    return (units, 0.0) if operation in _READS else (0.0, units)


def _refused(answer: Mapping[str, Any], asked: Mapping[str, Any]) -> float:
    """A refused write costs what it would have cost; ours, which may be refused, have at most 1 KB."""
    kind = str(answer.get("__type", "")).rpartition("#")[2]
    if kind == "ConditionalCheckFailedException":
        return 1.0
    return 2.0 * len(asked["TransactItems"]) if kind == "TransactionCanceledException" else 0.0


def read_units_of(item: Item) -> int:
    """Of one strongly consistent read. An item is about as large as its names and values in UTF-8."""
    size = sum(len(name) + len(str(value).encode()) for name, value in decode(item).items())
    return -(-size // _READ_UNIT_BYTES)
