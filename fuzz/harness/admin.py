"""Target `admin`: the bytes of a connection to the admin port."""

import re

from answerback.core.coalescing import steady
from answerback.gateway.admin import Admin
from answerback.gateway.adminkey import AdminKey
from answerback.gateway.metrics import Metrics, QueueState
from answerback.gateway.sockets import Sockets
from answerback.gateway.useradmin import UserAdmin
from answerback.service.bells import Bells
from answerback.service.courier import Courier
from answerback.stores.memory import MemoryConnections, MemoryStore
from answerback.testing.network import ScriptedSender
from harness.reading import Script, cut
from harness.tokens import ADMIN_KEY
from harness.wire import WireLoop, play, settle

_STATUS = re.compile(rb"HTTP/\d\.\d (\d+) ")
_WITHOUT_KEY = {400, 403, 404, 405, 408, 411, 413, 414, 417, 431, 501, 505}


def admin(data: bytes) -> None:
    """No request makes it fail, and without the key nothing but `/healthz` is answered."""
    script = Script(data)
    sizes = script.block()
    stream = script.rest()
    written = play(lambda loop: _ask(loop, cut(stream, sizes)))
    found = [int(status) for status in _STATUS.findall(written)]
    assert not written or found, written[:80]
    assert not any(status >= 500 and status not in {501, 505} for status in found), written
    assert b"Traceback" not in written
    if b"uthorization" not in stream.lower() and b"healthz" not in stream:
        assert all(status in _WITHOUT_KEY for status in found), (stream, found)


async def _ask(loop: WireLoop, pieces: list[bytes]) -> bytes:
    store, connections, sockets, bells = MemoryStore(), MemoryConnections(), Sockets(), Bells()
    queue = QueueState(depth=0, running=0)
    metrics = Metrics(sockets=sockets, queue=lambda: queue, clock=lambda: 1_750_000_000_000)
    courier = Courier(
        requests=store, sender=ScriptedSender(), interval=steady(), monotonic=loop.time, observer=metrics.observer
    )
    port = Admin(
        key=AdminKey(ADMIN_KEY),
        sockets=sockets,
        connections=connections,
        requests=store,
        users=UserAdmin(users=store, clock=lambda: 1_750_000_000_000),
        courier=courier,
        bells=bells,
        metrics=metrics,
        queue=lambda: queue,
        clock=lambda: 1_750_000_000_000,
    )
    await port.start(0)
    wire = loop.dial()
    for piece in pieces:
        wire.feed(piece)
        await settle(12)
    await settle(60)
    wire.hang_up()
    await settle()
    await port.close()
    return bytes(wire.written)
