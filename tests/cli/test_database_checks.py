"""What `answerback doctor` says of a PostgreSQL server and of the gateways that share it."""

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from answerback.cli.database_checks import Server, check_server, node_findings, server_findings
from answerback.cli.probe import Level
from answerback.stores.fleet import FleetStore
from answerback.stores.nodes import LOST_MS, Node, Nodes, connect_nodes
from pooler import TransactionPooler

GOOD = Server(
    version="15.1",
    is_standby=False,
    is_read_only=False,
    connections=97,
    in_use=20,
    awaits=False,
    followers=0,
    awaited=0,
    skew_s=0.1,
)
LIVES = Node(name="a", state="serving", age_ms=300, has_lock=True, version="1.2", started_at_ms=0, facts={})


@pytest.mark.parametrize(
    ("change", "gateways", "check", "level", "words"),
    [
        ({}, 2, "database", Level.OK, "15.1"),
        ({"is_standby": True, "is_read_only": True}, 2, "database", Level.FAIL, "standby"),
        ({"is_read_only": True}, 2, "database", Level.FAIL, "read-only"),
        ({"followers": 2}, 2, "standby", Level.WARN, "wait for none of 2 standbys"),
        ({"followers": 2, "awaits": True, "awaited": 1}, 2, "standby", Level.OK, "commits wait for 1 of 2 standbys"),
        ({"awaits": True}, 2, "standby", Level.FAIL, "is not there"),
        ({"skew_s": -20}, 2, "clock", Level.OK, "agree"),
        ({"skew_s": 40}, 2, "clock", Level.WARN, "40 s ahead"),
        ({"skew_s": -40}, 2, "clock", Level.WARN, "40 s behind"),
        ({}, 16, "connections", Level.OK, "gateways: 16,"),
        ({}, 17, "connections", Level.WARN, "gateways: 17,"),
        ({"in_use": 91}, 0, "connections", Level.OK, "91 of 97"),
        ({"in_use": 92}, 0, "connections", Level.WARN, "92 of 97"),
    ],
)
def test_a_server_is_judged(change: dict[str, object], gateways: int, check: str, level: Level, words: str) -> None:
    found = {one.what: one for one in server_findings(replace(GOOD, **change), gateways=gateways)}  # type: ignore[arg-type]
    assert (found[check].level, words in found[check].text) == (level, True), found[check].text
    assert {one.level for name, one in found.items() if name != check} == {Level.OK}


def test_gateways_are_judged() -> None:
    killed = replace(LIVES, name="b", has_lock=False, age_ms=3_000)
    vanished = replace(LIVES, name="c", age_ms=LOST_MS + 1)
    stopped = replace(LIVES, name="d", state="gone", has_lock=False, age_ms=3_000, version="1.0")
    frozen = replace(LIVES, name="f", age_ms=3_000)
    left = replace(LIVES, name="g", state="draining", has_lock=False, age_ms=3_000, version="1.0")
    found = list(node_findings([LIVES, killed, vanished, stopped, frozen, left]))
    said = [(one.level, " ".join(one.text.split()[:3])) for one in found]
    assert said == [
        (Level.OK, "a is serving,"),
        (Level.WARN, "b is dead:"),
        (Level.WARN, "c is dead:"),
        (Level.WARN, "f is silent"),
    ]
    *_, versions = node_findings([LIVES, replace(LIVES, name="e", state="draining", version="1.1")])
    assert (versions.level, versions.text.partition(": ")[2]) == (Level.WARN, "1.1, 1.2")


@pytest.fixture
def schema() -> str:
    """A name that no other test uses."""
    return f"t_{uuid.uuid4().hex}"


@pytest.mark.postgres
class TestRealServer:
    def test_one_gateway_needs_no_other(self, postgres_server, schema) -> None:
        found = {one.what: one for one in check_server(postgres_server.url, schema=schema)}
        assert found.keys() == {"database", "clock", "connections"}
        assert {one.level for one in found.values()} == {Level.OK}
        assert int(found["connections"].text.split()[0]) >= 1

    async def test_the_gateways_of_a_fleet(self, postgres_server, schema) -> None:
        store = FleetStore(postgres_server.url, node="a", schema=schema)
        await store.open()
        nodes = Nodes(lambda: connect_nodes(postgres_server.url, schema), schema, node="a", incarnation="1")
        try:
            await nodes.beat("serving", reads_schema=1, version="1.2", facts={})
            found = await asyncio.to_thread(check_server, postgres_server.url, schema=schema)
        finally:
            await nodes.close()
            await store.close()
        [node] = [one for one in found if one.what == "node"]
        assert node.text.startswith("a is serving, version 1.2, heard ")
        assert any("; gateways: 1," in one.text for one in found)

    def test_a_server_that_cannot_be_written(self, postgres_server, schema) -> None:
        url = f"{postgres_server.url}&options=-cdefault_transaction_read_only%3Don"
        [database] = [one for one in check_server(url, schema=schema) if one.what == "database"]
        assert (database.level, database.text) == (Level.FAIL, "it is read-only")

    async def test_a_pooler_by_transaction(self, postgres_server, schema) -> None:
        server_socket = Path(postgres_server.dsn.partition("host=")[2].partition(" ")[0]) / ".s.PGSQL.5432"
        async with TransactionPooler(server_socket, sessions=2, is_fair=False) as pooler:
            url = f"postgresql://postgres@127.0.0.1:{pooler.port}/postgres"
            [pooled] = await asyncio.to_thread(check_server, url, schema=schema)
        assert (pooled.level, pooled.what) == (Level.FAIL, "database")
        assert "pool_mode = session" in pooled.advice

    def test_nobody_there_is_said_by_the_store(self, unused_port: int) -> None:
        assert check_server(f"postgresql://x@127.0.0.1:{unused_port}/x") == []
