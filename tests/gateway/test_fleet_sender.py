"""Frames that go over another gateway: cut into notices, of which some get lost."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from answerback.gateway.fleet import FleetSender
from answerback.ports import Sent
from answerback.protocol.codec import encode
from answerback.protocol.frames import MessageDelta

LIMIT = 8_000
"""PostgreSQL's, in bytes."""


class Peer:
    """A gateway that has the sockets, and hears what the other one sends."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.got: list[bytes] = []
        socket = SimpleNamespace(send=lambda payload: self.got.append(payload) or Sent())
        here: Any = SimpleNamespace(get=lambda _: socket, _by_id={})
        self.sender = FleetSender(here, "b", self, lambda _: True)  # type: ignore[arg-type]
        self.other = FleetSender(here, "a", self, lambda _: True)  # type: ignore[arg-type]

    def send(self, node: str, *words: Any) -> None:
        notice = json.dumps(["a" * 40, 2**40, *words], ensure_ascii=False, separators=(",", ":"))
        assert len(notice.encode()) < LIMIT
        self.heard.append((node, *words))

    def hear(self, lost: set[int]) -> None:
        for place, (_, kind, connection_id, *words) in enumerate(self.heard):
            if place in lost:
                continue
            if kind == "frame":
                assert words == [True, words[-1]], "as gateways of every version say and read it"
                self.sender.arrived("a", connection_id, words[-1])
            else:
                number, index, is_last, text = words
                self.sender.piece("a", connection_id, number, index, is_last=is_last, text=text)


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
