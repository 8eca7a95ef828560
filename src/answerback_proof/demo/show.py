"""The demo from start to end: gateway, taps, apps, table, check."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from answerback.cli.output import CliError, say, usage_error
from answerback.client import AnswerbackError
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings, SettingsError
from answerback.models import ModelSpecError
from answerback.ports import ModelError, Unavailable
from answerback.stores import StoreError
from answerback_proof.demo.apps import App, Asked
from answerback_proof.demo.check import check_everything
from answerback_proof.demo.questions import questions_of
from answerback_proof.demo.screen import many, say_results, say_verdicts, show_apps
from answerback_proof.demo.tap import Tap
from answerback_proof.load.ledger import Ledger

LOG_FILE: Final = "gateway.log"
_LOCAL: Final = "The model `local` is a small English one (135 million parameters): fluent, fast, and often wrong."


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to run. `keep`: a folder, not there yet or empty, for the store and the log; None: a temporary one."""

    apps: int
    questions: int
    model: str
    max_tokens: int
    keep: Path | None


def run_demo(demo: Demo) -> bool:
    """Run it and say what came of it; whether every answer came home. Raises: CliError: it cannot run here."""
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
    say(f"Starting a gateway with the model {demo.model} …")
    if demo.model == "local":
        say(_LOCAL)
    settings = GatewaySettings(port=0, admin_port=None, data_dir=data_dir, models=(demo.model,), grace_s=2.0)
    ledger = Ledger(keep_texts=True)
    async with Gateway(settings) as gateway, _tapped_apps(demo, gateway.port, ledger) as apps:
        total = demo.apps * demo.questions
        say(
            f"{many(demo.apps, 'app')} ask {many(total, 'question')}, all at once, at {gateway.url}. "
            f"Answers are cut at {demo.max_tokens} tokens.\n"
        )
        await show_apps(apps, max_tokens=demo.max_tokens)
    say_results(apps)
    verdicts = await check_everything(apps, ledger, data_dir)
    say_verdicts(verdicts, apps, stored="what the store has")
    if demo.keep:
        say(f"Kept: {data_dir}")
    elif verdicts.is_clean:
        say("Next: answerback serve, and in another terminal: answerback chat")
    return verdicts.is_clean and not any(asked.error for app in apps for asked in app.asked)


@asynccontextmanager
async def _tapped_apps(demo: Demo, port: int, ledger: Ledger) -> AsyncIterator[list[App]]:
    """The apps, each behind a tap of its own."""
    taps = [Tap(app=number, url=f"ws://127.0.0.1:{port}", ledger=ledger) for number in range(1, demo.apps + 1)]
    try:
        yield [
            App(
                number=number,
                user=f"user_{number:03}",
                session=f"demo-session-{number:03}",
                url=await tap.start(),
                asked=[
                    Asked(number=place, question=question)
                    for place, question in enumerate(questions_of(number - 1, demo.questions), start=1)
                ],
            )
            for number, tap in enumerate(taps, start=1)
        ]
    finally:
        for tap in taps:
            await tap.close()


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
