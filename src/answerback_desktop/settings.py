"""The settings of one profile: typed, checked, kept as a JSON file."""

import codecs
import os
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta, Struct

from answerback.client import is_id
from answerback.outbound import DIRECT, is_loopback, is_proxy

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

    `ca_file`: more authorities that are trusted. `proxy` empty: as the system says; `direct`: none.
    `model`, `system`, `max_tokens` None: the server's defaults. `font_size` in points. The token is kept by the
    keyring, not in here: `token` only carries one from the dialog to the engine, and is never written.
    """

    server_url: str = DEFAULT_URL
    ca_file: str = ""
    proxy: str = ""
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
    local_model: str = ""
    """The model of an Ollama on this machine that such a gateway uses; empty: the embedded one."""


class Field(StrEnum):
    """A setting that is invalid, and how; the language tables have the texts."""

    SERVER_URL = "server_url"
    CA_FILE = "ca_file"
    PROXY = "proxy"
    USER = "user"
    TOKEN = "token"  # noqa: S105 - the name of a field
    OIDC_ISSUER = "oidc_issuer"
    OIDC_CLIENT_ID = "oidc_client_id"
    SYSTEM = "system"
    MAX_TOKENS = "max_tokens"
    FONT_SIZE = "font_size"


def problems(settings: Settings) -> tuple[Field, ...]:
    """The fields that cannot be used as they are."""
    is_anonymous, is_oidc = settings.auth is AuthMode.NONE, settings.auth is AuthMode.OIDC
    wrong = {
        Field.SERVER_URL: not is_server_url(settings.server_url),
        Field.PROXY: settings.proxy and not is_proxy_choice(settings.proxy),
        Field.USER: is_anonymous and settings.user and not is_id(settings.user),
        Field.TOKEN: settings.token and not is_visible(settings.token),
        Field.OIDC_ISSUER: is_oidc and not is_issuer(settings.oidc_issuer),
        Field.OIDC_CLIENT_ID: is_oidc and not settings.oidc_client_id.strip(),
        Field.SYSTEM: "\x00" in (settings.system or ""),
        Field.MAX_TOKENS: settings.max_tokens is not None and not 1 <= settings.max_tokens <= MAX_TOKENS,
        Field.FONT_SIZE: not 8 <= settings.font_size <= 32,
    }
    return tuple(field for field, is_wrong in wrong.items() if is_wrong)


def is_server_url(url: str) -> bool:
    """Whether the client can connect there."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("ws", "wss") and bool(parts.hostname) and is_visible(url) and not parts.fragment


def server_url_of(typed: str) -> str:
    """The address that a person means: `https://host` is `wss://host`, and so is `host`; this machine speaks `ws://`.

    What is no address comes back as it was.
    """
    typed = typed.strip()
    scheme, separator, rest = typed.partition("://")
    if not separator:
        scheme, rest = "", typed
    scheme = {"http": "ws", "https": "wss"}.get(scheme.lower(), scheme.lower())
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError:
        return typed
    if not parts.hostname:
        return typed
    netloc = parts.netloc
    if not scheme:
        scheme = "ws" if is_loopback(parts.hostname) else "wss"
        if scheme == "ws" and port is None:
            netloc = f"{netloc}:{urlsplit(DEFAULT_URL).port}"
    is_as_it_was = f"{scheme}://" == typed[: len(scheme) + 3]
    path = parts.path if is_as_it_was or parts.path != "/" else ""
    return urlunsplit((scheme, netloc, path, parts.query, parts.fragment))


def is_proxy_choice(proxy: str) -> bool:
    """Whether a proxy can be chosen so. Not with a password: settings hold no secrets."""
    return proxy == DIRECT or (is_proxy(proxy) and "@" not in proxy and is_visible(proxy))


def is_ca_file(path: str) -> bool:
    """Whether certificates in PEM can be read there."""
    try:
        with open(path, "rb") as file:
            return b"-----BEGIN CERTIFICATE-----" in file.read(_BYTES)
    except (OSError, ValueError):
        return False


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


class PresetError(ValueError):
    """The preset cannot be used; the text says why."""


class _PresetFile(Struct, frozen=True, forbid_unknown_fields=True):
    settings: dict[str, Any] = {}
    locked: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What an administrator has set for everybody on this computer.

    `usual`: the settings in place of the app's own defaults. `locked`: names of those that a person cannot change.
    `models`: the only ones that are offered; none: all.
    """

    usual: Settings = field(default_factory=Settings)
    locked: frozenset[str] = frozenset()
    models: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "Preset":
        """Read a preset's file; without one nothing is preset. Raises: PresetError."""
        try:
            data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as exc:
            raise PresetError(exc.strerror or type(exc).__name__) from exc
        try:
            file = msgspec.json.decode(data, type=_PresetFile)
            known = {*Settings.__struct_fields__} - {"token"}
            unknown = sorted({*file.settings, *file.locked} - known)
            if unknown:
                raise PresetError(f"there is no setting {', '.join(unknown)}")
            usual = msgspec.convert(file.settings, Settings)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise PresetError(str(exc) or "it is nested too deep") from exc
        usual = msgspec.structs.replace(usual, server_url=server_url_of(usual.server_url))
        if wrong := problems(usual):
            raise PresetError(f"these settings cannot be used: {', '.join(wrong)}")
        preset = cls(usual=usual, locked=frozenset(file.locked), models=file.models)
        return replace(preset, usual=preset.enforced(usual))

    def enforced(self, settings: Settings) -> Settings:
        """The settings as a person may have them."""
        fixed = {name: getattr(self.usual, name) for name in self.locked}
        settings = msgspec.structs.replace(settings, **fixed)
        if self.models and settings.model not in self.models:
            settings = msgspec.structs.replace(settings, model=self.models[0])
        return settings


class SettingsFile:
    """The file of a profile's settings, as far as they are not the usual ones. A crash in mid-write leaves the old."""

    def __init__(self, path: Path, preset: Preset | None = None) -> None:
        self._path = path
        self._preset = preset or Preset()
        self.moved_aside: Path | None = None

    def load(self) -> Settings:
        """What is stored; defaults if nothing is. A file that cannot be used is moved aside (`moved_aside` says where).

        Raises: OSError: the folder cannot be used.
        """
        usual = self._preset.usual
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return usual
        try:
            if len(data) > _BYTES:
                raise ValueError
            own = msgspec.json.decode(data, type=dict[str, Any])
            settings = self._preset.enforced(msgspec.convert({**msgspec.to_builtins(usual), **own}, Settings))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            settings = None
        if settings is None or problems(settings):
            self.moved_aside = self._path.with_name(self._path.name + ".broken")
            os.replace(self._path, self.moved_aside)
            return usual
        return settings

    def save(self, settings: Settings) -> None:
        """Raises: OSError: it cannot be written; ValueError: the settings have problems."""
        if problems(settings):
            raise ValueError("these settings have problems; see problems()")
        left_out = {"token", *self._preset.locked}
        given = {name: getattr(settings, name) for name in Settings.__struct_fields__ if name not in left_out}
        own = {name: value for name, value in given.items() if value != getattr(self._preset.usual, name)}
        data = msgspec.json.format(msgspec.json.encode(own), indent=2)
        new = self._path.with_name(self._path.name + ".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)
