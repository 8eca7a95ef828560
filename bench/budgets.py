"""One budget, many streamed questions at once, some of them given up, and a server that is killed: who stays below it?

    .venv/bin/python bench/budgets.py [--asks 1000] [--rounds 1]

Both have the same model server behind them (peers/upstream.py), which counts what a provider would bill: a token a
word, at one dollar a million, for input and for what it has sent of an answer. The budget is 0.02 USD. A question has
30 words and its answer as many, so one costs 60 millionths and a third of 1,000 questions fits.

All questions are asked at once. One in ten is given up when half of its answer is there. After `KILL_AFTER_S` the
server is killed and started again over what it has stored. A question that is refused is asked again after two seconds,
five times. A question that broke off is asked again, too: over HTTP by this driver, in Answerback by its SDK.

LiteLLM has no database here (peers/litellm-budget.yaml says why), so its budget is that of the deployment, in memory.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp

from answerback.client import AnswerbackError, Client, RateLimited, RequestCancelled, Text
from answerback.clock import epoch_ms
from answerback.core.budget import Budget, Period, Unit, team_holder
from answerback.stores.sqlite import SqliteStore
from answerback_proof.load.process import ServerProcess, start_server
from answerback_proof.workload import question
from servers import PEERS, free_ports, litellm, model_server

BUDGET: Final = 20_000
WORDS: Final = 30
WORD_MS: Final = 20
MAX_TOKENS: Final = 40
GIVEN_UP: Final = 10
"""One question in so many."""

KILL_AFTER_S: Final = 2.0
REST_S: Final = 3.0
AGAIN_S: Final = 2.0
TRIES: Final = 6
USERS: Final = 20

Ask = Callable[[int, str, bool], Awaitable[str]]
"""Ask question `number`; whether it is given up half-way. Returns how it ended."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it, in millionths of a dollar. `recorded`: what the server says that was spent."""

    name: str
    ended: Counter[str] = field(default_factory=Counter)
    billed: int = 0
    recorded: int | None = None
    reserved: int | None = None

    @property
    def row(self) -> list[str]:
        fits = max(0, BUDGET - max(self.billed, self.recorded or 0)) // (WORDS + WORDS)
        return [
            self.name,
            *(f"{self.ended[how]:,}" for how in ("answered", "given up", "refused", "broken")),
            f"{self.billed:,}",
            f"{max(0, self.billed - BUDGET):,}"
            + (f" ({self.billed / BUDGET:.1f} times)" if self.billed > BUDGET else ""),
            "not told" if self.recorded is None else f"{self.recorded:,}",
            "-" if self.reserved is None else f"{self.reserved:,}",
            f"{min(self.ended['refused'], fits):,}",
        ]


HEAD: Final = [
    *("", "answered", "given up", "refused", "broken off", "billed by the provider", "over the budget"),
    *("settled by the server", "left reserved", "refused though it would fit at the end"),
]


async def run_all(ask: Ask, asks: int, result: Result) -> None:
    """Ask everything at once, and again what was refused."""

    async def one(number: int) -> None:
        text = question(f"q{number}", WORDS)
        for _ in range(TRIES):
            how = await ask(number, text, number % GIVEN_UP == 0)
            if how != "refused":
                break
            await asyncio.sleep(AGAIN_S)
        result.ended[how] += 1

    await asyncio.gather(*(one(number) for number in range(asks)))


async def billed(upstream: str) -> int:
    """What the provider has billed so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{upstream}/streams") as response:
        return int((await response.json())["billed"])


# --- LiteLLM


async def run_litellm(asks: int) -> Result:
    """The proxy with a budget of its deployment."""
    result, (port,) = Result(name="LiteLLM, in memory"), free_ports(1)
    async with model_server(word_ms=WORD_MS) as upstream:
        is_up = asyncio.Event()

        async def serve() -> None:
            """Serve, be killed, and serve again."""
            config = PEERS / "litellm-budget.yaml"
            async with litellm(upstream, config=config, port=port) as process:
                is_up.set()
                await asyncio.sleep(KILL_AFTER_S)
                is_up.clear()
                process.process.kill()
                await process.process.wait()
            async with litellm(upstream, config=config, port=port):
                is_up.set()
                await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:

            async def ask(_: int, text: str, gives_up: bool) -> str:
                for _attempt in range(3):
                    await is_up.wait()
                    try:
                        return await _stream(session, text, gives_up=gives_up)
                    except (aiohttp.ClientError, ConnectionError):
                        await asyncio.sleep(0.1)
                return "broken"

            await run_all(ask, asks, result)
        await asyncio.sleep(REST_S)
        result.billed = await billed(upstream)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    return result


async def _stream(session: aiohttp.ClientSession, text: str, *, gives_up: bool) -> str:
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "max_tokens": MAX_TOKENS,
        "stream_options": {"include_usage": True},
    }
    words = 0
    async with session.post("/v1/chat/completions", json=body) as response:
        if response.status != 200:
            return "refused" if response.status in (400, 429) else "broken"
        async for line in response.content:
            if line.startswith(b"data: [DONE]"):
                return "answered"
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    return "broken"
                words += any(choice["delta"].get("content") for choice in chunk["choices"])
            if gives_up and words >= WORDS // 2:
                return "given up"
    raise aiohttp.ClientPayloadError("the stream ended before its end")


# --- Answerback


async def run_answerback(asks: int) -> Result:
    """A gateway with a budget of the team that all users are in."""
    result, (port,) = Result(name="Answerback, SQLite"), free_ports(1)
    async with model_server(word_ms=WORD_MS) as upstream:
        with tempfile.TemporaryDirectory(prefix="answerback-budget-") as name:
            folder = Path(name)
            await _set_up(folder)
            async with _gateway(folder, port, upstream):
                clients = [
                    Client(f"ws://127.0.0.1:{port}", user=f"user-{number}", session=f"s{number}")
                    for number in range(USERS)
                ]
                await asyncio.gather(*(client.open() for client in clients))

                async def ask(number: int, text: str, gives_up: bool) -> str:
                    return await _ask(clients[number % USERS], text, gives_up=gives_up)

                await run_all(ask, asks, result)
                await asyncio.sleep(REST_S)
                result.billed = await billed(upstream)
                await asyncio.gather(*(client.aclose() for client in clients))
            store = SqliteStore(folder / "answerback.db")
            await store.open()
            ((_, counter, _),) = await store.budgets(team_holder("all"), now_ms=epoch_ms())
            result.recorded, result.reserved = counter.used - counter.reserved, counter.reserved
            await store.close()
    return result


async def _ask(client: Client, text: str, *, gives_up: bool) -> str:
    words = 0
    try:
        stream = client.stream(text, max_tokens=MAX_TOKENS)
        async for event in stream.events():
            if isinstance(event, Text):
                words += len(event.delta.split())
                if gives_up and words >= WORDS // 2:
                    client.cancel(stream.request_id)
                    gives_up = False
        await stream.answer
    except RateLimited:
        return "refused"
    except RequestCancelled:
        return "given up"
    except AnswerbackError:
        return "broken"
    return "answered"


async def _set_up(folder: Path) -> None:
    store = SqliteStore(folder / "answerback.db")
    await store.open()
    now_ms = epoch_ms()
    budget = Budget(BUDGET, Unit.MICRO_USD, Period.MONTH)
    await store.set_budget(team_holder("all"), Period.MONTH, budget, now_ms=now_ms)
    for number in range(USERS):
        await store.set_team(f"user-{number}", "all", now_ms=now_ms)
    await store.close()


@asynccontextmanager
async def _gateway(folder: Path, port: int, upstream: str) -> AsyncIterator[None]:
    """A gateway that is killed once and started again."""

    async def start() -> ServerProcess:
        model = f"openai:{upstream}/v1?price=1/1&concurrency=1000#echo"
        command = [
            sys.executable,
            "-m",
            "answerback",
            "serve",
            "--data-dir",
            str(folder),
            "--port",
            str(port),
            "--admin-port",
            "off",
        ]
        limits = ["--rate-limit", "0", "--max-frames-per-second", "100000", "--max-frames-burst", "100000"]
        return await start_server([*command, *limits, "--model", model])

    process = await start()

    async def kill() -> None:
        nonlocal process
        await asyncio.sleep(KILL_AFTER_S)
        process.process.kill()
        await process.process.wait()
        process = await start()

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        await killing
        await process.stop()


def main() -> None:
    """Run both, and print the table of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |")
    print("|---" + "|---:" * (len(HEAD) - 1) + "|")
    for _ in range(options.rounds):
        for run in (run_answerback, run_litellm):
            print("| " + " | ".join(asyncio.run(run(options.asks)).row) + " |", flush=True)


if __name__ == "__main__":
    main()
