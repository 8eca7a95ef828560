"""Chaos on the real thing: a gateway that is killed, frozen and cut off while hundreds of apps ask.

    apps (the SDK) --> proxy (reads along; cuts, stalls) --> gateway (killed, stopped, frozen, no disk) --> store
                                                                 |                                        (restarted)
                                                                 +--> recording model (reports each of its runs)

The checker looks at it from outside the gateway: what the apps saw, what went over the wire, how often the model ran,
and, after the gateway has stopped, what the store holds.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

from answerback.client import Timing

QUICK: Final = Timing(
    ask_timeout_s=300.0,
    backoff_min_s=0.1,
    backoff_max_s=2.0,
    silence_s=2.0,
    probe_max_s=8.0,
    hello_expiry_s=2.0,
    dead_s=3.0,
    open_timeout_s=4.0,
    keepalive_s=10.0,
    resend_s=0.3,
    close_s=0.5,
    renew_watch_s=10.0,
    full_watch_s=5.0,
)
"""The client's rules with shorter times, so that a run meets each of them often."""


def trusting(timing: Timing) -> Timing:
    """The same, but text is asked for only on a new connection: what the server forgets to send stays missing."""
    return replace(timing, silence_s=600.0, probe_max_s=600.0, renew_watch_s=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """What to do. `kills`: how often the gateway gets SIGKILL; `seconds`: go on for so long instead.

    `name`: sets this run's users apart from those of others in the same database. `apps_a_user`: apps that share a
    user. `database`: the URL of a PostgreSQL that is not ours to crash; `own_postgres`: start one, and crash it.
    Neither: SQLite. `gateways`: so many on one PostgreSQL of their own, behind HAProxy. `think_s`: an app's pause
    between questions, at the mean. `pause_s`: the longest pause between two faults of the process. `timing`: the
    clients' rules. `settle_s`: what the apps get to come to their endings after the last fault. `keep`: an empty or new
    folder for log, data and trace; None: a temporary one, kept only if a promise broke.
    """

    seed: int
    name: str = ""
    apps: int = 100
    apps_a_user: int = 3
    kills: int = 50
    seconds: float | None = None
    own_postgres: bool = False
    gateways: int = 1
    database: str | None = None
    delay_ms: float = 10
    think_s: float = 2.0
    pause_s: float = 2.5
    timing: Timing = QUICK
    settle_s: float = 180.0
    keep: Path | None = None

    def rng(self, concern: str) -> Random:
        return Random(f"{self.seed} {concern}")  # noqa: S311 - chaos that can be repeated

    def folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="answerback-chaos-")) if self.keep is None else self.keep
        folder.mkdir(parents=True, exist_ok=True)
        return folder
