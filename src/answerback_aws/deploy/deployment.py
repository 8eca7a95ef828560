"""Deploying: package, upload, plan, execute, follow. Doing it again goes on where it was.

What `--system --env --secret` say to the worker becomes parameters, and an object beside the package.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from botocore.exceptions import ClientError

from answerback.clock import epoch_ms
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, UsageError, advice_for, error_code, explained, unless_missing
from answerback_aws.deploy.package import Package, PackageError, Target, build_package
from answerback_aws.deploy.parameters import (
    Parameters,
    check_sign_in,
    check_times,
    declared,
    read_models,
    template_text,
)
from answerback_aws.deploy.preflight import Preflight, follow_account, follow_models
from answerback_aws.deploy.stack import Change, Progress, Stack, StackState
from answerback_aws.deploy.status import Fact
from answerback_aws.runtime.worker_settings import IS_NAME, StoredSettings, decode, read_reference

_TAKE_BACK: Final = frozenset({"ErrorsAlarm", "FailedAnswersAlarm", "ModelUnavailableAlarm"})
_DEAD: Final = frozenset({"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"})


MAX_SYSTEM_PARAMETER: Final = 1024
"""Characters of the template's SystemPrompt, which is in Lambda's environment; a longer text is in the object."""


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


def worker_parameters(asked: WorkerRequest, previous: Mapping[str, str], uploads: "Artefacts") -> Mapping[str, str]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """What the user asked for. `models` empty: as it is, or the template's default. `parameters` by their names.

    `target` None: `python` and `architecture`, and for what they leave open what the stack has; on an emulator this
    machine. `bucket`: one of the user's for packages; None: as it was, or one that is made. `role_arn`: what
    CloudFormation acts as; None: as it was, or as who deploys. `watch_minutes`: how long after an update alarms take it
    back. `ask`: whether each model of Bedrock is asked for one token before.
    """

    target: Target | None = None
    python: str | None = None
    architecture: str | None = None
    models: Sequence[str] = ()
    include: Sequence[Path] = ()
    requirements: Path | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    worker: WorkerRequest = field(default_factory=WorkerRequest)
    tags: Mapping[str, str] = field(default_factory=dict)
    bucket: str | None = None
    role_arn: str | None = None
    watch_minutes: int = 0
    ask: bool = True
    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What executing the change set `name` would do. `is_new`: the stack is created.

    `is_protected_after`: deletion protection would keep a failed creation from being rolled back, so it is switched on
    when the stack stands.
    """

    name: str
    is_new: bool
    changes: tuple[Change, ...]
    is_protected_after: bool = False


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something uploaded. `is_new`: it was not there before."""

    bucket: str
    key: str
    url: str
    is_new: bool


class Artefacts:
    """The bucket of packages and templates: one for an account and region, private, encrypted. Names are hashes.

    What is not there yet is uploaded. What was uploaded never changes, so that a stack can always be rolled back.
    `bucket`: one of the user's instead, which is used as it is. `key_arn`: a KMS key for what is uploaded.
    """

    def __init__(self, account: Account, *, bucket: str | None = None, key_arn: str = "") -> None:
        self._account = account
        self._ours = f"answerback-artefacts-{account.identity}-{account.region}"
        self.bucket = bucket or self._ours
        self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key_arn} if key_arn else {}

    def put(self, key: str, data: bytes) -> Artefact:
        """Upload `data` unless `key` is there; the bucket is made if need be. Raises: DeployError."""
        s3, mine = self._account.client("s3"), self._mine
        is_new = not self.has(key)
        if is_new:
            with explained("upload to the bucket of packages"):
                if self.bucket == self._ours:
                    self._make(s3, mine)
                s3.put_object(**mine, Key=key, Body=data, **self._encryption)
        return Artefact(self.bucket, key, f"{s3.meta.endpoint_url}/{self.bucket}/{key}", is_new)

    def get(self, bucket: str, key: str) -> bytes:
        """What was uploaded to this bucket, or to the one of an earlier deployment. Raises: DeployError."""
        with explained("read the bucket of packages"):
            found = self._account.client("s3").get_object(Bucket=bucket, Key=key)
            return bytes(found["Body"].read())

    def has(self, key: str) -> bool:
        """Whether `key` was uploaded before. Raises: DeployError."""
        with explained("read the bucket of packages"):
            try:
                head = self._account.client("s3").head_object
                return unless_missing(head, **self._mine, Key=key) is not None
            except ClientError as exc:
                if error_code(exc) == "403":
                    raise DeployError(
                        f"the bucket {self.bucket} is not this account's, or these credentials may not read it",
                        "allow s3:GetObject, s3:PutObject, s3:ListBucket, s3:CreateBucket on it, or say --bucket NAME",
                    ) from exc
                raise

    @property
    def _mine(self) -> dict[str, str]:
        # A company's bucket may belong to another account of it.
        owner = {"ExpectedBucketOwner": self._account.identity} if self.bucket == self._ours else {}
        return {"Bucket": self.bucket, **owner}

    def _make(self, s3: Any, mine: dict[str, str]) -> None:
        """Private from its first moment on: new buckets of S3 are; what follows holds it so."""
        if unless_missing(s3.head_bucket, **mine) is not None:
            return
        where = {} if self._account.region == "us-east-1" else {"LocationConstraint": self._account.region}
        s3.create_bucket(Bucket=self.bucket, **({"CreateBucketConfiguration": where} if where else {}))
        s3.put_public_access_block(
            **mine,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        s3.put_bucket_encryption(
            **mine,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        s3.put_bucket_policy(**mine, Policy=json.dumps(self._only_by_tls()))

    def _only_by_tls(self) -> dict[str, Any]:
        arn = f"arn:{self._account.partition}:s3:::{self.bucket}"
        return {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "OnlyByTls",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [arn, f"{arn}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }


class Deployment:
    """Creates or updates one stack. All calls raise DeployError."""

    def __init__(
        self,
        account: Account,
        name: str,
        progress: Progress,
        *,
        sleep: Callable[[float], None] = time.sleep,
        build: Callable[..., Package] = build_package,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._account = account
        self._stack = Stack(account, name, sleep=sleep)
        self._progress = progress
        self._build = build
        self._say = say

    def deploy(
        self, request: DeployRequest, *, approve: Callable[[Sequence[Change]], None] = lambda _: None
    ) -> StackState:
        """Bring the stack to the requested state, and return it; nothing is done if it is there already.

        `approve` gets the changes whose replacement loses something, and raises to stop there.
        """
        plan = self.plan(request)
        if not plan.changes:
            self._progress.step("Nothing to change")
            return self._stack.existing()
        if losses := [change for change in plan.changes if change.loss]:
            try:
                approve(losses)
            except BaseException:
                self.drop(plan)
                raise
        self._progress.step(f"{'Creating' if plan.is_new else 'Updating'} the stack {self._stack.name}")
        after = self._stack.last_event()
        self._stack.execute(plan.name)
        state = self._settle(after)
        return self._protected(state) if plan.is_protected_after else state

    def plan(self, request: DeployRequest) -> Plan:
        """Check, package, upload, and ask CloudFormation what would change. `drop` the plan if it is not deployed."""
        state = self._ready()
        previous = state.parameters if state is not None else None
        text = template_text()
        target = self._target(request, previous)
        parameters = self._parameters(request, target, text, previous)
        given, values = parameters.given, parameters.effective()
        check_sign_in(values)
        check_times(values)
        follow_models(self._account, parameters)
        follow_account(self._account, parameters)
        is_first = previous is None and values["DeletionProtection"] == "true"
        given["FirstDeployment"] = "true" if is_first else "false"
        values = parameters.effective()
        if self._account.is_real:
            self._check(request, values, is_new=state is None)
        package = self._package(request, target, values)
        bucket = request.bucket or (previous or {}).get("CodeBucket")
        artefacts = Artefacts(self._account, bucket=bucket, key_arn=values["KeyArn"])
        for parameter, value in worker_parameters(request.worker, previous or {}, artefacts).items():
            given.setdefault(parameter, value)
        template = artefacts.put(f"templates/{hashlib.sha256(text.encode()).hexdigest()}.yaml", text.encode())
        key = f"packages/{package.content_sha256}-{target.name}.zip"
        if not artefacts.has(key):
            self._progress.step(f"Uploading {len(package.data) / 1e6:.1f} MB")
        uploaded = artefacts.put(key, package.data)
        given |= {"CodeBucket": uploaded.bucket, "CodeKey": uploaded.key}
        self._progress.step("Planning the change")
        name = f"answerback-{epoch_ms()}"
        changes = self._stack.plan(
            template_url=template.url,
            parameters=parameters.listed(),
            tags={**(state.tags if state is not None else {}), **request.tags},
            name=name,
            is_new=state is None,
            role_arn=request.role_arn,
            rollback=self._rollback(request.watch_minutes) if state is not None else None,
        )
        return Plan(name=name, is_new=state is None, changes=changes, is_protected_after=is_first)

    def facts(self, request: DeployRequest) -> tuple[tuple[Fact, ...], Mapping[str, str]]:
        """What deploying this would meet, and the parameters that it would have. Nothing is made."""
        state = self._stack.state()
        is_new = state is None or state.is_draft
        previous = None if state is None or is_new else state.parameters
        parameters = self._parameters(request, self._target(request, previous), template_text(), previous)
        with suppress(DeployError):  # a fact says it
            follow_models(self._account, parameters)
        follow_account(self._account, parameters)
        values = parameters.effective()
        preflight = Preflight(self._account, values, is_new=is_new, ask=request.ask, say=self._say)
        return preflight.facts(), values

    def drop(self, plan: Plan) -> None:
        """Forget a plan; nothing of it is left."""
        if plan.changes:
            self._stack.drop_plan(plan.name, is_new=plan.is_new)

    def _ready(self) -> StackState | None:
        """The stack at rest; None: it is to be created. One at work is waited for."""
        state = self._stack.at_rest(self._progress)
        if state is None or state.is_draft:
            return None
        name = self._stack.name
        if state.status in _DEAD:
            raise DeployError(
                f"the stack {name} is {state.status}: CloudFormation can only delete it",
                f"run `answerback aws destroy --stack {name}`, then deploy again",
            )
        if state.status == "UPDATE_ROLLBACK_FAILED":
            raise DeployError(
                f"the stack {name} could not be rolled back",
                f"run `aws cloudformation continue-update-rollback --stack-name {name}`, then deploy again",
            )
        return state

    def _target(self, request: DeployRequest, previous: Mapping[str, str] | None) -> Target:
        if request.target is not None:
            return request.target
        was = previous or {}
        python = request.python or was.get("Runtime", "").removeprefix("python") or None
        if not self._account.is_real and request.architecture is None:
            return Target.here(python=python)
        default = Target()
        return Target(
            python=python or default.python,
            architecture=request.architecture or was.get("Architecture") or default.architecture,
        )

    @staticmethod
    def _parameters(
        request: DeployRequest, target: Target, template: str, previous: Mapping[str, str] | None
    ) -> Parameters:
        """Those that are given. Raises: DeployError: the template does not have one of them."""
        request.worker.check()
        given = {"Runtime": f"python{target.python}"}
        if target.architecture is not None:
            given["Architecture"] = target.architecture
        if request.models:
            read_models(request.models)
            given["Models"] = " ".join(request.models)
        parameters = Parameters(declared(template), previous, {**given, **request.parameters})
        parameters.check()
        return parameters

    def _check(self, request: DeployRequest, values: Mapping[str, str], *, is_new: bool) -> None:
        """Raises: DeployError: the stack would fail, or every answer of it."""
        self._progress.step("Checking the account and the models")
        facts = Preflight(self._account, values, is_new=is_new, ask=request.ask, say=self._say).facts()
        for fact in facts:
            if fact.is_good is None:
                self._say(f"{fact.name}: {fact.value}. {fact.advice}")
        bad = [fact for fact in facts if fact.is_good is False]
        if bad:
            raise DeployError("; ".join(f"{fact.name}: {fact.value}" for fact in bad), bad[0].advice)

    def _rollback(self, minutes: int) -> Mapping[str, object]:
        """The alarms that take an update back. One that rings already does not: the update may be its repair."""
        if not minutes:
            return {}
        names = [one["PhysicalResourceId"] for one in self._stack.resources() if one["LogicalResourceId"] in _TAKE_BACK]
        with explained("read the alarms"):
            alarms = self._account.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
        quiet = [one["AlarmArn"] for one in alarms if one["StateValue"] != "ALARM"]
        triggers = [{"Arn": arn, "Type": "AWS::CloudWatch::Alarm"} for arn in quiet]
        return {"RollbackTriggers": triggers, "MonitoringTimeInMinutes": minutes}

    def _protected(self, state: StackState) -> StackState:
        self._progress.step("Protecting the history from deletion")
        state = self._stack.update_parameters(state, {"FirstDeployment": "false"}, self._progress.event)
        if state.status != "UPDATE_COMPLETE":
            raise DeployError("the stack works, but its history is not protected from deletion", "deploy again")
        return state

    def _package(self, request: DeployRequest, target: Target, values: Mapping[str, str]) -> Package:
        self._progress.step(f"Packaging the functions for {target.name}")
        try:
            return self._build(
                target,
                cache=request.cache,
                models=values.get("Models", "").split(),
                include=request.include,
                requirements=request.requirements,
            )
        except PackageError as exc:
            raise DeployError(str(exc).rstrip(".")) from exc

    def _settle(self, after: str | None) -> StackState:
        """Follow to the end, and say what failed first."""
        state = self._stack.state()
        if state is None:
            raise DeployError(f"the stack {self._stack.name} is gone", "somebody deleted it; deploy again")
        first = self._stack.watch(state.stack_id, after, self._progress.event)
        final = self._stack.state(state.stack_id)
        if final is None or final.status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
            status = final.status if final is not None else "gone"
            if first is None:
                raise DeployError(
                    f"the stack is {status}: {final.reason if final else ''}".rstrip(": "), "deploy again"
                )
            raise DeployError(
                f"{first.resource} ({first.kind}) failed: {first.reason.rstrip('.')}", advice_for(first.reason)
            )
        return final
