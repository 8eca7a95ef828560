"""Frames that go over another gateway: cut into notices, of which some get lost."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from answerback.core.request import SCHEMA, RequestKey
from answerback.gateway import fleet as gateway_fleet
from answerback.gateway.fleet import Fleet, FleetSender
from answerback.ports import Gone, Sent, Slow, Unavailable
from answerback.protocol.codec import encode
from answerback.protocol.frames import MessageDelta
from answerback.stores.nodes import STALE_MS, Node

LIMIT = 8_000
"""PostgreSQL's, in bytes."""


class Peer:
    """A gateway that has the sockets, and hears what the other one sends."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.got: list[bytes] = []
        socket = SimpleNamespace(send=lambda payload: self.got.append(payload) or Sent())
        self.sockets: Any = SimpleNamespace(get=lambda _: socket, _by_id={})
        self.sender = FleetSender(self.sockets, "b", self, lambda _: True)  # type: ignore[arg-type]
        self.other = FleetSender(self.sockets, "a", self, lambda _: True)  # type: ignore[arg-type]

    def send(self, node: str, *words: Any) -> None:
        notice = json.dumps(["a" * 40, 2**40, *words], ensure_ascii=False, separators=(",", ":"))
        assert len(notice.encode()) < LIMIT
        self.heard.append((node, *words))

    def hear(self, lost: set[int]) -> None:
        for place, (_, kind, connection_id, end, text) in enumerate(self.heard):
            assert kind == "frame"
            if place not in lost:
                self.sender.arrived("a", connection_id, end, text)


def delta(text: str) -> MessageDelta:
    return MessageDelta(request_id="r", attempt=1, offset=0, delta=text)


@pytest.mark.parametrize(
    "text", ["short", "한" * 20_000, '"\\' * 9_000, "\n\x00" * 5_000, "🙂é한a" * 4_000, "x" * 3_800]
)
async def test_a_frame_comes_whole_however_it_is_written(text: str) -> None:
    peer = Peer()
    await peer.other.send("c@b", delta(text))
    peer.hear(set())
    assert peer.got == [encode(delta(text))]


@pytest.mark.parametrize("lost", [{0}, {1}, {2}, {3}, {0, 1}, {2, 3}, {3, 4}, {1, 2, 3, 4, 5}])
async def test_of_a_frame_of_which_a_piece_was_lost_nothing_comes(lost: set[int]) -> None:
    peer, frames = Peer(), [delta(letter * 10_000) for letter in "ab"] + [delta("c")]
    for frame in frames:
        await peer.other.send("c@b", frame)
    assert len(peer.heard) == 7
    peer.hear(lost)
    whole = [frame for frame, places in zip(frames, ({0, 1, 2}, {3, 4, 5}, {6}), strict=True) if not places & lost]
    assert peer.got == [encode(frame) for frame in whole]


async def test_a_slow_socket_hears_why_another_gateway_closes_it() -> None:
    reads = asyncio.Event()
    closed: list[tuple[int, bytes | None]] = []
    socket = SimpleNamespace(
        send=lambda _: Slow(), ready=reads.wait, close=lambda code, *, last: closed.append((code, last))
    )
    peer = Peer()
    peer.sockets.get = {"c@b": socket}.get
    await peer.other.send("c@b", delta("text"))
    await peer.other.close("c@b", delta("the reason"))
    *frames, (_, *close) = peer.heard
    assert close == ["close", "c@b"]
    for _, _, connection_id, end, text in frames:
        peer.sender.arrived("a", connection_id, end, text)
    peer.sender.arrived("x", "c@b", True, "what another gateway had for it")
    peer.sender.closes("a", "c@b")
    peer.sender.closes("a", "gone@b")
    assert closed == [(1000, encode(delta("the reason")))]
    peer.sockets.get = {}.get
    reads.set()
    await asyncio.sleep(0)


async def test_who_stops_while_the_database_is_down_says_so_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_fleet, "LOOK_S", 0)
    said: list[str] = []

    async def beat(state: str, **_: Any) -> list[Any]:
        said.append(state)
        if 1 < len(said) < 4:
            raise Unavailable("down")
        return []

    async def nothing(*_: Any, **__: Any) -> Any:
        return SCHEMA

    nodes: Any = SimpleNamespace(beat=beat, agree=nothing, close=nothing)
    notices: Any = SimpleNamespace(start=nothing, stop=nothing, passed=0, listening_since=0.0)
    fleet = Fleet(SimpleNamespace(node="b", write_schema=bool), nodes=nodes, notices=notices, facts=dict)  # type: ignore[arg-type]
    await fleet.start()
    await fleet.leave()
    assert said == ["serving", "gone", "gone", "gone"]


@pytest.mark.parametrize(
    ("change", "pause_s"),
    [
        ({}, gateway_fleet.LOOK_S),
        ({"has_lock": False, "age_ms": STALE_MS - 200}, 0.201),
        ({"has_lock": False, "age_ms": 0}, gateway_fleet.LOOK_S),
        ({"has_lock": False, "age_ms": STALE_MS + 1}, gateway_fleet.LOOK_S),
        ({"has_lock": False, "age_ms": STALE_MS - 200, "state": "gone"}, gateway_fleet.LOOK_S),
    ],
)
async def test_one_that_seems_to_have_ended_is_looked_at_when_it_counts_as_dead(
    change: dict[str, Any], pause_s: float
) -> None:
    usual = {"name": "a", "state": "serving", "age_ms": 10, "has_lock": True, "version": "1", "started_at_ms": 0}

    async def beat(*_: Any, **__: Any) -> list[Node]:
        return [Node(**{**usual, **change}, facts={})]

    async def nothing(*_: Any, **__: Any) -> Any:
        return SCHEMA

    nodes: Any = SimpleNamespace(beat=beat, agree=nothing)
    notices: Any = SimpleNamespace(start=nothing, passed=0, listening_since=0.0)
    store: Any = SimpleNamespace(node="b", write_schema=bool)
    fleet = Fleet(store, nodes=nodes, notices=notices, facts=dict, monotonic=lambda: 100.0)
    await fleet.start()
    assert fleet._pause_s() == pause_s


# --- beside a gateway of an older version ----------------------------------------------------------------------------

OLDER = Path(__file__).parents[1] / "upgrade" / "9e562ddd" / "notices.jsonl"
"""What a gateway of that revision sent: a frame, one that was cut, and each other kind of notice."""


async def test_the_notices_of_an_older_gateway_are_understood() -> None:
    done: list[Any] = []
    peer = Peer()

    def note(*name: str) -> Any:
        async def called(*arguments: Any) -> None:
            done.append((*name, *arguments))

        return called

    async def started(on_notice: Any) -> None:
        peer.on_notice = on_notice  # type: ignore[attr-defined]

    async def nothing(*_: Any, **__: Any) -> Any:
        return SCHEMA

    async def nobody(*_: Any, **__: Any) -> Any:
        return []

    store: Any = SimpleNamespace(node="b", write_schema=bool, read=note("read"), let_go=done.append)
    nodes: Any = SimpleNamespace(beat=nobody, agree=nothing, close=nobody)
    notices: Any = SimpleNamespace(start=started, stop=nobody, send=peer.send, passed=0, listening_since=0.0)
    queue: Any = SimpleNamespace(retry=lambda key: done.append(("retry", key)), forget=note("forget"), blocked=0)
    fleet = Fleet(store, nodes=nodes, notices=notices, facts=dict)
    await fleet.start()
    sender = fleet.sender(peer.sockets)
    sender.closes = lambda _, connection_id: done.append(("close", connection_id))  # type: ignore[method-assign]
    fleet.queue(slots={}, clock=lambda: 0, kind=lambda **_: queue)  # type: ignore[arg-type]
    fleet.join(worker=SimpleNamespace(), close_user=note("user"), close_replaced=nobody, on_outdated=bool)  # type: ignore[arg-type]
    for line in OLDER.read_text(encoding="utf-8").splitlines():
        origin, _, *words = json.loads(line)
        peer.on_notice(origin, words)  # type: ignore[attr-defined]
    for _ in range(5):
        await asyncio.sleep(0)
    await fleet.leave()
    assert peer.got == [encode(delta("short")), encode(delta('한글 "x" ' * 700))]
    assert await sender.send("c@a", delta("")) == Gone()
    key = RequestKey("ann", "r1")
    assert {*done} == {("retry", "ann c1"), ("close", "c@b"), ("read", key), ("user", "ann"), key, ("forget", key)}


async def test_an_older_gateway_understands_what_is_sent() -> None:
    peer, frames, pieces, got = Peer(), [delta("short"), delta("한" * 9_000), delta("c")], [], []
    for frame in frames:
        await peer.other.send("c@b", frame)
    for _, *words in peer.heard:
        match words:  # as that revision does
            case ["frame", "c@b", is_last, text]:
                pieces.append(text)
                if is_last:
                    got.append("".join(pieces).encode())
                    pieces.clear()
    assert got == [encode(frame) for frame in frames]
