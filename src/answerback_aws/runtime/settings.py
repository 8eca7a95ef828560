"""What the functions read from their environment. Each function has only the variables that it needs."""

from collections.abc import Mapping
from typing import Final

from answerback.core.context import DEFAULT_MAX_TOKENS
from answerback.core.handshake import Rules, origins
from answerback.core.request import Policy
from answerback.ports import Quota

PREFIX: Final = "ANSWERBACK_"
MAX_CONNECTION_MS: Final = 2 * 3_600_000
"""API Gateway closes every WebSocket after two hours; the SDK moves to a new one before that."""

API_IDLE_MS: Final = 600_000
"""API Gateway closes a WebSocket on which nobody said anything for ten minutes."""

_DAY_MS: Final = 24 * 3_600_000


class SettingsError(Exception):
    """A variable of the environment is missing or wrong; the text names it and says what to do."""


class Settings:
    """The environment of one function, read when asked for. Every property may raise SettingsError.

    Times and sizes have their unit in the name. An empty variable counts as none: CloudFormation cannot leave one out.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    # --- resources: every one that a function asks for must be there

    def table(self, name: str) -> str:
        """Name of the table that is this field of `dynamodb.tables.Tables`."""
        return self._text(f"{name.upper()}_TABLE")

    @property
    def queue_url(self) -> str:
        return self._text("QUEUE_URL")

    @property
    def dead_letters_url(self) -> str:
        """URL of the FIFO queue of dead letters."""
        return self._text("DEAD_LETTERS_URL")

    @property
    def management_endpoint(self) -> str:
        """URL of the stage, where `@connections` is."""
        endpoint = self._text("MANAGEMENT_ENDPOINT")
        if not endpoint.startswith(("https://", "http://")):
            raise _wrong("MANAGEMENT_ENDPOINT", "must be the https:// URL of the API's stage")
        return endpoint.rstrip("/")

    @property
    def cluster_arn(self) -> str:
        return self._text("CLUSTER_ARN")

    @property
    def secret_arn(self) -> str:
        """ARN of the secret with the cluster's user and password."""
        return self._text("SECRET_ARN")

    @property
    def database(self) -> str:
        return self._text("DATABASE")

    # --- models

    @property
    def models(self) -> tuple[str, ...]:
        """Model specs, the default first."""
        specs = tuple(self._text("MODELS").split())
        if not specs:
            raise _wrong("MODELS", "must name at least one model, for example bedrock:amazon.nova-lite-v1:0")
        return specs

    @property
    def max_tokens(self) -> int:
        """The most tokens that one answer may have."""
        return self._whole("MAX_TOKENS", DEFAULT_MAX_TOKENS, low=1)

    @property
    def system(self) -> str | None:
        """System prompt of the operator."""
        return self._optional("SYSTEM")

    @property
    def lock_system(self) -> bool:
        """Whether clients may not set another system prompt."""
        return self._flag("LOCK_SYSTEM")

    # --- limits

    @property
    def quota(self) -> Quota:
        """Limits of acceptance."""
        return Quota(
            per_minute=self._whole("RATE_LIMIT", 10, low=0), max_pending=self._whole("MAX_PENDING", 1_000, low=1)
        )

    @property
    def policy(self) -> Policy:
        """Time limits of requests."""
        defaults = Policy()
        return Policy(
            answer_timeout_ms=1000 * self._whole("ANSWER_TIMEOUT_S", defaults.answer_timeout_ms // 1000, low=1),
            queue_timeout_ms=1000 * self._whole("QUEUE_TIMEOUT_S", defaults.queue_timeout_ms // 1000, low=1),
            max_attempts=self._whole("MAX_ATTEMPTS", defaults.max_attempts, low=1),
        )

    @property
    def retention_ms(self) -> int:
        """How long ended requests and deleted conversations are kept."""
        return _DAY_MS * self._whole("RETENTION_DAYS", 7, low=1)

    @property
    def idle_timeout_ms(self) -> int:
        """How long a connection may be silent."""
        return 1000 * self._whole("IDLE_TIMEOUT_S", 3600, low=1)

    @property
    def history_delay_s(self) -> int:
        """How long turns may wait before they are written to Aurora."""
        return self._whole("HISTORY_DELAY_S", 900, low=0)

    @property
    def handshake_rules(self) -> Rules:
        """Which upgrade requests are accepted: those of apps, and of the web pages that are listed."""
        listed = origins((self._optional("ALLOW_ORIGINS") or "").split())
        return Rules(allow_origins=listed, origin_setting="AllowOrigins")

    # --- tokens

    @property
    def has_tokens(self) -> bool:
        """Whether connections show tokens; false only in a stack that allows anonymous ones."""
        return self.jwt_secret is not None or self.jwks_url is not None

    @property
    def jwt_secret(self) -> str | None:
        """Shared secret (HS256), for development."""
        return self._optional("JWT_SECRET")

    @property
    def jwks_url(self) -> str | None:
        """URL of the identity provider's public keys."""
        url = self._optional("JWKS_URL")
        if url is not None and self.jwt_secret is not None:
            raise _wrong("JWKS_URL", f"and {PREFIX}JWT_SECRET are both set; set one of them")
        return url

    @property
    def jwt_issuer(self) -> str | None:
        """Issuer that a token must name; needed with a JWKS."""
        return self._pinned("JWT_ISSUER")

    @property
    def jwt_audience(self) -> str | None:
        """Audience that a token must name; needed with a JWKS."""
        return self._pinned("JWT_AUDIENCE")

    @property
    def user_claim(self) -> str:
        """The claim that names the user."""
        return self._optional("USER_CLAIM") or "sub"

    # --- reading

    def _optional(self, name: str) -> str | None:
        return self._environment.get(PREFIX + name) or None

    def _text(self, name: str) -> str:
        value = self._optional(name)
        if value is None:
            raise SettingsError(
                f"The variable {PREFIX}{name} is not set for this function. Deploy the stack again with the template "
                "of this version."
            )
        return value

    def _pinned(self, name: str) -> str | None:
        value = self._optional(name)
        if value is None and self.jwks_url is not None:
            raise _wrong(
                name, "must be set with a JWKS: its provider signs tokens for other services with the same keys"
            )
        return value

    def _whole(self, name: str, default: int, *, low: int) -> int:
        value = self._optional(name)
        if value is None:
            return default
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and int(value) >= low):
            raise _wrong(name, f"must be a whole number, {low} or more")
        return int(value)

    def _flag(self, name: str) -> bool:
        value = self._optional(name)
        if value not in {None, "true", "false"}:
            raise _wrong(name, "must be true or false")
        return value == "true"


def _wrong(name: str, why: str) -> SettingsError:
    return SettingsError(f"The variable {PREFIX}{name} {why}.")
