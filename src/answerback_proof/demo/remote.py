"""The demo against a server that runs already, a gateway or a stack on AWS, checked from outside."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from answerback.cli.output import say, usage_error
from answerback.cli.talk import explain
from answerback.client import AnswerbackError, Client
from answerback.ports import StoredTurn
from answerback.texts import spoken
from answerback_proof.checker import Visible, check
from answerback_proof.demo.apps import DemoApp, questions_of
from answerback_proof.demo.screen import say_check, say_results, show_apps
from answerback_proof.history import RunHistory, Turn, Violation
from answerback_proof.proxy import Proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDemo:
    """What to ask of the server at `url`. With a `token` all apps are that user, with sessions of their own."""

    url: str
    token: str | None
    apps: int
    questions: int
    max_tokens: int


def run_remote_demo(demo: RemoteDemo) -> bool:
    """Run the demo and print the results; whether every answer came home.

    Raises: CliError: the server cannot be used.
    """
    try:
        return asyncio.run(_run(demo))
    except AnswerbackError as exc:
        raise explain(exc) from exc
    except ValueError as exc:
        raise usage_error(str(exc).rstrip(".")) from exc


async def _run(demo: RemoteDemo) -> bool:
    async with Client(demo.url, token=demo.token, user=None if demo.token else "demo"):
        pass  # a server that refuses us says why here; behind a proxy it would only be unavailable
    history = RunHistory()
    proxy = Proxy(demo.url, history)
    url, name = await proxy.start(), f"demo-{secrets.token_hex(4)}-"
    apps = [
        DemoApp(number, questions_of(number, demo.questions), history=history, url=url, name=name, token=demo.token)
        for number in range(1, demo.apps + 1)
    ]
    total = demo.apps * demo.questions
    say(spoken(f"Apps: {demo.apps}. Questions: {total}, all at once, at {demo.url}.\n"))
    try:
        await show_apps(apps, max_tokens=demo.max_tokens)
    finally:
        await proxy.stop()
    say_results(apps)
    violations = await check_from_outside(apps, history, demo.url)
    say_check(violations, apps, stored="what the server's history has")
    return not violations and not any(asked.error for app in apps for asked in app.questions)


async def check_from_outside(apps: Sequence[DemoApp], history: RunHistory, url: str) -> list[Violation]:
    """Add the conversations that the server gives out, and check everything."""
    for app in apps:
        conversations = {asked.answer.conversation_id for asked in app.questions if asked.answer} - {None}
        async with Client(url, token=app.token, user=None if app.token else app.user) as client:
            for conversation_id in conversations:
                assert conversation_id is not None
                async for turn in client.history(conversation_id):
                    kept = StoredTurn(
                        position=0,
                        request_id=turn.request_id,
                        question=turn.question,
                        answer=turn.answer,
                        status=turn.status,
                        accepted_at_ms=0,
                        ended_at_ms=0,
                    )
                    history.add(Turn(request=turn.request_id, user=app.user, turn=kept))
    return check(history, Visible(records=False, runs=False, undisturbed=True))
