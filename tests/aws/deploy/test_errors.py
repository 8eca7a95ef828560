"""Every trouble with AWS is one sentence that says what to do."""

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
)

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import CannotConnect, DeployError, UsageError, advice_for, explained
from answerback_aws.deploy.stack import Stack


def answer(code: str, message: str = "planted.") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Do")


@pytest.mark.parametrize(
    ("error", "says", "kind"),
    [
        (answer("ExpiredToken"), "expired — sign in again", DeployError),
        (answer("RequestExpired"), "expired", DeployError),
        (answer("InvalidClientTokenId"), "get-caller-identity", DeployError),
        (
            answer("AccessDenied"),
            "does not allow these credentials to try it: planted — add that permission",
            DeployError,
        ),
        (answer("InsufficientCapabilitiesException"), "update answerback", DeployError),
        (answer("OptInRequired"), "not ready", DeployError),
        (answer("Throttling"), "in a minute", DeployError),
        (
            answer("ValidationError", "Parameter X is wrong."),
            "AWS refused to try it: Parameter X is wrong",
            DeployError,
        ),
        (NoCredentialsError(), "aws configure", UsageError),
        (NoRegionError(), "--region", UsageError),
        (ProfileNotFound(profile="nix"), "list-profiles", UsageError),
        (TokenRetrievalError(provider="sso", error_msg="x"), "sign in again", DeployError),
        (SSOTokenLoadError(error_msg="x"), "sign in again", DeployError),
        (EndpointConnectionError(endpoint_url="https://x"), "cannot reach AWS to try it", CannotConnect),
        (BotoCoreError(), "cannot try it", DeployError),
    ],
)
def test_errors(error: Exception, says: str, kind: type[DeployError]) -> None:
    with pytest.raises(DeployError) as caught, explained("try it"):
        raise error
    assert says in str(caught.value)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution",
            "FrontRes",
        ),
        ("CloudWatch Logs role ARN must be set in account settings to enable logging", "AccessLogs=create-role"),
        ("No default VPC for this user", "DatabaseSubnetGroup=NAME"),
        ("Cannot find version 17.7 for aurora-postgresql", "EngineVersion="),
        ("chat-queue.fifo already exists", "another --stack"),
        ("User: x is not authorized to perform: iam:CreateRole", "permission"),
        ("The maximum number of addresses has been reached: limit", "Service Quotas"),
        ("something new", "correct that and deploy again"),
    ],
)
def test_advice_for_a_resource_that_failed(reason: str, says: str) -> None:
    assert says in advice_for(reason)


@pytest.mark.parametrize("name", ["", "1st", "my stack", "a" * 129, "a_b"])
def test_names_that_a_stack_cannot_have(name: str) -> None:
    with pytest.raises(DeployError, match="cannot be a stack's name"):
        Stack(Account(region="us-east-1"), name)


def test_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    assert Account(region="us-east-1").region == "us-east-1"
    assert Account(region="us-east-9").region == "us-east-9", "it may be newer than boto3"
    with pytest.raises(DeployError, match="no AWS region us-moon-1"):
        _ = Account(region="us-moon-1").region
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert Account().region == "eu-west-1"
