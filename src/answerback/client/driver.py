"""Runs a session over real connections: the loop that connects, the timer, and what carries out its effects."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from answerback.client.effects import AppEffect, Effect, Note, Ready, Reconnect, Replace, Reply, ReplyFailed, Send, Stop
from answerback.client.errors import AnswerbackError, CannotConnect, Closed, Obstacle, Unauthorized
from answerback.client.events import Connected, Connecting, ConnectionState, Disconnected, Stopped
from answerback.client.failures import OpenFailed
from answerback.client.link import Address, Link, open_socket
from answerback.client.session import Session
from answerback.client.timing import Timing
from answerback.client.tokens import TokenSource
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import RenewToken, Welcome
from answerback.tasks import Tasks

log = logging.getLogger("answerback.client")

SHORT_PAUSE_S: Final = 1.0
"""Between two tries there is no less to halve."""


@dataclass(eq=False, kw_only=True)
class Driver:
    """One session on one address. `on_effect` gets what concerns the application, `on_state` the connection."""

    address: Address
    session: Session
    tokens: TokenSource
    timing: Timing
    ssl_context: ssl.SSLContext | None
    must_connect: bool
    rng: random.Random
    on_effect: Callable[[AppEffect], None]
    on_state: Callable[[ConnectionState], None]

    def __post_init__(self) -> None:
        self._tasks = Tasks()
        self._links: dict[int, Link] = {}
        self._link: Link | None = None
        self._numbers = 0
        self._failures = 0
        self._failed_rollovers = 0
        self._refusals = 0
        self._reason = ""
        self._obstacle: Obstacle | None = None
        self._timer: asyncio.Handle | None = None  # uvloop gives no TimerHandle for an instant that has come
        self._timer_at = 0.0
        self._skip_pause = asyncio.Event()
        self._was_ready = False
        self._is_abandoned = False
        self._first: asyncio.Future[None] | None = None
        self._renewal_id: str | None = None
        self._renewal_token: str | None = None
        self._renewals = 0

    @property
    def now(self) -> float:
        """Monotonic seconds, as the session counts them."""
        return asyncio.get_running_loop().time()

    async def start(self, timeout_s: float) -> None:
        """Begin; unless an offline start is allowed, return when the server has answered.

        Raises: CannotConnect, Unauthorized, Forbidden.
        """
        self._first = asyncio.get_running_loop().create_future()
        supervisor = self._tasks.start(self._supervise(), name="answerback-supervisor")
        self._tasks.start(self._watch(), name="answerback-watch")
        if not self.must_connect:
            return
        await asyncio.wait([self._first, supervisor], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.session.stopped is not None:
            raise self.session.stopped
        if not self._first.done():
            if self._link is None and not self._reason:
                raise CannotConnect(self.address.url, "no answer in time", Obstacle.TIMEOUT)
            reason = self._reason or "the connection opened, but the server did not answer; is it an Answerback server?"
            raise CannotConnect(self.address.url, reason, self._obstacle or Obstacle.OTHER)

    async def close(self) -> None:
        """Send what is queued, close every connection, end every task."""
        self.carry_out(self.session.stop(Closed()))
        links = list(self._links.values())
        await asyncio.gather(*(link.close(flush_s=self.timing.close_s) for link in links), return_exceptions=True)
        await self._tasks.settle(grace_s=0)

    def reconnect_now(self) -> None:
        """Retry at once and check the connection: the network is back, or the app woke."""
        self._skip_pause.set()
        self.carry_out(self.session.probe(now=self.now))

    def carry_out(self, effects: list[Effect]) -> None:
        """Do what the session wants, in its order."""
        for effect in effects:
            match effect:
                case Send(frame):
                    if self._link is not None:
                        self._link.send(frame)
                case Reply(request_id) | ReplyFailed(request_id) if request_id == self._renewal_id:
                    self._renewed(effect)
                case Ready(welcome):
                    self._ready(welcome)
                case Reconnect(reason):
                    log.info("reconnecting: %s", reason)
                    self._reason = reason
                    if self._link is not None:
                        self._link.abort()
                case Replace(within_s):
                    self._replace(within_s)
                case Stop(error):
                    self._stop(error)
                case Note(detail):
                    log.warning("from the server: %r", detail)  # may hold anything
                case _:
                    self.on_effect(effect)
        self._schedule()

    # --- connections --------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Connect, keep, connect again, until the session is stopped."""
        try:
            while self.session.stopped is None:
                link = await self._connect()
                self._adopt(link)
                await self._keep()
        except AnswerbackError as error:
            self.carry_out(self.session.stop(error))
        except asyncio.CancelledError:
            # Not by `close`, which stops the session first: the event loop ends, and nobody would run what is left.
            if self.session.stopped is None:
                self._is_abandoned = True
                self.carry_out(self.session.stop(Closed()))
            raise
        except Exception:
            log.exception("the client failed")
            self.carry_out(self.session.stop(Closed()))

    async def _connect(self) -> Link:
        """Open a connection, however long it takes. Raises: AnswerbackError: it is no use to try again."""
        while True:
            if self._failures:
                await self._pause(None)
            self.on_state(Connecting(self._failures + 1))
            try:
                return await self._open()
            except OpenFailed as failed:
                self._failures += 1
                self._reason, self._obstacle = failed.reason, failed.obstacle
                at_start = self.must_connect and not self._was_ready
                if self._is_final(failed) or (failed.is_absent and at_start):
                    raise failed.error from failed
                if failed.retry_after_s is not None:
                    await self._pause(failed.retry_after_s)

    def _is_final(self, failed: OpenFailed) -> bool:
        """A token that can be renewed is tried once more: the first may just have run out."""
        if isinstance(failed.error, Unauthorized) and self.tokens.can_renew:
            self._refusals += 1
            return self._refusals > 1
        return failed.is_final

    async def _pause(self, at_least_s: float | None) -> None:
        """Full jitter: a server that comes back is not met by everybody at once.

        It takes at most half of the time in which a question may still be asked for before it is given up.
        """
        pause_s = at_least_s
        if pause_s is None:
            left_s = self.session.last_call_s(now=self.now)
            pause_s = self.rng.uniform(0, self._ceiling_s(self._failures))
            pause_s = min(pause_s, max(left_s / 2, min(left_s, SHORT_PAUSE_S)))
        self.on_state(Disconnected(retry_in_s=pause_s, reason=self._reason, obstacle=self._obstacle))
        self._skip_pause.clear()
        try:
            async with asyncio.timeout(pause_s):
                await self._skip_pause.wait()
        except TimeoutError:
            pass

    def _ceiling_s(self, failures: int) -> float:
        return min(self.timing.backoff_max_s, self.timing.backoff_min_s * 2.0 ** min(failures - 1, 16))

    async def _open(self) -> Link:
        try:
            token = await self.tokens.get()
        except Exception as exc:
            log.exception("the token function failed")
            raise OpenFailed(CannotConnect(self.address.url, "no token could be got", Obstacle.TOKEN)) from exc
        socket = await open_socket(self.address, token=token, timing=self.timing, ssl_context=self.ssl_context)
        self.tokens.adopted(token)
        self._numbers += 1
        return Link(self._numbers, socket, on_message=self._on_message, on_lost=self._on_lost)

    def _adopt(self, link: Link) -> None:
        """From now on this is the session's connection; an older one is read until the new one is welcomed."""
        self._links[link.number] = link
        self._link = link
        self._reason, self._obstacle = "", None
        age_s = self.rng.uniform(self.timing.rollover_min_s, self.timing.rollover_max_s)
        link.rollover_at = self.now + age_s
        link.stays_until = self.now + self.timing.stay_s
        self._tasks.start(link.run(), name=f"answerback-link-{link.number}")
        self.carry_out(self.session.connected(link.number, now=self.now))

    async def _keep(self) -> None:
        """Return when the present connection is lost; replace it before it grows too old."""
        while (link := self._link) is not None:
            try:
                async with asyncio.timeout_at(link.rollover_at):
                    await link.news.wait()
                link.news.clear()
            except TimeoutError:
                await self._roll_over(link)

    def _replace(self, within_s: float) -> None:
        """The server leaves: move at a random instant of the first half, so that not all go at once."""
        if self._link is not None:
            self._replace_at(self._link, self.now + self.rng.uniform(0, within_s / 2))

    def _replace_at(self, link: Link, instant: float) -> None:
        """Not at once if the connection is new: what sent this one away may send the next one away, too."""
        link.rollover_at = max(instant, link.stays_until)
        link.news.set()

    async def _roll_over(self, old: Link) -> None:
        """The new connection first, then the old one goes: nothing is interrupted."""
        try:
            new = await self._open()
        except OpenFailed as failed:
            log.info("the connection could not be replaced yet: %s", failed.error)
            self._failed_rollovers += 1
            pause_s = self.rng.uniform(0, self._ceiling_s(self._failed_rollovers))
            old.rollover_at = self.now + max(pause_s, failed.retry_after_s or 0.0)
            return
        self._failed_rollovers = 0
        if self.session.stopped is None:
            self._adopt(new)
        else:
            await new.close(flush_s=0)

    def _on_message(self, link: Link, data: str | bytes) -> None:
        self.carry_out(self.session.received(link.number, data, now=self.now))

    def _on_lost(self, link: Link) -> None:
        self._links.pop(link.number, None)
        if link is self._link:
            self._link = None
            self._failures += 1
            self._failed_rollovers = 0
            self._reason = self._reason or link.reason
            too_large = link.was_too_large
            self.carry_out(self.session.disconnected(link.number, now=self.now, too_large=too_large))

    def _ready(self, welcome: Welcome) -> None:
        self._was_ready = True
        self._failures = self._refusals = 0
        self._reason, self._obstacle = "", None
        link = self._link
        if link is not None and welcome.limits.max_connection_ms is not None and link.rollover_at is not None:
            latest = self.now + welcome.limits.max_connection_ms / 1000 * self.rng.uniform(0.8, 0.95)
            self._replace_at(link, min(link.rollover_at, latest))
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        for old in [other for other in self._links.values() if other is not link]:
            self._tasks.start(old.close(flush_s=self.timing.close_s), name=f"answerback-retire-{old.number}")
        state = Connected(connection_id=welcome.connection_id, user_id=welcome.user_id, models=welcome.models)
        self.on_state(state)

    def _stop(self, error: AnswerbackError) -> None:
        self._link = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._skip_pause.set()
        for link in self._links.values():
            if self._is_abandoned:
                link.abort()
            else:
                self._tasks.start(link.close(flush_s=self.timing.close_s), name=f"answerback-close-{link.number}")
        self.on_state(Stopped(error))

    # --- time ---------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        due_at = self.session.due_at()
        if self._timer is not None:
            if due_at is not None and self._timer_at <= due_at:
                return
            self._timer.cancel()
            self._timer = None
        if due_at is not None:
            self._timer_at = due_at
            self._timer = asyncio.get_running_loop().call_at(due_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.carry_out(self.session.tick(now=self.now))

    async def _watch(self) -> None:
        """Notice that the machine slept, and that the token runs out; neither can be left to one long timer."""
        period_s = self.timing.watch_s
        while True:
            mono_s, wall_s = time.monotonic(), time.time()
            await asyncio.sleep(period_s)
            slept_s = max(time.time() - wall_s, time.monotonic() - mono_s) - period_s
            if slept_s > self.timing.jump_s:
                log.info("the clock leapt by %.0f s: probing the connection", slept_s)
                self.reconnect_now()
            if self.tokens.is_due(wall_s=time.time(), before_s=self.timing.renew_before_s):
                await self._renew()

    async def _renew(self) -> None:
        """Give the connection a fresh token before the old one expires; once at a time."""
        if self._link is None or self._renewal_id is not None or self.session.stopped is not None:
            return
        try:
            token = await self.tokens.get()
        except Exception:
            log.exception("the token function failed; it is called again soon")
            return
        if token is None or token == self._renewal_token:
            return
        self._renewals += 1
        self._renewal_id = f"renewal-{self._renewals}"
        self._renewal_token = token
        frame = RenewToken(request_id=self._renewal_id, token=token)
        timeout_s = self.timing.call_timeout_s
        self.carry_out(self.session.call(self._renewal_id, frame, timeout_s=timeout_s, now=self.now))

    def _renewed(self, effect: Reply | ReplyFailed) -> None:
        token, self._renewal_id, self._renewal_token = self._renewal_token, None, None
        if isinstance(effect, Reply):
            self.tokens.adopted(token)
            return
        log.warning("the token was not renewed: %r", str(effect.error))
        if effect.error.code == ErrorCode.UNAUTHORIZED and self._link is not None:
            self._link.abort()  # a new connection asks for a fresh token; a refusal there is final
