"""What a stack has of a user is in the lists that say what an export shows and erasing takes away."""

import psycopg
import pytest

from answerback.stores.user_data import NO_USER, USER_DATA
from answerback_aws.runtime.dynamodb import tables
from template import of_type


def test_every_table_of_dynamodb_is_decided_about() -> None:
    assert set(tables.TABLES) == {*tables.USER_DATA, "connections"}, "say in dynamodb/tables.py what the new one has"
    keys = {}
    for name, table in of_type("AWS::DynamoDB::Table").items():
        keys[name] = [key["AttributeName"] for key in table["Properties"]["KeySchema"]]
    by_user = {f"{name.title().replace('_', '')}Table": ["userId", key] for name, key in tables.USER_DATA.items()}
    assert keys == by_user | {"ConnectionsTable": ["connectionId"]}


@pytest.mark.emulator
@pytest.mark.postgres
def test_every_table_of_aurora_is_decided_about(aurora_cluster, postgres_server) -> None:
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    found: dict[str, set[str]] = {}
    with psycopg.connect(postgres_server.url, dbname=aurora_cluster.database) as connection:
        for table, column in connection.execute(query).fetchall():
            found.setdefault(table, set()).add(column)
    parts = {part.table: {*part.shown, *part.inner} for part in USER_DATA}
    assert found.keys() - NO_USER.keys() == parts.keys()
    for table, columns in parts.items():
        assert found[table] <= columns
