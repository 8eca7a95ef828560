"""Where a provider keeps its keys, by its discovery document."""

import json
import os
from typing import Any

import pytest

from answerback.outbound import FetchError
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError
from answerback_aws.deploy.parameters import keys_of_issuer

ISSUER = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_abc"


def provider(document: object) -> Any:
    def get(url: str, *, timeout_s: float, max_bytes: int) -> tuple[int, bytes]:
        assert url == f"{ISSUER}/.well-known/openid-configuration"
        if isinstance(document, Exception):
            raise document
        return 200, document if isinstance(document, bytes) else json.dumps(document).encode()

    return get


def test_its_keys() -> None:
    found = keys_of_issuer(ISSUER, get=provider({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks.json"}))
    assert found == f"{ISSUER}/jwks.json"


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (FetchError("refused"), "cannot read"),
        (TimeoutError(), "cannot read"),
        (b"<html>", "not a provider's"),
        ([], "not a provider's"),
        ({"issuer": ISSUER}, "not a provider's"),
        ({"issuer": f"{ISSUER}/", "jwks_uri": "https://x"}, "say it exactly so"),
        ({"issuer": ISSUER, "jwks_uri": "http://x"}, "not at an https URL"),
    ],
)
def test_what_is_wrong_is_reported(document: object, says: str) -> None:
    with pytest.raises(DeployError) as caught:
        keys_of_issuer(ISSUER, get=provider(document))
    assert says in str(caught.value)
    assert caught.value.hint


def test_only_https_is_asked() -> None:
    with pytest.raises(DeployError, match="--jwks-url"):
        keys_of_issuer("http://127.0.0.1:1", get=provider({}))


@pytest.mark.parametrize(("endpoint", "proxies"), [("http://127.0.0.1:9", {}), (None, {"https": "http://p.example:1"})])
def test_an_emulator_on_this_machine_is_reached_directly(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, proxies: dict[str, str]
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name == "AWS_ENDPOINT_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "http://p.example:1")
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y"}
    client = Account(region="us-east-1", endpoint=endpoint, **keys).client("sts")
    assert client._endpoint.http_session._proxy_config._proxies == proxies
