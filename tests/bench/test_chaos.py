"""Chaos: what its judge must notice, what its proxy does, and short storms over the real thing."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from answerback.cli.main import run
from answerback.cli.output import ExitCode
from answerback.core import request as changes
from answerback.core.request import Ending, Policy, Question, Record, RequestKey
from answerback.ports import Quota
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    MessageAccepted,
    MessageDelta,
    MessageResponse,
    ServerFrame,
    Status,
)
from answerback.stores.memory import MemoryStore
from answerback_proof.chaos.book import Asked, Book, Kind, Outcome, Result
from answerback_proof.chaos.faults import (
    DEATHS,
    DISK_FULL,
    FREEZE,
    KILL,
    KILL_STARTING,
    KILLS,
    POSTGRES,
    TERMINATE,
    deck,
)
from answerback_proof.chaos.judge import Judge
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Path as ProxyPath
from answerback_proof.chaos.proxy import Proxy
from answerback_proof.chaos.report import write_trace
from answerback_proof.chaos.run import run_chaos
from answerback_proof.chaos.weather import APP_RESTARTED
from answerback_proof.chaos.wire import Wire

QUOTA = Quota(per_minute=0, max_pending=1000)


# --- the judge ------------------------------------------------------------------------------------------


def ask(book: Book, request_id: str, *, number: int = 1, how: str = "stream") -> Asked:
    asked = Asked(
        request_id=request_id,
        user="kim",
        session="s",
        conversation="c",
        number=number,
        text=f"{request_id} one two three",
        how=how,
        asked_at_ms=0,
    )
    return book.ask(asked)


async def accept_it(store: MemoryStore, asked: Asked) -> RequestKey:
    record = Record(
        user_id=asked.user,
        request_id=asked.request_id,
        session_id=asked.session,
        conversation_id=asked.conversation or asked.session,
        ordering_key="k",
        fingerprint="f",
        model="echo",
        accepted_at_ms=10,
    )
    await store.accept(record, Question(message=asked.text, model="echo"), QUOTA, now_ms=10)
    asked.accepted_at_ms = 10
    return record.key


async def store_it(
    store: MemoryStore,
    book: Book,
    asked: Asked,
    *,
    text: str | None = None,
    status: Status = Status.COMPLETED,
    code: ErrorCode | None = None,
) -> None:
    """Through the store as a gateway would, the model's run told to the book."""
    key = await accept_it(store, asked)
    await store.change(key, partial(changes.claim, owner="o", now_ms=20, policy=Policy()))
    book.runs[asked.request_id].append(1)
    book.run_order.append(asked.request_id)
    answer = asked.text if text is None else text
    ending = Ending(status=status, attempt=1, length=len(answer), ended_at_ms=30, error_code=code)
    await store.change(key, partial(changes.finish, owner="o", attempt=1, ending=ending, text=answer))


def saw(asked: Asked, *, text: str | None = None, result: Result = Result.COMPLETED, code: str = "") -> None:
    answer = asked.text if text is None else text
    asked.outcomes.append(Outcome(result=result, text=answer, attempt=1, code=code))


async def well(store: MemoryStore, book: Book) -> tuple[Asked, Asked]:
    """Two questions that came home."""
    first, second = ask(book, "r1", number=1), ask(book, "r2", number=2)
    for asked in (first, second):
        await store_it(store, book, asked)
        saw(asked)
    return first, second


async def verdict(store: MemoryStore, book: Book) -> set[tuple[Kind, str]]:
    await Judge(book, store, store, deaths=DEATHS).judge()
    return {(violation.kind, violation.request_id) for violation in book.violations}


async def test_what_came_home_is_clean() -> None:
    store, book = MemoryStore(), Book()
    await well(store, book)
    assert await verdict(store, book) == set()


def _no_ending(first: Asked, _: Book) -> None:
    first.outcomes.clear()


def _two_endings(first: Asked, _: Book) -> None:
    saw(first)


def _the_other_answer(first: Asked, book: Book) -> None:
    first.outcomes.clear()
    saw(first, text=book.asked["r2"].text)


def _a_character_less(first: Asked, _: Book) -> None:
    first.outcomes.clear()
    saw(first, text=first.text[:-1])


def _gave_up(first: Asked, _: Book) -> None:
    first.outcomes.clear()
    saw(first, result=Result.TIMED_OUT, text="")


def _another_result(first: Asked, _: Book) -> None:
    first.outcomes.clear()
    saw(first, result=Result.CANCELLED)


def _ran_twice(first: Asked, book: Book) -> None:
    book.runs[first.request_id].append(1)


def _ran_after_its_end(first: Asked, book: Book) -> None:
    book.runs[first.request_id].append(2)
    book.faults.append((25, KILL))


def _ran_without_a_death(first: Asked, book: Book) -> None:
    book.runs[first.request_id] = [0, 1]
    book.faults.append((5, KILL))


def _never_ran(first: Asked, book: Book) -> None:
    del book.runs[first.request_id]


def _ran_late(_: Asked, book: Book) -> None:
    book.run_order.reverse()


def _accepted_late(first: Asked, book: Book) -> None:
    first.number = 3


def _not_asked(first: Asked, book: Book) -> None:
    del book.asked[first.request_id]
    del book.runs[first.request_id]


def _of_another_session(first: Asked, _: Book) -> None:
    first.session = "another"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_no_ending, (Kind.LOST, "r1")),
        (_two_endings, (Kind.REPEATED, "r1")),
        (_the_other_answer, (Kind.FOREIGN, "r1")),
        (_a_character_less, (Kind.DIFFERENT, "r1")),
        (_gave_up, (Kind.LOST, "r1")),
        (_another_result, (Kind.DIFFERENT, "r1")),
        (_ran_twice, (Kind.REPEATED, "r1")),
        (_ran_after_its_end, (Kind.REPEATED, "r1")),
        (_ran_without_a_death, (Kind.REPEATED, "r1")),
        (_never_ran, (Kind.FOREIGN, "r1")),
        (_ran_late, (Kind.DISORDERED, "r1")),
        (_accepted_late, (Kind.DISORDERED, "r2")),
        (_not_asked, (Kind.FOREIGN, "r1")),
        (_of_another_session, (Kind.FOREIGN, "r1")),
    ],
)
async def test_every_broken_promise_is_noticed(spoil: Callable[[Asked, Book], None], found: tuple[Kind, str]) -> None:
    store, book = MemoryStore(), Book()
    first, _ = await well(store, book)
    spoil(first, book)
    assert found in await verdict(store, book)


async def test_an_accepted_request_without_a_record_or_an_ending_is_lost() -> None:
    store, book = MemoryStore(), Book()
    gone, unfinished = ask(book, "gone"), ask(book, "unfinished")
    for asked in (gone, unfinished):
        saw(asked, result=Result.TIMED_OUT)
    gone.accepted_at_ms = 10
    await accept_it(store, unfinished)
    assert await verdict(store, book) == {(Kind.LOST, "gone"), (Kind.LOST, "unfinished")}


async def test_a_request_given_up_before_its_last_attempt_is_lost() -> None:
    store, book = MemoryStore(), Book()
    asked = ask(book, "r1")
    await store_it(store, book, asked, status=Status.FAILED, code=ErrorCode.INTERNAL, text="")
    saw(asked, result=Result.FAILED, code="internal", text="")
    assert await verdict(store, book) == {(Kind.LOST, "r1")}


async def test_the_trace_tells_what_happened_to_a_broken_request(tmp_path: Path) -> None:
    store, book = MemoryStore(), Book()
    first, _ = await well(store, book)
    first.note(gateway="accepted", position=0)
    saw(first)
    judge = Judge(book, store, store, deaths=DEATHS)
    await judge.judge()
    write_trace(tmp_path / "trace.jsonl", book, judge.records)
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [line["requestId"] for line in lines if "violation" in line] == ["r1"]
    assert [line["wire"][0]["gateway"] for line in lines if "wire" in line] == ["accepted"]


# --- the wire -------------------------------------------------------------------------------------------


def unmasked(*frames: ServerFrame) -> bytes:
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    texts = [encode(frame) for frame in frames]
    return head + b"".join(bytes((0x81, len(text))) + text for text in texts if len(text) < 126)


def wire_of(session: str, book: Book) -> Wire:
    wire = Wire(book)
    wire.from_app.feed(f"GET /?sessionId={session} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return wire


OWN = MessageDelta(request_id="r1", attempt=1, offset=3, delta="one ")


@pytest.mark.parametrize(
    ("session", "frames", "kinds"),
    [
        ("s", (OWN,), []),
        ("s2", (OWN,), [Kind.FOREIGN]),
        ("s", (MessageDelta(request_id="r1", attempt=1, offset=4, delta="one "),), [Kind.FOREIGN]),
        ("s", (MessageAccepted(request_id="r7", conversation_id="c", position=0),), [Kind.FOREIGN]),
        (
            "s",
            tuple(
                MessageResponse(request_id="r1", status=Status.CANCELLED, attempt=1, length=n, response=None)
                for n in (2, 2, 3)
            ),
            [Kind.REPEATED],
        ),
    ],
)
def test_every_frame_is_judged(session: str, frames: tuple[ServerFrame, ...], kinds: list[Kind]) -> None:
    book = Book()
    ask(book, "r1")
    wire = wire_of(session, book)
    data = unmasked(*frames)
    for at in range(len(data)):  # however it is cut
        wire.from_gateway.feed(data[at : at + 1])
    assert [violation.kind for violation in book.violations] == kinds
    assert book.frames == len(frames)


# --- the proxy ------------------------------------------------------------------------------------------


class Echoing:
    """A server that echoes, its connections, and a proxy before it."""

    async def __aenter__(self) -> "Echoing":
        self.writers: list[asyncio.StreamWriter] = []
        self.server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        self.proxy = Proxy(self.server.sockets[0].getsockname()[1], lambda: Wire(Book()))
        url = await self.proxy.start()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        assert await self.say(b"hello") == b"hello"
        (self.path,) = self.proxy.paths
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        await self.proxy.stop()
        self.server.close()
        for writer in self.writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    async def say(self, data: bytes) -> bytes:
        self.writer.write(data)
        return await self.reader.readexactly(len(data))


async def test_a_stalled_connection_goes_on_without_loss() -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        echoing.path.to_app.clear()
        saying = asyncio.create_task(echoing.say(b"again"))
        _, waiting = await asyncio.wait([saying], timeout=0.05)
        assert waiting
        echoing.proxy.heal()
        assert await saying == b"again"


@pytest.mark.parametrize("strike", [ProxyPath.reset, ProxyPath.close])
async def test_a_cut_connection_is_over_on_both_sides(strike: Callable[[ProxyPath], None]) -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        strike(echoing.path)
        with suppress(ConnectionResetError):
            assert await echoing.reader.read() == b""
        with suppress(ConnectionResetError):
            await echoing.writers[0].wait_closed()


async def test_a_half_open_connection_swallows_what_is_said() -> None:
    async with asyncio.timeout(20), Echoing() as echoing:
        echoing.path.lose_gateway()
        with suppress(ConnectionResetError):
            await echoing.writers[0].wait_closed()
        echoing.writer.write(b"anybody there?")
        await echoing.writer.drain()
        saying = asyncio.create_task(echoing.reader.read(1))
        _, waiting = await asyncio.wait([saying], timeout=0.05)
        assert waiting
        saying.cancel()
        assert echoing.proxy.paths == []


# --- the whole ------------------------------------------------------------------------------------------


def test_the_deck_has_every_kind_and_as_many_kills_as_asked() -> None:
    for kills in (1, 2, 5, 50):
        cards = deck(kills, sqlite=True, rng=random.Random(1))
        assert sum(card in KILLS for card in cards) + cards.count(KILL_STARTING) == kills
        assert {TERMINATE, FREEZE, DISK_FULL} <= set(cards)
    assert set(deck(50, sqlite=True, rng=random.Random(1))) >= set(KILLS)
    assert DISK_FULL not in deck(50, sqlite=False, rng=random.Random(1))


@pytest.mark.parametrize(
    "flags",
    [
        ("--url", "ws://127.0.0.1:9"),
        ("--idle", "5"),
        ("--rate", "10"),
        ("--postgres", "--database", "postgresql:///nowhere"),
        ("--keep", "/"),
        ("--aws", "--kills", "5"),
        ("--aws", "--postgres"),
        ("--aws", "--database", "postgresql:///nowhere"),
    ],
)
def test_flags_that_chaos_cannot_have(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--chaos", *flags]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_aws_is_for_chaos(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--aws"]) == ExitCode.USAGE
    assert "--chaos" in capsys.readouterr().err


def short(**more: Any) -> ChaosPlan:
    return ChaosPlan(seed=7, apps=12, pause_s=0.6, think_s=0.5, settle_s=60, **more)


@pytest.mark.process
@pytest.mark.timeout(200)
async def test_a_short_storm_over_sqlite() -> None:
    report = await run_chaos(short(kills=2), told=print)
    assert report.violations == ()
    assert report.completed > 0
    assert (report.kills, report.faults[KILL_STARTING], report.faults[DISK_FULL]) == (2, 1, 1)
    assert report.faults[APP_RESTARTED] > 0
    assert POSTGRES in report.never_struck
    assert report.asked == report.completed + report.cancelled + sum(report.failed.values()) + report.timed_out


@pytest.mark.process
@pytest.mark.postgres
@pytest.mark.timeout(200)
async def test_a_short_storm_over_a_postgresql_that_crashes(postgres_server: object) -> None:
    del postgres_server  # only whether there is one
    report = await run_chaos(short(kills=1, own_postgres=True), told=print)
    assert report.violations == ()
    assert report.completed > 0
    assert report.faults[POSTGRES] > 0
    assert DISK_FULL in report.never_struck
