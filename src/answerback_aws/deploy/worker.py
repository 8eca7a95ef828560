"""What `deploy --system --env --secret` say to the worker: as parameters, and as an object beside the package."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import msgspec

from answerback_aws.deploy.errors import DeployError, UsageError
from answerback_aws.runtime.worker_settings import IS_NAME, StoredSettings, decode, read_reference

MAX_SYSTEM_PARAMETER: Final = 1024
"""Characters of the template's SystemPrompt, which is in Lambda's environment; a longer text is in the object."""


class Uploads(Protocol):
    """The bucket of packages."""

    def put(self, key: str, data: bytes) -> object:
        """Upload `data` unless `key` is there."""

    def get(self, bucket: str, key: str) -> bytes:
        """What was uploaded to this bucket, or to that of an earlier deployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """What the user said. `system` None: as it was. An empty value of a variable or secret takes it away."""

    system: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises: DeployError: a name that is not the operator's to set, or a reference that is none."""
        for name in (*self.environment, *self.secrets):
            if not IS_NAME.fullmatch(name):
                raise UsageError(
                    f"{name!r} cannot be set: it is not a variable's name, or it is Lambda's or answerback's own",
                    "use letters, digits and _, and no name that begins with AWS_, LAMBDA_ or ANSWERBACK_",
                )
        for name, text in self.secrets.items():
            try:
                if text:
                    read_reference(text)
            except ValueError as exc:
                # Not what was said: it may be the secret itself.
                hint = "make one: aws secretsmanager create-secret, and name its ARN"
                raise UsageError(f"--secret {name} {exc}", hint) from None


def worker_parameters(asked: WorkerRequest, previous: Mapping[str, str], uploads: Uploads) -> Mapping[str, str]:
    """The template's parameters for it, of which `previous` are the stack's; the object is uploaded.

    What was stored before is kept, and uploaded again: this deployment may use another bucket. Raises: DeployError.
    """
    asked.check()
    key = previous.get("WorkerSettingsKey", "")
    if not key and asked == WorkerRequest():
        return {}
    was = _decoded(uploads.get(previous["CodeBucket"], key)) if key else StoredSettings()
    now = replace(
        was,
        environment=_merged(was.environment, asked.environment),
        secrets=_merged(was.secrets, asked.secrets),
    )
    given: dict[str, str] = {}
    if asked.system is not None:
        is_short = len(asked.system) <= MAX_SYSTEM_PARAMETER
        now = replace(now, system=None if is_short else asked.system)
        given["SystemPrompt"] = asked.system if is_short else ""
        given["SystemPromptBytes"] = str(len(asked.system.encode()))
    data = now.encode()
    new_key = "" if now == StoredSettings() else f"settings/{hashlib.sha256(data).hexdigest()}.json"
    if new_key:
        uploads.put(new_key, data)
    arns = {read_reference(text).arn for text in now.secrets.values()}
    return {**given, "WorkerSettingsKey": new_key, "SecretArns": ",".join(sorted(arns))}


def _decoded(data: bytes) -> StoredSettings:
    try:
        return decode(data)
    except msgspec.DecodeError as exc:
        raise DeployError(
            "the stack's worker settings were written by another version", "install the version that deployed it"
        ) from exc


def _merged(was: Mapping[str, str], asked: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in {**was, **asked}.items() if value}
