"""Reads files again that change while a gateway runs: certificate, token secret, JWKS file, keys of the admin port.

A file that cannot be used leaves what is in force. Sockets stay open; a new certificate counts from the next handshake
on, a new secret or key from the next token on.
"""

import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from answerback.auth import JwtTokens
from answerback.gateway.admin_key import AdminKey, load_key
from answerback.gateway.checks import make_tokens, tls_context
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.ports import Identity
from answerback.settings import declared

log = logging.getLogger("answerback.reload")

LOG_LEVEL: Final = "log_level"
SECRET: Final = frozenset({"auth_secret", "auth_secret_file"})
"""The settings whose new value counts after a reload, of the secret only if there was one and is one. A file that
another setting names is read again under the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What was read again, why the rest of it stays as it was, and which settings have changed but need a restart."""

    read: Sequence[str]
    kept: Sequence[str]
    restart: Sequence[str] = ()


class CurrentTokens:
    """`ports.Tokens` by the verifier of the last reload."""

    def __init__(self, verifier: JwtTokens) -> None:
        self.verifier = verifier

    async def identify(self, token: str) -> Identity:
        return await self.verifier.identify(token)

    async def close(self) -> None:
        await self.verifier.close()


class Reloader:
    """What a gateway was started with, and what is in force now.

    `read_again`: reads the settings again, the log level among them, and may raise SettingsError. None: only files are.
    Making one raises SettingsError: a file cannot be used.
    """

    def __init__(self, settings: GatewaySettings, read_again: Callable[[], GatewaySettings] | None = None) -> None:
        self._settings = settings
        self._read_again = read_again
        verifier = make_tokens(settings.auth)
        self.tokens = None if verifier is None else CurrentTokens(verifier)
        self._keys: dict[Path, AdminKey] = {}
        self.tls = self._tls_now = tls_context(settings.tls_cert, settings.tls_key)
        if self.tls is not None:
            # A callback swaps certificate and key in one step, where loading them into a live context takes two.
            self.tls.sni_callback = self._take_newest_certificate

    def open_key(self, name: str) -> AdminKey:
        """Read a key of the data folder, or make one. Raises: SettingsError; OSError: the folder cannot be used."""
        path = self._settings.data_dir / name
        self._keys[path] = AdminKey(load_key(path))
        return self._keys[path]

    def reload(self) -> Reloaded:
        """Read everything again. Each part that cannot be used stays as it was."""
        read: list[str] = []
        kept: list[str] = []
        restart: list[str] = []

        def attempt(what: str, step: Callable[[], None]) -> None:
            try:
                step()
                read.append(what)
            except (SettingsError, OSError) as exc:
                kept.append(f"{what}: {exc}")

        if self._read_again is not None:
            attempt("settings", lambda: restart.extend(self._read_settings()))
        if self.tls is not None:
            attempt("certificate", self._load_certificate)
        auth = self._settings.auth
        if auth.secret is not None or auth.jwks_file:
            attempt("JWKS file" if auth.jwks_file else "token secret", self._load_tokens)
        for path, key in self._keys.items():
            attempt(f"{path.stem} key", partial(_change, key, path))
        log.info("read again: %s", ", ".join(read) or "nothing")
        for why in kept:
            log.error("not read again, and kept as it was: %s", why)
        if restart:
            log.warning("these settings have changed and need a restart: %s", ", ".join(restart))
        return Reloaded(read=read, kept=kept, restart=restart)

    def _read_settings(self) -> list[str]:
        """Take over what can be. Returns the settings that have changed and need a restart."""
        assert self._read_again is not None
        new, old = self._read_again(), self._settings
        applied = {LOG_LEVEL}
        if new.auth.secret is not None and old.auth.secret is not None:
            applied |= SECRET
            auth = replace(old.auth, secret=new.auth.secret, secret_file=new.auth.secret_file)
            self._settings = replace(old, auth=auth)
        return [
            setting.key
            for setting in declared(GatewaySettings)
            if setting.key not in applied and setting.value_in(new) != setting.value_in(old)
        ]

    def _load_certificate(self) -> None:
        self._tls_now = tls_context(self._settings.tls_cert, self._settings.tls_key)

    def _load_tokens(self) -> None:
        verifier = make_tokens(self._settings.auth)
        if self.tokens is not None and verifier is not None:
            self.tokens.verifier = verifier

    def _take_newest_certificate(self, connecting: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        if self._tls_now is not None:
            connecting.context = self._tls_now


def _change(key: AdminKey, path: Path) -> None:
    key.change(load_key(path))
