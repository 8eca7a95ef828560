"""Notices from gateway to gateway, by PostgreSQL's LISTEN and NOTIFY. A hint each: nothing may rest on one.

A gateway listens on a channel of its own, on a connection that also holds the lock of its name. That the lock is free
shows the others at once that its process is dead.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import psycopg

from answerback.ports import Unavailable
from answerback.stores.database import Connection as Thread
from answerback.stores.database import Database, StoreError, StoreInUse
from answerback.stores.migrations import lock_key
from answerback.stores.postgres import PostgresDatabase, reach

log = logging.getLogger("answerback.fleet")

_HEARD_S: Final = 2.0
_NAME_FREE_S: Final = 30.0
_PAUSE_S: Final = 0.2
_CHECK_S: Final = 0.5

_NOTIFY: Final = """
SELECT pg_notify(n.channel, n.payload)
FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS n(channel, payload)"""


class Notices:
    """Sends notices to other gateways, and hears those for this one."""

    def __init__(self, url: str, schema: str, node: str) -> None:
        self._url = url
        self._schema = schema
        self._node = node
        self._on_notice: Callable[[str, Sequence[Any]], None] = lambda _, __: None
        self._out: list[tuple[str, str]] = []
        self._number = 0
        self._sender: Thread | None = None
        self._listener: threading.Thread | None = None
        self._is_stopped = threading.Event()
        self._heard: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._not_sent: Exception | None = None
        """Why the last notices were not sent, if they were not."""
        self.listening_since: float | None = None
        """Monotonic seconds; None: nothing is heard now."""
        self.passed = 0
        """How many were sent and heard."""

    async def start(self, on_notice: Callable[[str, Sequence[Any]], None]) -> None:
        """Listen, and hear oneself. `on_notice` gets who sent a notice, and its words.

        Raises: StoreInUse: another process has this name. StoreError: notices do not come through. Unavailable.
        """
        self._on_notice = on_notice
        loop = asyncio.get_running_loop()
        self._heard = loop.create_future()
        self._sender = Thread(self._connect_sender, "answerback-notices")
        self._listener = threading.Thread(target=self._listen, args=(loop,), name="answerback-listener", daemon=True)
        self._listener.start()
        while self.listening_since is None:
            if self._error is not None:
                error = self._error
                await self.stop()
                raise error
            await asyncio.sleep(0.01)
        self.send(self._node, "hello")
        try:
            async with asyncio.timeout(_HEARD_S):
                await self._heard
        except TimeoutError:
            await self.stop()
            if self._not_sent is not None:
                raise self._not_sent from None
            raise StoreError(
                "A notice of this gateway to itself does not come through. Name the database server itself in "
                "--database, not a pooler."
            ) from None

    async def stop(self) -> None:
        """Send what is waiting, and give the name back."""
        self._is_stopped.set()
        if self._sender is not None:
            await self._sender.close()
            self._sender = None
        if self._listener is not None:
            await asyncio.to_thread(self._listener.join)

    def send(self, node: str, *words: Any) -> None:
        """Send words to a gateway, with whatever else is sent in this turn of the loop. They may get lost."""
        self._number += 1  # of equal notices in one transaction one would come
        payload = json.dumps([self._node, self._number, *words], ensure_ascii=False, separators=(",", ":"))
        self._out.append((_channel(self._schema, node), payload))
        if len(self._out) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._sender is not None:
            self.passed += len(out)
            self._sender.submit(partial(_notify, out), self._sent)

    def _sent(self, _: None, error: Exception | None) -> None:
        self._not_sent = error
        if error is not None:
            log.warning("notices were not sent: %s", error)

    def _connect_sender(self) -> Database:
        connection = reach(self._url, self._schema)
        connection.execute("SELECT set_config('synchronous_commit', 'off', false)")
        return PostgresDatabase(connection)

    # --- the listener's thread

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._is_stopped.is_set():
            try:
                connection = self._take_name()
            except (psycopg.Error, Unavailable) as exc:
                log.warning("notices are not received now: %s", exc)
            except StoreError as exc:
                self._error = exc
                return
            else:
                try:
                    self._hear(connection, loop)
                except (psycopg.Error, RuntimeError) as exc:
                    log.warning("notices are not received now: %s", exc)
                finally:
                    self.listening_since = None
                    connection.close()
            self._is_stopped.wait(_PAUSE_S)

    def _take_name(self) -> psycopg.Connection[Any]:
        """Raises: StoreInUse: a process by this name lives."""
        deadline = time.monotonic() + _NAME_FREE_S
        key = lock_key(f"{self._schema} node {self._node}")
        connection = reach(self._url, self._schema)
        try:
            while connection.execute("SELECT pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
                if time.monotonic() > deadline:
                    raise StoreInUse(f"Another gateway on this database is called {self._node}. Choose another --node.")
                if self._is_stopped.wait(_CHECK_S):
                    raise StoreError("stopped")
            name = psycopg.sql.Identifier(_channel(self._schema, self._node))
            connection.execute(psycopg.sql.SQL("LISTEN {}").format(name))
        except BaseException:
            connection.close()
            raise
        return connection

    def _hear(self, connection: psycopg.Connection[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.listening_since = time.monotonic()
        while not self._is_stopped.is_set():
            for notice in connection.notifies(timeout=_CHECK_S):
                loop.call_soon_threadsafe(self._receive, notice.payload)

    def _receive(self, payload: str) -> None:
        origin, _, *words = json.loads(payload)
        self.passed += 1
        if origin == self._node:
            if self._heard is not None and not self._heard.done():
                self._heard.set_result(None)
            return
        try:
            self._on_notice(origin, words)
        except Exception:
            log.exception("a notice could not be handled")


def _channel(schema: str, node: str) -> str:
    return f"{schema}_{node}"[:63]


def _notify(out: Sequence[tuple[str, str]], database: Database) -> None:
    rows: Any = {"channels": [channel for channel, _ in out], "payloads": [payload for _, payload in out]}
    try:
        database.execute(_NOTIFY, rows)
    except psycopg.Error as exc:
        raise Unavailable(str(exc)) from exc
