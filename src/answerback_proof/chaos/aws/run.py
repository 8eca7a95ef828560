"""One run on the emulated AWS: everything is started, struck, left in peace and judged."""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from answerback.client import Timing
from answerback.core.request import RequestKey
from answerback_aws.deploy.deployment import Progress
from answerback_aws.emulator.bedrock import BedrockServer
from answerback_aws.emulator.postgres import PostgresServer
from answerback_proof.chaos.aws.checker import AwsJudge, judge_logs
from answerback_proof.chaos.aws.faults import FAULTS, KILLS, AwsStorm
from answerback_proof.chaos.aws.model import StruckModel
from answerback_proof.chaos.aws.stack import Cloud, EmulatedAws
from answerback_proof.chaos.book import Book, Kind
from answerback_proof.chaos.living import client_log, live
from answerback_proof.chaos.plan import ChaosPlan
from answerback_proof.chaos.proxy import Proxy
from answerback_proof.chaos.report import ChaosReport, report_of, write_trace
from answerback_proof.chaos.wire import Wire
from answerback_proof.chaos.workload import App

PATIENT: Final = Timing(
    backoff_min_s=0.2,
    backoff_max_s=4.0,
    silence_s=5.0,
    probe_max_s=60.0,
    hello_expiry_s=10.0,
    dead_s=20.0,
    open_timeout_s=20.0,
    keepalive_s=20.0,
    resend_s=1.0,
    close_s=0.5,
    stream_silence_s=240.0,
)
"""The client's rules for functions that start on two cores: a few cold starts at once take ten seconds here.

A killed worker's request goes on after its lease of 20 s, and in a storm not at the first try: so a stream waits longer
than the 30 s after which it would be given up, which is an ending that says nothing about the server.
"""

_REST_S: Final = 90.0
_LOOK_EVERY_S: Final = 0.5


async def run_aws_chaos(
    plan: ChaosPlan, aws: EmulatedAws, *, told: Callable[[str], None], progress: Progress
) -> ChaosReport:
    """Run the plan, whose `kills` and stores say nothing here. `told` gets a line about the progress now and then.

    Raises: LocalFailed, EmulatorFailed, DeployError: it cannot be started.
    """
    folder = Path(tempfile.mkdtemp(prefix="answerback-chaos-")) if plan.keep is None else plan.keep
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    book = Book()
    async with AsyncExitStack() as stack:
        stack.enter_context(client_log(book))
        postgres = PostgresServer()
        stack.push_async_callback(asyncio.to_thread, postgres.remove)
        await asyncio.to_thread(postgres.create)
        bedrock = stack.enter_context(BedrockServer())
        cloud = Cloud(aws, folder=folder, postgres=postgres.url, bedrock=bedrock)
        stack.push_async_callback(asyncio.to_thread, cloud.stop)
        await asyncio.to_thread(cloud.start, progress)
        model = StruckModel(book, seed=plan.seed, delay_ms=plan.delay_ms, attempt_of=_attempts(book, cloud))
        bedrock.script = model
        proxy = Proxy(cloud.port, lambda: Wire(book))
        url = await proxy.start() + cloud.path
        stack.push_async_callback(proxy.stop)
        apps = [
            App(number, url=url, plan=plan, book=book, rng=random.Random(f"{plan.seed} app {number}"))  # noqa: S311
            for number in range(plan.apps)
        ]
        storm = AwsStorm(
            plan, book=book, cloud=cloud, model=model, postgres=postgres, proxy=proxy, apps=apps, told=told
        )
        await live(apps, storm.rage, book, plan, told)
        await _come_to_rest(cloud, book)
        await proxy.stop()
        stores = cloud.stores()
        stack.callback(stores.close)
        judge = AwsJudge(book, stores)
        told("judging")
        await judge.judge()
        lines = await asyncio.to_thread(cloud.lines)
        judge_logs(book, lines)
    records = judge.common.records
    kept = folder if book.violations or plan.keep is not None else None
    if kept is None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    else:
        write_trace(kept / "trace.jsonl", book, records)
        (kept / "functions.log").write_text("".join(f"{name} {line}\n" for name, line in lines), encoding="utf-8")
    return report_of(
        plan,
        book,
        records,
        store="AWS, emulated",
        faults=FAULTS,
        kills=KILLS,
        seconds=time.monotonic() - began,
        connections=proxy.connected,
        failed_starts=0,
        kept=kept,
    )


def _attempts(book: Book, cloud: Cloud) -> Callable[[str], int]:
    """The attempt that the record of a question names now, which is the one that asks the model."""

    def attempt_of(request_id: str) -> int:
        item = cloud.record(RequestKey(book.asked[request_id].user, request_id))
        return int(item["attempt"]["N"]) if "attempt" in item else 0

    return attempt_of


async def _come_to_rest(cloud: Cloud, book: Book) -> None:
    """Wait until nothing is left on the queues."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + _REST_S
    for queue in ("Queue", "DeadLetters"):
        while left := await asyncio.to_thread(cloud.waiting, queue):
            if clock() >= give_up_at:
                book.violate(Kind.BROKEN, "", f"{left} messages are left in {queue} after {_REST_S:.0f} s of peace")
                break
            await asyncio.sleep(_LOOK_EVERY_S)
