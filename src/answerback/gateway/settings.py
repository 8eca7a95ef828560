"""Everything an operator can set about a gateway. The command line, the environment and the TOML file fill this."""

from dataclasses import dataclass, field
from pathlib import Path

from answerback.core.context import DEFAULT_MAX_TOKENS
from answerback.core.delivery import COALESCE_MS
from answerback.core.request import Policy
from answerback.protocol.limits import MAX_MESSAGE_BYTES


class SettingsError(Exception):
    """A setting, or a combination of settings, that the gateway does not start with; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """How tokens are verified. Nothing set: no authentication, and only a loopback bind is allowed.

    `secret`: HS256, for development. `jwks_url` or `jwks_file`: RS256 and ES256. `issuer` and `audience` are pinned
    when set, and must be set with a JWKS.
    """

    secret: str | None = None
    jwks_url: str | None = None
    jwks_file: Path | None = None
    issuer: str | None = None
    audience: str | None = None
    user_claim: str = "sub"
    leeway_s: int = 30

    @property
    def is_on(self) -> bool:
        """Whether connections must show a token."""
        return self.secret is not None or bool(self.jwks_url or self.jwks_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Limits that keep one peer from harming the others. Counts, bytes and seconds."""

    connections: int = 20_000
    connections_per_user: int = 1_000
    pending_per_user: int = 1_000
    frames_per_second: int = 200
    frames_burst: int = 2_000
    message_bytes: int = MAX_MESSAGE_BYTES
    write_buffer_bytes: int = 256 * 1024
    handshake_timeout_s: float = 10.0
    ping_interval_s: float = 30.0
    write_stall_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """One gateway. `database` None: the SQLite file `answerback.db` in `data_dir`; else a `postgresql://` URL.

    `models`: specs, the first is the default; clients may ask for the others by name. `rate_limit`: requests a calendar
    minute a user, 0 = none. `system`: a system prompt that clients cannot override if `lock_system`. `allow_origins`:
    the `Origin` values that may connect; a request without `Origin` is a desktop app and always may. `allow_hosts`:
    `Host` names besides the loopback ones and `host`.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    admin_port: int | None = 8766
    data_dir: Path
    database: str | None = None
    models: tuple[str, ...] = ("local",)
    rate_limit: int = 10
    system: str | None = None
    lock_system: bool = False
    max_tokens: int = DEFAULT_MAX_TOKENS
    context_turns: int = 20
    auth: AuthSettings = field(default_factory=AuthSettings)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_origins: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    caps: Caps = field(default_factory=Caps)
    policy: Policy = field(default_factory=Policy)
    idle_timeout_s: float = 3600.0
    grace_s: float = 10.0
    retention_days: int = 7
    janitor_interval_s: float = 30.0
    coalesce_ms: int = COALESCE_MS
