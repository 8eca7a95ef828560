"""What the functions read from their environment."""

from pathlib import Path

import pytest

from answerback.core.defaults import KEEP_FOREVER_DAYS
from answerback.core.request import Policy
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Quota
from answerback_aws.runtime.settings import Settings, SettingsError
from template import TEMPLATE, of_type


def test_each_function_needs_only_its_own() -> None:
    settings = Settings({"ANSWERBACK_QUEUE_URL": "https://sqs/q.fifo"})
    assert settings.queue_url == "https://sqs/q.fifo"
    with pytest.raises(SettingsError, match="ANSWERBACK_CONNECTIONS_TABLE is not set"):
        _ = settings.table("connections")


def test_what_is_left_out_has_its_default() -> None:
    settings = Settings({})
    assert settings.quota == Quota(per_minute=10, max_pending=100)
    assert settings.policy == Policy()
    assert (settings.max_tokens, settings.retention_ms, settings.idle_timeout_ms) == (1024, 604_800_000, 3_600_000)
    assert (settings.system, settings.lock_system, settings.has_tokens, settings.user_claim) == (
        None,
        False,
        False,
        "sub",
    )


def test_the_template_has_the_defaults_of_the_code() -> None:
    variables = {
        name: TEMPLATE["Parameters"][value["Ref"]].get("Default")
        for function in of_type("AWS::Lambda::Function").values()
        for name, value in function["Properties"]["Environment"]["Variables"].items()
        if isinstance(value, dict) and value.get("Ref") in TEMPLATE["Parameters"]
    }
    assert len(variables) >= 17
    deployed = Settings({name: str(value) for name, value in variables.items()})
    unset = Settings({})
    for name in (
        "quota",
        "policy",
        "max_tokens",
        "system",
        "lock_system",
        "retention_ms",
        "keep_days",
        "idle_timeout_ms",
        "history_delay_s",
        "handshake_rules",
        "has_tokens",
        "user_claim",
    ):
        assert getattr(deployed, name) == getattr(unset, name), name


def test_the_stack_has_the_defaults_of_the_gateway() -> None:
    stack, gateway = Settings({}), GatewaySettings(data_dir=Path())
    assert stack.quota.per_minute == gateway.rate_limit
    assert stack.policy == gateway.policy
    assert (stack.max_tokens, stack.user_claim) == (gateway.max_tokens, gateway.auth.user_claim)
    assert stack.retention_ms == gateway.retention_days * 86_400_000
    assert (stack.keep_days, gateway.history_days) == (KEEP_FOREVER_DAYS, None)
    assert stack.idle_timeout_ms == gateway.idle_timeout_s * 1000


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
            "ANSWERBACK_LEAST_CLIENT": "1.4",
            "ANSWERBACK_MANAGEMENT_ENDPOINT": "https://x.execute-api.eu-west-1.amazonaws.com/prod/",
        }
    )
    assert settings.models == ("bedrock:a.b-v1:0", "echo")
    assert settings.quota.per_minute == 0
    assert settings.policy.answer_timeout_ms == 60_000
    assert settings.lock_system
    assert settings.least_client == "1.4"
    assert settings.management_endpoint == "https://x.execute-api.eu-west-1.amazonaws.com/prod"


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("RATE_LIMIT", "many", lambda settings: settings.quota),
        ("RATE_LIMIT", "-1", lambda settings: settings.quota),
        ("MAX_ATTEMPTS", "0", lambda settings: settings.policy),
        ("LEASE_S", "0", lambda settings: settings.policy),
        ("LOCK_SYSTEM", "yes", lambda settings: settings.lock_system),
        ("MODELS", " ", lambda settings: settings.models),
        ("MANAGEMENT_ENDPOINT", "wss://x", lambda settings: settings.management_endpoint),
        ("HISTORY_DAYS", "0", lambda settings: settings.keep_days),
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
