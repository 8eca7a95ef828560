"""Front, worker and janitor, wired over ports: the same for a gateway, the testing kit and the simulation.

On AWS each function makes by itself the few parts that it needs, so that it starts fast.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from answerback.core.budget import BudgetState
from answerback.core.instants import LeaptSince, no_leaps
from answerback.model_guard import Ask, ask
from answerback.ports import Connections, Files, History, Model, Queue, Requests, Sender, Tokens, Watching
from answerback.service.delivery_sender import DeliverySender
from answerback.service.devices import Devices, newest_turn
from answerback.service.front import Front, nameless
from answerback.service.front_settings import FrontSettings
from answerback.service.history_pages import HistoryPages
from answerback.service.janitor import Janitor, JanitorSettings
from answerback.service.observer import Observer
from answerback.service.questions import Questions
from answerback.service.uploads import Uploads
from answerback.service.watchers import Watchers
from answerback.service.worker import Local, Worker, WorkerSettings, owner_tokens


class Store(Requests, History, Files, Protocol):
    """One store for all that the service keeps."""

    async def is_blocked(self, user_id: str, /) -> bool: ...

    async def budgets_of_user(self, user_id: str, team: str | None, *, now_ms: int) -> Sequence[BudgetState]: ...


class ConnectionTable(Connections, Watching, Protocol):
    """The open connections, and what they watch."""


class Service:
    """One service over one store.

    `requests`, `history`: the store by ids as clients give them. `local`: the queue, if this process runs what it
    accepts. `is_split`: front and worker are processes of their own, as on AWS, so the front tells the worker nothing,
    and a change of the list is told without its title. `most_watchers`: sessions that may watch a conversation; None:
    an answer is shown to nobody but who asked. `worker_clock`: another one than the front's.
    """

    def __init__(
        self,
        *,
        settings: FrontSettings,
        worker_settings: WorkerSettings,
        janitor_settings: JanitorSettings,
        store: Store,
        requests: Requests | None = None,
        history: History | None = None,
        connections: ConnectionTable,
        queue: Queue,
        local: Local | None = None,
        sender: Sender,
        delivery_sender: DeliverySender,
        models: Mapping[str, Model],
        uploads: Uploads | None,
        observer: Observer,
        clock: Callable[[], int],
        worker_clock: Callable[[], int] | None = None,
        monotonic: Callable[[], float],
        leapt: LeaptSince = no_leaps,
        new_owner: Callable[[], str] | None = None,
        ask: Ask = ask,
        tokens: Tokens | None = None,
        store_id: Callable[[], Awaitable[str | None]] = nameless,
        has_room: Callable[[str, str], bool] = lambda _, __: True,
        most_watchers: int | None,
        is_split: bool = False,
    ) -> None:
        requests, history = requests or store, history or store
        watchers: Watchers | None = None
        if most_watchers is not None:
            watchers = Watchers(
                watching=connections,
                requests=store,
                delivery_sender=delivery_sender,
                clock=clock,
                history=None if is_split else history,
            )
        self.worker = Worker(
            settings=worker_settings,
            requests=store,
            history=history,
            models=models,
            delivery_sender=delivery_sender,
            observer=observer,
            clock=worker_clock or clock,
            monotonic=monotonic,
            new_owner=new_owner or owner_tokens(),
            leapt=leapt,
            local=local,
            ask=ask,
            uploads=uploads,
            watchers=watchers,
        )
        questions = Questions(
            settings=settings,
            requests=requests,
            queue=queue,
            delivery_sender=delivery_sender,
            observer=observer,
            clock=clock,
            worker=None if is_split else self.worker,
            uploads=uploads,
            watchers=watchers,
        )
        devices = Devices(
            most=most_watchers or 0,
            watching=connections,
            requests=requests,
            newest_turn=newest_turn(history),
            queue=queue,
            questions=questions,
            delivery_sender=delivery_sender,
            clock=clock,
        )
        self.front = Front(
            settings=settings,
            questions=questions,
            connections=connections,
            history_pages=HistoryPages(
                history=history, clock=clock, changed=None if watchers is None else watchers.tell_changed
            ),
            delivery_sender=delivery_sender,
            tokens=tokens,
            clock=clock,
            is_blocked=store.is_blocked,
            store_id=store_id,
            budgets_of_user=store.budgets_of_user,
            has_room=has_room,
            uploads=uploads,
            devices=devices if most_watchers else None,
        )
        self.janitor = Janitor(
            settings=janitor_settings,
            requests=store,
            history=store,
            connections=connections,
            sender=sender,
            queue=queue,
            delivery_sender=delivery_sender,
            clock=clock,
            leapt=leapt,
            files=None if uploads is None else store,
        )
