"""What the functions read from their environment. Each function has only the variables that it needs.

The gateway declares its settings as fields, which are all read at its start. Here a variable is read when it is asked
for, since most functions lack most of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from answerback.core import defaults
from answerback.core.handshake import Rules, origins
from answerback.core.request import Policy
from answerback.core.watching import MOST
from answerback.ports import ModelLimits, Quota, answer_timeouts_ms, within

if TYPE_CHECKING:
    from answerback.core.budget import Tariff
    from answerback.models.spec import ModelSpec

T = TypeVar("T")

PREFIX: Final = "ANSWERBACK_"
MAX_CONNECTION_MS: Final = 2 * 3_600_000
"""API Gateway closes every WebSocket after two hours; the SDK moves to a new one before that."""

API_IDLE_MS: Final = 600_000
"""API Gateway closes a WebSocket on which nobody said anything for ten minutes."""

_MAX_PENDING: Final = 100
_HISTORY_DELAY_S: Final = 900
_POLICY: Final = Policy()
_DAY_MS: Final = 24 * 3_600_000


class SettingsError(Exception):
    """A variable of the environment is missing or wrong; the text names it and says what to do."""


def _wrong(name: str, why: str) -> SettingsError:
    return SettingsError(f"The variable {PREFIX}{name} {why}.")


class _Variable(Generic[T]):
    """A variable of the environment as an attribute. `read` raises ValueError, which says what the text must be.

    An empty variable counts as none: CloudFormation cannot leave one out. Without a `default` none is an error.
    """

    def __init__(self, name: str, read: Callable[[str], T], *default: T) -> None:
        self._name = name
        self._read = read
        self._default = default

    def __get__(self, settings: "Settings", _: type) -> T:
        return self.of(settings)

    def of(self, settings: "Settings") -> T:
        """The value. Raises: SettingsError: there is none, or it cannot be read."""
        value = settings.environment.get(PREFIX + self._name)
        if value:
            try:
                return self._read(value)
            except ValueError as error:
                raise _wrong(self._name, str(error)) from None
        if self._default:
            return self._default[0]
        raise _wrong(
            self._name, "is not set for this function. Deploy the stack again with the template of this version"
        )


def _whole(low: int, *, unit: int = 1) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and int(value) >= low):
            raise ValueError(f"must be a whole number, {low} or more")
        return int(value) * unit

    return read


def _keep_days(value: str) -> int:
    return defaults.KEEP_FOREVER_DAYS if value == "forever" else _whole(1)(value)


def _flag(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value == "true"


def _model_specs(value: str) -> tuple[str, ...]:
    if not value.strip():
        raise ValueError("must name at least one model, for example bedrock:amazon.nova-lite-v1:0")
    return tuple(value.split())


def _stage_url(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("must be the https:// URL of the API's stage")
    return value.rstrip("/")


class Settings:
    """The environment of one function, read when asked for. Every attribute may raise SettingsError.

    Times and sizes have their unit in the name.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment: Final = environment

    # --- resources: every one that a function asks for must be there

    queue_url = _Variable("QUEUE_URL", str)
    dead_letters_url = _Variable("DEAD_LETTERS_URL", str)
    management_endpoint = _Variable("MANAGEMENT_ENDPOINT", _stage_url)
    """URL of the stage, where `@connections` is."""

    trace_ratio = _Variable[float | None]("TRACE_RATIO", float, None)
    """The share of answers that have a trace, where their app does not say; None: there are no traces."""

    files_bucket = _Variable[str | None]("FILES_BUCKET", str, None)
    """Where files are that come with questions; None: there are none."""

    cluster_arn = _Variable("CLUSTER_ARN", str)
    secret_arn = _Variable("SECRET_ARN", str)
    """The secret with the cluster's user and password."""

    database = _Variable("DATABASE", str)

    # --- models

    models = _Variable("MODELS", _model_specs)
    """Model specs, the default first."""

    @property
    def model_limits(self) -> Mapping[str, ModelLimits]:
        """What the specs say of single models; empty where the function does not know them."""
        return {
            spec.name: within(spec.limits, getattr(spec, "context_tokens", 1_000_000), max_tokens=self.max_tokens)
            for spec in self._specs
        }

    @property
    def _specs(self) -> "Sequence[ModelSpec]":
        if not self.environment.get(f"{PREFIX}MODELS"):
            return ()
        from answerback.models.spec import parse_model_specs  # noqa: PLC0415 - most functions need none

        return parse_model_specs(self.models)

    @property
    def tariff(self) -> "Tariff":
        """What reservations for users with a budget rest on."""
        from answerback.core.budget import MESSAGE_TOKENS  # noqa: PLC0415 - the front alone needs it
        from answerback.models.prices import prices_of, tariff_of  # noqa: PLC0415

        specs = self._specs
        return tariff_of(
            self.model_limits,
            prices=prices_of(specs),
            context_tokens={spec.name: getattr(spec, "context_tokens", 0) for spec in specs},
            max_tokens=self.max_tokens,
            context_turns=defaults.CONTEXT_TURNS,
            system_tokens=self._system_bytes + MESSAGE_TOKENS,
        )

    max_tokens = _Variable("MAX_TOKENS", _whole(1), defaults.MAX_TOKENS)
    system = _Variable[str | None]("SYSTEM", str, None)
    """System prompt of the operator."""

    _system_bytes = _Variable("SYSTEM_BYTES", _whole(0), 0)
    """Its size in UTF-8, or more: the front reserves for it, and the text itself has no room in its environment."""

    stored_settings_url = _Variable[str | None]("SETTINGS_URL", str, None)
    """Where the rest is that the worker reads at its start (worker_settings.py)."""

    lock_system = _Variable("LOCK_SYSTEM", _flag, False)
    """Whether clients may not set another system prompt."""

    least_client = _Variable[str | None]("LEAST_CLIENT", str, None)
    """Version of apps below which they tell to update."""

    # --- limits

    _rate_limit = _Variable("RATE_LIMIT", _whole(0), defaults.RATE_LIMIT)
    _max_pending = _Variable("MAX_PENDING", _whole(1), _MAX_PENDING)
    max_watchers = _Variable("MAX_WATCHERS", _whole(0), MOST)
    """Sessions of a user that are shown one conversation as it goes on; 0: none."""

    _answer_timeout_ms = _Variable("ANSWER_TIMEOUT_S", _whole(1, unit=1000), _POLICY.answer_timeout_ms)
    _queue_timeout_ms = _Variable("QUEUE_TIMEOUT_S", _whole(1, unit=1000), _POLICY.queue_timeout_ms)
    _max_attempts = _Variable("MAX_ATTEMPTS", _whole(1), _POLICY.max_attempts)
    _lease_ms = _Variable("LEASE_S", _whole(1, unit=1000), _POLICY.lease_ms)

    retention_ms = _Variable("RETENTION_DAYS", _whole(1, unit=_DAY_MS), defaults.RETENTION_MS)
    """How long ended requests and deleted conversations are kept."""

    keep_days = _Variable("HISTORY_DAYS", _keep_days, defaults.KEEP_FOREVER_DAYS)
    """How long a conversation is kept after its last turn."""

    idle_timeout_ms = _Variable("IDLE_TIMEOUT_S", _whole(1, unit=1000), defaults.IDLE_TIMEOUT_S * 1000)
    """How long a connection may be silent."""

    history_delay_s = _Variable("HISTORY_DELAY_S", _whole(0), _HISTORY_DELAY_S)
    """How long turns may wait before they are written to Aurora."""

    @property
    def quota(self) -> Quota:
        return Quota(per_minute=self._rate_limit, max_pending=self._max_pending)

    @property
    def policy(self) -> Policy:
        return Policy(
            answer_timeout_ms=self._answer_timeout_ms,
            queue_timeout_ms=self._queue_timeout_ms,
            max_attempts=self._max_attempts,
            lease_ms=self._lease_ms,
            answer_timeouts_ms=answer_timeouts_ms({spec.name: spec.limits for spec in self._specs}),
        )

    _allow_origins = _Variable("ALLOW_ORIGINS", str, "")

    @property
    def handshake_rules(self) -> Rules:
        """Which upgrade requests are accepted: those of apps, and of the web pages that are listed."""
        return Rules(allow_origins=origins(self._allow_origins.split()), origin_setting="AllowOrigins")

    # --- tokens

    jwt_secret = _Variable[str | None]("JWT_SECRET", str, None)
    """Shared secret (HS256), for development."""

    user_claim = _Variable("USER_CLAIM", str, defaults.USER_CLAIM)
    """The claim that names the user."""

    team_claim = _Variable[str | None]("TEAM_CLAIM", str, None)
    """The claim that names the user's team."""

    _jwks_url = _Variable[str | None]("JWKS_URL", str, None)
    _jwt_issuer = _Variable[str | None]("JWT_ISSUER", str, None)
    _jwt_audience = _Variable[str | None]("JWT_AUDIENCE", str, None)

    @property
    def has_tokens(self) -> bool:
        """Whether connections show tokens; false only in a stack that allows anonymous ones."""
        return self.jwt_secret is not None or self.jwks_url is not None

    @property
    def jwks_url(self) -> str | None:
        """URL of the identity provider's public keys."""
        if self._jwks_url is not None and self.jwt_secret is not None:
            raise _wrong("JWKS_URL", f"and {PREFIX}JWT_SECRET are both set; set one of them")
        return self._jwks_url

    @property
    def jwt_issuer(self) -> str | None:
        """Issuer that a token must name; needed with a JWKS."""
        return self._pinned("JWT_ISSUER", self._jwt_issuer)

    @property
    def jwt_audience(self) -> str | None:
        """Audience that a token must name; needed with a JWKS."""
        return self._pinned("JWT_AUDIENCE", self._jwt_audience)

    def _pinned(self, name: str, value: str | None) -> str | None:
        if value is None and self.jwks_url is not None:
            raise _wrong(
                name, "must be set with a JWKS: its provider signs tokens for other services with the same keys"
            )
        return value

    def table(self, name: str) -> str:
        """Name of the table that is this field of `dynamodb.tables.Tables`."""
        return _Variable(f"{name.upper()}_TABLE", str).of(self)
