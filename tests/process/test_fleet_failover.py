"""The primary of a fleet's database dies, and its synchronous standby becomes the primary."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import psycopg
import pytest

from answerback import Client
from answerback.cli.database_checks import check_server
from answerback_aws.emulator.postgres import PostgresServer
from balancer import Balancer
from cli_process import Serve
from standby_server import StandbyServer
from steady_load import SteadyLoad

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.timeout(120)]

APPS = 12


@pytest.fixture
def servers(postgres_server: PostgresServer) -> Iterator[tuple[PostgresServer, StandbyServer]]:
    """A primary whose commits wait for its standby. `postgres_server` shows that servers can be started here."""
    with PostgresServer() as primary, StandbyServer(primary) as standby:
        with psycopg.connect(primary.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        while True:
            with psycopg.connect(primary.url) as connection:  # a session that has read it
                found = connection.execute("SELECT sync_state, pg_sleep(0.1) FROM pg_stat_replication").fetchone()
            if found is not None and found[0] == "sync":
                break
        yield primary, standby


@pytest.fixture
def database(servers: tuple[PostgresServer, StandbyServer]) -> str:
    return servers[1].both()


async def test_no_answer_is_lost_or_begun_again(
    join: Serve, database: str, servers: tuple[PostgresServer, StandbyServer]
) -> None:
    primary, standby = servers
    found = {one.what: one.text for one in await asyncio.to_thread(check_server, database)}
    assert found["standby"] == "commits wait for 1 of 1 standbys"
    gateways = [await asyncio.to_thread(join, node) for node in "abc"]
    load = SteadyLoad()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as asking:
        balancer = await stack.enter_async_context(Balancer([gateway.port for gateway in gateways]))
        for number in range(APPS):
            app = Client(f"ws://127.0.0.1:{balancer.port}", user=f"u{number}")
            asking.create_task(load.use(await stack.enter_async_context(app), f"app{number}"))
        await load.until(APPS)
        await asyncio.to_thread(primary.stop)
        await asyncio.to_thread(standby.promote)
        await load.until(2 * APPS)
        load.stop()
    assert load.attempts.keys() == {1}
    print(f"longest silence {load.longest_s:.2f} s")
    with psycopg.connect(standby.url) as connection:
        stored = connection.execute(
            "SELECT count(*), sum((question = answer)::int) FROM answerback.requests"
        ).fetchall()
    assert stored == [(load.attempts.total(), load.attempts.total())]
