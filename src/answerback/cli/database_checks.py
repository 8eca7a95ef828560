"""The checks of `answerback doctor` that look at a PostgreSQL server, and at the gateways that share it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import psycopg

from answerback.cli.nodes import SCHEMA
from answerback.cli.probe import Finding, failure, ok, warning
from answerback.core import defaults
from answerback.stores.nodes import STALE_MS, Node, list_nodes
from answerback.stores.postgres import Connection, Pooled, PostgresDatabase, check_session, connect

CONNECTIONS_A_GATEWAY: Final = 6

_FACTS: Final = """
SELECT current_setting('server_version'),
  pg_is_in_recovery(),
  current_setting('transaction_read_only') = 'on',
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int,
  (SELECT sum(numbackends) FROM pg_stat_database)::int,
  current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') NOT IN ('local', 'off'),
  (SELECT count(*) FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'),
  (SELECT count(*) FROM pg_stat_replication WHERE coalesce(sync_state, 'sync') IN ('sync', 'quorum')),
  extract(epoch FROM clock_timestamp())::float8"""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself, in the order of _FACTS.

    `connections`: how many clients may have. `skew_s`: its clock is ahead of ours. `followers`: its standbys. `awaits`:
    its commits wait for some of them, `awaited`, as far as this account may see.
    """

    version: str
    is_standby: bool
    is_read_only: bool
    connections: int
    in_use: int
    awaits: bool
    followers: int
    awaited: int
    skew_s: float


def check_server(url: str, *, schema: str = SCHEMA) -> list[Finding]:
    """Look at the server and the fleet's tables, if they are there; nothing if it cannot be reached."""
    try:
        with closing(connect(url, schema)) as connection:
            try:
                with closing(connect(url, schema)) as other:
                    check_session(connection, other)
            except Pooled:
                return [
                    failure(
                        "database",
                        "a pooler lends one session of it to many, so no gateway starts",
                        "name the server itself in --database, or pool by session (PgBouncer: pool_mode = session)",
                    )
                ]
            server = _read(connection)
            try:
                nodes = list_nodes(PostgresDatabase(connection), schema)
            except psycopg.errors.UndefinedTable:
                nodes = []
    except psycopg.Error:
        return []  # the check of the store says why
    return [*server_findings(server, gateways=sum(map(_is_there, nodes))), *node_findings(nodes)]


def _read(connection: Connection) -> Server:
    began = time.time()
    row = connection.execute(_FACTS).fetchone()
    assert row is not None
    *facts, now_s = row
    return Server(*(*facts, now_s - (began + time.time()) / 2))


def server_findings(server: Server, *, gateways: int) -> Iterator[Finding]:
    """Whether the server suits so many gateways."""
    if server.is_standby or server.is_read_only:
        text = "it is a standby" if server.is_standby else "it is read-only"
        advice = "name the primary, or both: postgresql://USER@ONE,OTHER/NAME?target_session_attrs=read-write"
        yield failure("database", text, advice)
    else:
        yield ok("database", f"PostgreSQL {server.version}, and it can be written")
    yield from _standbys(server)
    yield _clock(server.skew_s)
    needed = CONNECTIONS_A_GATEWAY * max(1, gateways)
    text = (
        f"{server.in_use} of {server.connections} in use; gateways: {gateways}, with about {CONNECTIONS_A_GATEWAY} each"
    )
    if needed > server.connections or server.in_use + CONNECTIONS_A_GATEWAY > server.connections:
        yield warning("connections", text, "raise max_connections, or a gateway cannot come back")
    else:
        yield ok("connections", text)


def _standbys(server: Server) -> list[Finding]:
    """Nothing of a server that has no standby, and waits for none."""
    if server.awaits and not server.awaited:
        advice = "start the standby that synchronous_standby_names names, or clear it: nothing can be stored"
        return [failure("standby", "each commit waits for a standby that is not there", advice)]
    if server.awaits:
        return [ok("standby", f"commits wait for {server.awaited} of {server.followers} standbys")]
    if server.followers:
        advice = "if one is to take over, set synchronous_standby_names; else it may lack the last questions"
        return [warning("standby", f"commits wait for none of {server.followers} standbys", advice)]
    return []


def _clock(skew_s: float) -> Finding:
    if abs(skew_s) <= defaults.LEEWAY_S:
        return ok("clock", "the database's clock and ours agree")
    text = f"the database's clock is {abs(skew_s):.0f} s behind ours"
    if skew_s > 0:
        text = f"the database's clock is {skew_s:.0f} s ahead of ours"
    return warning("clock", text, "synchronise both (NTP): tokens fail when clocks disagree")


def node_findings(nodes: Sequence[Node]) -> Iterator[Finding]:
    """How the gateways of the fleet are, each by itself and together."""
    for node in nodes:
        age_s = node.age_ms / 1000
        if node.is_dead:
            text = f"{node.name} is dead: silent for {age_s:.0f} s, and not stopped"
            yield warning("node", text, "start it again; the others have taken over what it ran")
        elif node.age_ms > STALE_MS and _is_there(node):
            text = f"{node.name} is silent for {age_s:.0f} s, and its process is there"
            yield warning("node", text, "see its log; what it runs is taken over after 20 s of silence")
        elif _is_there(node):
            yield ok("node", f"{node.name} is {node.state}, version {node.version}, heard {age_s:.1f} s ago")
    versions = sorted({node.version for node in nodes if _is_there(node)})
    if len(versions) > 1:
        text = f"the gateways have different versions: {', '.join(versions)}"
        yield warning("versions", text, "finish the upgrade: stop and start the older ones, one after the other")


def _is_there(node: Node) -> bool:
    return node.state_now not in ("gone", "dead")
