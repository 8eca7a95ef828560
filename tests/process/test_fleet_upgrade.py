"""A fleet is upgraded by a version whose tables and records have more, one gateway after the other, under load."""

import asyncio
import shutil
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from answerback import Client, __version__
from answerback.core.request import SCHEMA
from answerback.stores.migrations import shipped
from balancer import Balancer
from cli_process import STOP_TIMEOUT_S, Serve
from steady_load import SteadyLoad

pytestmark = [pytest.mark.process, pytest.mark.postgres, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
NEXT = "99.0.0"
APPS = 12


@pytest.fixture(scope="module")
def next_version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the version after this one: it adds a table, columns, and a field to each record."""
    source = tmp_path_factory.mktemp("next")
    package = source / "answerback"
    shutil.copytree(ROOT / "src" / "answerback", package, ignore=shutil.ignore_patterns("__pycache__"))

    def edit(name: str, old: str, new: str) -> None:
        text = (package / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name}: {old}"
        (package / name).write_text(text.replace(old, new), encoding="utf-8")

    version, columns = shipped()[-1].version + 1, ("users", "teams", "requests", "conversations")
    (package / "stores" / "sql" / f"{version:04}_next.sql").write_text(
        "".join(f"ALTER TABLE {table} ADD COLUMN of_next text;\n" for table in columns)
        + "CREATE TABLE next_things (name text NOT NULL, PRIMARY KEY (name));\n"
    )
    (package / "stores" / "sql" / "fleet" / "0099_next.sql").write_text("ALTER TABLE nodes ADD COLUMN of_next text;\n")
    edit("__init__.py", f'"{__version__}"', f'"{NEXT}"')
    edit("core/request.py", f"SCHEMA: Final = {SCHEMA}\n", f"SCHEMA: Final = {SCHEMA + 1}\n")
    edit("core/request.py", "MappingProxyType({", f'MappingProxyType({{{SCHEMA + 1}: ("of_next",), ')
    edit(
        "core/request.py",
        "    hold: Hold | None = None\n",
        "    hold: Hold | None = None\n    of_next: str | None = None\n",
    )
    edit(
        "core/request.py",
        "        return 1 if is_plain",
        f"        return {SCHEMA + 1} if self.of_next else 1 if is_plain",
    )
    edit(
        "service/questions.py",
        "            stream=frame.stream,\n",
        "            stream=frame.stream,\n            of_next='x',\n",
    )
    return source


@pytest.mark.proof
async def test_three_gateways_are_upgraded_under_load(join: Serve, database: str, next_version: Path) -> None:
    options = ("--drain", "6s")
    gateways = [await asyncio.to_thread(join, node, *options) for node in "abc"]
    load = SteadyLoad()
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as asking:
        balancer = await stack.enter_async_context(Balancer([gateway.port for gateway in gateways]))
        for number in range(APPS):
            app = Client(f"ws://127.0.0.1:{balancer.port}", user=f"u{number}")
            asking.create_task(load.use(await stack.enter_async_context(app), f"app{number}"))

        async def replace(number: int, how: int, source: Path | None) -> None:
            await asyncio.to_thread(gateways[number].stop, how)
            gateways[number] = await asyncio.to_thread(join, "abc"[number], *options, source=source)
            balancer.ports[number] = gateways[number].port
            await load.until(2 * APPS)

        await load.until(APPS)
        for number in range(3):
            await replace(number, signal.SIGTERM, next_version)
            if number < 2:
                assert newest_schema(database) <= SCHEMA, "a gateway of the older version lives, and could not read it"
        assert load.attempts.keys() == {1}, "an answer was begun again"
        assert newest_schema(database) == SCHEMA + 1, "all of them read it now"
        load.stop()
    with pytest.raises(AssertionError, match="Upgrade"):
        await asyncio.to_thread(join, "d")


def newest_schema(database: str) -> int:
    """Of the records that are stored."""
    with psycopg.connect(database) as connection:
        ((newest,),) = connection.execute("SELECT max(record_schema) FROM answerback.requests").fetchall()
    return int(newest)


async def test_one_that_everybody_took_for_dead_stops_when_the_others_have_been_upgraded(
    join: Serve, database: str
) -> None:
    gateway = await asyncio.to_thread(join, "a")
    with psycopg.connect(database, autocommit=True) as connection:
        newer = "UPDATE answerback.marks SET value = '99' WHERE name = 'record_schema'"
        assert connection.execute(newer).rowcount == 1
    assert await asyncio.to_thread(gateway.process.wait, STOP_TIMEOUT_S) == 0
    assert "of a newer version" in gateway.log.read_text()
    with pytest.raises(AssertionError, match="Upgrade"):
        await asyncio.to_thread(join, "a")
