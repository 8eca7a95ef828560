"""Signs in with the system browser and receives the redirect at a loopback port (RFC 8252, sections 7.3 and 8)."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from answerback_desktop.signin.provider import Provider, SignInError, SignInFailure

WAIT_S: Final = 300.0
_REQUEST_BYTES: Final = 16 * 1024
_REQUEST_S: Final = 10.0
_PATH: Final = "/callback"
_PAGE: Final = (
    "<!doctype html><meta charset=utf-8><title>Answerback</title>"
    "<style>body{{font:16px system-ui,sans-serif;display:grid;place-items:center;height:90vh;color-scheme:light dark}}"
    "</style><p>{text}</p>"
)
_DONE: Final = "You can close this page and go back to Answerback. · 이 페이지를 닫고 Answerback으로 돌아가세요."
_NOT_OURS: Final = "This page belongs to no sign-in of Answerback."


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What came back: the code, and what belongs to it."""

    code: str
    redirect_uri: str
    verifier: str
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secrets:
    """The secrets of one sign-in."""

    state: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(64))


async def ask_in_browser(
    provider: Provider, *, client_id: str, scopes: tuple[str, ...], show: Callable[[str], object]
) -> Returned:
    """Have a person sign in. `show` opens a URL in the system browser, or shows it. Cancel the task to give up.

    Raises: SignInError.
    """
    mine = _Secrets()
    answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(reader, writer, mine.state, answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_REQUEST_BYTES)
    try:
        redirect_uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{_PATH}"
        show(_url(provider, client_id, scopes, redirect_uri, mine))
        async with asyncio.timeout(WAIT_S):
            found = await answer
    except TimeoutError as exc:
        raise SignInError(SignInFailure.TIMEOUT) from exc
    finally:
        server.close()
    if "error" in found or not found.get("code"):
        raise SignInError(SignInFailure.DENIED)
    return Returned(code=found["code"], redirect_uri=redirect_uri, verifier=mine.verifier, nonce=mine.nonce)


def _url(provider: Provider, client_id: str, scopes: tuple[str, ...], redirect_uri: str, mine: _Secrets) -> str:
    digest = hashlib.sha256(mine.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(dict.fromkeys(("openid", *scopes))),
        "state": mine.state,
        "nonce": mine.nonce,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    joint = "&" if urlsplit(provider.authorization_endpoint).query else "?"
    return provider.authorization_endpoint + joint + urlencode(query)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: str, answer: asyncio.Future[dict[str, str]]
) -> None:
    """One request. Any page can come here: only the one that knows `state` counts, and only once."""
    try:
        async with asyncio.timeout(_REQUEST_S):
            head = await reader.readuntil(b"\r\n\r\n")
            method, _, rest = head.decode("latin-1").partition(" ")
            parts = urlsplit(rest.partition(" ")[0])
            query = {name: values[0] for name, values in parse_qs(parts.query).items() if len(values) == 1}
            is_ours = (
                method == "GET"
                and parts.path == _PATH
                and secrets.compare_digest(query.get("state", "").encode(), state.encode())
                and not answer.done()
            )
            page = _PAGE.format(text=_DONE if is_ours else _NOT_OURS).encode()
            status = "200 OK" if is_ours else "404 Not Found"
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(page)}\r\n"
                "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
                + page
            )
            await writer.drain()
            if is_ours and not answer.done():
                answer.set_result(query)
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
        pass  # not a browser
    finally:
        writer.close()
