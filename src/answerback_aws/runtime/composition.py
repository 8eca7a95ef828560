"""The composition root of the functions: what a process needs is made when it is first asked for, and kept.

Lambda freezes a process between two invocations. So nothing runs behind: when an invocation returns, all that it
started has ended. The event loop, the clients with their open connections, and what was loaded stay for the next one.
Imports are inside the properties, so that each function loads no more than it uses.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

from answerback.clock import epoch_ms
from answerback.ports import History, Identity, Model, Requests, Tokens
from answerback.service.observer import Observer
from answerback_aws.runtime.settings import API_IDLE_MS, MAX_CONNECTION_MS, Settings
from answerback_aws.runtime.telemetry import Observing

if TYPE_CHECKING:
    from answerback.auth import JwtTokens
    from answerback.service.dead_letters import DeadLetters
    from answerback.service.delivery_sender import DeliverySender
    from answerback.service.front import Front
    from answerback.service.janitor import Janitor
    from answerback.service.uploads import Uploads
    from answerback.service.watchers import Watchers
    from answerback.service.worker import Worker
    from answerback.traces import Traces
    from answerback_aws.runtime.api_gateway import ApiGatewaySender
    from answerback_aws.runtime.aurora.data_api import DataApi
    from answerback_aws.runtime.aurora.write_behind import WriteBehind
    from answerback_aws.runtime.client import Calls
    from answerback_aws.runtime.dynamodb.connections import DynamoConnections
    from answerback_aws.runtime.dynamodb.database import Database, StoreId
    from answerback_aws.runtime.dynamodb.limits import RateLimits
    from answerback_aws.runtime.dynamodb.turns import DynamoTurns
    from answerback_aws.runtime.sqs import SqsQueue, Visibility
    from answerback_aws.runtime.worker_settings import StoredSettings

T = TypeVar("T")

POLL_EVERY_S: Final = 1.0
"""Front and worker are different processes: a target or a cancellation is seen in the record. A poll is a read unit; a
renewal, which the lease alone decides, is a write unit and costs five times as much."""

SETTLE_S: Final = 6.0
"""The time that a task gets to end in after its invocation: a fetch of keys takes up to five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long Aurora is waited for, which may be paused: `call_s` for one call, `all_s` until work is given up."""

    call_s: float
    all_s: float


IN_A_MESSAGE: Final = Timeouts(call_s=8, all_s=15)
"""API Gateway gives a message 29 s; a client waits for the error."""

BEHIND: Final = Timeouts(call_s=50, all_s=50)
"""Longer than Aurora takes to wake up."""


class Composition:
    """One process of the function called `function`. Properties may raise SettingsError. `stream`: of the log."""

    def __init__(
        self,
        function: str,
        environment: Mapping[str, str],
        *,
        timeouts: Timeouts = IN_A_MESSAGE,
        stream: TextIO | None = None,
    ) -> None:
        self._function = function
        self._timeouts = timeouts
        self.settings = Settings(environment)
        self.observing = Observing(function=function, environment=environment, stream=stream)
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, on the loop that this process keeps; no task is left."""
        return self._runner.run(_settled(work))

    def close(self) -> None:
        """End the loop. Lambda never does: it kills."""
        if self.observing.traces is not None:
            self.observing.traces.close()
        self._runner.close()

    # --- AWS

    @cached_property
    def calls(self) -> "Calls":
        from answerback_aws.runtime.client import Calls  # noqa: PLC0415

        return Calls()

    def client(self, service: str, **options: Any) -> Any:
        from answerback_aws.runtime.client import client  # noqa: PLC0415

        return client(service, **options)

    @cached_property
    def dynamodb(self) -> Any:
        return self.client("dynamodb")

    @cached_property
    def sqs(self) -> Any:
        return self.client("sqs")

    @cached_property
    def s3(self) -> Any:
        return self.client("s3")

    @cached_property
    def sender(self) -> "ApiGatewaySender":
        from answerback_aws.runtime.api_gateway import ApiGatewaySender  # noqa: PLC0415

        management = self.client("apigatewaymanagementapi", endpoint=self.settings.management_endpoint, attempts=1)
        return ApiGatewaySender(
            client=management,
            calls=self.calls,
            observer=self.observing.counts,
            on_gone=self.connections.remove,
        )

    @cached_property
    def queue(self) -> "SqsQueue":
        from answerback_aws.runtime.sqs import SqsQueue  # noqa: PLC0415

        return SqsQueue(
            client=self.sqs,
            calls=self.calls,
            url=self.settings.queue_url,
            correlation_id=lambda: self.observing.counts.correlation_id,
        )

    def visibility(self, url: str) -> "Visibility":
        from answerback_aws.runtime.sqs import Visibility  # noqa: PLC0415

        return Visibility(client=self.sqs, calls=self.calls, url=url)

    # --- stores

    def database(self, *names: str) -> "Database":
        """DynamoDB with these tables; what the others are called a function need not know."""
        from answerback_aws.runtime.dynamodb.database import Database  # noqa: PLC0415
        from answerback_aws.runtime.dynamodb.tables import TABLES, Tables  # noqa: PLC0415

        tables = Tables(**{name: self.settings.table(name) if name in names else "" for name in TABLES})
        return Database(client=self.dynamodb, calls=self.calls, tables=tables)

    @cached_property
    def connections(self) -> "DynamoConnections":
        from answerback_aws.runtime.dynamodb.connections import DynamoConnections  # noqa: PLC0415

        return DynamoConnections(self.database("connections", "sessions"))

    @cached_property
    def requests(self) -> Requests:
        from answerback_aws.runtime.dynamodb.requests import DynamoRequests, Retention  # noqa: PLC0415

        return DynamoRequests(
            self.database("requests", "conversations", "rate_limits"),
            clock=epoch_ms,
            retention=Retention(requests_ms=self.settings.retention_ms),
        )

    @cached_property
    def limits(self) -> "RateLimits":
        """The users' own limits, and who is locked out."""
        from answerback_aws.runtime.dynamodb.limits import RateLimits  # noqa: PLC0415

        return RateLimits(self.database("rate_limits"))

    @cached_property
    def store_id(self) -> "StoreId":
        from answerback_aws.runtime.dynamodb.database import StoreId  # noqa: PLC0415

        return StoreId(self.database("conversations"))

    @cached_property
    def turns(self) -> "DynamoTurns":
        from answerback_aws.runtime.dynamodb.turns import DynamoTurns  # noqa: PLC0415

        return DynamoTurns(self.database("requests", "conversations"))

    @cached_property
    def uploads(self) -> "Uploads | None":
        """The files that come with questions, where the stack takes any."""
        bucket = self.settings.files_bucket
        if bucket is None:
            return None
        from answerback.service.uploads import Uploads  # noqa: PLC0415
        from answerback_aws.runtime.s3_files import S3Files  # noqa: PLC0415

        database = self.database("conversations", "rate_limits")
        files = S3Files(database, s3=lambda: self.s3, calls=self.calls, bucket=bucket, clock=epoch_ms)
        return Uploads(files=files, clock=epoch_ms)

    # --- Aurora

    def data_api(self, timeouts: Timeouts) -> "DataApi":
        from answerback_aws.runtime.aurora.data_api import DataApi, data_api_client  # noqa: PLC0415

        settings = self.settings
        return DataApi(
            client=data_api_client(timeout_s=timeouts.call_s),
            calls=self.calls,
            cluster_arn=settings.cluster_arn,
            secret_arn=settings.secret_arn,
            database=settings.database,
            retry_for_s=timeouts.all_s,
        )

    @cached_property
    def aurora(self) -> "DataApi":
        return self.data_api(self._timeouts)

    @cached_property
    def write_behind(self) -> "WriteBehind":
        from answerback_aws.runtime.aurora.write_behind import WriteBehind  # noqa: PLC0415

        return WriteBehind(
            pending_turns=self.turns,
            api=self.aurora,
            observer=self.observing.counts,
            clock=epoch_ms,
            max_age_ms=self.settings.history_delay_s * 1000,
        )

    @cached_property
    def history(self) -> History:
        from answerback_aws.runtime.aurora.history import AwsHistory  # noqa: PLC0415

        return AwsHistory(turns=self.turns, write_behind=self.write_behind, api=self.aurora, clock=epoch_ms)

    # --- the service

    @cached_property
    def tokens(self) -> Tokens | None:
        """The verifier of tokens; None in a stack that allows anonymous connections."""
        return LazyTokens(self._make_tokens) if self.settings.has_tokens else None

    def _make_tokens(self, *, names_team: bool = True) -> "JwtTokens":
        """`names_team`: the authorizer's say who the team is; of a renewed token only the user is looked at."""
        from answerback.auth import JwtTokens, fetched_keys  # noqa: PLC0415

        settings = self.settings
        url = settings.jwks_url
        return JwtTokens(
            secret=settings.jwt_secret,
            keys=None if url is None else fetched_keys(url),
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            user_claim=settings.user_claim,
            team_claim=settings.team_claim if names_team else None,
        )

    @cached_property
    def traces(self) -> "Traces | None":
        ratio = self.settings.trace_ratio
        if ratio is None:
            return None
        from answerback.traces import Traces  # noqa: PLC0415
        from answerback_aws.runtime.client import session  # noqa: PLC0415
        from answerback_aws.runtime.span_exporter import XRayExporter  # noqa: PLC0415

        exporter = XRayExporter(session())
        self.observing.traces = Traces(exporter, clock=epoch_ms, ratio=ratio, attributes={"faas.name": self._function})
        return self.observing.traces

    @cached_property
    def observer(self) -> Observer:
        counts = self.observing.counts
        return counts if self.traces is None else self.traces.beside(counts)

    @cached_property
    def delivery_sender(self) -> "DeliverySender":
        """Carries answers to connections; each post is billed, so their pauses grow."""
        from answerback.core.delivery import growing  # noqa: PLC0415
        from answerback.service.delivery_sender import DeliverySender  # noqa: PLC0415

        make = DeliverySender if self.traces is None else self.traces.delivery_sender
        return make(
            requests=self.requests,
            sender=self.sender,
            interval=growing(),
            monotonic=time.monotonic,
            observer=self.observer,
        )

    @cached_property
    def watchers(self) -> "Watchers | None":
        """Shows answers to those who watch, where the stack lets them; from then on the delivery sender tells it.

        Not the history, which is in an Aurora that may sleep: a change of the list is told without title and count.
        """
        if not self.settings.max_watchers:
            return None
        from answerback.service.watchers import Watchers  # noqa: PLC0415

        return Watchers(
            watching=self.connections, requests=self.requests, delivery_sender=self.delivery_sender, clock=epoch_ms
        )

    @cached_property
    def front(self) -> "Front":
        from answerback.service.devices import Devices  # noqa: PLC0415
        from answerback.service.front import Front  # noqa: PLC0415
        from answerback.service.front_settings import FrontSettings  # noqa: PLC0415
        from answerback.service.history_pages import HistoryPages  # noqa: PLC0415
        from answerback.service.id_forms import HistoryInBothForms, RequestsInBothForms  # noqa: PLC0415
        from answerback.service.questions import Questions  # noqa: PLC0415

        settings = FrontSettings(
            models=tuple(self.settings.model_limits),
            model_limits=self.settings.model_limits,
            quota=replace(self.settings.quota, tariff=self.settings.tariff),
            policy=self.settings.policy,
            max_tokens=self.settings.max_tokens,
            lock_system=self.settings.lock_system,
            least_client=self.settings.least_client,
            idle_timeout_ms=min(self.settings.idle_timeout_ms, API_IDLE_MS),
            max_connection_ms=MAX_CONNECTION_MS,
            queue_survives=True,
        )
        requests, watchers = RequestsInBothForms(self.requests, None, clock=epoch_ms), self.watchers
        questions = Questions(
            settings=settings,
            requests=requests,
            queue=self.queue,
            delivery_sender=self.delivery_sender,
            observer=self.observer,
            clock=epoch_ms,
            uploads=self.uploads,
            watchers=watchers,
        )
        devices: Devices | None = None
        if watchers is not None:
            devices = Devices(
                most=self.settings.max_watchers,
                watching=self.connections,
                requests=requests,
                newest_turn=self.turns.newest_turn,  # asked by each renewal: Aurora could never sleep
                queue=self.queue,
                questions=questions,
                delivery_sender=self.delivery_sender,
                clock=epoch_ms,
            )
        return Front(
            settings=settings,
            questions=questions,
            connections=self.connections,
            history_pages=HistoryPages(
                history=HistoryInBothForms(self.history),
                clock=epoch_ms,
                changed=None if watchers is None else watchers.tell_changed,
            ),
            delivery_sender=self.delivery_sender,
            tokens=LazyTokens(partial(self._make_tokens, names_team=False)) if self.settings.has_tokens else None,
            clock=epoch_ms,
            is_blocked=self.limits.is_blocked,
            store_id=self.store_id.read,
            budgets_of_user=self.limits.budgets_of_user,
            uploads=self.uploads,
            devices=devices,
        )

    @cached_property
    def stored_settings(self) -> "StoredSettings | None":
        """What the deployment stored for the worker; its variables are in the environment from then on."""
        url = self.settings.stored_settings_url
        if url is None:
            return None
        from answerback_aws.runtime.worker_settings import load  # noqa: PLC0415

        return load(url, self.client)

    @cached_property
    def models(self) -> Mapping[str, Model]:
        _ = self.stored_settings  # a pipeline may read its variables as it is imported
        from answerback.models.build import build_model  # noqa: PLC0415
        from answerback.models.spec import parse_model_specs  # noqa: PLC0415

        return {spec.name: build_model(spec) for spec in parse_model_specs(self.settings.models)}

    @cached_property
    def worker(self) -> "Worker":
        from answerback.model_guard import ask  # noqa: PLC0415
        from answerback.service.id_forms import RecentTurnsInBothForms  # noqa: PLC0415
        from answerback.service.worker import Worker, WorkerSettings, owner_tokens  # noqa: PLC0415

        settings = self.settings
        return Worker(
            settings=WorkerSettings(
                policy=settings.policy,
                poll_every_s=POLL_EVERY_S,
                max_tokens=settings.max_tokens,
                system=(self.stored_settings and self.stored_settings.system) or settings.system,
            ),
            requests=self.requests,
            history=RecentTurnsInBothForms(self.turns),
            models=self.models,
            delivery_sender=self.delivery_sender,
            observer=self.observer,
            clock=epoch_ms,
            monotonic=time.monotonic,
            new_owner=owner_tokens(),
            uploads=self.uploads,
            ask=ask if self.traces is None else self.traces.ask,
            watchers=self.watchers,
        )

    @cached_property
    def dead_letters(self) -> "DeadLetters":
        from answerback.service.dead_letters import DeadLetters  # noqa: PLC0415

        _ = self.watchers  # the one that ends a request tells them
        return DeadLetters(requests=self.requests, delivery_sender=self.delivery_sender, clock=epoch_ms)

    @cached_property
    def janitor(self) -> "Janitor":
        from answerback.service.janitor import Janitor, JanitorSettings  # noqa: PLC0415

        settings = self.settings
        _ = self.watchers  # the one that ends a request tells them
        return Janitor(
            settings=JanitorSettings(
                policy=settings.policy,
                idle_timeout_ms=settings.idle_timeout_ms,
                retention_ms=settings.retention_ms,
                keep_days=settings.keep_days,
                expire_every_ms=0,  # the history itself sees to it that Aurora may sleep
                queue_survives=True,
            ),
            requests=self.requests,
            history=self.history,
            connections=self.connections,
            sender=self.sender,
            queue=self.queue,
            delivery_sender=self.delivery_sender,
            clock=epoch_ms,
            last_active_ms=self.sender.last_active_ms,
        )


@cache
def process(function: str, timeouts: Timeouts = IN_A_MESSAGE) -> Composition:
    """The composition of this process, made by its first invocation."""
    return Composition(function, os.environ, timeouts=timeouts)


class LazyTokens:
    """ports.Tokens, made when the first token is to be verified: that library takes a third of a cold start."""

    def __init__(self, make: Callable[[], Tokens]) -> None:
        self._make = make
        self._made: Tokens | None = None

    async def identify(self, token: str) -> Identity:
        if self._made is None:
            self._made = self._make()
        return await self._made.identify(token)


async def _settled(work: Coroutine[Any, Any, T]) -> T:
    """Await it, and then what it left behind: frozen with the process, that would go on at some later time."""
    try:
        return await work
    finally:
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        if remaining:
            _, running = await asyncio.wait(remaining, timeout=SETTLE_S)
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running, timeout=SETTLE_S)
