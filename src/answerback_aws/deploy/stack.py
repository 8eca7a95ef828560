"""One CloudFormation stack: what state it is in, what happens to it, and what would change."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from botocore.exceptions import ClientError

from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import DeployError, UsageError, explained, is_missing, unless_missing

POLL_EVERY_S: Final = 2.0
EMULATED_POLL_EVERY_S: Final = 0.1
CAPABILITIES: Final = ("CAPABILITY_IAM",)
_NOTHING: Final = re.compile(r"didn't contain changes|No updates are to be performed", re.IGNORECASE)
_BEGINNINGS: Final = frozenset({"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})
_QUIET_POLLS: Final = 30
"""Polls of a stack that shows no sign yet of the operation that was begun."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}")
_LOSSES: Final[Mapping[str, str]] = {
    "AWS::ApiGatewayV2::Api": "apps need another URL, and every connection is lost",
    "AWS::ApiGatewayV2::Stage": "apps need another URL, and every connection is lost",
    "AWS::RDS::DBCluster": "the history begins again in an empty database; the old one stays as a snapshot",
    "AWS::S3::Bucket": "the new bucket is empty: files have to be sent again",
    "AWS::DynamoDB::Table": "the new table is empty: running requests and turns that Aurora does not have yet are lost",
}
"""Of what is replaced, by type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackState:
    """What is known of a stack."""

    stack_id: str
    status: str
    reason: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def is_busy(self) -> bool:
        return self.status.endswith("_IN_PROGRESS") and not self.is_draft

    @property
    def is_draft(self) -> bool:
        """It has nothing but a change set that was never executed."""
        return self.status == "REVIEW_IN_PROGRESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackEvent:
    """Something that happened to a resource of the stack, or to the stack itself."""

    event_id: str
    resource: str
    kind: str
    status: str
    reason: str
    is_stack: bool

    @property
    def is_failure(self) -> bool:
        """It failed by itself, and was not cancelled because of another one."""
        return self.status.endswith("_FAILED") and "cancelled" not in self.reason.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A resource that would be added, modified, removed, or replaced by a new one.

    `replaced`: `True`, `Conditional` (CloudFormation knows only when it does it) or else. `is_by_reference`: a new one
    would only come of what it refers to, and so of another change of the plan that is a replacement itself.
    """

    action: str
    resource: str
    kind: str
    replaced: str
    is_by_reference: bool = False

    @property
    def loss(self) -> str:
        """What users notice of the replacement; empty: nothing, or nothing is replaced."""
        is_likely = self.replaced == "True" or (self.replaced == "Conditional" and not self.is_by_reference)
        return _LOSSES.get(self.kind, "") if is_likely else ""


class Progress(Protocol):
    """Shows how a deployment proceeds."""

    def step(self, text: str) -> None:
        """Something begins."""

    def event(self, event: StackEvent) -> None:
        """Something happened to the stack."""


class Stack:
    """One stack by its name. `sleep` takes seconds. All calls raise DeployError."""

    def __init__(self, account: Account, name: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot be a stack's name", "use letters, digits and -, a letter first")
        self._account = account
        self._sleep = sleep
        self._poll_every_s = POLL_EVERY_S if account.is_real else EMULATED_POLL_EVERY_S
        self.name = name

    def state(self, stack_id: str | None = None) -> StackState | None:
        """What it is like now; None: there is none."""
        with explained("read the stack"):
            stacks = unless_missing(self._client.describe_stacks, StackName=stack_id or self.name)
        if not stacks or not stacks["Stacks"]:
            return None
        found = stacks["Stacks"][0]
        if found["StackStatus"] == "DELETE_COMPLETE" and stack_id is None:
            return None
        return StackState(
            stack_id=found["StackId"],
            status=found["StackStatus"],
            reason=found.get("StackStatusReason", ""),
            parameters={one["ParameterKey"]: one.get("ParameterValue", "") for one in found.get("Parameters", ())},
            outputs={one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", ())},
            tags={one["Key"]: one["Value"] for one in found.get("Tags", ())},
        )

    def existing(self) -> StackState:
        """The state of a stack that has to be there."""
        state = self.state()
        if state is None or state.is_draft:
            raise DeployError(
                f"there is no stack {self.name} in {self._account.region}",
                f"deploy it: answerback aws deploy --stack {self.name}, or say --region",
            )
        return state

    def at_rest(self, progress: Progress) -> StackState | None:
        """Its state; one at work is followed to the end of that first. None: there is none."""
        state = self.state()
        if state is None or not state.is_busy:
            return state
        progress.step(f"{self.name} is {state.status}; following that first")
        self.watch(state.stack_id, self.begun(state.stack_id), progress.event)
        return self.state()

    def resources(self) -> Sequence[Mapping[str, str]]:
        """Its resources: LogicalResourceId, PhysicalResourceId, ResourceType, ResourceStatus."""
        with explained("list the stack's resources"):
            pages = self._client.get_paginator("list_stack_resources").paginate(StackName=self.name)
            return [resource for page in pages for resource in page["StackResourceSummaries"]]

    # --- change sets

    def plan(
        self,
        *,
        template_url: str,
        parameters: Sequence[Mapping[str, object]],
        tags: Mapping[str, str],
        name: str,
        is_new: bool,
        role_arn: str | None = None,
        rollback: Mapping[str, object] | None = None,
    ) -> tuple[Change, ...]:
        """Make the change set `name` and return what it would do; nothing: there is no difference, and no change set.

        A new stack whose creation fails is deleted. `rollback`: CloudFormation's RollbackConfiguration.

        Raises: DeployError: CloudFormation refuses the template or a parameter.
        """
        with explained("plan the change"):
            self._client.create_change_set(
                StackName=self.name,
                ChangeSetName=name,
                ChangeSetType="CREATE" if is_new else "UPDATE",
                TemplateURL=template_url,
                Parameters=list(parameters),
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                Capabilities=list(CAPABILITIES),
                **({"OnStackFailure": "DELETE"} if is_new else {}),
                **({"RoleARN": role_arn} if role_arn else {}),
                RollbackConfiguration={"RollbackTriggers": [], "MonitoringTimeInMinutes": 0} | dict(rollback or {}),
            )
        try:
            status, reason, changes = self._read_plan(name)
            while status in {"CREATE_PENDING", "CREATE_IN_PROGRESS"}:
                self._sleep(self._poll_every_s)
                status, reason, changes = self._read_plan(name)
            if status == "FAILED":
                if not _NOTHING.search(reason):
                    raise DeployError(f"CloudFormation refuses this: {reason.rstrip('.')}", "correct that and repeat")
                self.drop_plan(name, is_new=is_new)
        except BaseException:
            self.drop_plan(name, is_new=is_new)
            raise
        return changes

    def drop_plan(self, name: str, *, is_new: bool) -> None:
        """Delete a change set that is not wanted, and the empty stack that came with it."""
        with explained("delete the change set"):
            unless_missing(self._client.delete_change_set, StackName=self.name, ChangeSetName=name)
            if is_new:
                state = self.state()
                if state is not None and state.is_draft:
                    self._client.delete_stack(StackName=self.name)

    def execute(self, name: str) -> None:
        with explained("execute the change set"):
            self._client.execute_change_set(StackName=self.name, ChangeSetName=name)

    def update_parameters(
        self, state: StackState, wanted: Mapping[str, str], show: Callable[[StackEvent], None]
    ) -> StackState:
        """Give these parameters other values, leave all else as it is, and follow to the end."""
        after = self.last_event()
        parameters: list[dict[str, object]] = [
            {"ParameterKey": name, "ParameterValue": wanted[name]}
            if name in wanted
            else {"ParameterKey": name, "UsePreviousValue": True}
            for name in state.parameters
        ]
        with explained("update the stack"):
            self._client.update_stack(
                StackName=self.name,
                UsePreviousTemplate=True,
                Parameters=parameters,
                Capabilities=list(CAPABILITIES),
                RollbackConfiguration={"RollbackTriggers": []},  # those of the last deployment would count again
            )
        self.watch(state.stack_id, after, show)
        return self.existing()

    def delete(self) -> None:
        with explained("delete the stack"):
            self._client.delete_stack(StackName=self.name)

    # --- what happens

    def last_event(self) -> str | None:
        """The id of the newest event; later ones belong to what begins now."""
        with explained("read the stack's events"):
            found = unless_missing(self._client.describe_stack_events, StackName=self.name)
        return found["StackEvents"][0]["EventId"] if found and found["StackEvents"] else None

    def follow(self, stack_id: str, after: str | None) -> Iterator[StackEvent]:
        """The events after the one of that id, as they come, until CloudFormation rests."""
        seen, quiet = after, 0
        while True:
            state = self.state(stack_id)
            for event in self._events(stack_id, seen):
                seen = event.event_id
                yield event
            is_at_rest = state is None or not (state.is_busy or state.is_draft)
            if is_at_rest and (seen != after or state is None or quiet >= _QUIET_POLLS):
                return
            quiet += 1
            self._sleep(self._poll_every_s)

    def watch(self, stack_id: str, after: str | None, show: Callable[[StackEvent], None]) -> StackEvent | None:
        """Follow to the end, and show every event. Returns: the first resource that failed."""
        first: StackEvent | None = None
        for event in self.follow(stack_id, after):
            show(event)
            if event.is_failure and not event.is_stack and first is None:
                first = event
        return first

    def begun(self, stack_id: str) -> str | None:
        """The id of the event before the operation under way, to follow it from its beginning."""
        before = begin = None
        for event in self._events(stack_id, None):
            if event.is_stack and event.status in _BEGINNINGS:
                begin = before
            before = event.event_id
        return begin

    def _events(self, stack_id: str, after: str | None) -> list[StackEvent]:
        """Oldest first."""
        found: list[StackEvent] = []
        with explained("read the stack's events"):
            try:
                for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
                    for one in page["StackEvents"]:
                        if one["EventId"] == after:
                            return found[::-1]
                        found.append(_event(one))
            except ClientError as exc:
                if not is_missing(exc):
                    raise
        return found[::-1]

    def _read_plan(self, name: str) -> tuple[str, str, tuple[Change, ...]]:
        with explained("read the change set"):
            pages = self._client.get_paginator("describe_change_set").paginate(StackName=self.name, ChangeSetName=name)
            changes: list[Change] = []
            status = reason = ""
            for page in pages:
                status, reason = page["Status"], page.get("StatusReason", "")
                changes += (
                    Change(
                        action=one["Action"],
                        resource=one["LogicalResourceId"],
                        kind=one["ResourceType"],
                        replaced=one.get("Replacement", ""),
                        is_by_reference=_is_by_reference(one.get("Details", ())),
                    )
                    for one in (entry["ResourceChange"] for entry in page["Changes"] if "ResourceChange" in entry)
                )
        return status, reason, tuple(changes)

    @property
    def _client(self) -> Any:
        return self._account.client("cloudformation")


def _is_by_reference(details: Sequence[Mapping[str, Any]]) -> bool:
    """Tags of a stack, for one, modify the API, and the stage refers to that."""
    sources = [one.get("ChangeSource") for one in details if one["Target"].get("RequiresRecreation") != "Never"]
    return bool(sources) and set(sources) <= {"ResourceReference", "ResourceAttribute"}


def _event(one: Mapping[str, Any]) -> StackEvent:
    return StackEvent(
        event_id=one["EventId"],
        resource=one["LogicalResourceId"],
        kind=one["ResourceType"],
        status=one.get("ResourceStatus", ""),
        reason=one.get("ResourceStatusReason", ""),
        is_stack=one.get("PhysicalResourceId") == one["StackId"],
    )
