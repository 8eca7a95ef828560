"""Clients that know only `sendMessage` and `messageResponse`, in two languages, against a real gateway process."""

import asyncio
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from cli_process import STOP_TIMEOUT_S, GatewayProcess, start_gateway

HERE = Path(__file__).parent
IN_FLIGHT = 200

pytestmark = pytest.mark.process


class ChatClient:
    """A desktop app's client as its author would write it: a table of futures by request id, and a listener."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.pending: dict[str, asyncio.Future[dict]] = {}
        self.actions: set[str] = set()

    async def connect(self, url: str) -> None:
        self.socket: ClientConnection = await connect(url)
        self.listener = asyncio.create_task(self.listen())

    async def listen(self) -> None:
        async for text in self.socket:
            data = json.loads(text)
            self.actions.add(data["action"])
            if data["action"] == "messageResponse":
                self.pending.pop(data["requestId"]).set_result(data)

    async def send_message(self, message: str) -> str:
        return (await self.send_and_get_all(message))["response"]

    async def send_and_get_all(self, message: str) -> dict:
        request_id = str(uuid.uuid4())
        future = self.pending[request_id] = asyncio.get_running_loop().create_future()
        frame = {
            "action": "sendMessage",
            "requestId": request_id,
            "userId": self.user_id,
            "message": message,
            "timestamp": datetime.now(UTC).isoformat(),
        }
        await self.socket.send(json.dumps(frame))
        return await future

    async def close(self) -> None:
        await self.socket.close()
        await self.listener


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("two-frames")
    gateway = start_gateway("--rate-limit", "0", data_dir=folder / "data", log=folder / "log")
    yield gateway
    assert gateway.stop() == 0
    assert gateway.process.stdout is not None
    gateway.process.stdout.close()


@pytest.mark.timeout(60)
async def test_python_200_in_flight(gateway: GatewayProcess) -> None:
    client = ChatClient("user_001")
    await client.connect(gateway.url)
    questions = [f"Question {number}: 안녕하세요 👋" for number in range(IN_FLIGHT)]
    answers = await asyncio.gather(*(client.send_message(question) for question in questions))
    await client.close()
    assert answers == questions


@pytest.mark.timeout(60)
async def test_the_answer_has_the_fields_that_were_promised(gateway: GatewayProcess) -> None:
    client = ChatClient("user_001")
    await client.connect(gateway.url)
    data = await client.send_and_get_all("What is a WebSocket?")
    await client.close()
    assert data["action"] == "messageResponse"
    assert data["response"] == "What is a WebSocket?"
    assert data["status"] == "completed"
    assert client.actions <= {"messageAccepted", "messageResponse"}


@pytest.mark.timeout(60)
async def test_many_apps_get_their_own_answers_only(gateway: GatewayProcess) -> None:
    clients = [ChatClient(f"user_{number:03}") for number in range(20)]
    await asyncio.gather(*(client.connect(gateway.url) for client in clients))

    async def ask_all(client: ChatClient) -> None:
        questions = [f"{client.user_id} asks {number}" for number in range(20)]
        assert await asyncio.gather(*map(client.send_message, questions)) == questions

    await asyncio.gather(*map(ask_all, clients))
    await asyncio.gather(*(client.close() for client in clients))


@pytest.mark.timeout(60)
def test_node_200_in_flight(gateway: GatewayProcess) -> None:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules" / "ws").is_dir():
        why = "Node and its package ws are not here (make test installs them)"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    command = [node, str(HERE / "two_frame.mjs"), gateway.url, str(IN_FLIGHT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert len(answers) == IN_FLIGHT
    assert all(question == answer for question, answer in answers.items())
