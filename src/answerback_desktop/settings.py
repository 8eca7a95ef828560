"""The settings of one profile: typed, checked, kept as a JSON file."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from answerback.client import is_id

DEFAULT_URL: Final = "ws://127.0.0.1:8765"
MAX_TOKENS: Final = 1_000_000
_BYTES: Final = 1 << 20
"""A settings file above this is none."""


class AuthMode(StrEnum):
    """How the app identifies its user."""

    NONE = "none"
    """A user name, where the server asks for no token."""
    TOKEN = "token"  # noqa: S105 - the name of a mode
    """A development token, as `answerback token` makes it."""
    OIDC = "oidc"
    """Sign-in in the browser."""


class Theme(StrEnum):
    """Colours."""

    SYSTEM = "system"
    LIGHT = "light"
    DARK = "dark"


class Language(StrEnum):
    """Of the app's own texts."""

    SYSTEM = "system"
    ENGLISH = "en"
    KOREAN = "ko"


FontSize = Annotated[int, Meta(ge=8, le=32)]


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of a profile. `problems` finds invalid ones, which are never stored.

    `model`, `system`, `max_tokens` None: the server's defaults. `font_size` in points. The token is kept by the
    keyring, not in here: `token` only carries one from the dialog to the engine, and is never written.
    """

    server_url: str = DEFAULT_URL
    auth: AuthMode = AuthMode.NONE
    user: str = ""
    token: str = ""
    oidc_issuer: str = ""
    oidc_client_id: str = ""
    oidc_scopes: tuple[str, ...] = ("openid", "offline_access")
    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    theme: Theme = Theme.SYSTEM
    font_size: FontSize = 11
    language: Language = Language.SYSTEM
    notifications: bool = True
    tray: bool = True
    starts_gateway: bool = False
    """Whether the app starts a gateway of its own when nobody answers at a server URL on this machine."""


class Field(StrEnum):
    """A setting that is invalid, and how; the language tables have the texts."""

    SERVER_URL = "server_url"
    USER = "user"
    TOKEN = "token"  # noqa: S105 - the name of a field
    OIDC_ISSUER = "oidc_issuer"
    OIDC_CLIENT_ID = "oidc_client_id"
    SYSTEM = "system"
    MAX_TOKENS = "max_tokens"
    FONT_SIZE = "font_size"


def problems(settings: Settings) -> tuple[Field, ...]:
    """The fields that cannot be used as they are."""
    found = []
    if not is_server_url(settings.server_url):
        found.append(Field.SERVER_URL)
    if settings.auth is AuthMode.NONE and settings.user and not is_id(settings.user):
        found.append(Field.USER)
    if settings.token and not is_visible(settings.token):
        found.append(Field.TOKEN)
    if settings.auth is AuthMode.OIDC:
        if not is_issuer(settings.oidc_issuer):
            found.append(Field.OIDC_ISSUER)
        if not settings.oidc_client_id.strip():
            found.append(Field.OIDC_CLIENT_ID)
    if settings.system is not None and "\x00" in settings.system:
        found.append(Field.SYSTEM)
    if settings.max_tokens is not None and not 1 <= settings.max_tokens <= MAX_TOKENS:
        found.append(Field.MAX_TOKENS)
    if not 8 <= settings.font_size <= 32:
        found.append(Field.FONT_SIZE)
    return tuple(found)


def is_server_url(url: str) -> bool:
    """Whether the client can connect there."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("ws", "wss") and bool(parts.hostname) and is_visible(url) and not parts.fragment


def is_issuer(url: str) -> bool:
    """https, or http on this machine (for tests and development)."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return (
        bool(parts.hostname) and is_visible(url) and (parts.scheme == "https" or (parts.scheme == "http" and is_local))
    )


def is_visible(text: str) -> bool:
    """No white space, no control characters."""
    return bool(text) and text.isprintable() and not any(character.isspace() for character in text)


class SettingsFile:
    """The file that keeps the settings of a profile. A crash in mid-write leaves the old ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.moved_aside: Path | None = None

    def load(self) -> Settings:
        """What is stored; defaults if nothing is. A file that cannot be used is moved aside (`moved_aside` says where).

        Raises: OSError: the folder cannot be used.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Settings()
        try:
            if len(data) > _BYTES:
                raise ValueError
            settings = msgspec.json.decode(data, type=Settings)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            settings = None
        if settings is None or problems(settings):
            self.moved_aside = self._path.with_name(self._path.name + ".broken")
            os.replace(self._path, self.moved_aside)
            return Settings()
        return settings

    def save(self, settings: Settings) -> None:
        """Raises: OSError: it cannot be written; ValueError: the settings have problems."""
        if problems(settings):
            raise ValueError("these settings have problems; see problems()")
        data = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(settings, token="")), indent=2)
        new = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)
