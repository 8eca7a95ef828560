"""One run of chaos on the emulated AWS: start everything, inject faults, wait for rest, and check."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from answerback.client import Timing
from answerback.core.request import RequestKey
from answerback_aws.deploy.stack import Progress
from answerback_aws.emulator.bedrock import BedrockServer
from answerback_aws.emulator.postgres import PostgresServer
from answerback_aws.runtime.dynamodb.items import decode_item, number_of
from answerback_proof.chaos import ChaosPlan
from answerback_proof.chaos.aws.faults import DEATHS, FAULTS, KILLS, PAUSES_S, AwsFaults, FaultyModel
from answerback_proof.chaos.aws.stack import EmulatedAws, Stack, Stores
from answerback_proof.chaos.faults import ConnectionFaults
from answerback_proof.chaos.report import ChaosReport, conclude
from answerback_proof.chaos.run import ChaosApp, client_errors, run_apps
from answerback_proof.checker import Visible, check
from answerback_proof.history import Promise, RunHistory, Stored, Usage, Violation, ViolationKind, add_stores
from answerback_proof.proxy import Proxy

SLOW: Final = Timing(
    ask_timeout_s=300.0,
    backoff_min_s=0.2,
    backoff_max_s=4.0,
    silence_s=5.0,
    hello_expiry_s=10.0,
    dead_s=20.0,
    open_timeout_s=20.0,
    close_s=0.5,
    stream_silence_s=240.0,
    renew_watch_s=30.0,
    full_watch_s=15.0,
)
"""The client's rules for functions that start on two cores: a few cold starts at once take ten seconds here.

A killed worker's request goes on after its lease of 20 s, and among more faults not at the first try. So a stream waits
longer than the 30 s after which it would be given up, which is an ending that says nothing about the server.
"""

VISIBLE: Final = Visible(usage=True, ordered=False, deaths=DEATHS)
"""API Gateway keeps no order of posts, and neither does the emulator."""

_ERRORS: Final = frozenset({"ERROR", "CRITICAL"})
_ERRORS_SHOWN: Final = 10
_REST_S: Final = 90.0
_POLL_S: Final = 0.5


async def run_aws_chaos(
    plan: ChaosPlan, aws: EmulatedAws, *, notify: Callable[[str], None], progress: Progress
) -> ChaosReport:
    """Run the plan, whose `kills` and stores say nothing here. `notify` gets a line about the progress now and then.

    Raises: LocalFailed, EmulatorFailed, DeployError: it cannot be started.
    """
    folder, began = plan.folder(), time.monotonic()
    history = RunHistory()
    async with AsyncExitStack() as exit_stack:
        exit_stack.enter_context(client_errors(history))
        postgres = PostgresServer()
        exit_stack.push_async_callback(asyncio.to_thread, postgres.remove)
        await asyncio.to_thread(postgres.create)
        bedrock = exit_stack.enter_context(BedrockServer())
        stack = Stack(aws, folder=folder, postgres=postgres.url, bedrock=bedrock)
        exit_stack.push_async_callback(asyncio.to_thread, stack.stop)
        await asyncio.to_thread(stack.start, progress)
        model = FaultyModel(history, seed=plan.seed, delay_ms=plan.delay_ms, attempt_of=_attempts(history, stack))
        bedrock.script = model
        proxy = Proxy(stack.url, history)
        exit_stack.push_async_callback(proxy.stop)
        url = await proxy.start()
        apps = [ChaosApp(number, plan=plan, history=history, url=url) for number in range(plan.apps)]
        connections = ConnectionFaults(plan, history=history, proxy=proxy, apps=apps, notify=notify, pauses_s=PAUSES_S)
        faults = AwsFaults(connections, stack=stack, model=model, postgres=postgres)
        await run_apps(apps, connections, faults.inject)
        await _come_to_rest(stack, history)
        await proxy.stop()
        stores = stack.stores()
        exit_stack.callback(stores.close)
        notify("checking")
        lines = await asyncio.to_thread(stack.lines)
        check_logs(history, lines)
        violations = await check_stack(history, stores)
    report = conclude(
        connections, violations, folder=folder, store="AWS, emulated", faults=FAULTS, kills=KILLS, began=began
    )
    if report.kept is not None:
        (folder / "functions.log").write_text("".join(f"{name} {line}\n" for name, line in lines), encoding="utf-8")
    return report


def _attempts(history: RunHistory, stack: Stack) -> Callable[[str], int]:
    """The attempt that the record of a question names now, which is the one that asks the model."""

    def attempt_of(request_id: str) -> int:
        item = stack.record(RequestKey(history.asked[request_id].user, request_id))
        return int(item["attempt"]["N"]) if "attempt" in item else 0

    return attempt_of


async def _come_to_rest(stack: Stack, history: RunHistory) -> None:
    """Wait until nothing is left on the queues."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + _REST_S
    for queue in ("Queue", "DeadLetters"):
        while remaining := await asyncio.to_thread(stack.waiting, queue):
            if clock() >= give_up_at:
                history.broke(f"{remaining} messages are left in {queue} after {_REST_S:.0f} s without faults")
                break
            await asyncio.sleep(_POLL_S)


async def check_stack(history: RunHistory, stores: Stores) -> list[Violation]:
    """Add everything that the stack has kept, and check. Raises: Unavailable: a store cannot be read."""
    await add_stores(history, stores.requests, stores.history)
    known = history.records()
    database = stores.database
    # Every accepted request has a place in a conversation: read from the table itself, whatever was asked.
    for item in await database.scan(database.tables.requests, ConsistentRead=True):
        record = decode_item(item)
        if number_of(item, "position") is not None and record.request_id not in known:
            answer = await stores.requests.answer(record.key)
            history.add(Stored.of(record, answer, has_question=True))
    for day in await stores.users.usage(None):
        history.add(Usage(usage=day))
    if remaining := await stores.turns.pending(limit=1):
        detail = "its turn was never settled with Aurora"
        request = remaining[0].turn.request_id
        history.add(Violation(promise=Promise.ANSWERED, kind=ViolationKind.LOST, request=request, detail=detail))
    if stores.unwritable:
        history.broke(f"{stores.unwritable} turns cannot be written to Aurora")
    return check(history, VISIBLE)


def check_logs(history: RunHistory, lines: Sequence[tuple[str, str]]) -> None:
    """The functions log injected faults as warnings: an error is a defect."""
    errors: Counter[str] = Counter()
    for function, line in lines:
        try:
            line_of_log = json.loads(line)
        except ValueError:
            continue  # the platform's own lines
        if isinstance(line_of_log, dict) and line_of_log.get("level") in _ERRORS:
            why = str(line_of_log.get("exception", "")).strip().rpartition("\n")[2]
            errors[f"{function}: {line_of_log.get('message')} {why}".rstrip()] += 1
    for what, count in errors.most_common(_ERRORS_SHOWN):
        history.broke(f"logged {count} times by {what}")
