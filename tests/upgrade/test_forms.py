"""Forms that stay as they were in ff0d8e5: records, tables, the template, and the names that users import."""

import importlib
import inspect
import re
import shutil
import sqlite3
from contextlib import closing
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg
import pytest

from answerback.stores.encoding import decode_question, decode_record, encode_options, encode_record
from answerback_aws.runtime.dynamodb.items import decode_item
from answerback_aws.runtime.dynamodb.items import encode_record as encode_item
from answerback_desktop.signin.session import Identity
from desktop_app import DesktopApp
from kept import FOLDER, assert_kept, command, kept
from template import RESOURCES, TEMPLATE

SCHEMA = 1
"""Of every kept record."""

OWN = {"version", "position", "unfinished", "answer", "expiresAt", "replaces"}
"""Attributes of an item that are the store's, not the record's."""


@pytest.mark.parametrize("state", kept("records.json"))
def test_a_record_of_each_state_is_read_and_written_byte_for_byte(state: str) -> None:
    stored = kept("records.json")[state]
    assert encode_record(decode_record(stored["sql"], SCHEMA)) == stored["sql"]
    if stored["options"] is not None:
        question = decode_question(stored["options"], "What?", "Briefly.")
        assert encode_options(question) == stored["options"]
    item = stored["item"]
    assert encode_item(decode_item(item)) == {name: value for name, value in item.items() if name not in OWN}


def test_so_is_every_record_that_was_kept() -> None:
    with (
        closing(sqlite3.connect(f"file:{FOLDER / 'answerback.db'}?mode=ro&immutable=1", uri=True)) as database,
        database,
    ):
        rows = database.execute("SELECT record, record_schema FROM requests").fetchall()
    assert len(rows) == 32
    for record, schema in rows:
        assert encode_record(decode_record(record, schema)) == record
    for item in kept("dynamodb.json")["tables"]["Requests"]:
        assert encode_item(decode_item(item)) == {name: value for name, value in item.items() if name not in OWN}


def test_a_new_sqlite_file_has_the_tables_of_the_kept_one_once_it_was_opened(tmp_path: Path) -> None:
    found = []
    for name in ("new", "kept"):
        (tmp_path / name).mkdir()
        if name == "kept":
            shutil.copy(FOLDER / "answerback.db", tmp_path / name)
        else:
            (tmp_path / name / "answerback.db").touch()
        assert command("users", "list", "--json", "--data-dir", str(tmp_path / name)).code == 0
        found.append(tables_of(tmp_path / name / "answerback.db"))
    assert found[0] == found[1]


@pytest.mark.postgres
def test_a_new_postgresql_database_has_the_tables_of_the_kept_one_once_it_was_opened(
    postgres_server: Any, tmp_path: Path
) -> None:
    found = []
    for name in ("new", "kept"):
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE upgrade_{name}".encode())
        url = postgres_server.url.replace("/postgres?", f"/upgrade_{name}?")
        with psycopg.connect(url, autocommit=True) as connection:
            if name == "kept":
                connection.execute((FOLDER / "postgres.sql").read_bytes())
            assert command("users", "list", "--json", "--data-dir", str(tmp_path), "--database", url).code == 0
            found.append(
                [
                    connection.execute(statement).fetchall()
                    for statement in (
                        "SELECT table_name, column_name, data_type, is_nullable, collation_name "
                        "FROM information_schema.columns WHERE table_schema = 'answerback' ORDER BY 1, 2",
                        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'answerback' ORDER BY 1",
                    )
                ]
            )
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE upgrade_{name} WITH (FORCE)".encode())
    assert found[0] == found[1]


async def test_a_new_account_of_the_desktop_app_has_the_tables_of_the_kept_one_once_it_was_opened(
    tmp_path: Path,
) -> None:
    shutil.copytree(FOLDER / "desktop" / "home", tmp_path / "kept")
    found = []
    for name in ("new", "kept"):
        async with DesktopApp(tmp_path, name):
            pass
        (path,) = (tmp_path / name / "accounts").glob("*.db")
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database, database:
            assert database.execute("PRAGMA user_version").fetchone() == (4,)
        found.append(tables_of(path))
    assert found[0] == found[1]


def test_the_keyring_entry_of_the_desktop_app_is_read_and_written_as_it_was() -> None:
    entry = '{"subject":"auth0|kim","name":"김","refresh_token":"r-1"}'
    identity = Identity.decoded(entry)
    assert identity is not None
    assert identity.encoded() == entry


def test_the_template_has_the_resources_it_had() -> None:
    assert_kept(
        "template.json",
        {
            "Parameters": {
                name: {key: part[key] for key in ("Type", "Default", "AllowedValues", "AllowedPattern") if key in part}
                for name, part in TEMPLATE["Parameters"].items()
            },
            "Resources": {name: resource["Type"] for name, resource in RESOURCES.items()},
            "Outputs": sorted(TEMPLATE["Outputs"]),
            "Variables": {
                name: sorted(resource["Properties"].get("Environment", {}).get("Variables", {}))
                for name, resource in RESOURCES.items()
                if resource["Type"] == "AWS::Lambda::Function"
            },
            "Replaced when they change": {
                name: {
                    key: resource["Properties"][key]
                    for key in (
                        "TableName",
                        "KeySchema",
                        "QueueName",
                        "FifoQueue",
                        "DatabaseName",
                        "Engine",
                        "LogGroupName",
                    )
                    if key in resource["Properties"]
                }
                for name, resource in RESOURCES.items()
                if resource["Type"]
                in {"AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::RDS::DBCluster", "AWS::Logs::LogGroup"}
            },
        },
    )


def test_the_tables_of_the_template_are_those_of_the_kept_stack() -> None:
    for table in kept("dynamodb-tables.json"):
        has = RESOURCES[f"{table['TableName']}Table"]["Properties"]
        for part in ("KeySchema", "GlobalSecondaryIndexes"):
            assert has.get(part) == table.get(part), table["TableName"]
        by_name = {one["AttributeName"]: one["AttributeType"] for one in has["AttributeDefinitions"]}
        assert by_name == {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}


def test_the_keys_of_log_lines_are_spelled_as_they_were() -> None:
    """Those that are written where a line is logged, whether or not a test comes by there."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER.parents[2] / "src").rglob("*.py")))
    facts = re.findall(r"extra={([^}]*)}", text)
    assert_kept("log-keys.json", sorted({key for part in facts for key in re.findall(r'"(\w+)":', part)}))


def test_the_names_that_users_import_are_there() -> None:
    found = {}
    for name in ("answerback", "answerback.client", "answerback.testing"):
        module = importlib.import_module(name)
        found[name] = {public: described(getattr(module, public)) for public in sorted(module.__all__)}
    ports = importlib.import_module("answerback.ports")
    found["answerback.ports"] = {name: described(getattr(ports, name)) for name in ("Finish", "Model", "ModelError")}
    assert_kept("imports.json", found)


def described(value: Any) -> Any:
    """What a caller can rely on: parameters by name, and of a class its own public members, too."""
    if inspect.isclass(value):
        own = [one for one in value.__mro__ if one.__module__.startswith("answerback")]
        names = sorted({name for one in own for name in vars(one) if not name.startswith("_")})
        # Python's own way of calling an enum differs between its versions.
        called = ["value"] if issubclass(value, Enum) else parameters(value)
        return {"()": called, **{name: described(inspect.getattr_static(value, name)) for name in names}}
    if isinstance(value, staticmethod | classmethod):
        return parameters(value.__func__)
    return parameters(value) if callable(value) else "a value"


def parameters(value: Any) -> list[str]:
    """`*` before what is named only, `=` behind what may be left out."""
    try:
        found = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return []
    marks = {
        inspect.Parameter.KEYWORD_ONLY: "*",
        inspect.Parameter.VAR_POSITIONAL: "**",
        inspect.Parameter.VAR_KEYWORD: "***",
    }
    return [marks.get(one.kind, "") + one.name + ("" if one.default is one.empty else "=") for one in found]


def tables_of(path: Path) -> list[Any]:
    """Every table and index as it was made, but for those that SQLite makes behind a full-text index."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database, database:
        return database.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'texts^_%' ESCAPE '^' ORDER BY type, name"
        ).fetchall()
