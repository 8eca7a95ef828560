"""One run of the demo: proxy, apps, table, check; against a gateway of its own, or a server that runs already."""

import asyncio
import logging
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from answerback.cli.output import CliError, extra_needed, say, usage_error
from answerback.cli.talk import explain
from answerback.client import AnswerbackError, Client
from answerback.ports import ModelError, StoredTurn, Unavailable
from answerback.texts import spoken
from answerback_proof.checker import Visible, check
from answerback_proof.demo.apps import DemoApp, questions_of
from answerback_proof.demo.screen import say_check, say_results, show_apps
from answerback_proof.history import RunHistory, Turn, Violation, add_stores
from answerback_proof.proxy import Proxy

LOG_FILE: Final = "gateway.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to run.

    `url`: a server that runs already; with a `token` all apps are that user, with sessions of their own. None: a
    gateway with this `model`. `keep`: a folder, not there yet or empty, for its store and log; None: a temporary one.
    """

    apps: int
    questions: int
    max_tokens: int
    url: str | None = None
    token: str | None = None
    model: str = "local"
    keep: Path | None = None


def run_demo(demo: Demo) -> bool:
    """Run the demo and print the results; whether every answer came home. Raises: CliError: it cannot run here."""
    return _with_own_gateway(demo) if demo.url is None else _against(demo, demo.url)


async def _ask(demo: Demo, server: str, *, name: str = "") -> tuple[list[DemoApp], RunHistory]:
    """Let the apps ask the server by way of a proxy, and show it."""
    history = RunHistory()
    proxy = Proxy(server, history)
    url = await proxy.start()
    apps = [
        DemoApp(number, questions_of(number, demo.questions), history=history, url=url, name=name, token=demo.token)
        for number in range(1, demo.apps + 1)
    ]
    say(spoken(f"Apps: {demo.apps}. Questions: {demo.apps * demo.questions}, all at once, at {server}."))
    say("" if demo.url else spoken(f"Answers are cut at {demo.max_tokens} tokens.\n"))
    try:
        await show_apps(apps, max_tokens=demo.max_tokens)
    finally:
        await proxy.stop()
    return apps, history


def _is_right(apps: Sequence[DemoApp], violations: Sequence[Violation], *, stored: str) -> bool:
    """Print the results and what the check found."""
    say_results(apps)
    say_check(violations, apps, stored=stored)
    return not violations and not any(asked.error for app in apps for asked in app.questions)


# --- a server that runs already, checked from outside


def _against(demo: Demo, url: str) -> bool:
    async def run() -> bool:
        async with Client(url, token=demo.token, user=None if demo.token else "demo"):
            pass  # a server that refuses us says why here; behind a proxy it would only be unavailable
        apps, history = await _ask(demo, url, name=f"demo-{secrets.token_hex(4)}-")
        return _is_right(apps, await check_from_outside(apps, history, url), stored="what the server's history has")

    try:
        return asyncio.run(run())
    except AnswerbackError as exc:
        raise explain(exc) from exc
    except ValueError as exc:
        raise usage_error(str(exc).rstrip(".")) from exc


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


# --- a gateway of its own, checked against its store


def _with_own_gateway(demo: Demo) -> bool:
    with extra_needed("the demo's gateway", "server,local-llm"):
        from answerback.gateway.app import Gateway  # noqa: PLC0415 - the server's packages are an extra
        from answerback.gateway.settings import GatewaySettings, SettingsError  # noqa: PLC0415
        from answerback.models import ModelSpecError  # noqa: PLC0415
        from answerback.stores import StoreError  # noqa: PLC0415

    async def run(data_dir: Path) -> bool:
        say(spoken(f"Starting a gateway with the model {demo.model} …"))
        if demo.model == "local":
            what = "The model `local` is a small English one (135 million parameters): fluent, fast, and often wrong."
            say(spoken(what))
        settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=(demo.model,), grace_s=2.0)
        async with Gateway(settings) as gateway:
            apps, history = await _ask(demo, gateway.url)
        violations = await check_store(history, data_dir)
        is_right = _is_right(apps, violations, stored="what the store has")
        if demo.keep:
            say(spoken(f"Kept: {data_dir}"))
        elif not violations:
            say(spoken("Next: answerback serve, and in another terminal: answerback chat"))
        return is_right

    with _data_dir(demo.keep) as data_dir, _log_into(data_dir / LOG_FILE):
        try:
            return asyncio.run(run(data_dir))
        except (SettingsError, ModelSpecError) as exc:
            raise usage_error(str(exc).rstrip(".")) from exc
        except ModelError as exc:
            raise CliError(exc.detail.rstrip("."), "or try: answerback demo --model echo:delay_ms=30") from exc
        except (StoreError, AnswerbackError) as exc:
            raise CliError(str(exc).rstrip(".")) from exc
        except Unavailable as exc:
            raise CliError("the store cannot be used", "see whether the disk is full") from exc
        except BrokenPipeError:  # who read our output has gone
            raise
        except OSError as exc:
            raise CliError(f"the gateway cannot start ({exc.strerror or type(exc).__name__})") from exc


async def check_store(history: RunHistory, data_dir: Path) -> list[Violation]:
    """Open the store of the stopped gateway and check everything.

    Raises: StoreError: the store cannot be opened. Unavailable: it cannot be read.
    """
    from answerback.stores import open_store  # noqa: PLC0415 - see above

    store = await open_store(None, data_dir)
    try:
        await add_stores(history, store, store)
    finally:
        await store.close()
    return check(history, Visible(runs=False, undisturbed=True))


@contextmanager
def _data_dir(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="answerback-demo-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(keep.iterdir())
    except OSError as exc:
        raise usage_error(f"{keep} cannot be used ({exc.strerror})", "name another folder with --keep") from exc
    if not is_empty:
        raise usage_error(f"{keep} is not empty", "name a new folder with --keep")
    yield keep


@contextmanager
def _log_into(path: Path) -> Iterator[None]:
    """The gateway's log goes into a file: the screen is for the apps."""
    log = logging.getLogger("answerback")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
        log.level, log.propagate = before
