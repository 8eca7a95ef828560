"""What a run of chaos has whatever is struck: apps that live through it, and a client whose errors are defects."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from answerback_proof.chaos.book import Book, Kind
from answerback_proof.chaos.gateway import Died
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.workload import App
from answerback_proof.load.process import ProcessFailed

_FIRST_ANSWERS: Final = 20
_CLIENT_LOG: Final = "answerback.client"


class _Defects(logging.Handler):
    """An error that the client logs is a defect of ours, whatever becomes of the requests."""

    def __init__(self, book: Book) -> None:
        super().__init__(logging.ERROR)
        self._book = book

    def emit(self, record: logging.LogRecord) -> None:
        """Enter it into the book."""
        why = "" if record.exc_info is None else f" ({record.exc_info[1]!r})"
        self._book.violate(Kind.BROKEN, "", f"the client logged: {record.getMessage()}{why}")


@contextmanager
def client_log(book: Book) -> Iterator[None]:
    """Warnings of the client are the weather; its errors are not."""
    log, handler = logging.getLogger(_CLIENT_LOG), _Defects(book)
    is_propagated, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = is_propagated


async def live(
    apps: list[App], rage: Callable[[], Awaitable[None]], book: Book, plan: ChaosPlan, told: Callable[[str], None]
) -> None:
    """The apps ask, the storm rages, then the apps come to their endings."""
    stop = asyncio.Event()
    living = [asyncio.create_task(app.run(stop), name=app.session) for app in apps]
    try:
        async with asyncio.timeout(plan.settle_s):
            await book.until_answered(min(_FIRST_ANSWERS, len(apps)))
        await rage()
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
