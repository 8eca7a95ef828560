"""One run: everything is started, struck, left in peace, stopped and judged."""

import asyncio
import logging
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from answerback.bench.chaos.app import App
from answerback.bench.chaos.book import Book, Kind
from answerback.bench.chaos.gateway import Died, StruckGateway
from answerback.bench.chaos.judge import Judge
from answerback.bench.chaos.plan import ChaosPlan
from answerback.bench.chaos.postgres import OwnPostgres
from answerback.bench.chaos.proxy import Proxy
from answerback.bench.chaos.report import ChaosReport, report_of, write_trace
from answerback.bench.chaos.storm import Storm
from answerback.bench.chaos.wire import Wire
from answerback.bench.chaos.witness import Witness
from answerback.bench.process import ProcessFailed
from answerback.stores import open_store

_IDLE_S: Final = 60.0
_FIRST_ANSWERS: Final = 20
_CLIENT_LOG: Final = "answerback.client"
_ERROR: Final = re.compile(r"^\S+ (ERROR|CRITICAL) (?P<what>.*)$", re.MULTILINE)
_ERRORS_TOLD: Final = 10


class _Defects(logging.Handler):
    """An error that the client logs is a defect of ours, whatever becomes of the requests."""

    def __init__(self, book: Book) -> None:
        super().__init__(logging.ERROR)
        self._book = book

    def emit(self, record: logging.LogRecord) -> None:
        """Enter it into the book."""
        why = "" if record.exc_info is None else f" ({record.exc_info[1]!r})"
        self._book.violate(Kind.BROKEN, "", f"the client logged: {record.getMessage()}{why}")


async def run_chaos(plan: ChaosPlan, *, told: Callable[[str], None]) -> ChaosReport:
    """Run the plan. `told` gets a line about the progress now and then.

    Raises: ProcessFailed: the gateway cannot be started at all. NoPostgres. StoreError: the store cannot be opened.
    """
    folder = Path(tempfile.mkdtemp(prefix="answerback-chaos-")) if plan.keep is None else plan.keep
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    book = Book()
    async with AsyncExitStack() as stack:
        stack.enter_context(_client_log(book))
        postgres: OwnPostgres | None = None
        if plan.own_postgres:
            postgres = OwnPostgres()
            stack.push_async_callback(postgres.remove)
            await postgres.create()
        database = plan.database if postgres is None else postgres.url
        witness = Witness(folder / "runs", book, delay_ms=plan.delay_ms)
        witness.open()
        stack.callback(witness.close)
        gateway = StruckGateway(folder, database=database, environment=witness.environment)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        proxy = Proxy(gateway.port, lambda: Wire(book))
        url = await proxy.start()
        stack.push_async_callback(proxy.stop)
        apps = [
            App(number, url=url, plan=plan, book=book, rng=random.Random(f"{plan.seed} app {number}"))  # noqa: S311
            for number in range(plan.apps)
        ]
        storm = Storm(plan, book=book, gateway=gateway, proxy=proxy, apps=apps, postgres=postgres, told=told)
        await _live(apps, storm, book, plan, told)
        await _come_to_rest(gateway, book)
        await proxy.stop()
        witness.close()
        _read_log(gateway.log, book)
        store = await open_store(database, gateway.data_dir)
        try:
            judge = Judge(book, store, store)
            await judge.judge()
        finally:
            await store.close()
    kept = folder if book.violations or plan.keep is not None else None
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        write_trace(kept / "trace.jsonl", book, judge.records)
    return report_of(
        plan,
        book,
        judge.records,
        seconds=time.monotonic() - began,
        connections=proxy.connected,
        failed_starts=gateway.failed_starts,
        kept=kept,
    )


@contextmanager
def _client_log(book: Book) -> Iterator[None]:
    """Warnings of the client are the weather; its errors are not."""
    log, handler = logging.getLogger(_CLIENT_LOG), _Defects(book)
    is_propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = is_propagated


def _read_log(log: Path, book: Book) -> None:
    """No fault of the storm is an error of the gateway's: it logs warnings about them."""
    found = [match["what"] for match in _ERROR.finditer(log.read_text(encoding="utf-8", errors="replace"))]
    for what, count in Counter(found).most_common(_ERRORS_TOLD):
        book.violate(Kind.BROKEN, "", f"the gateway logged {count} times: {what}")


async def _live(apps: list[App], storm: Storm, book: Book, plan: ChaosPlan, told: Callable[[str], None]) -> None:
    """The apps ask, the storm rages, then the apps come to their endings."""
    stop = asyncio.Event()
    living = [asyncio.create_task(app.run(stop), name=app.session) for app in apps]
    try:
        async with asyncio.timeout(plan.settle_s):
            await book.until_answered(min(_FIRST_ANSWERS, len(apps)))
        await storm.rage()
    except* TimeoutError:
        book.violate(Kind.BROKEN, "", "the apps got no first answers, and nothing was struck yet")
    except* (Died, ProcessFailed) as died:
        for error in died.exceptions:
            book.violate(Kind.BROKEN, "", str(error))
    stop.set()
    told(f"the storm is over; {len(list(book.pending))} questions are open")
    _, waiting = await asyncio.wait(living, timeout=plan.settle_s)
    for task in waiting:
        task.cancel()
    for app, result in zip(apps, await asyncio.gather(*living, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            book.violate(Kind.BROKEN, "", f"app {app.session}: {result!r}")


async def _come_to_rest(gateway: StruckGateway, book: Book) -> None:
    """Stop the gateway in good order when it has nothing more to do."""
    try:
        gateway.check()
        if not await gateway.wait_until_idle(_IDLE_S):
            book.violate(Kind.BROKEN, "", f"the gateway still had work {_IDLE_S:.0f} s after the last app")
        await gateway.terminate()
    except Died as died:
        book.violate(Kind.BROKEN, "", str(died))
