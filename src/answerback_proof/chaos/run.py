"""One run of chaos: start everything, let apps ask, inject faults, wait for rest, stop, and check."""

import asyncio
import logging
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from answerback.stores import open_store
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.faults import DEATHS, FAULTS, KILLS, GatewayFaults
from answerback_proof.chaos.gateway import Died, GatewayProcess
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.recording_model import RunRecorder
from answerback_proof.chaos.report import ChaosReport, conclude
from answerback_proof.chaos.workload import App
from answerback_proof.checker import Visible, check
from answerback_proof.history import History, add_stores
from answerback_proof.load.process import ProcessFailed
from answerback_proof.proxy import HOST, Proxy

VISIBLE: Final = Visible(deaths=DEATHS)

_IDLE_S: Final = 60.0
_ERROR: Final = re.compile(r"^\S+ (ERROR|CRITICAL) (?P<what>.*)$", re.MULTILINE)
_ERRORS_SHOWN: Final = 10
_FIRST_ANSWERS: Final = 20
_CLIENT_LOG: Final = "answerback.client"


async def run_chaos(plan: ChaosPlan, *, notify: Callable[[str], None]) -> ChaosReport:
    """Run the plan. `notify` gets a line about the progress now and then.

    Raises: ProcessFailed: the gateway cannot be started at all. LocalFailed. StoreError: the store cannot be opened.
    """
    folder = Path(tempfile.mkdtemp(prefix="answerback-chaos-")) if plan.keep is None else plan.keep
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    history = History()
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
        gateway = GatewayProcess(folder, database=database, environment=runs.environment)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        proxy = Proxy(f"ws://{HOST}:{gateway.port}", history)
        stack.push_async_callback(proxy.stop)
        workload = Workload(plan, history, url=await proxy.start())
        faults = GatewayFaults(
            plan, history=history, gateway=gateway, proxy=proxy, apps=workload.apps, postgres=postgres, notify=notify
        )
        await workload.run(faults.inject, notify)
        await _come_to_rest(gateway, history)
        await proxy.stop()
        runs.close()
        _check_log(gateway.log, history)
        store = await open_store(database, gateway.data_dir)
        try:
            await add_stores(history, store, store)
        finally:
            await store.close()
    return conclude(
        plan,
        history,
        check(history, VISIBLE),
        folder=folder,
        store="SQLite" if database is None else "PostgreSQL",
        faults=FAULTS,
        kills=KILLS,
        began=began,
        connections=proxy.connected,
        failed_starts=gateway.failed_starts,
    )


class Workload:
    """The apps of a run."""

    def __init__(self, plan: ChaosPlan, history: History, *, url: str) -> None:
        self._plan = plan
        self._history = history
        self._ended = asyncio.Semaphore(0)
        self.apps = [
            App(
                number,
                url=url,
                plan=plan,
                history=history,
                rng=random.Random(f"{plan.seed} app {number}"),  # noqa: S311 - chaos that can be repeated
                on_ended=self._ended.release,
            )
            for number in range(plan.apps)
        ]

    async def run(self, inject: Callable[[], Awaitable[None]], notify: Callable[[str], None]) -> None:
        """Let the apps ask while `inject` injects faults, then let them come to their endings."""
        history, plan, stop = self._history, self._plan, asyncio.Event()
        asking = [asyncio.create_task(app.run(stop), name=app.session) for app in self.apps]
        try:
            async with asyncio.timeout(plan.settle_s):
                for _ in range(min(_FIRST_ANSWERS, len(self.apps))):
                    await self._ended.acquire()
            await inject()
        except* TimeoutError:
            history.broke("the apps got no first answers, before any fault")
        except* (Died, ProcessFailed) as died:
            for error in died.exceptions:
                history.broke(str(error))
        stop.set()
        notify(f"no more faults; {history.pending} questions are open")
        _, waiting = await asyncio.wait(asking, timeout=plan.settle_s)
        for task in waiting:
            task.cancel()
        for app, result in zip(self.apps, await asyncio.gather(*asking, return_exceptions=True), strict=True):
            if isinstance(result, Exception):
                history.broke(f"app {app.session}: {result!r}")


class _ErrorHandler(logging.Handler):
    """Adds what the client logs as an error to the history."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.ERROR)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        why = "" if record.exc_info is None else f" ({record.exc_info[1]!r})"
        self._history.broke(f"the client logged: {record.getMessage()}{why}")


@contextmanager
def client_errors(history: History) -> Iterator[None]:
    """The client logs injected faults as warnings: an error is a defect."""
    log, handler = logging.getLogger(_CLIENT_LOG), _ErrorHandler(history)
    is_propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = is_propagated


def _check_log(log: Path, history: History) -> None:
    """The gateway logs injected faults as warnings: an error is a defect."""
    found = [match["what"] for match in _ERROR.finditer(log.read_text(encoding="utf-8", errors="replace"))]
    for what, count in Counter(found).most_common(_ERRORS_SHOWN):
        history.broke(f"the gateway logged {count} times: {what}")


async def _come_to_rest(gateway: GatewayProcess, history: History) -> None:
    """Stop the gateway gracefully when it has nothing more to do."""
    try:
        gateway.check()
        if not await gateway.wait_until_idle(_IDLE_S):
            history.broke(f"the gateway still had work {_IDLE_S:.0f} s after the last app")
        await gateway.terminate()
    except Died as died:
        history.broke(str(died))
