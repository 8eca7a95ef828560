"""What can go wrong around a stack, in one sentence that says what to do.

DeployError      the command cannot go on
  UsageError     what was asked for cannot be
  CannotConnect  who has to be asked cannot be reached
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
)

T = TypeVar("T")


class DeployError(Exception):
    """The command cannot go on. `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} — {self.hint}" if self.hint else self.message


class UsageError(DeployError):
    """What was asked for cannot be."""


class CannotConnect(DeployError):
    """AWS, or who else has to be asked, cannot be reached."""


_SIGN_IN: Final = "sign in again (for example `aws sso login`), or set AWS_PROFILE"
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_UNKNOWN: Final = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "AuthFailure",
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
    }
)
DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden"})

_ADVICE: Final = (
    (
        "reserved?.?concurren|UnreservedConcurrentExecution",
        "leave FrontReservedConcurrency at 0, or ask for more Lambda concurrency",
    ),
    ("CloudWatch Logs role ARN", "deploy with --parameter AccessLogs=create-role"),
    ("default VPC|DBSubnetGroup|subnet group", "name a subnet group: --parameter DatabaseSubnetGroup=NAME"),
    (
        "Cannot find version|engine version|InvalidParameterCombination",
        "choose a version that the region has, 16.3 or newer: --parameter EngineVersion=VERSION",
    ),
    ("concurrent modification|ConflictException", "API Gateway was busy with another change; deploy again"),
    ("bucket name is not available", "name a bucket of yours: --bucket NAME"),
    ("already exists", "something of that name is there; delete it or choose another --stack"),
    ("service.?linked role", "let an administrator create the service-linked role once, and deploy again"),
    ("limit|quota|exceeded", "ask for more in Service Quotas, and deploy again"),
    ("DeletionProtection|deletion protection", "`answerback aws destroy` lifts the protection first"),
    (
        "not authorized|AccessDenied|access denied|is not allowed",
        "the deploying role lacks this permission; add it and deploy again",
    ),
    ("Runtime|runtime", "this region lacks that runtime; try --runtime 3.12"),
    ("arm64|architecture", "this region lacks it; deploy with --architecture x86_64"),
)


def advice_for(reason: str) -> str:
    """What to do about the reason that a resource gives for its failure."""
    return next(
        (advice for pattern, advice in _ADVICE if re.search(pattern, reason, re.IGNORECASE)),
        "correct that and deploy again",
    )


def error_code(error: ClientError) -> str:
    """The service's name of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_missing(error: ClientError) -> bool:
    """Whether the service says that there is no such thing."""
    message = str(error.response.get("Error", {}).get("Message", ""))
    return error_code(error) in {"404", "NoSuchBucket", "NoSuchKey", "NotFound", "ChangeSetNotFound"} or (
        error_code(error) == "ValidationError" and "does not exist" in message
    )


def unless_missing(call: Callable[..., T], /, **arguments: Any) -> T | None:
    """What the call returns; None: the service says that there is no such thing."""
    try:
        return call(**arguments)
    except ClientError as exc:
        if is_missing(exc):
            return None
        raise


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the errors of AWS into DeployErrors. `what` is what was tried, as in `read the stack`."""
    try:
        yield
    except ClientError as exc:
        raise _of_answer(exc, what) from exc
    except BotoCoreError as exc:
        raise _of_transport(exc, what) from exc


def _of_answer(exc: ClientError, what: str) -> DeployError:
    code = error_code(exc)
    message = str(exc.response.get("Error", {}).get("Message", "")).rstrip(".")
    if code in _EXPIRED:
        return DeployError("the AWS credentials have expired", _SIGN_IN)
    if code in _UNKNOWN:
        return DeployError(
            "AWS does not know these credentials", f"check them with `aws sts get-caller-identity`, or {_SIGN_IN}"
        )
    if code in DENIED:
        return DeployError(
            f"AWS does not allow these credentials to {what}: {message}",
            "add that permission, or use another profile (--profile)",
        )
    if code == "InsufficientCapabilitiesException":
        hint = "update answerback; this is a mismatch of its template and command"
        return DeployError(f"CloudFormation wants another capability: {message}", hint)
    if code in {"OptInRequired", "SubscriptionRequiredException"}:
        return DeployError("this AWS account is not ready for use", "finish its registration in the AWS console")
    if code in {"Throttling", "ThrottlingException", "RequestLimitExceeded"}:
        return DeployError("AWS gets too many calls from this account now", "repeat the command in a minute")
    return DeployError(f"AWS refused to {what}: {message or code}", advice_for(message) if message else "")


def _of_transport(exc: BotoCoreError, what: str) -> DeployError:
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        hint = "run `aws configure`, or set AWS_PROFILE, or say --profile NAME"
        return UsageError("there are no AWS credentials", hint)
    if isinstance(exc, NoRegionError):
        return UsageError("no AWS region is named", "say --region, for example --region us-east-1, or set AWS_REGION")
    if isinstance(exc, ProfileNotFound):
        return UsageError(str(exc).rstrip("."), "see `aws configure list-profiles`")
    if isinstance(exc, SSOError | CredentialRetrievalError) or "Token" in type(exc).__name__:
        return DeployError("the AWS credentials cannot be renewed", _SIGN_IN)
    if isinstance(exc, ConnectionError | HTTPClientError):
        return CannotConnect(f"cannot reach AWS to {what}", "check the network, and that the region exists (--region)")
    return DeployError(f"cannot {what}: {exc}", "")
