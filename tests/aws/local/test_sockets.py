"""The emulated API Gateway behaves as AWS's where the emulator alone would not."""

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from answerback_aws.emulator.emulator import Emulator
from emulation import emulator_python

pytestmark = pytest.mark.emulator

HANDLER = """
import json, os, time, boto3
posts = boto3.client("apigatewaymanagementapi", endpoint_url=os.environ["ENDPOINT"])
met = boto3.client("sqs")

def handler(event, context):
    asked = event["requestContext"]
    query = event.get("queryStringParameters") or {}
    if asked["eventType"] == "CONNECT":
        if query.get("mode") == "raise":
            raise RuntimeError("secret text")
        if query.get("mode") == "slow":
            time.sleep(2)
        if query.get("mode") == "post":
            try:
                posts.post_to_connection(ConnectionId=asked["connectionId"], Data="too early")
            except posts.exceptions.GoneException:
                return {"statusCode": 418}
        headers = {"Sec-WebSocket-Protocol": "answerback.v1"} if query.get("mode") == "protocol" else {}
        return {"statusCode": int(query.get("status", 200)), "headers": headers}
    if asked["eventType"] == "MESSAGE":
        print("WAS CALLED")
        body = json.loads(event["body"])
        if body.get("mode") == "raise":
            raise RuntimeError("secret text")
        if body.get("mode") == "slow":
            time.sleep(2)
        if body.get("mode") == "many":
            for number in range(9):
                posts.post_to_connection(ConnectionId=asked["connectionId"], Data=str(number))
            return {"statusCode": 200}
        if body.get("mode") == "wait":
            while not met.receive_message(QueueUrl=os.environ["QUEUE"], WaitTimeSeconds=1).get("Messages"):
                pass
        if body.get("mode") == "meet":
            met.send_message(QueueUrl=os.environ["QUEUE"], MessageBody="go on")
        told = {**asked, "mode": body.get("mode"), "body": len(event["body"])}
        posts.post_to_connection(ConnectionId=asked["connectionId"], Data=json.dumps(told))
        return {"statusCode": 200, "body": "dropped"}
    return {"statusCode": 200}
"""


class Api:
    """A WebSocket API with one function behind all of its routes."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        gateway, functions = emulator.client("apigatewayv2"), emulator.client("lambda")
        self.api_id = gateway.create_api(
            Name="sockets", ProtocolType="WEBSOCKET", RouteSelectionExpression="$request.body.action"
        )["ApiId"]
        self.endpoint = emulator.management_endpoint(self.api_id, "v1")
        queue = emulator.client("sqs").create_queue(QueueName="meeting")["QueueUrl"]
        function = functions.create_function(
            FunctionName="sockets",
            Runtime="python3.13",
            Role="arn:aws:iam::000000000000:role/any",
            Handler="code.handler",
            Timeout=30,
            Code={"ZipFile": _zip({"code.py": HANDLER})},
            Environment={"Variables": {"ENDPOINT": self.endpoint, "QUEUE": queue}},
        )["FunctionArn"]
        uri = f"arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{function}/invocations"
        target = gateway.create_integration(ApiId=self.api_id, IntegrationType="AWS_PROXY", IntegrationUri=uri)
        for route in ("$connect", "$disconnect", "$default"):
            gateway.create_route(ApiId=self.api_id, RouteKey=route, Target=f"integrations/{target['IntegrationId']}")
        gateway.create_stage(ApiId=self.api_id, StageName="v1", AutoDeploy=True)

    def connect(self, query: str = "", *, stage: str = "v1", protocols: tuple[str, ...] = ()) -> connect:
        url = self.emulator.websocket_url(self.api_id, stage)
        offered = [Subprotocol(protocol) for protocol in protocols]
        return connect(f"{url}?{query}", subprotocols=offered or None, proxy=None)


def _zip(files: dict[str, str]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return written.getvalue()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with Emulator(python=emulator_python(), folder=tmp_path_factory.mktemp("sockets")) as emulator:
        yield Api(emulator)


async def ask(socket: ClientConnection, **frame: object) -> dict[str, object]:
    await socket.send(json.dumps(frame))
    async with asyncio.timeout(30):
        answer: dict[str, object] = json.loads(await socket.recv())
    return answer


async def test_the_function_chooses_the_subprotocol(api: Api) -> None:
    async with api.connect("mode=protocol", protocols=("answerback.v1", "bearer.x")) as socket:
        assert socket.subprotocol == "answerback.v1"


@pytest.mark.parametrize(("query", "status"), [("status=401", 401), ("status=500", 500), ("mode=raise", 502)])
async def test_a_refused_connect_has_the_status_of_the_function(api: Api, query: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with api.connect(query):
            pass
    assert refused.value.response.status_code == status
    assert b"secret text" not in (refused.value.response.body or b"")


async def test_an_unknown_stage_is_forbidden(api: Api) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with api.connect(stage="other"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_function_that_fails_is_reported_without_its_text(api: Api) -> None:
    async with api.connect() as socket:
        failure = await ask(socket, action="any", mode="raise")
        assert set(failure) == {"message", "connectionId", "requestId"}
        assert failure["message"] == "Internal server error"
        assert (await ask(socket, action="any"))["connectionId"] == failure["connectionId"]


async def test_frames_of_one_connection_run_beside_each_other(api: Api) -> None:
    """The first waits for what only the second sends."""
    async with api.connect() as socket:
        await socket.send(json.dumps({"mode": "wait"}))
        await socket.send(json.dumps({"mode": "meet"}))
        async with asyncio.timeout(30):
            modes = [json.loads(await socket.recv())["mode"] for _ in range(2)]
        assert sorted(modes) == ["meet", "wait"]


async def test_the_context_is_that_of_the_connection(api: Api) -> None:
    async with api.connect() as socket:
        first, second = await ask(socket, n=1), await ask(socket, n=2)
        assert first["connectedAt"] == second["connectedAt"]
        assert first["requestId"] == first["extendedRequestId"] != second["requestId"]
        assert first["messageDirection"] == "IN"
        management = api.emulator.client("apigatewaymanagementapi", endpoint_url=api.endpoint)
        found = management.get_connection(ConnectionId=first["connectionId"])
        assert found["Identity"]["SourceIp"] == "127.0.0.1"
        assert found["ConnectedAt"] <= found["LastActiveAt"]
        with pytest.raises(ClientError, match="PayloadTooLargeException"):
            management.post_to_connection(ConnectionId=first["connectionId"], Data=b"x" * (32 * 1024 + 1))
        management.post_to_connection(ConnectionId=first["connectionId"], Data=b"x" * 32 * 1024)
        assert len(await socket.recv()) == 32 * 1024


async def test_a_client_cannot_take_the_routes_of_the_gateway(api: Api) -> None:
    async with api.connect() as socket:
        assert (await ask(socket, action="$connect"))["routeKey"] == "$default"
        assert (await ask(socket, action="$disconnect"))["routeKey"] == "$default"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"binary", 1003),
        ("x" * (32 * 1024 + 1), 1009),
        ("x" * 1024 * 1024, 1009),
        (["x", "x" * (32 * 1024 + 1)], 1009),
        (["x" * 32 * 1024] * 4 + ["x"], 1009),
    ],
    ids=["binary", "frame", "huge frame", "fragment", "message"],
)
async def test_frames_over_the_limits_close_the_connection(api: Api, frame: str | bytes | list[str], code: int) -> None:
    async with api.connect() as socket:
        await socket.send(frame)
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


async def test_a_message_of_128_kb_is_delivered(api: Api) -> None:
    async with api.connect() as socket:
        frame = json.dumps({"mode": "x" * 24_000, "rest": ""})
        frame = json.dumps({"mode": "x" * 24_000, "rest": "y" * (128 * 1024 - len(frame))})
        await socket.send([frame[start : start + 32 * 1024] for start in range(0, len(frame), 32 * 1024)])
        assert json.loads(await socket.recv())["body"] == 128 * 1024


async def test_nothing_can_be_posted_to_a_connection_that_opens(api: Api) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with api.connect("mode=post"):
            pass
    assert refused.value.response.status_code == 418  # as the function says when the post is refused with 410


async def test_a_frame_that_nobody_can_read_has_the_default_route(api: Api) -> None:
    async with api.connect() as socket:
        await socket.send("[" * 30_000)
        # The function of this test fails at it, too.
        assert json.loads(await socket.recv())["message"] == "Internal server error"


async def test_calls_are_in_the_log_of_the_function(api: Api) -> None:
    async with api.connect() as socket:
        await ask(socket, action="any")
    logs = api.emulator.client("logs")
    found = logs.filter_log_events(logGroupName="/aws/lambda/sockets", filterPattern="WAS CALLED")["events"]
    assert found


@pytest.mark.parametrize("limit", ["idle_timeout_s", "connection_limit_s"])
async def test_an_idle_and_an_old_connection_are_closed(tmp_path: Path, limit: str) -> None:
    limits = {"idle_timeout_s": 600.0, "connection_limit_s": 7200.0, limit: 0.5}
    with Emulator(python=emulator_python(), folder=tmp_path, **limits) as emulator:  # type: ignore[arg-type]
        async with Api(emulator).connect() as socket:
            with pytest.raises(ConnectionClosed) as closed:
                async with asyncio.timeout(30):
                    await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "Going away")


async def test_a_function_that_takes_too_long_is_given_up_and_runs_on(tmp_path: Path) -> None:
    with Emulator(python=emulator_python(), folder=tmp_path, integration_timeout_s=1) as emulator:
        api = Api(emulator)
        opening = {"requestContext": {"eventType": "CONNECT", "connectionId": "c"}}
        warm = emulator.client("lambda").invoke(FunctionName="sockets", Payload=json.dumps(opening))
        assert json.loads(warm["Payload"].read()) == {"statusCode": 200, "headers": {}}
        async with api.connect() as socket:
            told = await ask(socket, mode="slow")
            assert set(told) == {"message", "connectionId", "requestId"}
            assert told["message"] == "Endpoint request timed out"
            async with asyncio.timeout(30):
                assert json.loads(await socket.recv())["mode"] == "slow"
        with pytest.raises(InvalidStatus) as refused:
            async with api.connect("mode=slow"):
                pass
        assert refused.value.response.status_code == 504


async def test_unruly_posts_come_in_another_order_and_some_twice(tmp_path: Path) -> None:
    with Emulator(python=emulator_python(), folder=tmp_path, unruly_posts=True) as emulator:
        async with Api(emulator).connect() as socket, asyncio.timeout(30):
            await socket.send(json.dumps({"mode": "many"}))
            came = [int(await socket.recv()) for _ in range(12)]
    assert set(came) == set(range(9))
    assert came != sorted(came)
