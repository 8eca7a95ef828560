"""Checks settings before anything is opened, and makes the token verifier and TLS context that they name.

The text of a SettingsError says which flags to change.
"""

import re
import socket
import ssl
from pathlib import Path
from typing import Final

from answerback.auth import AuthError, FetchedKeys, FileKeys, JwtTokens, fetched_keys
from answerback.core.handshake import is_loopback
from answerback.gateway.settings import AuthSettings, GatewaySettings, SettingsError
from answerback.outbound import CaFileError, trust

AUTO_NODE: Final = "auto"
_NODE: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")


def check_settings(settings: GatewaySettings) -> None:
    """Trust the authorities of `ca_file`, and check the rest. Raises: SettingsError: it must not start like this."""
    try:
        trust(settings.ca_file)
    except CaFileError as exc:
        raise SettingsError(f"{str(exc)[:1].upper()}{str(exc)[1:]}.") from exc
    if not is_loopback(settings.host) and not settings.auth.is_on:
        raise SettingsError(
            f"Binding to {settings.host!r} would let everybody who can reach this machine use the gateway. "
            "Ask for tokens (--auth-secret-file, or --jwks-url with --issuer and --audience), or bind to 127.0.0.1."
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise SettingsError("TLS needs both --tls-cert and --tls-key.")
    if not settings.models:
        raise SettingsError("Name at least one model with --model.")
    if settings.node is not None:
        _check_node(settings)
    for name, port in (("--port", settings.port), ("--admin-port", settings.admin_port)):
        if port is not None and not 0 <= port <= 65_535:
            raise SettingsError(f"{name} must be a number from 0 (any free port) to 65535.")


def _check_node(settings: GatewaySettings) -> None:
    if settings.database is None:
        raise SettingsError("--node is for several gateways on one PostgreSQL: name it with --database.")
    if settings.node == AUTO_NODE and settings.port == 0:
        raise SettingsError("--node auto takes the name of the port: give a --port, or another name.")
    if not _NODE.fullmatch(node_name(settings) or ""):
        raise SettingsError("--node is 1 to 40 letters, digits and .-_, another one for each gateway.")


def node_name(settings: GatewaySettings) -> str | None:
    """The gateway's name among several on one database; None: it is the only one."""
    if settings.node != AUTO_NODE:
        return settings.node
    return f"{socket.gethostname()[:30]}-{settings.port}"


def make_tokens(auth: AuthSettings) -> JwtTokens | None:
    """The verifier that the settings ask for; None if authentication is off.

    Raises: SettingsError: they do not fit together.
    """
    sources = [auth.secret is not None, bool(auth.jwks_url), bool(auth.jwks_file)]
    if not any(sources):
        return None
    if sum(sources) > 1:
        raise SettingsError("Give one of --auth-secret-file, --jwks-url and --jwks-file.")
    if auth.secret is None and not (auth.issuer and auth.audience):
        raise SettingsError(
            "A JWKS needs --issuer and --audience: its provider signs tokens for other services with the same keys."
        )
    try:
        return JwtTokens(
            secret=auth.secret,
            keys=_keys(auth),
            issuer=auth.issuer,
            audience=auth.audience,
            user_claim=auth.user_claim,
            team_claim=auth.team_claim,
            leeway_s=auth.leeway_s,
        )
    except AuthError as exc:
        raise SettingsError(str(exc)) from None


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with this certificate chain; None without one.

    Raises: SettingsError: the files cannot be used.
    """
    if cert is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as exc:
        raise SettingsError(
            f"The certificate {cert} and the key {key} cannot be used: {exc}. "
            "Both must be PEM files that belong together, the key without a password."
        ) from None
    return context


def _keys(auth: AuthSettings) -> FileKeys | FetchedKeys | None:
    if auth.jwks_url:
        return fetched_keys(auth.jwks_url)
    return FileKeys(auth.jwks_file) if auth.jwks_file else None


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal."""
    raise ValueError("the key has a password")
