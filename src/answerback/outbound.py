"""How every client here reaches its server: which proxy it goes through, and whose certificates it trusts.

Proxies. A server on this machine is reached directly. For others the proxy of `ANSWERBACK_PROXY` counts, whose `direct`
means none. Without it `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
`NO_PROXY` count, then the system's settings. For a WebSocket `WSS_PROXY` or `WS_PROXY` comes first.

Certificates. Those that the system trusts, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR` in their place. The
authorities in the file of `ANSWERBACK_CA_FILE` are trusted besides.
"""

import base64
import ipaddress
import os
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

CA_VARIABLE: Final = "ANSWERBACK_CA_FILE"
PROXY_VARIABLE: Final = "ANSWERBACK_PROXY"
DIRECT: Final = "direct"

_VARIABLES: Final = {
    "https": ("https", "all"),
    "http": ("http", "all"),
    # RFC 6455, section 4.1: SOCKS before the proxy for HTTPS, that before the proxy for HTTP.
    "wss": ("wss", "socks", "https", "all"),
    "ws": ("ws", "socks", "https", "http", "all"),
}
HTTP_PROXIES: Final = frozenset({"http", "https"})
ALL_PROXIES: Final = HTTP_PROXIES | {"socks4", "socks4a", "socks5", "socks5h"}


class ProxyError(ValueError):
    """The proxy that the environment names cannot be used; the text says what to do."""


class CaFileError(ValueError):
    """The file of authorities cannot be used; the text says what to do."""


class FetchError(OSError):
    """Nothing could be fetched; the text says why, and names the proxy or the certificate that was in the way."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy and what names it: a variable or the system. `url` may hold a password, the text never does."""

    url: str = field(repr=False)
    source: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"the proxy {host}{f':{parts.port}' if parts.port else ''} of {self.source}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def proxy_for(url: str, *, kinds: Collection[str] = HTTP_PROXIES) -> Proxy | None:
    """The proxy on the way to `url`; None: the way is direct. `kinds`: schemes of proxies that the caller can use.

    Raises: ProxyError: the proxy is none, or of another kind.
    """
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 - slow to import, and many never connect

    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme in ("https", "wss") else 80)
    if is_loopback(host) or proxy_bypass(host) or proxy_bypass(f"{host}:{port}"):
        return None
    if chosen := os.environ.get(PROXY_VARIABLE):
        if chosen == DIRECT:
            return None
        scheme, named, source = "all", chosen, PROXY_VARIABLE
    else:
        found = getproxies()
        scheme = next((scheme for scheme in _VARIABLES[parts.scheme] if found.get(scheme)), "")
        if not scheme:
            return None
        names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
        named, source = found[scheme], next((name for name in names if os.environ.get(name)), "the system's settings")
    named = named.strip()
    proxy = named if "://" in named else f"http://{named}"
    if scheme == "socks" and proxy.startswith("http://"):  # how systems write it
        proxy = f"socks5h://{proxy[7:]}"
    if not is_proxy(proxy, kinds=kinds):  # not its text: it may hold a password
        raise ProxyError(f"the proxy of {source} is not http://HOST:PORT; correct it, or put {host} into NO_PROXY")
    return Proxy(proxy, source)


def is_proxy(url: str, *, kinds: Collection[str] = HTTP_PROXIES) -> bool:
    """Whether a URL names a proxy of one of these kinds."""
    try:
        parts = urlsplit(url)
        return parts.scheme in kinds and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def tls_context(ca_file: str | os.PathLike[str] | None = None, *, source: str = "--ca-file") -> ssl.SSLContext:
    """What a client trusts. `ca_file`: more authorities (PEM), instead of `ANSWERBACK_CA_FILE`; `source` names it.

    Raises: CaFileError.
    """
    if ca_file is None and (named := os.environ.get(CA_VARIABLE)):
        ca_file, source = named, CA_VARIABLE
    context = _system_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError as exc:
            raise CaFileError(f"the file {ca_file} of {source} has no certificate in PEM") from exc
        except OSError as exc:
            raise CaFileError(f"the file {ca_file} of {source} cannot be read ({exc.strerror})") from exc
    return context


def trust(ca_file: Path | None) -> None:
    """Trust the authorities of a file, in this process and in those that it starts; None: nothing changes.

    Raises: CaFileError.
    """
    if ca_file is not None:
        is_named = os.environ.get(CA_VARIABLE) == str(ca_file)
        tls_context(ca_file, source=CA_VARIABLE if is_named else "--ca-file")
        os.environ[CA_VARIABLE] = str(ca_file.absolute())


def _system_context() -> ssl.SSLContext:
    if any(map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR"))):
        return ssl.create_default_context()  # these two are OpenSSL's own; the system's stores know nothing of them
    try:
        from truststore import SSLContext  # noqa: PLC0415 - a function on AWS does not have it
    except ModuleNotFoundError:
        return ssl.create_default_context()
    return SSLContext(ssl.PROTOCOL_TLS_CLIENT)


_OF_ANOTHER_NAME: Final = frozenset({62, 63, 64})
_OUT_OF_TIME: Final = frozenset({9, 10})
"""What OpenSSL's X509_verify_cert_error_string(3) calls so."""


def is_unfit(error: ssl.SSLCertVerificationError) -> bool:
    """Whether the certificate is for another name, or its time is over: no authority would help."""
    return error.verify_code in _OF_ANOTHER_NAME | _OUT_OF_TIME


def explain_certificate(error: ssl.SSLCertVerificationError) -> str:
    """Why a certificate is not trusted, and how to trust it."""
    if error.verify_code in _OF_ANOTHER_NAME:
        return f"the server's certificate is for another name ({error.verify_message}); check the host"
    if error.verify_code in _OUT_OF_TIME:
        return f"the server's certificate does not hold now ({error.verify_message}); check the clocks, or renew it"
    if os.environ.get(CA_VARIABLE):
        advice = f"{CA_VARIABLE} names another authority"
    else:
        advice = f"name its authority with --ca-file or {CA_VARIABLE}"
        if named := [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]:
            advice += f" (trusted now: those of {', '.join(named)})"
    return f"the server's certificate is not trusted ({error.verify_message}); {advice}"


def fetch(
    url: str, *, data: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float, max_bytes: int
) -> tuple[int, bytes]:
    """The status and the body at an `https` or `http` URL, blocking. `data` makes it a POST.

    `timeout_s` is for the whole, however slowly the bytes come. A redirect is not followed: it could take a secret, or
    the trust in the answer, to a place that anybody can write.
    Raises: FetchError: no answer, or one of more than `max_bytes`; ProxyError; CaFileError.
    """
    import http.client  # noqa: PLC0415 - slow to import, and many never fetch

    parts = urlsplit(url)
    is_safe = parts.scheme == "https"
    proxy = proxy_for(url, kinds={"http"})
    through = urlsplit(proxy.url) if proxy else parts
    authorization = _basic(through.username, through.password) if proxy else {}
    target = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    connection: http.client.HTTPConnection
    if is_safe:
        connection = http.client.HTTPSConnection(
            through.hostname or "", through.port or (80 if proxy else 443), timeout=timeout_s, context=tls_context()
        )
        if proxy:
            connection.set_tunnel(parts.hostname or "", parts.port or 443, authorization)
            authorization = {}
    else:
        connection = http.client.HTTPConnection(through.hostname or "", through.port or 80, timeout=timeout_s)
        target = url if proxy else target
    sockets: list[socket.socket] = []
    is_late = threading.Event()

    def expire() -> None:
        is_late.set()
        for opened in [*sockets, connection.sock]:
            if opened is not None:
                with suppress(OSError):
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        sockets.append(connection.sock)
        if is_late.is_set():  # while there was no socket yet that could be shut down
            raise TimeoutError
        connection.request("GET" if data is None else "POST", target, data, {**(headers or {}), **authorization})
        response = connection.getresponse()
        body = response.read(max_bytes + 1)
        if is_late.is_set():
            raise TimeoutError
        if len(body) > max_bytes:
            raise FetchError(f"more than {max_bytes} bytes")
        return response.status, body
    except FetchError:
        raise
    except (OSError, http.client.HTTPException) as exc:
        raise FetchError(_explain(exc, proxy, is_late=is_late.is_set())) from exc
    finally:
        timer.cancel()
        connection.close()


def _basic(user: str | None, password: str | None) -> dict[str, str]:
    if user is None:
        return {}
    pair = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {pair}"}


def _explain(exc: Exception, proxy: Proxy | None, *, is_late: bool) -> str:
    if is_late or isinstance(exc, TimeoutError):
        reason = "no answer in time"
    elif isinstance(exc, ssl.SSLCertVerificationError):
        reason = explain_certificate(exc)
    else:
        reason = (isinstance(exc, OSError) and exc.strerror) or str(exc) or type(exc).__name__
    return f"{reason} (through {proxy})" if proxy else reason
