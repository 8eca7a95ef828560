"""The faults of a simulated run: profiles with their probabilities, and the injector that draws them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import log
from random import Random
from types import MappingProxyType
from typing import Any, Final

from answerback_proof.fault_kinds import FaultKind


def _counted(kind: FaultKind, default: Any = 0.0) -> Any:
    """A field that turns a kind of fault on, which is counted."""
    return field(default=default, metadata={"kind": kind})


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """A profile: how the system is set up, and which faults are injected.

    Set-up. `split`: front and worker are processes of their own without a notifier, frames may overtake each other, the
    queue survives (AWS); else one process with the real listener, a queue rebuilt at start (the gateway), or several of
    those on one database behind a load balancer (`gateways`). `probes`: the client asks when nothing comes; `janitor`:
    there is one. Both mask holes of the others, so quiet profiles go without. `per_minute`: the rate limit. `budget`:
    tokens a day of a user; a team of all users has half as much again. `token_s`: seconds that a token lasts.
    `client_timeout_s`: seconds after which a client gives up. `gives_up`: its own time-outs hold, 30 s without a sign
    of life; else it waits for ever. `parts`: the model says more than text, and clients want some of it. `files`: the
    share of questions that have files. `watchers`: how many sessions may watch a conversation; each user then has one
    app more, which only watches, and that alone is frozen.

    Faults. A bare name is the probability of one event; `*_every_s` are mean seconds between things that happen by
    themselves. `worker_crash` and `front_crash` are per await. 0 is off everywhere.
    """

    split: bool = False
    gateways: int = 1
    probes: bool = True
    janitor: bool = True
    latency_s: float = 0.02
    per_minute: int = 0
    budget: int = 0
    token_s: float = _counted(FaultKind.TOKEN_RENEWAL)
    client_timeout_s: float = 0.0
    gives_up: bool = False
    parts: bool = False
    files: float = 0.0
    watchers: int = 0
    skew_ms: int = _counted(FaultKind.CLOCK_SKEW, 0)

    lose: float = _counted(FaultKind.LOST_POST)
    duplicate: float = _counted(FaultKind.DUPLICATED_POST)
    late: float = _counted(FaultKind.LATE_POST)
    false_gone: float = _counted(FaultKind.FALSE_GONE)
    slow: float = _counted(FaultKind.SLOW_READER)
    outage_before: float = _counted(FaultKind.OUTAGE_BEFORE)
    outage_after: float = _counted(FaultKind.OUTAGE_AFTER)
    stall: float = _counted(FaultKind.STALLED_CALL)
    model_fails: float = _counted(FaultKind.MODEL_FAILS)
    model_misbehaves: float = _counted(FaultKind.MODEL_MISBEHAVES)
    model_thinks: float = _counted(FaultKind.MODEL_THINKS)
    cut_every_s: float = _counted(FaultKind.CUT)
    half_open: float = _counted(FaultKind.HALF_OPEN)
    rollover: float = _counted(FaultKind.ROLL_OVER)
    flapping: float = _counted(FaultKind.FLAPPING)
    late_disconnect: float = _counted(FaultKind.LATE_DISCONNECT)
    app_crash_every_s: float = _counted(FaultKind.APP_CRASH)
    freeze_every_s: float = _counted(FaultKind.FROZEN_APP)
    takeover_every_s: float = _counted(FaultKind.TAKE_OVER)
    process_crash_every_s: float = _counted(FaultKind.PROCESS_CRASH)
    gateway_freeze_every_s: float = _counted(FaultKind.FREEZE)
    gateway_stop_every_s: float = _counted(FaultKind.TERMINATE)
    database_cut_every_s: float = _counted(FaultKind.DATABASE_CUT)
    database_crash_every_s: float = _counted(FaultKind.POSTGRES)
    lose_notice: float = _counted(FaultKind.LOST_NOTICE)
    late_notice: float = _counted(FaultKind.LATE_NOTICE)
    worker_crash: float = _counted(FaultKind.WORKER_CRASH)
    front_crash: float = _counted(FaultKind.FRONT_CRASH)
    redeliver_every_s: float = _counted(FaultKind.REDELIVERY)
    cancel: float = _counted(FaultKind.CANCELLATION)
    cancel_and_resume: float = _counted(FaultKind.CANCEL_AND_RESUME)
    snoop: float = _counted(FaultKind.SNOOPING)
    hello_storm: float = _counted(FaultKind.HELLO_FLOOD)
    watch_every_s: float = _counted(FaultKind.WATCH)
    watcher_cancels: float = _counted(FaultKind.WATCHER_CANCEL)
    unknown_cancels: float = _counted(FaultKind.UNKNOWN_CANCEL)
    stale_index: float = _counted(FaultKind.STALE_INDEX)
    wrong_pieces: float = _counted(FaultKind.WRONG_PIECE)
    cut_uploads: float = _counted(FaultKind.CUT_UPLOAD)

    def without(self, names: frozenset[str]) -> "Faults":
        """The same with these faults off. Raises: ValueError: no such fault."""
        unknown = names - set(FAULT_NAMES)
        if unknown:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULT_NAMES)}")
        off: dict[str, Any] = dict.fromkeys(names, 0)
        return replace(self, **off)

    @property
    def labels(self) -> frozenset[str]:
        """What must happen at least once in enough seeds: a fault that was never injected proves nothing."""
        parks = {FaultKind.PARKED} if self.slow and not self.split else frozenset()
        return frozenset(label for name, label in LABELS.items() if getattr(self, name)) | parks

    @property
    def active(self) -> tuple[str, ...]:
        return tuple(name for name in FAULT_NAMES if getattr(self, name))


_SET_UP: Final = frozenset(
    {
        *("split", "gateways", "probes", "janitor", "latency_s", "per_minute", "budget", "token_s"),
        *("client_timeout_s", "gives_up", "parts", "files", "watchers"),
    }
)
FAULT_NAMES: Final = tuple(one.name for one in fields(Faults) if one.name not in _SET_UP)

LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {one.name: one.metadata["kind"] for one in fields(Faults) if "kind" in one.metadata}
)
"""What is counted when it is injected, by the field that turns it on."""

DEATHS: Final = frozenset(
    {
        *(FaultKind.PROCESS_CRASH, FaultKind.WORKER_CRASH, FaultKind.STALLED_CALL, FaultKind.STALLED_POST),
        *(FaultKind.FREEZE, FaultKind.TERMINATE),
    }
)
"""After each of these the model may be run once more for a request: its worker is dead, or its lease is over. A gateway
that is frozen or cut off is taken for dead if that lasts; one that stops may leave answers that are not done."""

_ON_AWS: Final[Mapping[str, Any]] = MappingProxyType({"split": True, "latency_s": 0.05, "skew_ms": 3_000})
_FLEET: Final[Mapping[str, Any]] = MappingProxyType(
    {"gateways": 3, "skew_ms": 3_000, "lose_notice": 0.05, "late_notice": 0.05}
)
_QUIET: Final = Faults(probes=False, janitor=False)
_USUAL: Final = Faults(
    outage_before=0.02,
    outage_after=0.02,
    model_fails=0.05,
    half_open=0.3,
    rollover=0.2,
    flapping=0.3,
    app_crash_every_s=60.0,
    takeover_every_s=60.0,
    cancel=0.1,
    cancel_and_resume=0.3,
    snoop=0.05,
    hello_storm=0.02,
)
_IMPATIENT: Final = replace(_QUIET, cut_every_s=8.0, flapping=0.3, cancel=0.15, cancel_and_resume=0.5)
_WATCHED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "watchers": 2,
        "parts": True,
        "watch_every_s": 6.0,
        "watcher_cancels": 0.2,
        "unknown_cancels": 0.1,
        "freeze_every_s": 60.0,
    }
)
_THINKING: Final = Faults(
    gives_up=True, model_thinks=0.05, cut_every_s=40.0, rollover=0.5, flapping=0.3, cancel=0.05, hello_storm=0.05
)
"""No app gives up what waits its turn, nor an attempt that is held, while its connection is up."""

PROFILES: Final[Mapping[str, Faults]] = MappingProxyType(
    {
        "calm": Faults(),
        "gateway": replace(_USUAL, slow=0.02, cut_every_s=12.0, process_crash_every_s=25.0),
        "aws": replace(
            _USUAL,
            **_ON_AWS,
            lose=0.03,
            duplicate=0.05,
            late=0.05,
            false_gone=0.01,
            slow=0.05,
            stall=0.005,
            freeze_every_s=120.0,
            cut_every_s=15.0,
            late_disconnect=0.3,
            worker_crash=0.004,
            front_crash=0.01,
            redeliver_every_s=15.0,
        ),
        "outages": Faults(outage_before=0.06, outage_after=0.06, slow=0.05, cancel=0.05),
        "gateway-quiet": replace(_IMPATIENT, slow=0.05, rollover=0.3, process_crash_every_s=20.0),
        "aws-quiet": replace(
            _IMPATIENT,
            **_ON_AWS,
            rollover=0.5,
            slow=0.03,
            freeze_every_s=60.0,
            late_disconnect=0.3,
            worker_crash=0.003,
            redeliver_every_s=30.0,
        ),
        "limits": Faults(
            per_minute=8,
            token_s=25.0,
            client_timeout_s=6.0,
            slow=0.02,
            cut_every_s=20.0,
            rollover=0.3,
            cancel=0.1,
            hello_storm=0.05,
        ),
        "gateway-hostile": replace(
            _QUIET,
            model_misbehaves=0.4,
            slow=0.02,
            cut_every_s=12.0,
            app_crash_every_s=60.0,
            process_crash_every_s=60.0,
            cancel=0.1,
        ),
        "aws-hostile": Faults(
            **_ON_AWS,
            model_misbehaves=0.4,
            lose=0.02,
            outage_after=0.01,
            cut_every_s=15.0,
            worker_crash=0.002,
            redeliver_every_s=30.0,
            cancel=0.1,
        ),
        "parts-quiet": replace(
            _IMPATIENT, parts=True, slow=0.05, rollover=0.3, model_fails=0.05, process_crash_every_s=20.0
        ),
        "aws-parts": Faults(
            **_ON_AWS,
            parts=True,
            lose=0.03,
            duplicate=0.05,
            late=0.05,
            slow=0.05,
            model_fails=0.05,
            cut_every_s=15.0,
            worker_crash=0.003,
            redeliver_every_s=20.0,
            cancel=0.1,
        ),
        "aws-parts-quiet": replace(
            _IMPATIENT,
            **_ON_AWS,
            parts=True,
            rollover=0.5,
            slow=0.03,
            freeze_every_s=60.0,
            worker_crash=0.003,
            redeliver_every_s=30.0,
        ),
        "gateway-budgets": replace(
            _USUAL, budget=60_000, slow=0.02, cut_every_s=12.0, process_crash_every_s=12.0, cancel=0.25
        ),
        "aws-budgets": replace(
            _USUAL,
            **_ON_AWS,
            budget=60_000,
            duplicate=0.05,
            late=0.05,
            stall=0.01,
            cut_every_s=15.0,
            worker_crash=0.006,
            front_crash=0.01,
            redeliver_every_s=10.0,
            cancel=0.25,
        ),
        "watchers": replace(_USUAL, **_WATCHED, slow=0.03, cut_every_s=15.0, process_crash_every_s=20.0),
        "watchers-quiet": replace(
            _IMPATIENT, **_WATCHED, slow=0.03, cut_every_s=15.0, rollover=0.3, process_crash_every_s=25.0
        ),
        "aws-watchers": replace(
            _USUAL,
            **_ON_AWS,
            **_WATCHED,
            lose=0.03,
            duplicate=0.05,
            late=0.05,
            false_gone=0.01,
            slow=0.03,
            stall=0.005,
            stale_index=0.2,
            cut_every_s=15.0,
            late_disconnect=0.3,
            worker_crash=0.003,
            front_crash=0.01,
            redeliver_every_s=15.0,
        ),
        "aws-watchers-quiet": replace(
            _IMPATIENT,
            **_ON_AWS,
            **{**_WATCHED, "freeze_every_s": 0.0},
            stale_index=0.2,
            cut_every_s=15.0,
            rollover=0.5,
            late_disconnect=0.3,
            worker_crash=0.002,
            redeliver_every_s=30.0,
        ),
        "fleet-watchers": replace(
            _USUAL,
            **_FLEET,
            **_WATCHED,
            outage_before=0.005,
            outage_after=0.005,
            slow=0.04,
            cut_every_s=20.0,
            process_crash_every_s=25.0,
            gateway_stop_every_s=30.0,
            database_crash_every_s=40.0,
        ),
        "fleet": replace(
            _USUAL,
            **_FLEET,
            outage_before=0.005,
            outage_after=0.005,
            slow=0.02,
            cut_every_s=20.0,
            process_crash_every_s=25.0,
            gateway_freeze_every_s=40.0,
            gateway_stop_every_s=30.0,
            database_cut_every_s=40.0,
            database_crash_every_s=40.0,
        ),
        "fleet-quiet": replace(
            _IMPATIENT,
            **{**_FLEET, "lose_notice": 0.2},
            slow=0.03,
            rollover=0.3,
            process_crash_every_s=30.0,
            gateway_stop_every_s=25.0,
        ),
        "fleet-limits": Faults(
            **_FLEET, per_minute=8, cut_every_s=8.0, rollover=0.5, cancel=0.1, gateway_stop_every_s=30.0
        ),
        "fleet-budgets": replace(
            _USUAL,
            **_FLEET,
            budget=60_000,
            outage_before=0.005,
            outage_after=0.005,
            cut_every_s=20.0,
            process_crash_every_s=20.0,
            gateway_stop_every_s=30.0,
            cancel=0.25,
        ),
        "uploads": Faults(
            files=0.7,
            wrong_pieces=0.5,
            cut_uploads=0.1,
            outage_before=0.02,
            outage_after=0.02,
            cut_every_s=15.0,
            rollover=0.3,
            app_crash_every_s=40.0,
            takeover_every_s=60.0,
            process_crash_every_s=15.0,
            cancel=0.05,
        ),
        "uploads-quiet": replace(_IMPATIENT, files=0.7, rollover=0.3, cut_uploads=0.1, process_crash_every_s=20.0),
        "aws-uploads": Faults(
            **_ON_AWS,
            files=0.7,
            wrong_pieces=0.5,
            cut_uploads=0.1,
            duplicate=0.05,
            late=0.05,
            outage_before=0.02,
            outage_after=0.02,
            cut_every_s=15.0,
            app_crash_every_s=40.0,
            worker_crash=0.003,
            front_crash=0.01,
            redeliver_every_s=15.0,
            cancel=0.05,
        ),
        "aws-uploads-quiet": replace(
            _IMPATIENT,
            **_ON_AWS,
            files=0.7,
            rollover=0.5,
            cut_uploads=0.1,
            worker_crash=0.003,
            redeliver_every_s=30.0,
        ),
        "fleet-uploads": Faults(
            **_FLEET,
            files=0.7,
            wrong_pieces=0.5,
            cut_uploads=0.1,
            outage_before=0.01,
            outage_after=0.01,
            cut_every_s=15.0,
            process_crash_every_s=25.0,
            gateway_stop_every_s=30.0,
            database_crash_every_s=40.0,
        ),
        "thinking": replace(_THINKING, process_crash_every_s=60.0),
        "aws-thinking": replace(
            _THINKING, **_ON_AWS, duplicate=0.05, late=0.05, worker_crash=0.002, redeliver_every_s=30.0
        ),
    }
)


class FaultInjector:
    """Decides which of the `faults` of a profile is injected when, with one random stream a concern, and counts them.

    A change in one concern does not shift the others. `stop` ends the faults: what was promised must then come about.
    `on_death` is called with each fault after which the model may be run once more.
    """

    def __init__(self, seed: int, faults: Faults, *, on_death: Callable[[str], None] = lambda _: None) -> None:
        self.seed = seed
        self.faults = faults
        self.on_death = on_death
        self.is_over = False
        self.counts: Counter[str] = Counter()
        self._means_s = {kind: getattr(faults, name) for name, kind in LABELS.items() if name.endswith("_every_s")}
        chances = {kind: getattr(faults, name) for name, kind in LABELS.items()}
        # What happens by itself happens whenever it is due.
        self._chances = {**chances, **dict.fromkeys(self._means_s, 1.0)}
        self._chances |= {FaultKind.STALLED_POST: faults.stall, FaultKind.DUPLICATED_MESSAGE: faults.duplicate}
        self._streams: dict[str, Random] = {}

    def stop(self) -> None:
        self.is_over = True

    def stream(self, concern: str) -> Random:
        stream = self._streams.get(concern)
        if stream is None:
            stream = self._streams[concern] = Random(f"{self.seed}/{concern}")  # noqa: S311 - repeatable, not secret
        return stream

    def occurs(self, fault: str) -> bool:
        chance = self._chances[fault]
        if not chance or self.is_over or self.stream(fault).random() >= chance:
            return False
        self.counts[fault] += 1
        return True

    async def often(
        self,
        fault: str,
        act: Callable[[], Awaitable[None] | None],
        *,
        concern: str | None = None,
        when: Callable[[], object] = lambda: True,
    ) -> None:
        """Inject a fault that happens by itself, each time `when` it can, until the faults are over.

        `concern`: what its pauses are drawn for.
        """
        mean_s = self._means_s[fault]
        while mean_s and not self.is_over:
            await asyncio.sleep(self.pause_s(concern or fault, mean_s))
            if when() and self.occurs(fault) and (doing := act()) is not None:
                await doing

    def awaits_until(self, fault: str) -> int | None:
        """After how many awaits a process dies that may die at each. None: it will not."""
        chance = self._chances[fault]
        if not chance or self.is_over:
            return None
        return int(log(1.0 - self.stream(fault).random()) / log(1.0 - chance))

    def pause_s(self, concern: str, mean_s: float) -> float:
        """Exponentially distributed seconds."""
        return self.stream(concern).expovariate(1 / mean_s)

    def latency_s(self, concern: str) -> float:
        """How long one hop takes."""
        return self.faults.latency_s * (0.1 + 1.9 * self.stream(concern).random())
