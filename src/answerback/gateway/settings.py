"""Everything an operator can set about a gateway. The command line, the environment and the TOML file fill this."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from answerback.core import defaults
from answerback.core.delivery import COALESCE_MS
from answerback.core.request import Policy
from answerback.core.watching import MOST
from answerback.protocol.limits import MAX_MESSAGE_BYTES
from answerback.settings import (
    DAYS_OR_FOREVER,
    FOLDER,
    MILLISECONDS,
    MILLISECONDS_ABOVE_0,
    NETWORKS,
    PATH,
    PORT,
    PORT_OR_OFF,
    SECONDS,
    SECONDS_ABOVE_0,
    TEXT,
    TEXTS,
    VERSION,
    WHOLE_SECONDS,
    YES_NO,
    Setting,
    choice,
    inner,
    setting,
    whole,
)

LISTENING: Final = "Listening"
MODEL: Final = "Model"
DATA: Final = "Data"
AUTHENTICATION: Final = "Authentication"
LIMITS: Final = "Limits"
TIME: Final = "Time"
LOG: Final = "Log"

_MODEL_HELP: Final = (
    "local | echo | openai:BASE_URL#MODEL | bedrock:MODEL_ID | python:MODULE:FACTORY; "
    "repeatable, the first is the default."
)
_MANY: Final = whole(1, 10_000_000)
_BYTES: Final = whole(1024, 1 << 30, metavar="BYTES")


class SettingsError(Exception):
    """A setting, or a combination of settings, that the gateway does not start with; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """How tokens are verified. Nothing set: no authentication, and only a loopback bind is allowed.

    `secret`: HS256, for development; `secret_file` is where the command line has read it from. `jwks_url` or
    `jwks_file`: RS256 and ES256. `issuer` and `audience` are pinned when set, and must be set with a JWKS.
    """

    secret: str | None = setting(
        AUTHENTICATION,
        TEXT,
        "Shared secret for HS256 tokens; better: --auth-secret-file.",
        None,
        key="auth_secret",
        is_secret=True,
    )
    secret_file: Path | None = setting(
        AUTHENTICATION, PATH, "File with the secret: answerback token --new-secret FILE.", None, key="auth_secret_file"
    )
    jwks_url: str | None = setting(AUTHENTICATION, TEXT, "URL of the public keys for RS256 and ES256 tokens.", None)
    jwks_file: Path | None = setting(AUTHENTICATION, PATH, "File with the public keys.", None)
    issuer: str | None = setting(AUTHENTICATION, TEXT, "`iss` that tokens must have.", None)
    audience: str | None = setting(AUTHENTICATION, TEXT, "`aud` that tokens must have.", None)
    user_claim: str = setting(AUTHENTICATION, TEXT, "Claim that names the user.", defaults.USER_CLAIM)
    team_claim: str | None = setting(
        AUTHENTICATION, TEXT, "Claim that names the user's team, whose budget then counts.", None
    )
    leeway_s: int = setting(
        AUTHENTICATION, WHOLE_SECONDS, "Clock difference that is forgiven.", defaults.LEEWAY_S, key="leeway"
    )

    @property
    def is_on(self) -> bool:
        """Whether connections must show a token."""
        return self.secret is not None or bool(self.jwks_url or self.jwks_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Limits that keep one peer from harming the others. Counts, bytes and seconds."""

    connections: int = setting(LIMITS, _MANY, "Open connections.", 20_000, key="max_connections")
    connections_per_user: int = setting(
        LIMITS, _MANY, "Open connections per user.", 1_000, key="max_connections_per_user"
    )
    pending_per_user: int = setting(LIMITS, _MANY, "Unfinished requests per user.", 1_000, key="max_pending_per_user")
    watchers: int = setting(
        LIMITS,
        whole(0, 1_000),
        "Devices of a user that are shown one conversation as it goes on; 0 = none.",
        MOST,
        key="max_watchers",
    )
    frames_per_second: int = setting(
        LIMITS, _MANY, "Frames per second from one user.", 200, key="max_frames_per_second"
    )
    frames_burst: int = setting(LIMITS, _MANY, "Frames at once from one user.", 2_000, key="max_frames_burst")
    message_bytes: int = setting(
        LIMITS,
        whole(1024, MAX_MESSAGE_BYTES, metavar="BYTES"),
        "Size of one message.",
        MAX_MESSAGE_BYTES,
        key="max_message_bytes",
    )
    write_buffer_bytes: int = setting(LIMITS, _BYTES, "Bytes that wait for one slow reader.", 256 * 1024)
    handshake_timeout_s: float = setting(
        TIME, SECONDS_ABOVE_0, "For the opening handshake.", 10.0, key="handshake_timeout"
    )
    ping_interval_s: float = setting(
        TIME, SECONDS_ABOVE_0, "Between pings that find dead connections.", 30.0, key="ping_interval"
    )
    write_stall_timeout_s: float = setting(
        TIME, SECONDS_ABOVE_0, "A reader that takes nothing is dropped.", 300.0, key="write_stall_timeout"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How the gateway's log is written, on stderr."""

    format: str = setting(
        LOG, choice("text", "json"), "How log lines are written, on stderr.", "text", key="log_format"
    )
    level: str = setting(
        LOG, choice("debug", "info", "warning", "error"), "Least severity that is logged.", "info", key="log_level"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """One gateway. `database` None: the SQLite file `answerback.db` in `data_dir`; else a `postgresql://` URL.

    `models`: specs, the first is the default; clients may ask for the others by name. `rate_limit`: requests per
    calendar minute and user, 0 = none. `system`: a system prompt that clients cannot override if `lock_system`.
    `allow_origins`: the `Origin` values that may connect; a request without `Origin` is a desktop app and always may.
    `allow_hosts`: `Host` names besides the loopback ones and `host`.
    """

    host: str = setting(
        LISTENING, TEXT, "Address to listen on; other than loopback only with authentication.", "127.0.0.1"
    )
    port: int = setting(LISTENING, PORT, "Port to listen on; 0 = any free one.", 8765)
    admin_port: int | None = setting(
        LISTENING, PORT_OR_OFF, "Loopback port for health, metrics, management; 0 = any.", 8766
    )
    admin_host: str | None = setting(
        LISTENING, TEXT, "Address of the admin port besides loopback, for a private network.", None
    )
    public_health: bool = setting(
        LISTENING, YES_NO, "Answer /healthz and /readyz on the port of the sockets, too.", True
    )
    tls_cert: Path | None = setting(LISTENING, PATH, "Certificate chain (PEM): serve wss://.", None)
    tls_key: Path | None = setting(LISTENING, PATH, "Its private key (PEM).", None)
    allow_origins: tuple[str, ...] = setting(
        LISTENING, TEXTS, "Web page that may connect: https://app.example; repeatable.", (), key="allow_origin"
    )
    allow_hosts: tuple[str, ...] = setting(
        LISTENING, TEXTS, "Host name that clients may use besides --host; repeatable.", (), key="allow_host"
    )
    least_client: str | None = setting(
        LISTENING, VERSION, "Version of apps below which they tell to update, such as 1.4.", None
    )
    trust_proxies: tuple[str, ...] = setting(
        LISTENING,
        NETWORKS,
        "Address or network of a proxy whose X-Forwarded-For the log believes; repeatable.",
        (),
        key="trust_proxy",
    )
    models: tuple[str, ...] = setting(MODEL, TEXTS, _MODEL_HELP, ("local",), key="model")
    system: str | None = setting(MODEL, TEXT, "System prompt of questions that bring none.", None)
    lock_system: bool = setting(MODEL, YES_NO, "Clients cannot replace the system prompt.", False)
    max_tokens: int = setting(MODEL, whole(1, 1_000_000), "Most tokens an answer may have.", defaults.MAX_TOKENS)
    context_turns: int = setting(
        MODEL, whole(0, 1000), "Turns of a conversation that the model is shown.", defaults.CONTEXT_TURNS
    )
    data_dir: Path = setting(DATA, FOLDER, "Folder for the database file and the admin key.")
    database: str | None = setting(DATA, TEXT, "postgresql:// URL instead of the SQLite file.", None)
    standby: bool = setting(DATA, YES_NO, "Wait while another gateway serves, and take over when it ends.", False)
    node: str | None = setting(
        DATA, TEXT, "Name of this gateway, one of several on one --database; auto: host name and port.", None
    )
    retention_days: int = setting(
        DATA, whole(1, 3650, metavar="DAYS"), "How long request records are kept.", defaults.RETENTION_DAYS
    )
    history_days: int | None = setting(
        DATA, DAYS_OR_FOREVER, "How long conversations are kept after their last turn, or forever.", None
    )
    ca_file: Path | None = setting(
        AUTHENTICATION, PATH, "PEM file with more authorities: of models' servers and --jwks-url.", None
    )
    auth: AuthSettings = field(default_factory=AuthSettings)
    rate_limit: int = setting(
        LIMITS, whole(0, 1_000_000), "Requests per minute and user; 0 = no limit.", defaults.RATE_LIMIT
    )
    policy: Policy = inner(
        Policy,
        answer_timeout_ms=Setting(
            TIME, MILLISECONDS_ABOVE_0, "From an answer's start to its end.", key="answer_timeout"
        ),
        queue_timeout_ms=Setting(TIME, MILLISECONDS_ABOVE_0, "Waiting for the start.", key="queue_timeout"),
        lease_ms=Setting(TIME, MILLISECONDS, "Without effect: a gateway needs no lease.", key="lease"),
        max_attempts=Setting(TIME, whole(1, 100), "Times an answer is begun before it counts as failed."),
    )
    idle_timeout_s: float = setting(
        TIME,
        SECONDS_ABOVE_0,
        "Silence after which a connection is removed.",
        float(defaults.IDLE_TIMEOUT_S),
        key="idle_timeout",
    )
    caps: Caps = field(default_factory=Caps)
    grace_s: float = setting(TIME, SECONDS, "For running answers when the gateway stops.", 10.0, key="grace")
    drain_s: float = setting(
        TIME, SECONDS, "With --node: for apps to move to other gateways when this one stops.", 30.0, key="drain"
    )
    lb_grace_s: float = setting(
        TIME, SECONDS, "With --node: new sockets are taken for so long after /readyz says 503.", 0.0, key="lb_grace"
    )
    janitor_interval_s: float = setting(TIME, SECONDS_ABOVE_0, "Between clean-ups.", 30.0, key="janitor_interval")
    coalesce_ms: int = setting(
        TIME, whole(0, 10_000, metavar="MS"), "Pieces of an answer are joined for so long.", COALESCE_MS
    )
    otlp_endpoint: str | None = setting(
        LOG, TEXT, "OpenTelemetry collector that gets a trace of each answer: http://HOST:4318.", None
    )
    log: LogSettings = field(default_factory=LogSettings)
