"""A model behind the emulated Bedrock: it echoes, adds each of its runs to the history, and fails as Bedrock does."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Final

from answerback.models.echo import echo_deltas
from answerback.ports import Finish, Part, Piece
from answerback_aws.emulator.bedrock import Asked, Broken, Cut, Refused
from answerback_proof.fault_kinds import FaultKind
from answerback_proof.history import Fault, ModelRun, RunHistory

MODEL_FAULTS: Final = (
    FaultKind.THROTTLED,
    FaultKind.OVERLOADED,
    FaultKind.BROKEN_OFF,
    FaultKind.CONNECTION_CUT,
    FaultKind.STALLED_STREAM,
)

_FAULTS: Final = (None, *MODEL_FAULTS)
_WEIGHTS: Final = (85, 5, 2, 3, 2, 3)
_STALL_S: Final = (1.0, 8.0)
_SAYS_MORE: Final = 0.7
"""The share of answers with more than their text."""


class FaultyModel:
    """A `Script` of `BedrockServer` that injects faults. It runs on that server's event loop.

    `attempt_of`: the attempt that runs a request now, by request id; what Bedrock is asked does not name it.
    """

    def __init__(self, history: RunHistory, *, seed: int, delay_ms: float, attempt_of: Callable[[str], int]) -> None:
        self._history = history
        self._seed = seed
        self._delay_s = delay_ms / 1000
        self._attempt_of = attempt_of
        self._calls: Counter[str] = Counter()
        self._is_healthy = False
        self.running = 0

    def heal(self) -> None:
        """From now on every answer comes whole."""
        self._is_healthy = True

    async def __call__(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        question: str = asked.body["messages"][-1]["content"][-1]["text"]
        request_id = question.partition(":")[0]
        self._calls[request_id] += 1
        rng = random.Random(f"{self._seed} model {request_id} {self._calls[request_id]}")  # noqa: S311
        fault = None if self._is_healthy else rng.choices(_FAULTS, _WEIGHTS)[0]
        if fault is not None:
            self._history.add(Fault(name=fault))
        if fault is FaultKind.THROTTLED:
            raise Refused(429, "ThrottlingException")
        if fault is FaultKind.OVERLOADED:
            raise Refused(503, "ServiceUnavailableException")
        await self._ran(request_id)
        self.running += 1
        try:
            async for piece in self._answer(question, fault, rng):
                yield piece
        finally:
            self.running -= 1

    async def _answer(self, question: str, fault: FaultKind | None, rng: random.Random) -> AsyncGenerator[Piece, None]:
        pieces: list[Piece] = list(echo_deltas(question))
        tokens = len(pieces)
        if rng.random() < _SAYS_MORE:
            pieces = _with_parts(pieces, rng)
        fails_at = rng.randint(1, len(pieces))
        for number, piece in enumerate(pieces, 1):
            yield piece
            await asyncio.sleep(self._delay_s)
            if number == fails_at:
                await self._fail(fault, rng)
        yield Finish(input_tokens=tokens, output_tokens=tokens)

    @staticmethod
    async def _fail(fault: FaultKind | None, rng: random.Random) -> None:
        if fault is FaultKind.BROKEN_OFF:
            raise Broken(rng.choice(("modelStreamErrorException", "throttlingException", "internalServerException")))
        if fault is FaultKind.CONNECTION_CUT:
            raise Cut
        if fault is FaultKind.STALLED_STREAM:
            await asyncio.sleep(rng.uniform(*_STALL_S))

    async def _ran(self, request_id: str) -> None:
        if request_id in self._history.asked:
            attempt = await asyncio.to_thread(self._attempt_of, request_id)
        else:
            attempt = 0  # nobody asked for it, and the checker says so
        self._history.add(ModelRun(request=request_id, attempt=attempt))


def _with_parts(pieces: list[Piece], rng: random.Random) -> list[Piece]:
    """The answer with thoughts, calls and sources before, between and behind its text."""
    said: list[Piece] = []
    for number, piece in enumerate(pieces):
        match rng.randrange(6):
            case 0:
                said += [Part("reasoning", f"생각 {number} "), Part("reasoning", "𝄞")]
            case 1:
                said += [Part("tool", '{"n": ', "look", new=True), Part("tool", f"{number}}}")]
            case 2:
                said.append(Part("citation", f'{{"title": "{number}"}}', new=True))
        said.append(piece)
    return said
