"""The composition root of the embedded gateway: it makes, connects and stops every part."""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from answerback import __version__
from answerback.clock import LeapingClock
from answerback.core.budget import Price, Tariff, bound
from answerback.core.defaults import KEEP_FOREVER_DAYS
from answerback.core.delivery import steady
from answerback.core.handshake import WILDCARD_HOSTS, Hosts, Rules, origins
from answerback.core.instants import iso
from answerback.core.request import Policy
from answerback.gateway.admin import Admin
from answerback.gateway.admin_key import KEY_FILE, METRICS_KEY_FILE, remove_admin_port, save_admin_port
from answerback.gateway.canceller import Canceller
from answerback.gateway.checks import check_settings, node_name
from answerback.gateway.console import Console, NodeBody
from answerback.gateway.health import Health
from answerback.gateway.listener import Listener
from answerback.gateway.metrics import Metrics
from answerback.gateway.queue import InProcessQueue
from answerback.gateway.reload import Reloaded, Reloader
from answerback.gateway.service_manager import notify, reloading
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.gateway.sockets import Sockets, SocketSender
from answerback.gateway.upgrade import HandshakeValidator
from answerback.model_guard import Ask, ask
from answerback.models.build import open_model
from answerback.models.prices import prices_of, tariff_of
from answerback.models.spec import ModelSpecError, parse_model_specs
from answerback.ports import Model, ModelError, ModelLimits, Quota, Unavailable, answer_timeouts_ms, limits_of, within
from answerback.service.composition import Service
from answerback.service.delivery_sender import DeliverySender
from answerback.service.front_settings import FrontSettings
from answerback.service.id_forms import HistoryInBothForms, RequestsInBothForms, UsersInBothForms
from answerback.service.janitor import Janitor, JanitorSettings
from answerback.service.observer import Observer
from answerback.service.uploads import Uploads
from answerback.service.worker import WorkerSettings
from answerback.stores import FILE_NAME, open_store
from answerback.stores.connections import MemoryConnections
from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.store import SqlStore
from answerback.tasks import Tasks

if TYPE_CHECKING:
    from answerback.gateway.fleet import Fleet

log = logging.getLogger("answerback.gateway")

CLOSE_TIMEOUT_S: Final = 5.0
"""How long sockets, and frames that are being handled, may take to end after the grace of the running answers."""

STANDBY_EVERY_S: Final = 0.5
"""How often a gateway that stands by tries to take over."""

SECONDS_PER_DAY: Final = 24 * 3600


class StoppedEarly(Exception):
    """The gateway was stopped while it stood by."""


class Gateway:
    """One gateway, from start to stop.

    ```
    async with Gateway(settings) as gateway:
        print(gateway.url)
        await gateway.serve_forever()
    ```

    `store` and `models` are for tests and embedding: given ones are used instead of what the settings name, and are not
    closed at the end. `read_again` reads the settings again for `reload`. To make one raises SettingsError: the text
    says what to change.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        store: SqlStore | None = None,
        models: Sequence[Model] | None = None,
        read_again: Callable[[], GatewaySettings] | None = None,
    ) -> None:
        check_settings(settings)
        self._reloader = Reloader(settings, read_again)
        self._settings = settings
        self._given_store = store
        self._given_models = models
        self._prices: Mapping[str, Price | None] = {}
        self._stack = AsyncExitStack()
        self._stop_asked = asyncio.Event()
        self._skip_grace = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self.port = 0
        """Of the sockets."""
        self._admin_port: int | None = None
        self._queue: InProcessQueue | None = None
        self.sockets = Sockets()

    # --- where it listens

    @property
    def url(self) -> str:
        """Where it is reached on this machine."""
        host = self._settings.host
        return self._url(("::1" if host == "::" else "127.0.0.1") if host in WILDCARD_HOSTS else host)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is reached: `url`, and what other machines use if it listens on every address."""
        settings = self._settings
        if settings.host not in WILDCARD_HOSTS:
            return (self.url,)
        return (self.url, *map(self._url, settings.allow_hosts or own_addresses(settings.host)))

    def _url(self, host: str) -> str:
        scheme = "ws" if self._settings.tls_cert is None else "wss"
        return f"{scheme}://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    @property
    def admin_url(self) -> str | None:
        """Where the admin port is; None without one."""
        return None if self._admin_port is None else f"http://127.0.0.1:{self._admin_port}"

    # --- life

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open everything, recover what the process before left, and listen.

        Raises: SettingsError: the store, a model, or a file cannot be used; the text says what to do. OSError: an
        address cannot be bound. StoppedEarly.
        """
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self) -> None:
        """Stop gracefully: nothing new, `grace_s` for running answers, sockets closed with 1001, store closed.

        The next start recovers what has not ended. Doing it twice is harmless.
        """
        self._stop_asked.set()
        # One task stops everything, however many callers ask: two would close the store under each other.
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stack.aclose(), name="stop")
        await asyncio.shield(self._stopping)

    def skip_grace(self) -> None:
        """End the wait of a stop that is under way, for apps that move and for running answers."""
        self._skip_grace.set()
        if self._queue is not None:
            self._queue.skip_grace()

    def reload(self) -> Reloaded:
        """Read certificate, token secret, JWKS file, keys and log level again. What is wrong stays as it was."""
        notify(*reloading())
        try:
            return self._reloader.reload()
        finally:
            notify("READY=1")

    async def serve_forever(self) -> None:
        """Wait for `ask_to_stop` or `stop`, then stop."""
        await self._stop_asked.wait()
        await self.stop()

    def ask_to_stop(self) -> None:
        """Have `serve_forever` stop. The second time: skip the grace."""
        if self._stop_asked.is_set():
            self.skip_grace()
        self._stop_asked.set()

    async def _open(self) -> None:
        """Make everything; the stack closes it in the opposite order."""
        settings = self._settings
        tokens = self._reloader.tokens
        if tokens is not None:
            self._stack.push_async_callback(tokens.close)
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        store = await self._open_store()
        models = await self._open_models()

        leaping = LeapingClock()
        fleet = await self._open_fleet(store)
        clock = leaping if fleet is None else fleet.clock(leaping)
        slots = {name: model.concurrency for name, model in models.items()}
        queue = self._queue = (
            InProcessQueue(slots=slots, clock=clock) if fleet is None else fleet.queue(slots=slots, clock=clock)
        )
        connections = MemoryConnections() if fleet is None else fleet.connections
        sender = SocketSender(self.sockets) if fleet is None else fleet.sender(self.sockets)
        nodes = self._alone(clock()) if fleet is None else fleet.nodes
        metrics = Metrics(
            sockets=self.sockets,
            queue=queue,
            clock=clock,
            node_states=lambda: (node.state for node in nodes()),
            unread=_unread_documents(models.values()),
            database_bytes=_size_of(settings.data_dir / FILE_NAME) if settings.database is None else None,
        )
        # The process holds the store's lock: that is the lease of all it runs.
        model_limits = {
            name: within(limits_of(model), model.context_tokens, max_tokens=settings.max_tokens)
            for name, model in models.items()
        }
        policy = replace(settings.policy, lease_ms=0, answer_timeouts_ms=answer_timeouts_ms(model_limits))
        requests = RequestsInBothForms(store, store, clock=clock)
        front_settings = self._front_settings(models, model_limits, policy)
        observer, make_sender, ask_model = self._observed(metrics.observer, clock)
        delivery_sender = make_sender(
            requests=store,
            sender=sender,
            interval=steady(settings.coalesce_ms / 1000),
            monotonic=time.monotonic,
            observer=observer,
        )
        service = Service(
            settings=front_settings,
            worker_settings=WorkerSettings(
                policy=policy,
                max_tokens=settings.max_tokens,
                context_turns=settings.context_turns,
                system=settings.system,
            ),
            janitor_settings=JanitorSettings(
                policy=policy,
                idle_timeout_ms=int(settings.idle_timeout_s * 1000),
                retention_ms=settings.retention_days * SECONDS_PER_DAY * 1000,
                keep_days=settings.history_days or KEEP_FOREVER_DAYS,
            ),
            store=store,
            requests=requests,
            history=HistoryInBothForms(store),
            connections=connections,
            queue=queue,
            local=queue,
            sender=sender,
            delivery_sender=delivery_sender,
            models=models,
            uploads=Uploads(files=store, clock=clock),
            observer=observer,
            clock=clock,
            monotonic=time.monotonic,
            leapt=leaping.leapt_since,
            ask=ask_model,
            tokens=tokens,
            store_id=store.store_id,
            has_room=lambda connection_id, user_id: listener.name(connection_id, user_id),  # noqa: PLW0108 - made below
            most_watchers=settings.caps.watchers,
        )
        canceller = Canceller(
            requests=store,
            connections=connections,
            sockets=self.sockets,
            sender=sender,
            queue=queue,
            delivery_sender=delivery_sender,
            changed=service.worker.changed,
            clock=clock,
        )
        health = Health(requests=store, durability=store, clock=clock, monotonic=time.monotonic)
        admin = Admin(
            key=self._reloader.open_key(KEY_FILE),
            metrics_key=self._reloader.open_key(METRICS_KEY_FILE),
            reload=self.reload,
            sockets=self.sockets,
            connections=connections,
            requests=requests,
            users=UsersInBothForms(store),
            canceller=canceller,
            health=health,
            host=settings.admin_host,
            metrics=metrics,
            queue=queue,
            console=Console(
                counts=metrics.observer,
                queue=queue,
                nodes=nodes,
                rate_limit=settings.rate_limit,
                clock=clock,
            ),
            clock=clock,
        )
        tasks = Tasks()
        listener = Listener(
            front=service.front,
            validator=HandshakeValidator(
                rules=Rules(
                    hosts=Hosts.of(settings.host, settings.allow_hosts),
                    allow_origins=origins(settings.allow_origins),
                    proxies=[ip_network(name) for name in settings.trust_proxies],
                ),
                tokens=tokens,
                clock=clock,
                is_blocked=store.is_blocked,
                node=None if fleet is None else fleet.node,
            ),
            sockets=self.sockets,
            caps=settings.caps,
            tasks=tasks,
            health=health.glance if settings.public_health else None,
        )
        if recovered := await queue.recover(store):
            log.info("%d unfinished requests are recovered", recovered)
        await self._open_admin(admin)
        self._stack.push_async_callback(
            shut_down, listener, queue, tasks, fleet, settings=settings, skip_grace=self._skip_grace
        )
        if fleet is not None:
            fleet.join(
                worker=service.worker,
                close_user=canceller.close_sessions,
                close_replaced=service.front.replaced,
                on_outdated=self._stop_asked.set,
            )
        queue.start(service.worker.work)
        background = Tasks()
        background.start(self._sweep(service.janitor, fleet), name="janitor")
        for check in (_warn_of_prices(store, front_settings.quota.tariff), *map(_warn_of, models.values())):
            background.start(check, name="check of a model")
        self._stack.push_async_callback(background.settle, grace_s=0)
        self.port = await listener.start(settings.host, settings.port, tls=self._reloader.tls)
        log.info("listening on %s, address %s", ", ".join(self.urls), settings.host or "0.0.0.0")  # noqa: S104

    async def _open_admin(self, admin: Admin) -> None:
        settings = self._settings
        self._stack.callback(remove_admin_port, settings.data_dir)
        remove_admin_port(settings.data_dir)
        if settings.admin_port is not None:
            self._stack.push_async_callback(admin.close)
            self._admin_port = await admin.start(settings.admin_port)
            save_admin_port(settings.data_dir, self._admin_port)

    def _front_settings(
        self, models: Mapping[str, Model], model_limits: Mapping[str, ModelLimits], policy: Policy
    ) -> FrontSettings:
        settings = self._settings
        tariff = tariff_of(
            model_limits,
            prices=self._prices,
            context_tokens={name: model.context_tokens for name, model in models.items()},
            max_tokens=settings.max_tokens,
            context_turns=settings.context_turns,
            system_tokens=bound(settings.system),
        )
        return FrontSettings(
            models=tuple(model_limits),
            model_limits=model_limits,
            quota=Quota(per_minute=settings.rate_limit, max_pending=settings.caps.pending_per_user, tariff=tariff),
            policy=policy,
            max_tokens=settings.max_tokens,
            max_message_bytes=settings.caps.message_bytes,
            lock_system=settings.lock_system,
            least_client=settings.least_client,
            idle_timeout_ms=int(settings.idle_timeout_s * 1000),
        )

    async def _open_store(self) -> SqlStore:
        if self._given_store is not None:
            return self._given_store
        store: SqlStore | None = None

        async def opens() -> bool:
            nonlocal store
            settings = self._settings
            try:
                store = await open_store(settings.database, settings.data_dir, node=node_name(settings))
            except StoreError as exc:
                if not (settings.standby and isinstance(exc, StoreInUse)):
                    raise SettingsError(str(exc)) from exc
            return store is not None

        await self._stand_by("another gateway uses the store", opens)
        assert store is not None
        self._stack.push_async_callback(store.close)
        return store

    async def _stand_by(self, why: str, may_serve: Callable[[], Awaitable[bool]]) -> None:
        """Wait until this gateway may serve. Raises: StoppedEarly."""
        is_waiting = False
        while not await may_serve():
            if not is_waiting:
                log.info("standing by: %s", why)
                notify("READY=1", f"STATUS=standing by: {why}")
                is_waiting = True
            with suppress(TimeoutError):
                async with asyncio.timeout(STANDBY_EVERY_S):
                    await self._stop_asked.wait()
            if self._stop_asked.is_set():
                raise StoppedEarly

    async def _open_fleet(self, store: SqlStore) -> "Fleet | None":
        """What this gateway has of the others, if it is one of several. Raises: StoppedEarly."""
        if self._settings.node is None or self._settings.database is None:
            return None
        from answerback.gateway.fleet import Fleet  # noqa: PLC0415 - psycopg is an extra
        from answerback.stores.fleet import FleetStore  # noqa: PLC0415
        from answerback.stores.nodes import Nodes, connect_nodes  # noqa: PLC0415
        from answerback.stores.notices import Notices  # noqa: PLC0415

        if not isinstance(store, FleetStore):
            raise SettingsError("--node needs --database, or no store of one's own.")
        url, schema, node = self._settings.database, store.schema, store.node
        nodes = Nodes(partial(connect_nodes, url, schema), schema, node=node, incarnation=secrets.token_hex(4))
        fleet = Fleet(
            store,
            nodes=nodes,
            notices=Notices(url, schema, node),
            facts=self._facts,
            stands_by=self._settings.standby,
        )
        try:
            await fleet.start()
        except (StoreError, Unavailable) as exc:
            raise SettingsError(f"The other gateways on the database cannot be joined: {exc}") from exc
        self._stack.push_async_callback(fleet.leave)
        if self._settings.standby:
            await self._stand_by("another gateway serves", fleet.takes_the_place)
        return fleet

    def _facts(self) -> dict[str, int]:
        """What the other gateways, and `answerback nodes`, are shown of this one."""
        queue = self._queue
        running, waiting = (0, 0) if queue is None else (queue.running, queue.depth)
        return {"sockets": len(self.sockets), "running": running, "waiting": waiting}

    def _observed(
        self, counts: Observer, clock: Callable[[], int]
    ) -> tuple[Observer, Callable[..., DeliverySender], Ask]:
        """Who is told of what happens, what makes the sender, what calls a model: with traces if they are wanted."""
        settings = self._settings
        if settings.otlp_endpoint is None:
            return counts, DeliverySender, ask
        try:
            from answerback.traces import Traces, otlp_exporter  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise SettingsError("Traces need an extra. Run: pip install '.[otel]'") from exc
        node = node_name(settings)
        attributes = {} if node is None else {"service.instance.id": node}
        traces = Traces(otlp_exporter(settings.otlp_endpoint), clock=clock, attributes=attributes)
        self._stack.push_async_callback(asyncio.to_thread, traces.close)
        return traces.beside(counts), traces.delivery_sender, traces.ask

    def _alone(self, started_at_ms: int) -> Callable[[], Sequence[NodeBody]]:
        """What the console shows of a gateway that is the only one."""
        started_at = iso(started_at_ms)
        return lambda: [
            NodeBody(
                name=None,
                state="serving",
                version=__version__,
                started_at=started_at,
                age_ms=0,
                facts=self._facts(),
            )
        ]

    async def _open_models(self) -> Mapping[str, Model]:
        """The models by name, the default first."""
        if self._given_models is not None:
            return {model.name: model for model in self._given_models}
        models: dict[str, Model] = {}
        try:
            specs = parse_model_specs(self._settings.models)
            self._prices = prices_of(specs)
            for spec in specs:
                model = models[spec.name] = await open_model(spec)
                self._stack.push_async_callback(model.close)
        except ModelSpecError as exc:
            raise SettingsError(str(exc)) from exc
        except ModelError as exc:
            raise SettingsError(exc.detail or str(exc)) from exc
        return models

    async def _sweep(self, janitor: Janitor, fleet: "Fleet | None") -> None:
        interval_s = self._settings.janitor_interval_s
        while True:
            await asyncio.sleep(interval_s)
            try:
                await janitor.sweep(leads=fleet is None or await fleet.leads("janitor", for_s=3 * interval_s))
            except Exception:
                log.exception("the janitor failed; it tries again")


async def shut_down(
    listener: Listener,
    queue: InProcessQueue,
    tasks: Tasks,
    fleet: "Fleet | None",
    *,
    settings: GatewaySettings,
    skip_grace: asyncio.Event,
) -> None:
    """The graceful stop: nothing new, the running answers, then the sockets. In a fleet the apps move first."""
    log.info("stopping: %d answers are running, %d requests wait", queue.running, queue.depth)
    notify("STOPPING=1")
    if fleet is not None:
        await fleet.drain()
        await listener.drain(accept_s=settings.lb_grace_s, within_s=settings.drain_s, skip_grace=skip_grace)
    listener.stop_accepting()
    await queue.stop(grace_s=settings.grace_s)
    await listener.close(grace_s=CLOSE_TIMEOUT_S)
    await tasks.settle(grace_s=CLOSE_TIMEOUT_S)


def own_addresses(host: str) -> list[str]:
    """The addresses by which other machines reach this one, if it listens on `host`, a wildcard. Nothing is sent."""
    found = []
    for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        if (family is socket.AF_INET6) == (host == "::") or not host:
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))  # an address of documentation: it chooses the way out
                found.append(str(probe.getsockname()[0]))
    return found


def _unread_documents(models: Iterable[Model]) -> Callable[[], int] | None:
    """Counts what could not be read of the models' servers; None: no model has a server."""
    counting = [model for model in models if getattr(model, "unread_documents", None) is not None]
    return (lambda: sum(getattr(model, "unread_documents", 0) for model in counting)) if counting else None


def _size_of(path: Path) -> Callable[[], int]:
    """Reads the size of an SQLite file and of what has not been moved into it yet, in bytes."""

    def measure() -> int:
        total = 0
        for file in (path, path.with_name(f"{path.name}-wal")):
            with suppress(OSError):
                total += file.stat().st_size
        return total

    return measure


async def _warn_of_prices(store: SqlStore, tariff: Tariff) -> None:
    """Say in the log which models a budget in money refuses."""
    if (models := tariff.unpriced) and await store.has_money_budgets():
        log.warning(
            "no price is known of %s: budgets in money refuse it; name the price in its spec: price=INPUT/OUTPUT",
            ", ".join(models),
        )


async def _warn_of(model: Model) -> None:
    """Say in the log what is wrong with a model's server, before the first question finds it out."""
    check = getattr(model, "check", None)
    problem = None if check is None else await check()
    if problem is not None:
        log.warning("model %s: %s", model.name, problem)
