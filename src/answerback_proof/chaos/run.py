"""One run: everything is started, struck, left in peace, stopped and judged."""

import asyncio
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from answerback.stores import open_store
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.book import Book, Kind
from answerback_proof.chaos.faults import DEATHS, FAULTS, KILLS, Storm
from answerback_proof.chaos.gateway import Died, StruckGateway
from answerback_proof.chaos.judge import Judge
from answerback_proof.chaos.living import client_log, live
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Proxy
from answerback_proof.chaos.recording_model import Witness
from answerback_proof.chaos.report import ChaosReport, report_of, write_trace
from answerback_proof.chaos.wire import Wire
from answerback_proof.chaos.workload import App

_IDLE_S: Final = 60.0
_ERROR: Final = re.compile(r"^\S+ (ERROR|CRITICAL) (?P<what>.*)$", re.MULTILINE)
_ERRORS_TOLD: Final = 10


async def run_chaos(plan: ChaosPlan, *, told: Callable[[str], None]) -> ChaosReport:
    """Run the plan. `told` gets a line about the progress now and then.

    Raises: ProcessFailed: the gateway cannot be started at all. LocalFailed. StoreError: the store cannot be opened.
    """
    folder = Path(tempfile.mkdtemp(prefix="answerback-chaos-")) if plan.keep is None else plan.keep
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    book = Book()
    async with AsyncExitStack() as stack:
        stack.enter_context(client_log(book))
        postgres: PostgresServer | None = None
        if plan.own_postgres:
            postgres = PostgresServer()
            stack.push_async_callback(asyncio.to_thread, postgres.remove)
            await asyncio.to_thread(postgres.create)
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
        await live(apps, storm.rage, book, plan, told)
        await _come_to_rest(gateway, book)
        await proxy.stop()
        witness.close()
        _read_log(gateway.log, book)
        store = await open_store(database, gateway.data_dir)
        try:
            judge = Judge(book, store, store, deaths=DEATHS)
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
        store="SQLite" if database is None else "PostgreSQL",
        faults=FAULTS,
        kills=KILLS,
        seconds=time.monotonic() - began,
        connections=proxy.connected,
        failed_starts=gateway.failed_starts,
        kept=kept,
    )


def _read_log(log: Path, book: Book) -> None:
    """No fault of the storm is an error of the gateway's: it logs warnings about them."""
    found = [match["what"] for match in _ERROR.finditer(log.read_text(encoding="utf-8", errors="replace"))]
    for what, count in Counter(found).most_common(_ERRORS_TOLD):
        book.violate(Kind.BROKEN, "", f"the gateway logged {count} times: {what}")


async def _come_to_rest(gateway: StruckGateway, book: Book) -> None:
    """Stop the gateway in good order when it has nothing more to do."""
    try:
        gateway.check()
        if not await gateway.wait_until_idle(_IDLE_S):
            book.violate(Kind.BROKEN, "", f"the gateway still had work {_IDLE_S:.0f} s after the last app")
        await gateway.terminate()
    except Died as died:
        book.violate(Kind.BROKEN, "", str(died))
