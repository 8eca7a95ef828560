"""What the gateway process costs, second by second, from /proc."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from answerback_proof.load.process import usage_of

_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look. `frames`: hostile frames sent by then."""

    at_s: float
    frames: int
    rss_bytes: int
    files: int
    threads: int
    database_bytes: int


@dataclass(slots=True)
class Watch:
    """Samples a process until it is cancelled."""

    pid: int
    folder: Path
    frames: Callable[[], int]
    samples: list[Sample] = field(default_factory=list)

    def take_sample(self) -> Sample:
        """Take one sample."""
        usage = usage_of(self.pid)
        process = Path(f"/proc/{self.pid}")
        sample = Sample(
            at_s=time.monotonic(),
            frames=self.frames(),
            rss_bytes=0 if usage is None else usage.rss_bytes,
            files=len(list((process / "fd").iterdir())),
            threads=len(list((process / "task").iterdir())),
            database_bytes=sum(file.stat().st_size for file in self.folder.glob("answerback.db*")),
        )
        self.samples.append(sample)
        return sample

    async def run(self, *, on_sample: Callable[[Sample], None]) -> None:
        """Look twice a second."""
        while True:
            on_sample(self.take_sample())
            await asyncio.sleep(_EVERY_S)


def rows_of(folder: Path) -> dict[str, int]:
    """Rows by table of the store in `folder`; for a gateway that has ended."""
    with closing(sqlite3.connect(folder / "answerback.db")) as database:
        tables = [
            name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
