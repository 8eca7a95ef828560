"""`answerback aws local`: the template on an emulator of AWS, on this machine."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Annotated

import platformdirs
import typer

from answerback.cli.options import Json
from answerback.cli.output import CliError, ExitCode, extra_needed, note, say, say_json
from answerback.core import defaults
from answerback_aws.commands.options import pairs, shown_progress

with extra_needed("the emulated AWS", "aws,server,local-llm"):
    from answerback_aws.deploy.errors import DeployError
    from answerback_aws.emulator.emulator import LocalFailed
    from answerback_aws.emulator.run import CONCURRENCY, STACK, LocalRun, LocalSettings, local_stack


def local(
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="SPEC", help="Answers in Bedrock's place: local | echo | openai:…")
    ] = "local",
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Of the emulator; 0: a free one.")] = 0,
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Any parameter of the template; repeatable.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Run the template on an emulator of AWS on this machine, until Ctrl-C. Needs PostgreSQL, no account.

    The first time it installs the emulator in your cache folder (220 MB). All else that it makes is deleted at the end.

    Examples:

      answerback aws local

      answerback aws local --model echo --parameter RateLimit=0
    """
    settings = LocalSettings(
        model=model,
        port=port,
        cache=platformdirs.user_cache_path("answerback"),
        parameters=pairs("--parameter", parameter),
    )
    with _interruptible(), ExitStack() as started:
        try:
            with shown_progress() as progress:
                run = started.enter_context(local_stack(settings, progress))
        except (LocalFailed, DeployError) as exc:
            raise CliError(exc.message, exc.hint) from exc
        try:
            _show(run, settings.parameters, as_json=as_json)
            threading.Event().wait()
        except KeyboardInterrupt:
            note("\nStopping ...")
    note("Stopped. Nothing is left of it.")
    return ExitCode.OK


def _show(run: LocalRun, parameters: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        say_json({"emulated": True, "url": run.url, "endpoint": run.endpoint, "model": run.model, **run.outputs})
        return
    aws = "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test answerback aws"
    where = f"--stack {STACK} --region us-east-1 --endpoint-url {run.endpoint}"
    say(f"AWS is emulated on this machine; nothing of this is AWS. Apps connect to\n\n  {run.url}\n")
    say(f"The model {run.model!r} answers in Bedrock's place. Who asks is believed: anyone here may, as any user.\n")
    say(f"Chat with it:    answerback chat --url {run.url}")
    say(f"See its logs:    {aws} logs --follow {where}")
    limits = {"WorkerConcurrency": CONCURRENCY, "RateLimit": str(defaults.RATE_LIMIT), **parameters}
    say(
        f"At a time it makes {limits['WorkerConcurrency']} answers; a user has {limits['RateLimit']} a minute (0: any)."
    )
    say("For more:        answerback aws local --parameter WorkerConcurrency=16 --parameter RateLimit=0")
    say("\nCtrl-C stops it and deletes everything.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, so that nothing is left."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    was = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, was)
