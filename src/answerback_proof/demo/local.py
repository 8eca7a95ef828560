"""The demo with a gateway of its own: gateway, proxy, apps, table, check against the store."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from answerback.cli.output import CliError, say, usage_error
from answerback.client import AnswerbackError
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.models import ModelSpecError
from answerback.ports import ModelError, Unavailable
from answerback.stores import StoreError, open_store
from answerback.texts import spoken
from answerback_proof.checker import Visible, check
from answerback_proof.demo.apps import DemoApp, questions_of
from answerback_proof.demo.screen import say_check, say_results, show_apps
from answerback_proof.history import RunHistory, Violation, add_stores
from answerback_proof.proxy import Proxy

LOG_FILE: Final = "gateway.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to run. `keep`: a folder, not there yet or empty, for the store and the log; None: a temporary one."""

    apps: int
    questions: int
    model: str
    max_tokens: int
    keep: Path | None


def run_demo(demo: Demo) -> bool:
    """Run the demo and print the results; whether every answer came home. Raises: CliError: it cannot run here."""
    with _data_dir(demo.keep) as data_dir, _log_into(data_dir / LOG_FILE):
        try:
            return asyncio.run(_run(demo, data_dir))
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


async def _run(demo: Demo, data_dir: Path) -> bool:
    say(spoken(f"Starting a gateway with the model {demo.model} …"))
    if demo.model == "local":
        say(spoken("The model `local` is a small English one (135 million parameters): fluent, fast, and often wrong."))
    settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=(demo.model,), grace_s=2.0)
    history = RunHistory()
    async with Gateway(settings) as gateway:
        proxy = Proxy(gateway.url, history)
        url = await proxy.start()
        apps = [
            DemoApp(number, questions_of(number, demo.questions), history=history, url=url)
            for number in range(1, demo.apps + 1)
        ]
        total = demo.apps * demo.questions
        say(spoken(f"Apps: {demo.apps}. Questions: {total}, all at once, at {gateway.url}."))
        say(spoken(f"Answers are cut at {demo.max_tokens} tokens.\n"))
        try:
            await show_apps(apps, max_tokens=demo.max_tokens)
        finally:
            await proxy.stop()
    say_results(apps)
    violations = await check_store(history, data_dir)
    say_check(violations, apps, stored="what the store has")
    if demo.keep:
        say(spoken(f"Kept: {data_dir}"))
    elif not violations:
        say(spoken("Next: answerback serve, and in another terminal: answerback chat"))
    return not violations and not any(asked.error for app in apps for asked in app.questions)


async def check_store(history: RunHistory, data_dir: Path) -> list[Violation]:
    """Open the store of the stopped gateway and check everything.

    Raises: StoreError: the store cannot be opened. Unavailable: it cannot be read.
    """
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
