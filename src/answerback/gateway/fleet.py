"""One gateway among several on one PostgreSQL: who else is there, and what they tell each other.

    beat, twice a second ──► the table of nodes: who lives, who drains, who is dead
    look, twice a second ──► what of ours did others change · what of the dead is to be taken over
    notices              ──► the same sooner, and frames for sockets that another gateway has

Nothing rests on a notice: what one would have said is found by the next look, or asked for by the client.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias
from zlib import crc32

from aiohttp import WSCloseCode

from answerback import __version__
from answerback.clock import epoch_ms
from answerback.core.instants import iso
from answerback.core.request import SCHEMA, Record, RequestKey
from answerback.gateway.console import NodeBody
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.sockets import Sockets, SocketSender
from answerback.ports import Bound, Gone, Place, Requests, Sent, Slow, Superseded, Unavailable, Watcher
from answerback.protocol.codec import encode, pieces_of
from answerback.protocol.frames import ServerFrame
from answerback.service.worker import Worker
from answerback.stores.connections import MemoryConnections
from answerback.stores.fleet import FleetStore
from answerback.stores.fleet_commit import Changed, Freed
from answerback.stores.nodes import Node, Nodes
from answerback.tasks import Tasks

log = logging.getLogger("answerback.fleet")

LOOK_S: Final = 0.5
SETTLE_S: Final = 2.0
"""How long after it began to listen a gateway calls others dead by their lock alone. When the database comes back, all
of them have lost it, and each is back within a second."""

RATE_S: Final = 5.0
"""Over how long notices are counted."""

PLACE_S: Final = 3.0
"""Within this time the others that stand by see that one of them has begun to serve."""

LEAVE_S: Final = 5.0
"""How long a gateway that stops tries to say so while the database is down. After that it counts as dead."""

CHECK_OWN_S: Final = 10.0
"""How often a gateway looks for requests of its own that its queue does not have."""

CHECK_SESSIONS_S: Final = 10.0
"""How often a gateway looks whether its sessions have moved without its having heard of it."""

BUFFER_BYTES: Final = 256 * 1024
"""Frames of other gateways that wait for a slow socket; then it is closed, and its app asks for the rest."""

MAX_GONE: Final = 10_000

PIECE_BYTES: Final = 3_800
"""Of a frame in one notice, which has less than 8,000 bytes: JSON writes its quotes and backslashes in two."""


class Notices(Protocol):
    """Short messages between gateways, in order from one to another. Any of them may get lost."""

    listening_since: float | None
    """Monotonic seconds; None: nothing is heard now."""
    passed: int
    """How many were sent and heard."""

    async def start(self, on_notice: Callable[[str, Sequence[Any]], None], /) -> None:
        """Take the name and listen. `on_notice` gets who sent a notice, and its words. Raises: StoreError."""

    async def stop(self) -> None:
        """Send what is waiting, and give the name back."""

    def send(self, node: str, /, *words: Any) -> None:
        """Send words to a gateway."""


def node_of(connection_id: str) -> str:
    """The gateway that has the connection: its id ends in its name."""
    return connection_id.rpartition("@")[2]


class FleetConnections(MemoryConnections):
    """`ports.Connections`: the own sockets in memory, the addresses of the sessions in the database."""

    def __init__(self, store: FleetStore) -> None:
        super().__init__()
        self._store = store

    async def bind(self, connection_id: str, user_id: str) -> Bound | Superseded:
        connection = self._connections.get(connection_id)
        if connection is None:
            return Superseded()
        if connection.generation is not None and connection.user_id is not None:
            user_id = connection.user_id
        bound = await self._store.bind(connection, user_id)
        if not isinstance(bound, Bound) or connection_id not in self._connections:
            return Superseded()
        self._connections[connection_id] = bound.connection
        return bound

    async def replaced(self) -> Sequence[str]:
        """The own connections whose sessions have another address. Raises: Unavailable."""
        return await self._store.replaced(list(self._connections.values()))

    async def remove(self, connection_id: str) -> None:
        connection = self._connections.pop(connection_id, None)
        if connection is not None and connection.generation is not None:
            await self._store.unbind(connection)

    @property
    def watched(self) -> Container[str]:
        return self._store.watched

    async def watch(
        self, user_id: str, conversation_id: str | None, watcher: Watcher, *, now_ms: int, most: int
    ) -> Place:
        if watcher.connection_id not in self._connections:
            return Place.OLDER
        return await self._store.watch(user_id, conversation_id, watcher, now_ms=now_ms, most=most)

    async def watchers(
        self, user_id: str, *conversations: str | None, now_ms: int
    ) -> Mapping[str | None, Sequence[Watcher]]:
        return await self._store.watchers(user_id, *conversations, now_ms=now_ms)


class FleetQueue(InProcessQueue):
    """The queue of what is at home here. `store` says what that is, `is_alive` which gateways may be there."""

    def __init__(self, *, store: FleetStore, is_alive: Callable[[str], bool], **settings: Any) -> None:
        super().__init__(**settings)
        self._store = store
        self._is_alive = is_alive
        store.order_by(self.__contains__)

    def is_here(self, key: RequestKey) -> bool:
        return key in self._store.mine

    async def put(self, record: Record) -> None:
        if self.is_here(record.key):
            await super().put(record)

    async def recover(self, requests: Requests) -> int:
        """Queue what a process by this name, or one that had the database for itself, has left. Before `start`."""
        del requests
        own = self._store.node
        # Apps that had sockets here may have moved already. Without their targets they would wait until they ask again.
        records = await self._store.take_over(
            [own], is_alive=lambda connection: (node := node_of(connection)) != own and self._is_alive(node)
        )
        self.restore(records)
        return len(records)


class FleetSender(SocketSender):
    """`ports.Sender`: to the own sockets directly, to those of another gateway by notices, in pieces that fit."""

    def __init__(self, sockets: Sockets, node: str, notices: Notices, is_alive: Callable[[str], bool]) -> None:
        super().__init__(sockets)
        self._node = node
        self._notices = notices
        self._is_alive = is_alive
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._pieces: OrderedDict[tuple[str, str, bool], list[str]] = OrderedDict()
        """What came of frames that were cut, by who sends them, the connection, and whether they are counted."""
        self._waiting: dict[str, list[tuple[str, bytes]]] = {}
        """Frames for slow sockets, each with who sent it."""
        self._tasks = Tasks()

    async def send(self, connection_id: str, frame: ServerFrame) -> Sent | Gone | Slow:
        node = node_of(connection_id)
        if node == self._node:
            return await super().send(connection_id, frame)
        if connection_id in self._gone or not self._is_alive(node):
            return Gone()
        encoded = encode(frame)
        *pieces, last = pieces_of(encoded, PIECE_BYTES)
        for text in pieces:
            self._notices.send(node, "frame", connection_id, None, text)
        self._notices.send(node, "frame", connection_id, [len(pieces) + 1, crc32(encoded)] if pieces else True, last)
        return Sent()

    async def close(self, connection_id: str, last: ServerFrame | None = None) -> None:
        node = node_of(connection_id)
        if node == self._node:
            await super().close(connection_id, last)
        elif self._is_alive(node):
            if last is not None:
                await self.send(connection_id, last)
            self._notices.send(node, "close", connection_id)

    def closes(self, origin: str, connection_id: str) -> None:
        """Another gateway closes one of our sockets. The last that it had for it, which says why, waits no longer."""
        socket = self._sockets.get(connection_id)
        if socket is not None:
            waiting = reversed(self._waiting.get(connection_id, ()))
            socket.close(WSCloseCode.OK, last=next((payload for sender, payload in waiting if sender == origin), None))

    def has_gone(self, connection_id: str) -> None:
        """Another gateway says that it has no such connection."""
        self._gone[connection_id] = None
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

    def arrived(self, origin: str, connection_id: str, end: Any, text: str) -> None:
        """A frame that another gateway has for one of our sockets, or a piece of one.

        `end`: None for a piece that is not the last, with the last one how many there are and their checksum. Of a
        frame that is not whole nothing is sent: the app asks for what is missing. Gateways of an older version say
        False and True. They take the end for true, and what comes before it for false.
        """
        is_counted = end is None or isinstance(end, list)
        source = origin, connection_id, is_counted
        pieces = [*self._pieces.pop(source, ()), text]
        if not end:
            self._pieces[source] = pieces
            if len(self._pieces) > MAX_GONE:
                self._pieces.popitem(last=False)
            return
        if is_counted:
            count, checksum = end
            pieces = pieces[-count:]
        payload = "".join(pieces).encode()
        if is_counted and crc32(payload) != checksum:
            return
        socket = self._sockets.get(connection_id)
        if socket is None:
            self._notices.send(origin, "gone", connection_id)
            return
        waiting = self._waiting.get(connection_id)
        if waiting is None:
            if isinstance(socket.send(payload), Slow):
                self._waiting[connection_id] = [(origin, payload)]
                self._tasks.start(self._send_waiting(connection_id), name=f"frames of others {connection_id}")
        elif sum(len(frame) for _, frame in waiting) < BUFFER_BYTES:
            waiting.append((origin, payload))
        else:
            socket.abort()

    async def _send_waiting(self, connection_id: str) -> None:
        waiting = self._waiting[connection_id]
        try:
            while waiting and (socket := self._sockets.get(connection_id)) is not None:
                await socket.ready()
                if not isinstance(socket.send(waiting[0][1]), Slow):
                    waiting.pop(0)
        finally:
            del self._waiting[connection_id]


Close: TypeAlias = Callable[[str], Coroutine[Any, Any, None]]


class Fleet:
    """This gateway's part. `facts`: what others are shown of it. `stands_by`: it serves only when no other does.

    `monotonic`: the clock of `Notices`, in seconds.
    """

    def __init__(
        self,
        store: FleetStore,
        *,
        nodes: Nodes,
        notices: Notices,
        facts: Callable[[], dict[str, int]],
        stands_by: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = store.node
        self._store = store
        self._facts = facts
        self._nodes = nodes
        self._notices = notices
        self._monotonic = monotonic
        self._state = "standby" if stands_by else "serving"
        self._started_at_ms = epoch_ms()
        self._others: dict[str, Node] = {}
        self._worker: Worker | None = None
        self._queue: FleetQueue | None = None
        self._sender: FleetSender | None = None
        self._close_user: Close | None = None
        self._close_replaced: Close | None = None
        self._on_outdated: Callable[[], None] | None = None
        self.connections = FleetConnections(store)
        self._sessions_checked_at = 0.0
        self._own_checked_at = -math.inf
        self._counted = monotonic(), 0
        self._rate = 0
        self._tasks = Tasks()

    async def start(self) -> None:
        """Take the name, listen, and see who is there. Raises: StoreError, Unavailable."""
        await self._notices.start(self._notice)
        try:
            await self.beat()
        except BaseException:
            await self._notices.stop()
            raise
        self._store.on_effects = self._tell

    async def takes_the_place(self) -> bool:
        """Whether no other gateway serves. Of those that stand by one begins then, and the others go on standing by."""
        await self._beat_or_warn()
        if any(node.state == "serving" and not self._is_dead(node) for node in self._others.values()):
            return False
        try:
            if await self._nodes.lead("standby", for_s=PLACE_S):
                self._state = "serving"
                await self.beat()
        except Unavailable:
            self._state = "standby"
        return self._state == "serving"

    # --- the parts of a gateway that others have a share in

    def clock(self, local: Callable[[], int]) -> Callable[[], int]:
        """The database's time by this machine's clock: times in records are compared with those of other machines."""
        self._store.clock = clock = lambda: local() + self._nodes.offset_ms
        return clock

    def sender(self, sockets: Sockets, kind: type[FleetSender] = FleetSender) -> FleetSender:
        self._sender = kind(sockets, self.node, self._notices, self.is_alive)
        return self._sender

    def queue(
        self, *, slots: Mapping[str, int], clock: Callable[[], int], kind: type[FleetQueue] = FleetQueue
    ) -> FleetQueue:
        self._queue = kind(store=self._store, is_alive=self.is_alive, slots=slots, clock=clock)
        return self._queue

    def join(
        self, *, worker: Worker, close_user: Close, close_replaced: Close, on_outdated: Callable[[], None]
    ) -> None:
        """Do one's part from now on: look for what others changed, and take over from the dead.

        `close_user`: closes the sockets of a user. `close_replaced`: a connection whose session has another address.
        `on_outdated`: is to stop this gateway, which cannot read any more what the others write.
        """
        self._worker, self._close_user, self._close_replaced = worker, close_user, close_replaced
        self._on_outdated = on_outdated
        self._tasks.start(self._look(), name="fleet")

    async def drain(self) -> None:
        """Tell the others, and the load balancer by `/readyz`, that this gateway is about to leave."""
        self._state = "draining"
        await self._beat_or_warn()

    async def leave(self) -> None:
        """Give everything to the others, who go on with it at once."""
        await self._tasks.settle(grace_s=0)
        self._state = "gone"
        until = self._monotonic() + LEAVE_S
        while True:
            if await self._beat_or_warn() or self._monotonic() >= until:
                break
            await asyncio.sleep(LOOK_S)
        await self._nodes.close()
        await self._notices.stop()

    def is_alive(self, node: str) -> bool:
        """Whether a gateway by this name may be there. One that has just begun is not known yet."""
        other = self._others.get(node)
        return other is None or not self._is_dead(other)

    def nodes(self) -> list[NodeBody]:
        """Every gateway as it was at the last look, this one first."""
        return [
            NodeBody(
                name=self.node,
                state=self._state,
                version=__version__,
                started_at=iso(self._started_at_ms),
                age_ms=0,
                facts=self._shown(),
            ),
            *(
                NodeBody(
                    name=node.name,
                    state=node.state_seen(is_dead=self._is_dead(node)),
                    version=node.version,
                    started_at=iso(node.started_at_ms),
                    age_ms=node.age_ms,
                    facts=node.facts,
                )
                for node in self._others.values()
            ),
        ]

    # --- twice a second

    async def beat(self) -> None:
        """Say that we live, and see who does. Raises: Unavailable."""
        found = await self._nodes.beat(self._state, reads_schema=SCHEMA, version=__version__, facts=self._shown())
        for node in found:
            before = self._others.get(node.name)
            if self._is_dead(node) and before is not None and not self._is_dead(before):
                log.warning("gateway %s is %s", node.name, "gone" if node.state == "gone" else "dead")
        self._others = {node.name: node for node in found}
        dead = [node.name for node in found if self._is_dead(node)]
        agreed = await self._nodes.agree(SCHEMA, dead=dead)
        self._store.write_schema(min(agreed, SCHEMA))
        if agreed > SCHEMA and self._on_outdated is not None and self._state == "serving":
            # It was taken for dead while the others were upgraded.
            log.error("the other gateways are of a newer version, which this one cannot read: it stops")
            self._on_outdated()

    def _shown(self) -> dict[str, int]:
        """What others are shown of this gateway: `behind` requests wait for others, `notices` pass in a second."""
        began, before = self._counted
        now, passed = self._monotonic(), self._notices.passed
        if now - began >= RATE_S:
            self._counted, self._rate = (now, passed), round((passed - before) / (now - began))
        behind = 0 if self._queue is None else self._queue.blocked
        return self._facts() | {"behind": behind, "notices": self._rate}

    async def _beat_or_warn(self) -> bool:
        """Whether the others were told."""
        try:
            await self.beat()
        except Unavailable as exc:
            log.warning("the other gateways could not be told: %s", exc)
            return False
        return True

    def _is_dead(self, node: Node) -> bool:
        since = self._notices.listening_since
        is_settled = since is not None and self._monotonic() - since > SETTLE_S
        return node.state == "gone" or node.is_lost or (node.may_be_dead and is_settled)

    async def leads(self, what: str, *, for_s: float) -> bool:
        """Whether this gateway alone does that for the fleet now."""
        try:
            return self._state == "serving" and await self._nodes.lead(what, for_s=for_s)
        except Unavailable:
            return False

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s())
            try:
                await self.beat()
                if self._worker is not None:
                    for record in await self._store.changed(self._worker.running):
                        self._worker.changed(record)
                if self._state == "serving":
                    await self._take_over()
                await self._check_sessions()
            except Unavailable as exc:
                log.warning("the fleet cannot be looked after now: %s", exc)
            except Exception:
                log.exception("the fleet cannot be looked after")

    def _pause_s(self) -> float:
        """Until the next look: sooner if a gateway whose process seems to have ended counts as dead before."""
        dying = (node.dead_in_ms for node in self._others.values() if not self._is_dead(node))
        return min([LOOK_S, *(ms / 1000 for ms in dying if ms)])

    async def _take_over(self) -> None:
        queue, now, checked_at = self._queue, self._monotonic(), self._own_checked_at
        if queue is None:
            return
        beats = {name: node.beat_at_ms for name, node in self._others.items() if self._is_dead(node)}
        names = list(beats)
        if looks_at_own := now - self._own_checked_at >= CHECK_OWN_S:
            names.append(self.node)
        self._own_checked_at = -math.inf  # until it is known what was taken
        records = await self._store.take_over(
            names, is_alive=lambda connection: self.is_alive(node_of(connection)), beats=beats
        )
        self._own_checked_at = now if looks_at_own else checked_at
        if records:
            log.info("%d requests of other gateways are taken over", len(records))
            queue.arrange(records)

    async def _check_sessions(self) -> None:
        if self._close_replaced is None:
            return
        now = self._monotonic()
        if now - self._sessions_checked_at >= CHECK_SESSIONS_S:
            self._sessions_checked_at = now
            for connection_id in await self.connections.replaced():
                await self._close_replaced(connection_id)

    # --- notices

    def _tell(self, effects: Collection[Changed | Freed]) -> None:
        for effect in effects:
            if isinstance(effect, Changed):
                self._notices.send(effect.node, "changed", *effect.key)
            else:
                self._notices.send(effect.node, "freed", effect.ordering_key)

    def close_user(self, user_id: str) -> None:
        """Let the other gateways close the sockets of a user."""
        for node in self._others:
            if self.is_alive(node):
                self._notices.send(node, "user", user_id)

    def _notice(self, origin: str, words: Sequence[Any]) -> None:
        worker, queue, sender, close_user = self._worker, self._queue, self._sender, self._close_user
        if worker is None or queue is None or sender is None or close_user is None:
            return
        match words:
            case ["frame", connection_id, end, text]:
                sender.arrived(origin, connection_id, end, text)
            case ["gone", connection_id]:
                sender.has_gone(connection_id)
            case ["close", connection_id]:
                sender.closes(origin, connection_id)
            case ["changed", user_id, request_id]:
                self._start(self._changed(worker, queue, RequestKey(user_id, request_id)))
            case ["freed", ordering_key]:
                queue.retry(ordering_key)
            case ["user", user_id]:
                self._start(close_user(user_id))

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.start(coroutine, name="notice")

    async def _changed(self, worker: Worker, queue: FleetQueue, key: RequestKey) -> None:
        try:
            record = await self._store.read(key)
        except Unavailable:
            return  # the next look finds it
        if record is not None:
            worker.changed(record)
        if record is None or record.ending is not None:
            self._store.let_go(key)
            await queue.forget(key)
