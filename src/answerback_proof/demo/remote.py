"""The demo against a server that runs already, a gateway or a stack on AWS, seen and checked from outside."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from answerback.cli.output import say, usage_error
from answerback.cli.talk import explain
from answerback.client import AnswerbackError, Client
from answerback_proof.demo.apps import App, Asked
from answerback_proof.demo.questions import questions_of
from answerback_proof.demo.screen import many, say_results, say_verdicts, show_apps
from answerback_proof.demo.tap import Tap
from answerback_proof.load.ledger import Ledger, Verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteDemo:
    """What to ask of the server at `url`. With a `token` all apps are that user, with sessions of their own."""

    url: str
    token: str | None
    apps: int
    questions: int
    max_tokens: int


def run_remote_demo(demo: RemoteDemo) -> bool:
    """Run it and say what came of it; whether every answer came home. Raises: CliError: the server cannot be used."""
    try:
        return asyncio.run(_run(demo))
    except AnswerbackError as exc:
        raise explain(exc) from exc
    except ValueError as exc:
        raise usage_error(str(exc).rstrip(".")) from exc


async def _run(demo: RemoteDemo) -> bool:
    async with Client(demo.url, token=demo.token, user=None if demo.token else "demo"):
        pass  # a server that refuses us says why here; behind a tap it would only be away
    ledger = Ledger(keep_texts=True)
    taps = [Tap(app=number, url=demo.url, ledger=ledger) for number in range(1, demo.apps + 1)]
    name = secrets.token_hex(4)
    try:
        apps = [
            App(
                number=number,
                user=f"demo-{name}-{number:03}",
                session=f"demo-{name}-{number:03}",
                url=await tap.start(),
                token=demo.token,
                asked=[
                    Asked(number=place, question=question)
                    for place, question in enumerate(questions_of(number - 1, demo.questions), start=1)
                ],
            )
            for number, tap in enumerate(taps, start=1)
        ]
        say(
            f"{many(demo.apps, 'app')} ask {many(demo.apps * demo.questions, 'question')}, all at once,"
            f" at {demo.url}.\n"
        )
        await show_apps(apps, max_tokens=demo.max_tokens)
    finally:
        for tap in taps:
            await tap.close()
    say_results(apps)
    verdicts = await check_from_outside(apps, ledger, demo.url)
    say_verdicts(verdicts, apps, stored="what the server's history has")
    return verdicts.is_clean and not any(asked.error for app in apps for asked in app.asked)


async def check_from_outside(apps: Sequence[App], ledger: Ledger, url: str) -> Verdicts:
    """Compare what each app got and what went over the wire with the history that the server gives out."""
    ledger.close()
    on_wire = {entry.request_id: entry.text or "" for entry in ledger.ended}
    stored: dict[str, str] = {}
    for app in apps:
        stored |= await _history_of(app, url)
    for app in apps:
        for asked in app.asked:
            name = f"{app.name}, question {asked.number}"
            if asked.error:
                continue  # the app was told: an ending that came home
            want = stored.get(asked.request_id)
            if want is None:
                ledger.verdicts.add_lost(f"{name}: the history does not have it")
                continue
            others = {text for request_id, text in stored.items() if request_id != asked.request_id}
            seen = {
                "what the app got": asked.answer.text if asked.answer else "",
                "what it showed while it grew": asked.text,
                "what went over the wire": on_wire.get(asked.request_id, ""),
            }
            for what, got in seen.items():
                ledger.verdicts.compare(f"{name}: {what}", got=got, want=want, is_of_another=others.__contains__)
    return ledger.verdicts


async def _history_of(app: App, url: str) -> dict[str, str]:
    conversations = {asked.answer.conversation_id for asked in app.asked if asked.answer} - {None}
    kept: dict[str, str] = {}
    async with Client(url, token=app.token, user=None if app.token else app.user) as client:
        for conversation_id in conversations:
            assert conversation_id is not None
            async for turn in client.history(conversation_id):
                kept[turn.request_id] = turn.answer or ""
    return kept
