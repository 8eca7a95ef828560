"""`answerback nodes`: the gateways that share one database."""

from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

from answerback.cli.options import Json, StoreOptions, with_options
from answerback.cli.output import CliError, ExitCode, extra_needed, say_rows, usage_error
from answerback.cli.settings import load_store
from answerback.core.camel import camel

if TYPE_CHECKING:
    from answerback.stores.nodes import Node

SCHEMA: Final = "answerback"
_COUNTS: Final = ("sockets", "running", "waiting", "behind")
"""`behind`: of those that wait, how many wait for a request at another gateway."""


@with_options
def nodes(*, place: StoreOptions, as_json: Json = False) -> None:
    """Show the gateways that share a database (`answerback serve --node`), and how they are.

    The exit code is 1 if one of them is dead: silent, and not stopped. One that was stopped while the database was down
    could not say so, and counts as dead until it starts again, or for a day.
    """
    url = load_store(place).gateway.database
    if url is None:
        raise usage_error("only gateways on one PostgreSQL are several", "name it with --database")
    found = _read(url)
    say_rows(
        [_as_json(node) for node in found],
        ("node", "state", "version", "last beat", "since", *_COUNTS, "notices/s", "janitor"),
        [_row(node) for node in found],
        "No gateway has served this database with --node.",
        as_json=as_json,
    )
    if dead := [node.name for node in found if node.is_dead]:
        raise CliError(f"dead: {', '.join(dead)}", "the others have taken over what it ran; start it again")


def _read(url: str) -> "list[Node]":
    with extra_needed("PostgreSQL", "postgres"):
        import psycopg  # noqa: PLC0415 - an extra

        from answerback.stores.nodes import list_nodes  # noqa: PLC0415
        from answerback.stores.postgres import PostgresDatabase, connect  # noqa: PLC0415
    try:
        with closing(connect(url, SCHEMA)) as connection:
            return list_nodes(PostgresDatabase(connection), SCHEMA)
    except psycopg.errors.UndefinedTable:
        return []
    except psycopg.Error as exc:
        raise CliError(
            f"the database cannot be read ({str(exc).splitlines()[0]})",
            "see `answerback doctor`",
            exit_code=ExitCode.CANNOT_CONNECT,
        ) from exc


def _row(node: "Node") -> tuple[object, ...]:
    since = datetime.fromtimestamp(node.started_at_ms / 1000).strftime("%Y-%m-%d %H:%M")
    is_there = node.state_now not in ("gone", "dead")
    counts = (node.facts.get(name, 0) if is_there else "" for name in (*_COUNTS, "notices"))
    janitor = "yes" if node.janitor and is_there else ""
    return (node.name, node.state_now, node.version, f"{node.age_ms / 1000:.1f} s ago", since, *counts, janitor)


def _as_json(node: "Node") -> dict[str, object]:
    row = asdict(node) | {"state": node.state_now}
    return {camel(name): value for name, value in (row | row.pop("facts")).items()}
