"""What can go wrong, how often, and the dice."""

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities of one event each, 0 to 1; mean seconds between the things that happen by themselves (0: never).

    `reorder`: frames of one connection may overtake each other and arrive twice, as API Gateway's may; else a
    connection is ordered and loses only what was on the way when it broke.
    """

    latency_s: float = 0.02
    reorder: bool = False
    lose: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    false_gone: float = 0.0
    slow: float = 0.0
    outage_before: float = 0.0
    outage_after: float = 0.0
    model_fails: float = 0.0
    cut_every_s: float = 0.0
    half_open: float = 0.0
    app_crash_every_s: float = 0.0
    worker_crash_every_s: float = 0.0
    worker_stall: float = 0.0
    redeliver_every_s: float = 0.0
    front_crash: float = 0.0
    cancel: float = 0.0
    rollover: float = 0.0
    skew_ms: int = 0


CALM: Final = Faults()
GATEWAY: Final = Faults(
    slow=0.02,
    outage_before=0.02,
    outage_after=0.02,
    model_fails=0.05,
    cut_every_s=12.0,
    half_open=0.3,
    app_crash_every_s=60.0,
    worker_crash_every_s=25.0,
    cancel=0.1,
    rollover=0.2,
)
AWS: Final = Faults(
    latency_s=0.05,
    reorder=True,
    lose=0.03,
    duplicate=0.05,
    late=0.05,
    false_gone=0.01,
    slow=0.05,
    outage_before=0.02,
    outage_after=0.02,
    model_fails=0.05,
    cut_every_s=15.0,
    half_open=0.3,
    app_crash_every_s=60.0,
    worker_crash_every_s=20.0,
    worker_stall=0.03,
    redeliver_every_s=20.0,
    front_crash=0.02,
    cancel=0.1,
    rollover=0.2,
    skew_ms=3_000,
)


class Dice:
    """One random stream a concern, so that a change in one does not shift the others; counts what happened.

    `stop` ends the faults: what was promised must then come about.
    """

    def __init__(self, seed: int, faults: Faults) -> None:
        self._seed = seed
        self._faults = faults
        self._streams: dict[str, Random] = {}
        self._is_over = False
        self.counts: Counter[str] = Counter()

    def stop(self) -> None:
        """No more faults."""
        self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether faults have ended."""
        return self._is_over

    def stream(self, concern: str) -> Random:
        """The random numbers of one concern."""
        if concern not in self._streams:
            self._streams[concern] = Random(f"{self._seed}/{concern}")  # noqa: S311 - repeatable, not secret
        return self._streams[concern]

    def strikes(self, fault: str, probability: float) -> bool:
        """Whether it happens now."""
        if self._is_over or self.stream(fault).random() >= probability:
            return False
        self.counts[fault] += 1
        return True

    def pause_s(self, concern: str, mean_s: float) -> float:
        """Exponentially distributed seconds."""
        return self.stream(concern).expovariate(1 / mean_s)

    def latency_s(self, concern: str) -> float:
        """How long one hop takes."""
        mean = self._faults.latency_s
        return self.stream(concern).uniform(0.1 * mean, 2 * mean)
