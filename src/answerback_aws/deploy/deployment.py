"""Deploying: package, upload, plan, execute, follow. Doing it again goes on where it was."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError

from answerback.clock import epoch_ms
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, advice_for, error_code, explained, is_missing
from answerback_aws.deploy.package import Package, PackageError, Target, build_package
from answerback_aws.deploy.parameters import (
    check_sign_in,
    check_times,
    declared,
    effective,
    guardrail_arns,
    model_arns,
    parameter_list,
    read_models,
    template_text,
)
from answerback_aws.deploy.stack import Change, Progress, Stack, StackState
from answerback_aws.deploy.worker import WorkerRequest, worker_parameters

_DEAD: Final = frozenset({"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployRequest:
    """What the user asked for. `models` empty: as it is, or the template's default. `parameters` by their names.

    `target` None: `python` and `architecture`, and for what they leave open what the stack has; on an emulator this
    machine.
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
    cache: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What executing the change set `name` would do. `is_new`: the stack is created."""

    name: str
    is_new: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something uploaded. `is_new`: it was not there before."""

    bucket: str
    key: str
    url: str
    is_new: bool


class Artefacts:
    """The bucket of packages and templates: one for an account and region, private, encrypted. Names are hashes.

    What is not there yet is uploaded. What was uploaded never changes, so that a stack can always be rolled back."""

    def __init__(self, account: Account) -> None:
        self._account = account

    @property
    def bucket(self) -> str:
        return f"answerback-artefacts-{self._account.identity}-{self._account.region}"

    def put(self, key: str, data: bytes) -> Artefact:
        """Upload `data` unless `key` is there; the bucket is made if need be. Raises: DeployError."""
        s3, mine = self._account.client("s3"), self._mine
        is_new = not self.has(key)
        if is_new:
            with explained("upload to the bucket of packages"):
                self._make(s3, mine)
                s3.put_object(**mine, Key=key, Body=data)
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
                self._account.client("s3").head_object(**self._mine, Key=key)
            except ClientError as exc:
                if is_missing(exc):
                    return False
                if error_code(exc) == "403":
                    raise DeployError(
                        f"the bucket {self.bucket} is not this account's, or these credentials may not read it",
                        "allow s3:GetObject, s3:PutObject, s3:ListBucket and s3:CreateBucket on it",
                    ) from exc
                raise
        return True

    @property
    def _mine(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "ExpectedBucketOwner": self._account.identity}

    def _make(self, s3: Any, mine: dict[str, str]) -> None:
        """Private from its first moment on: new buckets of S3 are; what follows holds it so."""
        try:
            s3.head_bucket(**mine)
        except ClientError as exc:
            if not is_missing(exc):
                raise
        else:
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
    ) -> None:
        self._account = account
        self._stack = Stack(account, name, sleep=sleep)
        self._progress = progress
        self._build = build

    def deploy(self, request: DeployRequest) -> StackState:
        """Bring the stack to the requested state, and return it; nothing is done if it is there already."""
        plan = self.plan(request)
        if not plan.changes:
            self._progress.step("Nothing to change")
            return self._stack.existing()
        self._progress.step(f"{'Creating' if plan.is_new else 'Updating'} the stack {self._stack.name}")
        after = self._stack.last_event()
        self._stack.execute(plan.name)
        return self._settle(after)

    def plan(self, request: DeployRequest) -> Plan:
        """Package, upload, and ask CloudFormation what would change. `drop` the plan if it is not deployed."""
        state = self._ready()
        previous = state.parameters if state is not None else None
        artefacts = Artefacts(self._account)
        text = template_text().encode()
        self._progress.step("Reading the template")
        template = artefacts.put(f"templates/{hashlib.sha256(text).hexdigest()}.yaml", text)
        known = declared(self._account, template.url)
        target = self._target(request, previous)
        given = {
            **self._of_target(target),
            **self._of_models(request),
            **worker_parameters(request.worker, previous or {}, artefacts),
            **request.parameters,
        }
        parameter_list(given, known=known, previous=previous)
        values = effective(given, known=known, previous=previous)
        check_sign_in(values)
        check_times(values)
        package = self._package(request, target, values)
        key = f"packages/{package.content_sha256}-{target.name}.zip"
        if not artefacts.has(key):
            self._progress.step(f"Uploading {len(package.data) / 1e6:.1f} MB")
        uploaded = artefacts.put(key, package.data)
        given |= {"CodeBucket": uploaded.bucket, "CodeKey": uploaded.key}
        self._progress.step("Planning the change")
        name = f"answerback-{epoch_ms()}"
        changes = self._stack.plan(
            template_url=template.url,
            parameters=parameter_list(given, known=known, previous=previous),
            tags={**(state.tags if state is not None else {}), **request.tags},
            name=name,
            is_new=state is None,
        )
        return Plan(name=name, is_new=state is None, changes=changes)

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

    def _of_target(self, target: Target) -> Mapping[str, str]:
        found = {"Runtime": f"python{target.python}"}
        if target.architecture is not None:
            found["Architecture"] = target.architecture
        return found

    def _of_models(self, request: DeployRequest) -> Mapping[str, str]:
        if not request.models:
            return {}
        arns = request.parameters.get("ModelArns")
        specs = read_models(request.models)
        return {
            "Models": " ".join(request.models),
            "ModelArns": arns if arns is not None else ",".join(model_arns(self._account, specs)),
            "GuardrailArns": ",".join(guardrail_arns(self._account, specs)),
        }

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
