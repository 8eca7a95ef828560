"""What a deployment tells the worker besides the template: a long system prompt, variables, and the ARNs of secrets.

It is an object beside the package, named by its hash, because Lambda's environment has room for 4 KB in all. Secrets
are not in it either, and neither in the template nor in Lambda's environment. The worker reads them as it starts.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from answerback_aws.runtime.settings import SettingsError

IS_NAME: Final = re.compile(r"(?!AWS_|LAMBDA_|ANSWERBACK_)[A-Za-z_][A-Za-z0-9_]*")
"""Names of variables that are the operator's: the others are Lambda's and ours."""

_IS_SECRET: Final = re.compile(
    r"(?P<secret>arn:[\w-]+:secretsmanager:[\w-]+:\d{12}:secret:[^:\s]+)(:(?P<key>[^:\s]+)::)?"
    r"|(?P<parameter>arn:[\w-]+:ssm:[\w-]+:\d{12}:parameter/[^:\s]+)"
)

MakeClient = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretReference:
    """Where a secret is: an ARN of Secrets Manager or of SSM's parameters. `key`: of one value in a JSON object."""

    arn: str
    key: str | None = None


def read_reference(text: str) -> SecretReference:
    """Read an ARN, of Secrets Manager also in the form of ECS, `ARN:KEY::`. Raises: ValueError: it is none."""
    found = _IS_SECRET.fullmatch(text)
    if found is None:
        raise ValueError("must be the whole ARN of a secret (Secrets Manager) or of a parameter (SSM)")
    return SecretReference(arn=found["secret"] or found["parameter"], key=found["key"])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSettings:
    """The object's content. `system` None: the template's. `secrets`: the text of each reference by variable."""

    system: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The same bytes for the same settings."""
        return msgspec.json.encode(self, order="deterministic")


def decode(data: bytes) -> StoredSettings:
    """Raises: msgspec.DecodeError: it is no such object."""
    return msgspec.json.decode(data, type=StoredSettings)


def load(url: str, make_client: MakeClient) -> StoredSettings:
    """Read the object at `s3://BUCKET/KEY`, and put its variables and secrets into this process's environment.

    Raises: SettingsError: the text names what cannot be read, and never a value.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        stored = decode(make_client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())
    except (ClientError, BotoCoreError, msgspec.DecodeError) as exc:
        raise SettingsError(f"The worker's settings {url} cannot be read ({_why(exc)}). Deploy again.") from None
    os.environ.update(stored.environment)
    os.environ.update({name: _value(name, text, make_client) for name, text in stored.secrets.items()})
    return stored


def _value(name: str, text: str, make_client: MakeClient) -> str:
    reference = read_reference(text)
    try:
        if ":ssm:" in reference.arn:
            told = make_client("ssm").get_parameter(Name=reference.arn, WithDecryption=True)
            return str(told["Parameter"]["Value"])
        whole = str(make_client("secretsmanager").get_secret_value(SecretId=reference.arn)["SecretString"])
        return whole if reference.key is None else str(json.loads(whole)[reference.key])
    except (ClientError, BotoCoreError, ValueError, LookupError, TypeError) as exc:
        raise SettingsError(
            f"The secret {name} ({text}) cannot be read ({_why(exc)}). Check that it exists and has a text. "
            "If a key of yours encrypts it, allow kms:Decrypt by --worker-policy."
        ) from None


def _why(exc: Exception) -> str:
    return str(exc.response["Error"]["Code"]) if isinstance(exc, ClientError) else type(exc).__name__
