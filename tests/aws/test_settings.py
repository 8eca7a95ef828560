"""What the functions read from their environment."""

import pytest

from answerback.core.request import Policy
from answerback.ports import Quota
from answerback_aws.runtime.settings import Settings, SettingsError


def test_each_function_needs_only_its_own() -> None:
    settings = Settings({"ANSWERBACK_QUEUE_URL": "https://sqs/q.fifo"})
    assert settings.queue_url == "https://sqs/q.fifo"
    with pytest.raises(SettingsError, match="ANSWERBACK_CONNECTIONS_TABLE is not set"):
        _ = settings.table("connections")


def test_what_is_left_out_is_as_in_the_gateway() -> None:
    settings = Settings({})
    assert settings.quota == Quota(per_minute=10, max_pending=1_000)
    assert settings.policy == Policy()
    assert (settings.max_tokens, settings.retention_ms, settings.idle_timeout_ms) == (1024, 604_800_000, 3_600_000)
    assert (settings.system, settings.lock_system, settings.has_tokens, settings.user_claim) == (
        None,
        False,
        False,
        "sub",
    )


def test_an_empty_variable_is_none() -> None:
    settings = Settings({"ANSWERBACK_SYSTEM": "", "ANSWERBACK_JWT_SECRET": "", "ANSWERBACK_QUEUE_URL": ""})
    assert settings.system is None
    assert not settings.has_tokens
    with pytest.raises(SettingsError, match="ANSWERBACK_QUEUE_URL"):
        _ = settings.queue_url


def test_what_is_given_counts() -> None:
    settings = Settings(
        {
            "ANSWERBACK_MODELS": "bedrock:a.b-v1:0  echo",
            "ANSWERBACK_RATE_LIMIT": "0",
            "ANSWERBACK_ANSWER_TIMEOUT_S": "60",
            "ANSWERBACK_LOCK_SYSTEM": "true",
            "ANSWERBACK_MANAGEMENT_ENDPOINT": "https://x.execute-api.eu-west-1.amazonaws.com/prod/",
        }
    )
    assert settings.models == ("bedrock:a.b-v1:0", "echo")
    assert settings.quota.per_minute == 0
    assert settings.policy.answer_timeout_ms == 60_000
    assert settings.lock_system
    assert settings.management_endpoint == "https://x.execute-api.eu-west-1.amazonaws.com/prod"


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("RATE_LIMIT", "many", lambda settings: settings.quota),
        ("RATE_LIMIT", "-1", lambda settings: settings.quota),
        ("MAX_ATTEMPTS", "0", lambda settings: settings.policy),
        ("LOCK_SYSTEM", "yes", lambda settings: settings.lock_system),
        ("MODELS", " ", lambda settings: settings.models),
        ("MANAGEMENT_ENDPOINT", "wss://x", lambda settings: settings.management_endpoint),
        ("RETENTION_DAYS", "1" * 13, lambda settings: settings.retention_ms),
    ],
)
def test_a_wrong_one_is_named(name: str, value: str, read: object) -> None:
    with pytest.raises(SettingsError, match=f"ANSWERBACK_{name}"):
        read(Settings({f"ANSWERBACK_{name}": value}))


def test_a_secret_and_a_jwks_exclude_each_other() -> None:
    settings = Settings({"ANSWERBACK_JWT_SECRET": "x" * 32, "ANSWERBACK_JWKS_URL": "https://issuer/jwks"})
    with pytest.raises(SettingsError, match="both set"):
        _ = settings.jwks_url


@pytest.mark.parametrize("name", ["JWT_ISSUER", "JWT_AUDIENCE"])
def test_a_jwks_needs_issuer_and_audience(name: str) -> None:
    settings = Settings({"ANSWERBACK_JWKS_URL": "https://issuer/jwks"})
    with pytest.raises(SettingsError, match=name):
        _ = getattr(settings, name.lower())
