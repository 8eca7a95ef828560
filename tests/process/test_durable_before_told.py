"""The order on the disk and on the wire: no frame that promises something leaves before its record is on the disk."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from websockets.sync.client import connect

from answerback_aws.emulator.postgres import PostgresServer
from cli_process import Serve
from system_calls import SystemCall, parsed, traced

pytestmark = pytest.mark.process

COUNT = 20
MODEL = """
class Replies:
    # The last character is new in the row; see `title_of`.
    name, context_tokens, concurrency = "replies", 8192, 4

    async def stream(self, prompt):
        yield prompt.messages[-1].text.replace("question", "reply") + "!"

    async def close(self):
        pass


def make():
    return Replies()
"""


def ask_all(url: str) -> None:
    with connect(f"{url}/?userId=u&sessionId=s", proxy=None) as app:
        for number in range(COUNT):
            asked = {"requestId": f"id-{number:03}", "message": f"question-{number:03}", "conversationId": "c"}
            app.send(json.dumps({"action": "sendMessage", **asked}))
            while (frame := json.loads(app.recv(timeout=60)))["action"] != "messageResponse":
                pass
            assert frame["response"] == f"reply-{number:03}!"
            app.send(json.dumps({"action": "cancelMessage", "requestId": f"early-{number:03}"}))
            assert json.loads(app.recv(timeout=60))["status"] == "cancelled"
            title = {"requestId": f"rename-{number:03}", "conversationId": "c", "title": title_of(number)}
            app.send(json.dumps({"action": "updateConversation", **title}))
            assert json.loads(app.recv(timeout=60))["title"] == title_of(number)
            data = f"a file named file-{number:03}".encode()
            digest = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            piece = {"requestId": f"file-{number:03}", "offset": 0, **digest}
            app.send(json.dumps({"action": "putPiece", **piece}))
            piece |= {"upload": json.loads(app.recv(timeout=60))["upload"], "data": base64.b64encode(data).decode()}
            app.send(json.dumps({"action": "putPiece", **piece}))
            assert json.loads(app.recv(timeout=60))["complete"]


def title_of(number: int) -> str:
    """PostgreSQL leaves the common beginning and end of an old and a new row out of its log."""
    return f"{chr(ord('A') + number)} title {chr(ord('a') + number)}"


def assert_durable(calls: Sequence[SystemCall], *, disk: str, told: str, stored: str) -> None:
    """The first frame with `told` left after a sync that began when the first write of `stored` had ended."""
    sent = next(call for call in calls if call.is_of_network and told in call.text)
    written = next(call for call in calls if disk in call.path and stored in call.text)
    syncs = [call for call in calls if call.is_sync and disk in call.path]
    assert any(written.ended <= sync.began and sync.ended <= sent.began for sync in syncs), (
        f"the frame with {told} left {sent.began - written.ended:+.6f} s after its record was written, unsynced"
    )


def assert_all_durable(calls: Sequence[SystemCall], disk: str) -> None:
    for number in range(COUNT):
        accepted = f'"messageAccepted","requestId":"id-{number:03}"'
        assert_durable(calls, disk=disk, told=accepted, stored=f"question-{number:03}")
        assert_durable(calls, disk=disk, told=f"reply-{number:03}!", stored=f"reply-{number:03}!")
        assert_durable(calls, disk=disk, told=f'"early-{number:03}"', stored=f"early-{number:03}")
        title = title_of(number)
        assert_durable(calls, disk=disk, told=f'"title":"{title}"', stored=title)
        digest = hashlib.sha256(f"a file named file-{number:03}".encode()).hexdigest()
        whole = next(
            call for call in calls if call.is_of_network and digest in call.text and '"complete":true' in call.text
        )
        assert_durable(calls, disk=disk, told=whole.text, stored=f"a file named file-{number:03}")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "replies.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "python:replies:make"


def test_sqlite(serve: Serve, tmp_path: Path, model: str) -> None:
    gateway = serve("--model", model)
    with traced(gateway.process.pid, file=tmp_path / "calls") as calls:
        ask_all(gateway.url)
    assert_all_durable(calls, "answerback.db-wal")


def keep_texts_readable(url: str) -> None:
    """Let the server write texts as they are: compressed ones could not be found in its log."""
    with psycopg.connect(url, autocommit=True) as admin:
        for table, column in admin.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'answerback' AND data_type = 'text'"
        ).fetchall():
            names = map(psycopg.sql.Identifier, ("answerback", table, column))
            admin.execute(psycopg.sql.SQL("ALTER TABLE {}.{} ALTER COLUMN {} SET STORAGE EXTERNAL").format(*names))


def test_postgres(serve: Serve, tmp_path: Path, model: str, synced_server: PostgresServer) -> None:
    folder = Path(synced_server.dsn.partition("host=")[2].partition(" ")[0])
    postmaster = int((folder / "data/postmaster.pid").read_text().splitlines()[0])
    with psycopg.connect(synced_server.url) as connection:
        found = connection.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").fetchall()
    ((wal_writer,),) = found  # it runs already, and may sync what a backend has written
    with traced(postmaster, wal_writer, file=tmp_path / "calls of the server") as of_server:
        gateway = serve("--model", model, "--database", synced_server.url)
        keep_texts_readable(synced_server.url)
        with traced(gateway.process.pid, file=tmp_path / "calls") as of_gateway:
            ask_all(gateway.url)
        gateway.stop()
    calls = [
        replace(call, text=without_page_heads(call.text)) if "pg_wal/" in call.path else call for call in of_server
    ]
    assert_all_durable(sorted([*calls, *of_gateway], key=lambda call: call.ended), "pg_wal/")


def without_page_heads(text: str) -> str:
    """The records of PostgreSQL's log: the head of a page may stand in the middle of a word."""
    return "".join(text[at + 24 : at + 8192] for at in range(0, len(text), 8192))


def test_a_word_on_two_pages_of_the_log_is_found() -> None:
    head, pages = "h" * 24, "x" * 8164 + "question"
    log = "".join(head + pages[at : at + 8168] for at in range(0, len(pages), 8168))
    assert "question" not in log
    assert without_page_heads(log) == pages


def test_a_call_that_others_interrupt_keeps_its_file() -> None:
    lines = [
        "7 1.000001 fdatasync(72</data/pg_wal/1> <unfinished ...>",
        '8 1.000002 write(5<TCP:[a->b]>, "told", 4) = 4 <0.000010>',
        "7 1.000100 <... fdatasync resumed>) = 0 <0.000200>",
    ]
    told, sync = parsed(lines)
    assert told.text == "told"
    assert (told.path, sync.path, sync.is_sync, sync.began) == ("TCP:[a->b]", "/data/pg_wal/1", True, 1.000001)
