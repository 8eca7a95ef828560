"""Target `admin`: the bytes of a connection to the admin port."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from answerback.gateway.admin_key import KEY_FILE
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.stores.sqlite import MemoryStore
from answerback.testing.backend import ScriptedModel, say_question
from harness.memory import MemoryLoop, play, settle
from harness.reading import Script, cut
from harness.tokens import ADMIN_KEY

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


async def _ask(loop: MemoryLoop, pieces: list[bytes]) -> bytes:
    with TemporaryDirectory(prefix="answerback-fuzz-") as name:
        folder = Path(name)
        (folder / KEY_FILE).touch(mode=0o600)
        (folder / KEY_FILE).write_text(ADMIN_KEY, encoding="ascii")
        settings = GatewaySettings(data_dir=folder, models=("echo",))
        async with Gateway(settings, store=MemoryStore(), models=(ScriptedModel(say_question),)):
            transport = loop.dial(0)  # the admin port is opened before the other one
            for piece in pieces:
                transport.feed(piece)
                await settle(12)
            await settle(60)
            transport.disconnect()
            await settle()
    return bytes(transport.written)
