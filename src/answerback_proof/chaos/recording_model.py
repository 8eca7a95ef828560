"""A model that echoes and reports each of its runs through a pipe that outlives the gateway.

The gateway loads it as `python:answerback_proof.chaos.recording_model:recording_echo`. A line is written before the
first word of a run, so that no run can go unnoticed, whatever kills the gateway.
"""

import asyncio
import fcntl
import os
import random
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Final

from answerback.models.echo import EchoFailure, EchoModel, EchoOptions
from answerback.ports import Piece, Prompt
from answerback_proof.history import ModelRun, RunHistory
from answerback_proof.simulation.hostile_model import HostileModel, Misbehaviour

SPEC: Final = "python:answerback_proof.chaos.recording_model:recording_echo?answer_timeout=15&price=1/1"
"""With a time for an answer that is far below what the apps wait: some of its runs end by that only."""
FAIL_RATE: Final = 0.02
MISBEHAVES: Final = 0.02
MISBEHAVIOURS: Final = tuple(set(Misbehaviour) - {Misbehaviour.SAYS_NOTHING, Misbehaviour.SAYS_A_MEGABYTE})
"""All but those whose answers are completed and no echo."""
CONCURRENCY: Final = 64
"""As a real model's: at most so many answers are lost when the gateway dies, and begun again."""
_RNG: Final = random.Random()  # noqa: S311 - chaos, not secret
_PIPE: Final = "CHAOS_PIPE"
_DELAY: Final = "CHAOS_DELAY_MS"
_PIPE_BYTES: Final = 1 << 20


class RecordingEcho:
    """ports.Model: an echo that fails one answer in fifty midway, and misbehaves in another one."""

    def __init__(self, pipe: int, *, delay_ms: float) -> None:
        self._pipe = pipe
        self._echo = EchoModel(
            EchoOptions(
                delay_ms=delay_ms,
                parts=True,
                fail=EchoFailure.MIDSTREAM,
                fail_rate=FAIL_RATE,
                concurrency=CONCURRENCY,
                context_tokens=1_000_000,
            )
        )
        self.context_tokens = self._echo.context_tokens
        self.concurrency = self._echo.concurrency

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        os.write(self._pipe, f"{prompt.request_id} {prompt.attempt}\n".encode())  # shorter than PIPE_BUF: whole
        model: EchoModel | HostileModel = self._echo
        if _RNG.random() < MISBEHAVES:
            misbehaviour = _RNG.choice(MISBEHAVIOURS)
            model = HostileModel(lambda _: misbehaviour, lambda it: it.messages[-1].text, pick=_RNG.randrange)
        async with aclosing(model.stream(prompt)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        os.close(self._pipe)


def recording_echo() -> RecordingEcho:
    """The factory that the gateway calls."""
    return RecordingEcho(os.open(os.environ[_PIPE], os.O_WRONLY), delay_ms=float(os.environ[_DELAY]))


class RunRecorder:
    """The other end of the pipe: adds every run to the history."""

    def __init__(self, path: Path, history: RunHistory, *, delay_ms: float) -> None:
        self._path = path
        self._history = history
        self._delay_ms = delay_ms
        self._pipe: int | None = None
        self._rest = b""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the gateway needs to know."""
        return {_PIPE: str(self._path), _DELAY: str(self._delay_ms)}

    def open(self) -> None:
        """Make the pipe and read from it."""
        if not (self._path.exists() and stat.S_ISFIFO(self._path.stat().st_mode)):
            os.mkfifo(self._path, 0o600)
        # Both ways, so that it does not end when a gateway does.
        self._pipe = os.open(self._path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def close(self) -> None:
        """Read what is left and stop."""
        if self._pipe is not None:
            self._read()
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None

    def _read(self) -> None:
        assert self._pipe is not None
        while True:
            try:
                data = os.read(self._pipe, _PIPE_BYTES)
            except BlockingIOError:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                request, attempt = line.decode().split(" ")
                self._history.add(ModelRun(request=request, attempt=int(attempt)))
