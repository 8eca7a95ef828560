"""The checks of `answerback doctor` that talk to a gateway, as any client would."""

import ssl
import time
import uuid
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from answerback import outbound
from answerback.client.errors import AnswerbackError, CannotConnect, Forbidden, Unauthorized
from answerback.client.failures import explain
from answerback.core import defaults
from answerback.protocol.codec import FrameError, decode_server, encode
from answerback.protocol.frames import Error, Hello, MessageResponse, SendMessage, Status, Welcome
from answerback.protocol.limits import PROTOCOL_VERSION, SUBPROTOCOL

TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 60.0


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check. `what` is its name, `text` what was found, `advice` what to do ('' if all is well)."""

    level: Level
    what: str
    text: str
    advice: str = ""


def ok(what: str, text: str) -> Finding:
    """All is well."""
    return Finding(level=Level.OK, what=what, text=text)


def warning(what: str, text: str, advice: str) -> Finding:
    """A finding that works but needs attention."""
    return Finding(level=Level.WARN, what=what, text=text, advice=advice)


def failure(what: str, text: str, advice: str) -> Finding:
    """A finding that does not work."""
    return Finding(level=Level.FAIL, what=what, text=text, advice=advice)


@dataclass(frozen=True, slots=True)
class NotListening(Exception):
    """Nothing accepts connections at this address."""

    text: str


def check_gateway(url: str, *, token: str | None, ask: bool) -> list[Finding]:
    """Connect, say hello, compare clocks; with `ask`, ask one question. Raises: NotListening."""
    proxy: outbound.Proxy | None = None
    is_open = False
    try:
        proxy = outbound.proxy_for(url, kinds=outbound.ALL_PROXIES)
        before = time.time()
        with connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"} if token else {},
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            open_timeout=TIMEOUT_S,
            close_timeout=TIMEOUT_S,
            proxy=None if proxy is None else proxy.url,
            ssl=outbound.tls_context() if url.startswith("wss:") else None,
        ) as connection:
            is_open = True
            now = (before + time.time()) / 2
            date = connection.response.headers.get("Date") if connection.response else None
            found = [_welcome_finding(url, _hello(connection)), *check_clock(date, now_s=now)]
            if ask:
                found.append(_asked(connection))
            return found
    except (outbound.ProxyError, outbound.CaFileError) as exc:
        return [failure("gateway", f"{url} is not tried: {exc}", "correct the variable")]
    except (WebSocketException, FrameError, OSError, EOFError, UnicodeError, ImportError) as exc:
        if is_open:
            text = f"{url} accepts, but broke the conversation off"
            if isinstance(exc, TimeoutError):
                text = f"{url} accepts, but does not answer"
            return [failure("gateway", text, "see its log; is it a gateway?")]
        error = explain(url, exc, proxy=proxy, has_token=token is not None).error
        if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError | TimeoutError) and proxy is None:
            raise NotListening(exc.strerror or type(exc).__name__) from exc
        return [_refused(url, error, has_token=token is not None)]


def _hello(connection: ClientConnection) -> Welcome | None:
    connection.send(encode(Hello(hello_id=uuid.uuid4().hex)).decode())
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        frame = decode_server(connection.recv(timeout=max(0.0, deadline - time.monotonic())))
        if isinstance(frame, Welcome):
            return frame
        if isinstance(frame, Error):
            return None


def _welcome_finding(url: str, welcome: Welcome | None) -> Finding:
    if welcome is None:
        return failure("gateway", f"{url} answered hello with an error", "see its log")
    if welcome.protocol != PROTOCOL_VERSION:
        return failure(
            "gateway",
            f"{url} speaks protocol {welcome.protocol}, this is for {PROTOCOL_VERSION}",
            "install the same version on both sides",
        )
    models = ", ".join(welcome.models)
    return ok("gateway", f"{url} answers; user {welcome.user_id}, models {models}")


def check_clock(date: str | None, *, now_s: float) -> list[Finding]:
    """Compare the `Date` of an answer with our clock; nothing if it has none. `now_s`: epoch seconds."""
    try:
        skew_s = parsedate_to_datetime(date or "").timestamp() + 0.5 - now_s
    except ValueError:
        return []
    if abs(skew_s) <= defaults.LEEWAY_S:
        return [ok("clock", "the gateway's clock and ours agree")]
    text = f"the gateway's clock is {abs(skew_s):.0f} s behind ours"
    if skew_s > 0:
        text = f"the gateway's clock is {skew_s:.0f} s ahead of ours"
    return [warning("clock", text, "synchronise both (NTP): tokens fail when clocks disagree")]


def _asked(connection: ClientConnection) -> Finding:
    question = SendMessage(request_id=str(uuid.uuid4()), message="Say hello.", max_tokens=16)
    started = time.monotonic()
    connection.send(encode(question).decode())
    while True:
        frame = decode_server(connection.recv(timeout=max(0.0, started + ANSWER_TIMEOUT_S - time.monotonic())))
        if not isinstance(frame, MessageResponse) or frame.request_id != question.request_id:
            continue
        if frame.status is Status.COMPLETED:
            text = (frame.response or "").strip()[:60]
            return ok("answer", f"'{text}' after {time.monotonic() - started:.1f} s")
        error = frame.error
        why = f"{error.code}: {error.message}" if error else str(frame.status)
        return failure("answer", f"the question failed ({why})", "see the gateway's log")


def _refused(url: str, error: AnswerbackError, *, has_token: bool) -> Finding:
    match error:
        case Unauthorized():
            advice = "get a new token: answerback token --user USER" if has_token else "set ANSWERBACK_TOKEN"
            return failure("token", f"{url} refuses the token" if has_token else f"{url} wants a token", advice)
        case Forbidden():
            text = f"{url} refuses us: {error.detail}" if error.detail else f"{url} refuses us"
            return failure("gateway", text, f"start it with --allow-host {urlsplit(url).hostname}")
        case CannotConnect():
            advice = "" if ";" in error.reason else "say the right --url or --port"
            return failure("gateway", str(error), advice)
        case _:
            return failure("gateway", f"{url}: {error}", "see its log")
