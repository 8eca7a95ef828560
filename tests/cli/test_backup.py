"""`answerback backup` and `restore`, beside gateways that run."""

import asyncio
import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from websockets.sync.client import connect

from answerback.core.request import Question
from answerback.ports import Quota
from answerback.stores import open_store
from asking import record_of
from cli_process import GatewayProcess, Run, Serve

pytestmark = pytest.mark.process


def ask(gateway: GatewayProcess, *request_ids: str) -> None:
    with connect(gateway.url, proxy=None) as app:
        for name in request_ids:
            frame = {"action": "sendMessage", "requestId": name, "userId": "ann", "message": f"one {name}"}
            app.send(json.dumps(frame))
            while json.loads(app.recv(timeout=30))["action"] != "messageResponse":
                pass


def answers(data_dir: Path) -> dict[str, str]:
    with closing(sqlite3.connect(data_dir / "answerback.db")) as connection:
        return dict(connection.execute("SELECT request_id, answer FROM requests WHERE ended_at_ms IS NOT NULL"))


def test_a_gateway_that_answers_is_copied_and_goes_on(serve: Serve, run: Run, tmp_path: Path) -> None:
    gateway = serve("--rate-limit", "0")
    ask(gateway, "first")
    names = [f"r{number}" for number in range(300)]
    asking = threading.Thread(target=ask, args=(gateway, *names))
    asking.start()
    place = ("--data-dir", str(gateway.data_dir))
    made = run("backup", str(tmp_path / "b"), *place, "--json")
    asking.join()
    assert made.code == 0, made.err
    refused = run("restore", str(tmp_path / "b"), *place)
    assert refused.code == 1
    assert "Stop it first" in refused.err
    gateway.stop()
    restored = run("restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "new"), "--json")
    assert json.loads(restored.out) == json.loads(made.out)
    found, everything = answers(tmp_path / "new"), answers(gateway.data_dir)
    assert found.items() <= everything.items()
    assert found["first"] == "one first"
    again = serve("--rate-limit", "0", data_dir=tmp_path / "new")
    ask(again, "later")
    assert json.loads(run("users", "list", "--json", "--data-dir", str(tmp_path / "new")).out)[0]["userId"] == "ann"


def test_requests_that_had_not_ended_end_after_a_restore(serve: Serve, run: Run, tmp_path: Path) -> None:
    async def leave_one() -> None:
        store = await open_store(None, tmp_path / "data")
        record = record_of("old", "ann", conversation_id="c", session_id="s", accepted_at_ms=1_750_000_000_000)
        quota = Quota(per_minute=0, max_pending=10)
        await store.accept(record, Question(message="?", model="echo"), quota, now_ms=record.accepted_at_ms)
        await store.close()

    asyncio.run(leave_one())
    assert run("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "data")).code == 0
    assert run("restore", str(tmp_path / "b"), "--data-dir", str(tmp_path / "new")).code == 0
    gateway = serve(data_dir=tmp_path / "new")
    with connect(f"{gateway.url}?userId=ann&sessionId=s", proxy=None) as app:
        resume = [{"requestId": "old", "attempt": 0, "offset": 0}]
        app.send(json.dumps({"action": "hello", "helloId": "h", "resume": resume}))
        while (frame := json.loads(app.recv(timeout=30)))["action"] != "messageResponse":
            pass
    assert (frame["requestId"], frame["status"], frame["error"]["code"]) == ("old", "failed", "timeout")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    asyncio.run(_make(tmp_path / "data"))
    return tmp_path


async def _make(data_dir: Path) -> None:
    await (await open_store(None, data_dir)).close()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("backup", "data", "--data-dir", "data"), 1, "overwrites nothing"),
        (("backup", "no/where", "--data-dir", "data"), 1, "cannot be made (No such file or directory)"),
        (("backup", "b", "--data-dir", "nothing"), 1, "There is no database in nothing"),
        (("backup", "b", "--database", "mysql://x"), 1, "cannot be used"),
        (("backup", "b", "--database", "postgresql://127.0.0.1:1/x"), 1, "cannot be used"),
        (("backup",), 2, "FOLDER"),
        (("restore", "data", "--data-dir", "new"), 1, "is not a backup"),
        (("restore", "nothing", "--data-dir", "new"), 1, "is not a backup"),
        (("restore", "data/answerback.db", "--data-dir", "new"), 1, "is not a backup"),
        (("restore", "data", "--database", "postgresql://127.0.0.1:1/x"), 1, "is not a backup"),
    ],
)
def test_what_cannot_be_done_is_said(plain: Path, run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert sorted(os.listdir(plain)) == ["data"]
