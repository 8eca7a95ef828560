"""What one of each thing takes on AWS, counted on the emulator, and what a million answers cost.

    .venv/bin/python bench/aws.py [--tokens 400] [--json]

Deploys the real template and package on the emulator on this machine, as `answerback aws local` does; a proxy counts
each call that the functions make (counting_proxy.py). The model speaks at 80 tokens a second after 0.6 seconds.
Counts and units are those of AWS's rules; milliseconds are this machine's.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from platformdirs import user_cache_path

from answerback.ports import Finish, Piece
from answerback_aws.cost.bill import deployed, load_prices, month, plain
from answerback_aws.cost.workload import UnitCounts, Workload
from answerback_aws.deploy.package import build_package, measure
from answerback_aws.deploy.stack import StackEvent
from answerback_aws.emulator.bedrock import Asked, BedrockServer
from answerback_aws.emulator.emulator import Emulator, emulator_python
from answerback_aws.emulator.postgres import PostgresServer
from answerback_aws.emulator.run import deploy_on, target_of
from measuring import Measured, Measuring

TOKENS_PER_SECOND = 80
FIRST_TOKEN_S = 0.6
ROUND_TRIPS = 15
TURNS = 20
CACHE = user_cache_path("answerback")


class Quiet:
    """Progress of the deployment, on standard error."""

    def step(self, what: str) -> None:
        """A step begins."""
        print(what, file=sys.stderr)

    def event(self, event: StackEvent) -> None:
        """Something happened to the stack."""


async def speak(asked: Asked) -> AsyncGenerator[Piece, None]:
    """As many words as the question says; at once if it says so."""
    first, _, pace = asked.question.partition(" ")
    tokens = int(first) if first.isdigit() else 1
    is_slow = pace == "slowly"
    await asyncio.sleep(FIRST_TOKEN_S if is_slow else 0)
    for _ in range(tokens):
        yield "word "
        await asyncio.sleep(1 / TOKENS_PER_SECOND if is_slow else 0)
    yield Finish(input_tokens=600, output_tokens=tokens)


def deploy(started: ExitStack, python: Path) -> tuple[Emulator, dict[str, str]]:
    """The stack on an emulator of its own."""
    postgres = started.enter_context(PostgresServer())
    bedrock = started.enter_context(BedrockServer(speak))
    folder = Path(started.enter_context(TemporaryDirectory(prefix="answerback-bench-")))
    emulator = started.enter_context(
        Emulator(python=python, folder=folder, postgres=postgres.dsn, bedrock_url=bedrock.url)
    )
    return emulator, dict(deploy_on(emulator, "bench", Quiet(), python=python, cache=CACHE / "wheels"))


async def count(measuring: Measuring, tokens: int) -> dict[str, Any]:
    """One of each."""
    await measuring.answer("5", stream=True)
    for _ in range(2):
        await measuring.round()
    found: dict[str, Any] = {
        "connection, greeting and close": await measuring.connection(),
        "ping": await measuring.ping(),
        "answer, streamed": await measuring.answer(f"{tokens} slowly", stream=True),
        "the same in a conversation": await measuring.answer(f"{tokens} slowly", stream=True, conversation="c"),
        "answer, not streamed": await measuring.answer(f"{tokens} slowly", stream=False),
    }
    trips = [await measuring.answer("5", stream=False) for _ in range(ROUND_TRIPS)]
    found["answer of 5 tokens at once"] = trips[-1]
    found["the same, watched by another device"] = await measuring.watched("5")
    found["watch, and each renewal"] = await measuring.watch()
    await measuring.round()
    found["janitor's round, nothing to do"] = await measuring.round()
    await measuring.turns(TURNS)
    found[f"janitor's round, {TURNS} turns written"] = await measuring.round()
    found["round trip, ms"] = 1000 * median(trip.seconds for trip in trips)
    return found


def row(measured: Measured) -> dict[str, float]:
    """The columns of one thing."""
    return {
        "calls of AWS": len(measured.calls),
        "write units": measured.write_units,
        "of these refused": measured.refused_units,
        "read units": measured.read_units,
        "frames posted": len(measured.posts),
        "bytes posted": sum(call.sent_bytes for call in measured.posts),
        "SQS calls": measured.sqs,
        "Data API calls": measured.data_api,
        "calls of functions": measured.invocations,
        "functions, ms": round(sum(map(sum, measured.busy_ms.values()))),
        "log bytes": measured.log_bytes,
    }


def million(tokens: int) -> dict[str, float]:
    """US dollars for a million answers, without the model's tokens: as deployed, and the plain way."""
    workload, counts, prices = Workload(tokens_out=tokens), UnitCounts.load(), load_prices("us-east-1")
    a_million = 1e6 / workload.answers
    return {
        "as deployed": a_million * month(workload, deployed(), counts, prices),
        "the plain way": a_million * month(workload, plain(), counts, prices),
    }


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description="Count what an answer takes on AWS, on the emulator.")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--emulator", type=Path, help="interpreter of an environment of the emulator that is there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    python = options.emulator.absolute() if options.emulator else emulator_python(CACHE, Quiet().step)
    package = build_package(target_of(python), cache=CACHE / "wheels")
    imports = {one.module.rpartition(".")[2]: round(one.cpu_ms) for one in measure(package.data, rounds=5)}
    with ExitStack() as started:
        emulator, outputs = deploy(started, python)
        with Measuring.on(emulator, outputs) as measuring:
            found = asyncio.run(count(measuring, options.tokens))
    trip_ms = found.pop("round trip, ms")
    told = {
        "counts": {name: row(measured) for name, measured in found.items()},
        "operations of an answer, streamed": dict(found["answer, streamed"].operations.most_common()),
        "round trip of an answer of 5 tokens, ms, median": round(trip_ms),
        "a million answers, USD": million(options.tokens),
        "package, MB": round(len(package.data) / 1e6, 1),
        "handler import, ms CPU": imports,
    }
    if options.json:
        print(json.dumps(told, indent=2))
        return
    columns = list(next(iter(told["counts"].values())))
    print("| |", " | ".join(columns), "|\n|---|" + "---:|" * len(columns))
    for name, values in told["counts"].items():
        print(f"| {name} |", " | ".join(f"{values[column]:,g}" for column in columns), "|")
    del told["counts"]
    for name, value in told.items():
        print(f"\n{name}: {value if not isinstance(value, dict) else ''}")
        for part, figure in value.items() if isinstance(value, dict) else ():
            print(f"  {part}: {figure:,.4g}")


if __name__ == "__main__":
    main()
