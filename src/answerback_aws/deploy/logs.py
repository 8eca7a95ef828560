"""The logs of all functions of a stack, as one stream ordered by time."""

import heapq
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import ClientError

from answerback.clock import epoch_ms
from answerback_aws.deploy.account import Account
from answerback_aws.deploy.errors import UsageError, error_code, explained
from answerback_aws.deploy.stack import Stack

FOLLOW_EVERY_S: Final = 2.0
_LATE_MS: Final = 10_000
"""CloudWatch shows lines out of order; so far back a follower reads again."""

_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a function. `fields`: its JSON; empty if it is none."""

    event_id: str
    at_ms: int
    function: str
    text: str
    fields: Mapping[str, Any]


class Logs:
    """Reads the log groups of one stack. `sleep` takes seconds; `clock` gives epoch milliseconds."""

    def __init__(
        self,
        account: Account,
        stack: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], int] = epoch_ms,
    ) -> None:
        self._account = account
        self._stack = Stack(account, stack, sleep=sleep)
        self._sleep = sleep
        self._clock = clock

    def groups(self, functions: Sequence[str] = ()) -> dict[str, str]:
        """Log groups by function, those named or all. Raises: DeployError: there is no such function."""
        prefix = self._stack.existing().outputs["LogGroupPrefix"]
        with explained("list the log groups"):
            pages = (
                self._account.client("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=prefix)
            )
            found = {
                one["logGroupName"].removeprefix(prefix): one["logGroupName"]
                for page in pages
                for one in page["logGroups"]
            }
        for name in functions:
            if name not in found:
                raise UsageError(f"there is no function {name}", f"there are: {', '.join(sorted(found))}")
        return {name: group for name, group in sorted(found.items()) if not functions or name in functions}

    def read(
        self, groups: Mapping[str, str], *, since_ms: int, until_ms: int | None = None, containing: str | None = None
    ) -> Iterator[Line]:
        """All lines from `since_ms` on, in order. `containing`: only those with this text in them."""
        each = [self._lines(name, group, since_ms, until_ms, containing) for name, group in groups.items()]
        return heapq.merge(*each, key=lambda line: line.at_ms)

    def follow(self, groups: Mapping[str, str], *, since_ms: int, containing: str | None = None) -> Iterator[Line]:
        """The same, and then new lines as they come, until the caller stops."""
        seen: dict[str, None] = {}
        from_ms = since_ms
        while True:
            newest_ms = from_ms
            for line in self.read(groups, since_ms=from_ms, containing=containing):
                if line.event_id not in seen:
                    seen[line.event_id] = None
                    newest_ms = max(newest_ms, line.at_ms)
                    yield line
            while len(seen) > _REMEMBERED:
                del seen[next(iter(seen))]
            from_ms = max(from_ms, min(newest_ms, self._clock()) - _LATE_MS)
            self._sleep(FOLLOW_EVERY_S)

    def _lines(
        self, function: str, group: str, since_ms: int, until_ms: int | None, containing: str | None
    ) -> Iterator[Line]:
        asked: dict[str, Any] = {"logGroupName": group, "startTime": since_ms}
        if until_ms is not None:
            asked["endTime"] = until_ms
        if containing is not None:
            asked["filterPattern"] = json.dumps(containing)
        with explained("read the logs"):
            try:
                for page in self._account.client("logs").get_paginator("filter_log_events").paginate(**asked):
                    for one in sorted(page["events"], key=lambda event: event["timestamp"]):
                        yield _line(function, one)
            except ClientError as exc:
                if error_code(exc) != "ResourceNotFoundException":
                    raise


def _line(function: str, one: Mapping[str, Any]) -> Line:
    text = one["message"].rstrip()
    fields: Any = None
    if text.startswith("{"):
        try:
            fields = json.loads(text)
        except ValueError:
            pass
    return Line(
        event_id=one.get("eventId") or f"{function}-{one['timestamp']}-{text}",
        at_ms=one["timestamp"],
        function=function,
        text=text,
        fields=fields if isinstance(fields, dict) else {},
    )
