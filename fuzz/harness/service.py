"""Target `front`: messages of two users to the whole service, over stores in memory."""

from answerback.core.request import RequestKey
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Conversations,
    Error,
    GetHistory,
    History,
    ListConversations,
    MessageAccepted,
    MessageResponse,
    SendMessage,
    ServerFrame,
)
from answerback.protocol.limits import MAX_FRAME_BYTES
from answerback.testing.backend import Backend, Peer
from harness.memory import play, settle
from harness.reading import Script

SECRET = "what-only-bob-may-read"
_SIZES = (1, 60, 9_000, 40_000)


def front(data: bytes) -> None:
    """The service never fails, no frame is too large, every accepted question ends, nobody reads another's."""
    play(lambda _: _converse(Script(data)))


async def _converse(script: Script) -> None:
    backend = Backend()
    bob = await backend.connect("of-bob", session="s", user="bob")
    alice = await backend.connect("of-alice", session="s", user="alice")
    await bob.say(SendMessage(request_id="q", message=SECRET, conversation_id="c"))
    filler = ("\u0001" if script.byte() & 1 else "\U0001f600") * _SIZES[script.byte() // 80]
    for number in range(script.byte() % 4):
        await alice.say(SendMessage(request_id=f"filler-{number}", message=filler, conversation_id="c"))
    await backend.queue.idle()
    is_curious = False
    while script:
        peer = bob if script.byte() % 8 == 7 else alice
        if script.byte() % 8 == 0:
            await _turn_page(script, alice)
        message = script.block()
        is_curious |= peer is alice and SECRET.encode() in message
        await peer.say(message)
        await settle(2)
    await backend.queue.idle()
    for peer in (alice, bob):
        _check_frames(backend, peer)
    if not is_curious:
        assert not any(SECRET.encode() in encode(frame) for frame in alice.frames), "alice reads bob's"
    await backend.queue.stop()


async def _turn_page(script: Script, peer: Peer) -> None:
    """Go on where the last page ended, or where the script says."""
    last = next((frame for frame in reversed(peer.frames) if isinstance(frame, History | Conversations)), None)
    limit = 1 + script.byte() % 100
    before = None if last is None else last.next
    if script.byte() % 2:
        before = script.block().decode("utf-8", "replace")[:256] or None
    if script.byte() % 4 == 0:
        await peer.say(ListConversations(request_id="list", before=before, limit=limit))
    else:
        await peer.say(GetHistory(request_id="page", conversation_id="c", before=before, limit=limit))


def _check_frames(backend: Backend, peer: Peer) -> None:
    user_id = "bob" if peer.connection_id == "of-bob" else "alice"
    accepted: set[str] = set()
    ended: set[str] = set()
    for frame in peer.frames:
        assert len(encode(frame)) <= MAX_FRAME_BYTES, type(frame)
        _check_told(frame)
        if isinstance(frame, MessageAccepted):
            accepted.add(frame.request_id)
        elif isinstance(frame, MessageResponse):
            ended.add(frame.request_id)
    for request_id in accepted:
        record = backend.store.records[RequestKey(user_id, request_id)]
        assert record.ending is not None
        assert request_id in ended


def _check_told(frame: ServerFrame) -> None:
    if isinstance(frame, Error):
        assert frame.code is not ErrorCode.INTERNAL
    if isinstance(frame, MessageResponse) and frame.error is not None:
        assert frame.error.code is not ErrorCode.INTERNAL
