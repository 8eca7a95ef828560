"""`answerback bench`: load with a ledger."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from answerback.cli.options import MaxTokens, ModelName, TokenText
from answerback.cli.output import usage_error

_MOST = 1_000_000
_CHAOS = "Chaos"
_APPS = 50
_KILLS = 50
_AWS_APPS = 12
_AWS_SECONDS = 180.0
"""The emulated AWS answers some tens of questions a second, and starts a process for a function in a second or two."""


def bench(
    *,
    apps: Annotated[
        int | None,
        typer.Option(
            min=1, max=100_000, help="Connections, each a user and session; default: 50, on AWS 12.", show_default=False
        ),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, max=_MOST, help="Questions of each app.")] = 200,
    in_flight: Annotated[
        int, typer.Option(min=1, max=100_000, help="Closed loop: questions that each app keeps pending.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Open loop: questions a second over all apps, whatever is pending."),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Streamed answers.")] = False,
    words: Annotated[int, typer.Option(min=1, max=10_000, help="Words of a question, and so of its answer.")] = 50,
    message_bytes: Annotated[int, typer.Option(min=0, max=120_000, help="Bytes that a question has at least.")] = 0,
    delay_ms: Annotated[int, typer.Option(min=0, max=10_000, help="Own gateway: the model's time for a word.")] = 0,
    coalesce_ms: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Own gateway: see `serve`.", show_default=False)
    ] = None,
    idle: Annotated[int, typer.Option(min=0, max=_MOST, help="Measure so many quiet connections instead.")] = 0,
    url: Annotated[
        str | None, typer.Option(help="A running server instead of a gateway of its own.", show_default=False)
    ] = None,
    pid: Annotated[
        int | None, typer.Option(help="With --url: process id of that server, to see its CPU.", show_default=False)
    ] = None,
    token: TokenText = None,
    model: ModelName = None,
    max_tokens: MaxTokens = None,
    chaos: Annotated[
        bool,
        typer.Option(
            "--chaos",
            help="Kill, freeze and cut off its own gateway instead, while --apps ask.",
            rich_help_panel=_CHAOS,
        ),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="What strikes when; default: a new one.", show_default=False, rich_help_panel=_CHAOS),
    ] = None,
    aws: Annotated[
        bool,
        typer.Option(
            "--aws",
            help="Strike the emulated AWS instead of a gateway, for --seconds (default: 180).",
            rich_help_panel=_CHAOS,
        ),
    ] = False,
    kills: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="SIGKILLs; default: 50.", show_default=False, rich_help_panel=_CHAOS),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="Strike for so long, whatever --kills says.", show_default=False, rich_help_panel=_CHAOS
        ),
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Store in a PostgreSQL of its own, and crash it.", rich_help_panel=_CHAOS)
    ] = False,
    database: Annotated[
        str | None,
        typer.Option(help="Store in this PostgreSQL, and leave it alone.", show_default=False, rich_help_panel=_CHAOS),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep data, log and trace here; default: only if something broke.",
            show_default=False,
            rich_help_panel=_CHAOS,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Load a gateway with many apps, and check every frame of every answer.

    Without --url it starts a gateway of its own with the model `echo` on a store of its own. A server under --url must
    answer with the question (`serve --model echo --rate-limit 0`), or be told apart by --model: then texts are checked
    for their own wholeness only. Exits with 1 if anything was misrouted, lost, repeated, refused or failed.

    With --chaos it is not measured but struck: killed, stopped, frozen, cut off, left without disk, its database
    crashed, its apps killed, at random moments drawn from --seed. Then every text is compared with the store. With
    --aws too the same is done to the stack of `answerback aws deploy`, on the emulator of `answerback aws local`.

    Examples:

      answerback bench

      answerback bench --stream --delay-ms 5 --apps 200 --in-flight 4 --requests 20

      answerback bench --rate 1000 --requests 200

      answerback bench --idle 10000

      answerback bench --chaos --apps 200 --kills 50 --postgres

      answerback bench --chaos --aws --seconds 120
    """
    if chaos:
        refused = {
            "--url": url,
            "--pid": pid,
            "--rate": rate,
            "--model": model,
            "--token": token,
            "--idle": idle or None,
        }
        for flag, value in refused.items():
            if value is not None:
                raise usage_error(f"{flag} is not for --chaos", "leave it out; chaos starts a gateway of its own")
        if postgres and database is not None:
            raise usage_error("--postgres starts a database of its own", "leave out --database")
        if aws:
            _refuse_for_aws(kills=kills, postgres=postgres, database=database)
        if keep is not None and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise usage_error(f"{keep} is not an empty folder", "name a new one with --keep")
        return _chaos(
            aws=aws,
            apps=apps or (_AWS_APPS if aws else _APPS),
            seed=seed,
            kills=kills or _KILLS,
            seconds=seconds or (_AWS_SECONDS if aws else None),
            postgres=postgres,
            database=database,
            keep=keep,
            as_json=as_json,
        )
    if aws:
        raise usage_error("--aws is for --chaos", "load a stack by its --url")
    if pid is not None and url is None:
        raise usage_error("--pid is for a server under --url")
    if url is not None and (delay_ms or coalesce_ms is not None):
        raise usage_error("--delay-ms and --coalesce-ms are for bench's own gateway", "leave out --url, or them")
    if idle and url is not None and pid is None:
        raise usage_error("--idle measures memory", "say the process id of the server with --pid")
    from answerback_proof.commands.benching import Bench, run_bench  # noqa: PLC0415 - the load tool is slow to import

    return run_bench(
        Bench(
            apps=apps or _APPS,
            requests=requests,
            in_flight=in_flight,
            rate=rate,
            stream=stream,
            words=words,
            message_bytes=message_bytes,
            delay_ms=delay_ms,
            coalesce_ms=coalesce_ms,
            idle=idle,
            url=url,
            pid=pid,
            token=token,
            model=model,
            max_tokens=max_tokens,
            as_json=as_json,
        )
    )


def _refuse_for_aws(*, kills: int | None, postgres: bool, database: str | None) -> None:
    if kills is not None:
        raise usage_error("--kills is not for --aws", "say how long with --seconds")
    if postgres or database is not None:
        raise usage_error("--postgres and --database are not for --aws", "leave them out; it starts a PostgreSQL")


def _chaos(
    *,
    aws: bool,
    apps: int,
    seed: int | None,
    kills: int,
    seconds: float | None,
    postgres: bool,
    database: str | None,
    keep: Path | None,
    as_json: bool,
) -> int:
    if sys.platform != "linux":
        raise usage_error("--chaos needs Linux", "run it there, or in a container")
    from answerback_proof.commands.chaos import ChaosPlan, new_name, new_seed, run, run_aws  # noqa: PLC0415 - slow to import

    plan = ChaosPlan(
        seed=new_seed() if seed is None else seed,
        name="" if database is None else new_name(),
        apps=apps,
        kills=kills,
        seconds=seconds,
        own_postgres=postgres,
        database=database,
        keep=keep,
    )
    return run_aws(plan, as_json=as_json) if aws else run(plan, as_json=as_json)
