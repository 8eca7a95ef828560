"""One run of chaos: start everything, let apps ask, inject faults, wait for rest, stop, and check."""

import asyncio
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Final

from answerback.client import ConnectionState, SessionReplaced, Stopped
from answerback.clock import epoch_ms
from answerback.core.budget import Budget, Period, Unit, team_holder
from answerback.core.budget import Counter as BudgetCounter
from answerback.stores import open_store
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos import ChaosPlan, trusting
from answerback_proof.chaos.faults import (
    DEATHS,
    FAULTS,
    FLEET_DEATHS,
    FLEET_FAULTS,
    KILLS,
    ConnectionFaults,
    GatewayFaults,
)
from answerback_proof.chaos.gateway import DatabaseWay, Died, GatewayProcess, haproxy
from answerback_proof.chaos.recording_model import RunRecorder
from answerback_proof.chaos.report import ChaosReport, conclude
from answerback_proof.checker import Visible, check, owed_to_watchers
from answerback_proof.history import Ended, Result, RunHistory, Stored, add_stores
from answerback_proof.load.process import ProcessFailed
from answerback_proof.proxy import HOST, Proxy
from answerback_proof.workload import App, Mix, PlannedRequest, Window

VISIBLE: Final = Visible(deaths=DEATHS)
FLEET_VISIBLE: Final = Visible(ordered=False, deaths=FLEET_DEATHS, thaws=True)
"""A frame for a connection of another gateway may be lost with the database; the app asks for what is missing."""

MIX: Final = Mix(
    streamed=0.5,
    words=(3, 10, 20, 40, 40, 80),
    cancelled=0.15,
    cancel_within_s=1.0,
    timed=0.06,
    timeouts_s=(0.05, 1.5),
    repeated=0.12,
    parts=("reasoning", "tool", "citation"),
)

_IDLE_S: Final = 60.0
_NODES: Final = "abcdefgh"
_ERROR: Final = re.compile(r"^\S+ (ERROR|CRITICAL) (?P<what>.*)$", re.MULTILINE)
_MISBEHAVED: Final = (
    "its code raised an exception",
    "the model has counted more tokens than a budget has reserved for it",
    "the model does not stop when it is asked to",
    "the model has cancelled the task that runs it",
    "task frame does not stop when it is asked to",  # a gateway that stops finds the same of a frame that runs a model
)
_ERRORS_SHOWN: Final = 10
_FIRST_ANSWERS: Final = 20
_BURSTS: Final = (1, 1, 1, 2, 3)
_TRUSTING_EACH: Final = 3
TEAM: Final = "chaos"
_LEAVES: Final = 0.3
_STOPS: Final = 0.03
"""The share of questions, of those that an app is shown, that its user stops."""
_LOOK_ON_S: Final = 30.0
_LOOK_AGAIN_S: Final = 1.0
_CLIENT_LOG: Final = "answerback.client"


async def run_chaos(plan: ChaosPlan, *, notify: Callable[[str], None]) -> ChaosReport:
    """Run the plan. `notify` gets a line about the progress now and then.

    Raises: ProcessFailed: the gateway cannot be started at all. LocalFailed. StoreError: the store cannot be opened.
    """
    folder, began = plan.folder(), time.monotonic()
    history = RunHistory()
    async with AsyncExitStack() as stack:
        stack.enter_context(client_errors(history))
        postgres: PostgresServer | None = None
        if plan.own_postgres:
            postgres = PostgresServer()
            stack.push_async_callback(asyncio.to_thread, postgres.remove)
            await asyncio.to_thread(postgres.create)
        database = plan.database if postgres is None else postgres.url
        runs = RunRecorder(folder / "runs", history, delay_ms=plan.delay_ms)
        runs.open()
        stack.callback(runs.close)
        users = sorted({user_of(plan, number) for number in range(plan.apps)})
        await give_budget(database, folder / "data", users)
        gateways, ways = [], []
        for node in _NODES[: plan.gateways] if plan.gateways > 1 else (None,):
            reached = database
            if node is not None and postgres is not None:
                ways.append(DatabaseWay(Path(f"{postgres.folder}-{node}"), postgres.folder))
                stack.push_async_callback(ways[-1].close)
                await ways[-1].open()
                reached = ways[-1].url
            gateways.append(GatewayProcess(folder, database=reached, environment=runs.environment, node=node))
            stack.push_async_callback(gateways[-1].close)
            await gateways[-1].start()
        ports = [gateway.port for gateway in gateways]
        port = ports[0] if plan.gateways == 1 else await stack.enter_async_context(haproxy(folder, ports))
        proxy = Proxy(f"ws://{HOST}:{port}", history)
        stack.push_async_callback(proxy.stop)
        url = await proxy.start()
        apps = [ChaosApp(number, plan=plan, history=history, url=url) for number in range(plan.apps)]
        connections = ConnectionFaults(plan, history=history, proxy=proxy, apps=apps, notify=notify)
        faults = GatewayFaults(connections, gateways=gateways, ways=ways, postgres=postgres)
        await run_apps(apps, connections, faults.inject)
        for gateway in gateways:
            await _come_to_rest(gateway, history)
        await proxy.stop()
        runs.close()
        for gateway in gateways:
            _check_log(gateway.log, history)
        store = await open_store(database, gateways[0].data_dir)
        try:
            await add_stores(history, store, store)
            check_budget(history, await store.counters())
        finally:
            await store.close()
    is_one = plan.gateways == 1
    return conclude(
        connections,
        check(history, VISIBLE if is_one else FLEET_VISIBLE),
        folder=folder,
        store="SQLite" if database is None else "PostgreSQL",
        faults=FAULTS if is_one else FLEET_FAULTS,
        kills=KILLS,
        began=began,
        failed_starts=sum(gateway.failed_starts for gateway in gateways),
    )


def user_of(plan: ChaosPlan, number: int) -> str:
    """Whose app it is."""
    return f"u{plan.seed}{plan.name}-{number // plan.apps_a_user}"


async def give_budget(database: str | None, data_dir: Path, users: Sequence[str]) -> None:
    """Put all users into a team with a budget in money that refuses nobody: what counts is how it is counted."""
    await asyncio.to_thread(data_dir.mkdir, parents=True, exist_ok=True)
    store = await open_store(database, data_dir)
    try:
        budget = Budget(2**53 - 1, Unit.MICRO_USD, Period.MONTH)
        await store.set_budget(team_holder(TEAM), Period.MONTH, budget, now_ms=epoch_ms())
        for user in users:
            await store.set_team(user, TEAM, now_ms=epoch_ms())
    finally:
        await store.close()


def check_budget(history: RunHistory, counters: Mapping[tuple[str, str], BudgetCounter]) -> None:
    """At rest nothing is reserved, and what is settled is what the endings cost, to the micro-dollar."""
    team = [counter for (holder, _), counter in counters.items() if holder == team_holder(TEAM)]
    reserved, used = sum(one.reserved for one in team), sum(one.used for one in team)
    endings = [event.record.ending for _, event in history.events if isinstance(event, Stored)]
    costs = [ending.cost_micro_usd or 0 for ending in endings if ending is not None]
    if reserved:
        history.broke(f"{reserved} of the budget are reserved, and nothing runs")
    if used != sum(costs):
        history.broke(f"{used} of the budget are settled, and the endings cost {sum(costs)}")
    if not used:
        history.broke("nothing was charged to the budget")


class ChaosApp(App[Window]):
    """An app of a run. It has up to three conversations, in which it asks a few requests at a time."""

    def __init__(self, number: int, *, plan: ChaosPlan, history: RunHistory, url: str) -> None:
        user, session = user_of(plan, number), f"s{plan.seed}{plan.name}-app{number}"
        super().__init__(user=user, session=session, history=history, is_echo=True)
        self._plan = plan
        self._url = url
        # Several gateways may lose a frame between them, and rely on the app to ask.
        is_trusting = number % _TRUSTING_EACH == 0 and plan.gateways == 1
        self._timing = trusting(plan.timing) if is_trusting else plan.timing
        self._rng = plan.rng(session)
        self._numbers = count(1)
        self.has_answer = asyncio.Event()
        self.has_ended = asyncio.Event()
        first = number // plan.apps_a_user * plan.apps_a_user
        mates = [mate for mate in range(first, min(first + plan.apps_a_user, plan.apps)) if mate != number]
        self.others = [f"s{plan.seed}{plan.name}-app{mate}-{letter}" for mate in mates for letter in "ab"]
        """Conversations of the user's other apps."""

    def new_window(self, name: str) -> Window:
        rng = random.Random(self._rng.random())  # noqa: S311
        options = {"user": self.user, "timing": self._timing, "rng": rng, "on_state": self._state_changed}
        return Window(self, name, self._url, offline_start=True, **options)

    def _state_changed(self, state: ConnectionState) -> None:
        if isinstance(state, Stopped) and isinstance(state.error, SessionReplaced):
            self.history.broke(f"app {self.session}: {state.error}")

    async def use(self, stop: asyncio.Event, leave: asyncio.Event) -> None:
        """Ask until `stop`, until every request has its ending; look on at what others ask until `leave`."""
        await self.open()
        try:
            async with asyncio.TaskGroup() as talks:
                talks.create_task(self._look_on(stop))
                for conversation in (f"{self.session}-a", f"{self.session}-b", None)[: self._rng.choice((1, 2, 3))]:
                    talks.create_task(self._talk(conversation, stop))
            self.has_ended.set()
            await leave.wait()
        finally:
            self.has_ended.set()
            await self.window.close()

    async def _look_on(self, stop: asyncio.Event) -> None:
        """Open conversations of the user's other apps, and leave them; in the end look at all of them."""
        rng = self._rng
        while self.others and not stop.is_set():
            conversation = rng.choice(self.others)
            if conversation not in self.watches:
                self.watch(conversation)
            elif rng.random() < _LEAVES:
                self.unwatch(conversation)
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 2 * self._plan.think_s)):
                    await stop.wait()
        for conversation in self.others:
            self.watch(conversation)

    def saw_question(self, request_id: str, conversation: str) -> None:
        if self._rng.random() < _STOPS:
            after_s = self._rng.uniform(0, MIX.cancel_within_s)
            asyncio.get_running_loop().call_later(after_s, self.stop_watched, request_id, conversation)

    async def _talk(self, conversation: str | None, stop: asyncio.Event) -> None:
        rng = self._rng
        while not stop.is_set():
            async with asyncio.TaskGroup() as burst:
                for _ in range(rng.choice(_BURSTS)):
                    request = MIX.draw(rng, f"{self.session}-{next(self._numbers)}", (conversation,))
                    burst.create_task(self._ask(request))
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.uniform(0, 2 * self._plan.think_s)):
                    await stop.wait()

    async def _ask(self, request: PlannedRequest) -> None:
        ended = await self.ask(request)
        self.has_answer.set()
        if request.is_repeated and ended.result is Result.COMPLETED:
            await self.ask(request, again=True)


async def run_apps(
    apps: Sequence[ChaosApp], connections: ConnectionFaults, inject: Callable[[], Awaitable[None]]
) -> None:
    """Let the apps ask while `inject` injects faults, then let them come to their endings."""
    plan, history, notify = connections.plan, connections.history, connections.notify
    stop, leave = asyncio.Event(), asyncio.Event()
    asking = [asyncio.create_task(app.use(stop, leave), name=app.session) for app in apps]
    try:
        async with asyncio.timeout(plan.settle_s):
            await asyncio.gather(*(app.has_answer.wait() for app in apps[:_FIRST_ANSWERS]))
        await inject()
    except* TimeoutError:
        history.broke("the apps got no first answers, before any fault")
    except* (Died, ProcessFailed) as died:
        for error in died.exceptions:
            history.broke(str(error))
    stop.set()
    notify(f"no more faults; {history.pending} questions are open")
    with suppress(TimeoutError):
        async with asyncio.timeout(plan.settle_s):
            await asyncio.gather(*(app.has_ended.wait() for app in apps))
            await _look_on(history, notify)
    leave.set()
    _, waiting = await asyncio.wait(asking, timeout=_LOOK_ON_S)
    for task in waiting:
        task.cancel()
    for app, result in zip(apps, await asyncio.gather(*asking, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            history.broke(f"app {app.session}: {result!r}")


async def _look_on(history: RunHistory, notify: Callable[[str], None]) -> None:
    """Wait until who watches has what the apps that asked have seen completed."""
    completed = {e.request for _, e in history.events if isinstance(e, Ended) and e.result is Result.COMPLETED}
    while owed := owed_to_watchers(history, completed):
        notify(f"{len(owed)} answers are still owed to who watches")
        await asyncio.sleep(_LOOK_AGAIN_S)


class _ErrorHandler(logging.Handler):
    """Adds what the client logs as an error to the history."""

    def __init__(self, history: RunHistory) -> None:
        super().__init__(logging.ERROR)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        why = "" if record.exc_info is None else f" ({record.exc_info[1]!r})"
        self._history.broke(f"the client logged: {record.getMessage()}{why}")


@contextmanager
def client_errors(history: RunHistory) -> Iterator[None]:
    """The client logs injected faults as warnings: an error is a defect."""
    log, handler = logging.getLogger(_CLIENT_LOG), _ErrorHandler(history)
    is_propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = is_propagated


def _check_log(log: Path, history: RunHistory) -> None:
    """The gateway logs injected faults as warnings: an error is a defect, unless it is about the model's own code."""
    errors = [match["what"] for match in _ERROR.finditer(log.read_text(encoding="utf-8", errors="replace"))]
    found = [what for what in errors if not any(known in what for known in _MISBEHAVED)]
    for what, times in Counter(found).most_common(_ERRORS_SHOWN):
        history.broke(f"the gateway logged {times} times: {what}")


async def _come_to_rest(gateway: GatewayProcess, history: RunHistory) -> None:
    """Stop the gateway gracefully when it has nothing more to do."""
    try:
        gateway.check()
        if not await gateway.wait_until_idle(_IDLE_S):
            history.broke(f"the gateway still had work {_IDLE_S:.0f} s after the last app")
        await gateway.terminate()
    except Died as died:
        history.broke(str(died))
