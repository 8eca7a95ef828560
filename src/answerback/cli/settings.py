"""The one list of settings. Every flag of `serve`, every `ANSWERBACK_*` variable and every TOML key comes from it.

The setting `idle_timeout` is the flag `--idle-timeout`, the variable `ANSWERBACK_IDLE_TIMEOUT` and the TOML key
`idle_timeout`.
"""

from dataclasses import dataclass
from typing import Final

from answerback.cli.values import (
    FOLDER,
    MILLISECONDS,
    PATH,
    PORT,
    PORT_OR_OFF,
    SECONDS,
    TEXT,
    TEXTS,
    WHOLE_SECONDS,
    YES_NO,
    Kind,
    choice,
    whole,
)
from answerback.protocol.limits import MAX_MESSAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `target`: its place in GatewaySettings, '' if the gateway does not know it."""

    key: str
    kind: Kind
    help: str
    panel: str
    target: str
    is_secret: bool = False
    repeats: bool = False

    @property
    def flag(self) -> str:
        """Its flag."""
        return f"--{self.key.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"ANSWERBACK_{self.key.upper()}"


def _panel(name: str, *rows: tuple[str, str, Kind, str]) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            key=key,
            target=target,
            kind=kind,
            help=help_text,
            panel=name,
            is_secret=key == "auth_secret",
            repeats=kind is TEXTS,
        )
        for key, target, kind, help_text in rows
    )


_MODEL_HELP: Final = (
    "local | echo | openai:BASE_URL#MODEL | bedrock:MODEL_ID | python:MODULE:FACTORY; "
    "repeatable, the first is the default."
)
_MANY: Final = whole(1, 10_000_000)
_BYTES: Final = whole(1024, 1 << 30, metavar="BYTES")

SETTINGS: Final[tuple[Setting, ...]] = (
    *_panel(
        "Listening",
        ("host", "host", TEXT, "Address to listen on; other than loopback only with authentication."),
        ("port", "port", PORT, "Port to listen on; 0 = any free one."),
        ("admin_port", "admin_port", PORT_OR_OFF, "Loopback port for health, metrics, management; 0 = any."),
        ("tls_cert", "tls_cert", PATH, "Certificate chain (PEM): serve wss://."),
        ("tls_key", "tls_key", PATH, "Its private key (PEM)."),
        ("allow_origin", "allow_origins", TEXTS, "Web page that may connect: https://app.example; repeatable."),
        ("allow_host", "allow_hosts", TEXTS, "Host name that clients may use besides --host; repeatable."),
    ),
    *_panel(
        "Model",
        ("model", "models", TEXTS, _MODEL_HELP),
        ("system", "system", TEXT, "System prompt of questions that bring none."),
        ("lock_system", "lock_system", YES_NO, "Clients cannot replace the system prompt."),
        ("max_tokens", "max_tokens", whole(1, 1_000_000), "Most tokens an answer may have."),
        ("context_turns", "context_turns", whole(0, 1000), "Turns of a conversation that the model is shown."),
    ),
    *_panel(
        "Data",
        ("data_dir", "data_dir", FOLDER, "Folder for the database file and the admin key."),
        ("database", "database", TEXT, "postgresql:// URL instead of the SQLite file."),
        ("retention_days", "retention_days", whole(1, 3650, metavar="DAYS"), "How long request records are kept."),
    ),
    *_panel(
        "Authentication",
        ("auth_secret", "auth.secret", TEXT, "Shared secret for HS256 tokens; better: --auth-secret-file."),
        ("auth_secret_file", "", PATH, "File with the secret: answerback token --new-secret FILE."),
        ("jwks_url", "auth.jwks_url", TEXT, "URL of the public keys for RS256 and ES256 tokens."),
        ("jwks_file", "auth.jwks_file", PATH, "File with the public keys."),
        ("issuer", "auth.issuer", TEXT, "`iss` that tokens must have."),
        ("audience", "auth.audience", TEXT, "`aud` that tokens must have."),
        ("user_claim", "auth.user_claim", TEXT, "Claim that names the user."),
        ("leeway", "auth.leeway_s", WHOLE_SECONDS, "Clock difference that is forgiven."),
    ),
    *_panel(
        "Limits",
        ("rate_limit", "rate_limit", whole(0, 1_000_000), "Requests a minute a user; 0 = no limit."),
        ("max_connections", "caps.connections", _MANY, "Open connections."),
        ("max_connections_per_user", "caps.connections_per_user", _MANY, "Open connections a user."),
        ("max_pending_per_user", "caps.pending_per_user", _MANY, "Unfinished requests a user."),
        ("max_frames_per_second", "caps.frames_per_second", _MANY, "Frames a second from one user."),
        ("max_frames_burst", "caps.frames_burst", _MANY, "Frames at once from one user."),
        ("max_message_bytes", "caps.message_bytes", whole(1024, MAX_MESSAGE_BYTES, metavar="BYTES"), "Size of one."),
        ("write_buffer_bytes", "caps.write_buffer_bytes", _BYTES, "Bytes that wait for one slow reader."),
    ),
    *_panel(
        "Time",
        ("answer_timeout", "policy.answer_timeout_ms", MILLISECONDS, "From an answer's start to its end."),
        ("queue_timeout", "policy.queue_timeout_ms", MILLISECONDS, "Waiting for the start."),
        ("lease", "policy.lease_ms", MILLISECONDS, "Silence after which a worker counts as lost."),
        ("max_attempts", "policy.max_attempts", whole(1, 100), "Times an answer is begun before it counts as failed."),
        ("idle_timeout", "idle_timeout_s", SECONDS, "Silence after which a connection is removed."),
        ("handshake_timeout", "caps.handshake_timeout_s", SECONDS, "For the opening handshake."),
        ("ping_interval", "caps.ping_interval_s", SECONDS, "Between pings that find dead connections."),
        ("write_stall_timeout", "caps.write_stall_timeout_s", SECONDS, "A reader that takes nothing is dropped."),
        ("grace", "grace_s", SECONDS, "For running answers when the gateway stops."),
        ("janitor_interval", "janitor_interval_s", SECONDS, "Between clean-ups."),
        ("coalesce_ms", "coalesce_ms", whole(0, 10_000, metavar="MS"), "Pieces of an answer are joined for so long."),
    ),
    *_panel(
        "Log",
        ("log_format", "", choice("text", "json"), "How log lines are written, on stderr."),
        ("log_level", "", choice("debug", "info", "warning", "error"), "Least severity that is logged."),
    ),
)  # fmt: skip
