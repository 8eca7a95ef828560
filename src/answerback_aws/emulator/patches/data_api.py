"""Aurora: its Data API on a PostgreSQL that is already running, and a cluster whose password RDS manages.

The Data API runs in threads, with the limits, states and types of Aurora.
"""

import asyncio
import json
import os
import secrets
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from answerback_aws.emulator.patches import private, replace

_MODULE: Final = "services.rds_data"
_PROVISIONERS: Final = "services.cloudformation.provisioners"
_SECRET: Final = "MasterUserSecret"  # noqa: S105 - a property's name
_MAX_RESPONSE_BYTES: Final = 1024 * 1024
_IDLE_TOO_LONG: Final = "25P03"
_HANDLERS: Final = {
    "/Execute": "_execute_statement",
    "/BatchExecute": "_batch_execute_statement",
    "/BeginTransaction": "_begin_transaction",
    "/CommitTransaction": "_commit_transaction",
    "/RollbackTransaction": "_rollback_transaction",
}


_TYPES: Final[dict[type, bytes]] = {str: b"text", int: b"bigint"}
"""What the kinds of value that we send are bound as."""


class _Typed:
    """A parameter whose type PostgreSQL knows, as Aurora's are bound; the driver's own way is a literal.

    A literal becomes what its place wants, so a text would pass for a uuid, a number or JSON. It adapts itself.
    """

    def __init__(self, value: Any) -> None:
        self._value = value
        self._connection: Any = None

    def __conform__(self, _protocol: object) -> "_Typed":
        return self

    def prepare(self, connection: Any) -> None:
        """Called by the driver: how a text is quoted is the connection's."""
        self._connection = connection

    def getquoted(self) -> bytes:
        """What stands in the statement."""
        adapted = import_module("psycopg2.extensions").adapt(self._value)
        if hasattr(adapted, "prepare"):
            adapted.prepare(self._connection)
        return b"CAST(" + bytes(adapted.getquoted()) + b" AS " + _TYPES[type(self._value)] + b")"


def patch(postgres: str, paused: Path, *, transaction_idle_s: float) -> None:
    """Apply. `postgres` is a libpq connection string; while the file `paused` is there, the database is waking up.

    A transaction that is not used for `transaction_idle_s` is rolled back.
    A database that a cluster was created with is made when it is first asked for.
    Raises: Moved.
    """

    def connect(_instance: Any, _engine: str, database: str | None = None, *_secret: Any, **_more: Any) -> Any:
        name = database or "postgres"
        try:
            return _open(postgres, name, idle_s=transaction_idle_s)
        except Exception as exc:
            if name not in _database_names() or f'database "{name}" does not exist' not in str(exc):
                raise
        _create(postgres, name)
        return _open(postgres, name, idle_s=transaction_idle_s)

    async def handle(method: str, path: str, headers: Any, body: bytes, query: Any) -> Any:
        """In a thread: the emulator blocks its event loop, and two transactions on one row would never end."""
        if os.path.exists(paused):  # noqa: ASYNC240 - one look at a file of this machine
            message = "Database is resuming after being auto-paused"
            return private(_MODULE, "_error")("DatabaseResumingException", message)
        if path not in _HANDLERS:
            return await was_handled(method, path, headers, body, query)
        answer = await asyncio.to_thread(private(_MODULE, _HANDLERS[path]), json.loads(body or b"{}"))
        if len(answer[2]) > _MAX_RESPONSE_BYTES:
            message = "Database returned more than the allowed response size limit"
            return private(_MODULE, "_error")("BadRequestException", message)
        return answer

    def substitute(sql: str, names: Any) -> Any:
        """The driver reads `%` in a statement that has parameters, so `LIKE '%x%'` has to be doubled."""
        return was_substituted(sql.replace("%", "%%"), names) if names else sql

    def convert(parameters: Any) -> Any:
        values = was_converted(parameters)
        return {name: _Typed(value) if type(value) in _TYPES else value for name, value in values.items()}

    def backed(_instance: Any) -> bool:
        return True

    def failed(exc: Exception) -> Any:
        """As Aurora says it: a writer that is not there is unavailable, and every other error has its SQLSTATE."""
        psycopg2 = import_module("psycopg2")
        error = private(_MODULE, "_error")
        sqlstate = getattr(exc, "pgcode", None)
        if sqlstate == _IDLE_TOO_LONG:
            return error("TransactionNotFoundException", "Transaction is not found", 404)
        # The error of no particular kind is what the driver raises when the server's words make no sense.
        lost = (psycopg2.InterfaceError, psycopg2.OperationalError)
        if sqlstate is None and (isinstance(exc, lost) or type(exc) is psycopg2.DatabaseError):
            return error("DatabaseUnavailableException", "The writer instance in the DB cluster isn't available.", 504)
        return error("DatabaseErrorException", f"ERROR: {exc}; SQLState: {sqlstate}")

    for name in (*_HANDLERS.values(), "_error"):
        private(_MODULE, name)
    private("services.rds", "_clusters")
    was_handled = replace(_MODULE, "handle_request", handle)
    was_substituted = replace(_MODULE, "_substitute_named_params", substitute)
    was_converted = replace(_MODULE, "_convert_parameters", convert)
    replace(_MODULE, "_connect", connect)
    replace(_MODULE, "_sql_execution_error", failed)
    replace(_MODULE, "_has_real_endpoint", backed)
    replace("services.rds", "_get_docker", lambda: None)


def _database_names() -> set[str]:
    return {cluster.get("DatabaseName") for *_, cluster in private("services.rds", "_clusters").all_items()}


def _open(postgres: str, database: str, *, idle_s: float = 0) -> Any:
    psycopg2, extras = import_module("psycopg2"), import_module("psycopg2.extras")  # of the emulator's environment
    options = f"-c idle_in_transaction_session_timeout={int(idle_s * 1000)}"
    connection = psycopg2.connect(postgres, dbname=database, options=options)
    connection.autocommit = True
    extras.register_default_json(conn_or_curs=connection, loads=_as_text)
    extras.register_default_jsonb(conn_or_curs=connection, loads=_as_text)
    return connection


def _create(postgres: str, database: str) -> None:
    errors, sql = import_module("psycopg2.errors"), import_module("psycopg2.sql")
    connection = _open(postgres, "postgres")
    try:
        connection.cursor().execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    except (errors.DuplicateDatabase, errors.UniqueViolation):
        pass  # a call beside this one was first
    finally:
        connection.close()


def _as_text(text: str) -> str:
    return text


def patch_clusters() -> None:
    """`ManageMasterUserPassword` makes a secret, and `GetAtt CLUSTER.MasterUserSecret.SecretArn` names it."""
    handlers = private(_PROVISIONERS, "_RESOURCE_HANDLERS")["AWS::RDS::DBCluster"]

    def attributes(cluster: Any) -> Any:
        found = attributes_were(cluster)
        if secret := cluster.get(_SECRET):
            found = {**found, f"{_SECRET}.SecretArn": secret["SecretArn"]}
        return found

    def create(logical_id: str, properties: Any, stack_name: str) -> Any:
        cluster_id, found = create_was(logical_id, properties, stack_name)
        if str(properties.get("ManageMasterUserPassword")).lower() == "true":
            cluster = private("services.rds", "_clusters")[cluster_id]
            user = {"username": properties.get("MasterUsername", ""), "password": secrets.token_urlsafe(24)}
            make = private("services.secretsmanager", "create_secret_in_process")
            arn = make(f"rds!cluster-{cluster_id}", json.dumps(user), description="Managed by RDS")
            cluster[_SECRET] = {"SecretArn": arn, "SecretStatus": "active"}
            found = private(_PROVISIONERS, "_rds_db_cluster_attrs")(cluster)
        return cluster_id, found

    def delete(physical_id: str, properties: Any) -> None:
        cluster = private("services.rds", "_clusters").get(physical_id)
        delete_was(physical_id, properties)
        if cluster and (secret := cluster.get(_SECRET)):
            private("services.secretsmanager", "_delete_secret")(
                {"SecretId": secret["SecretArn"], "ForceDeleteWithoutRecovery": True}
            )

    private("services.secretsmanager", "create_secret_in_process")
    private("services.secretsmanager", "_delete_secret")
    private("services.rds", "_clusters")
    attributes_were = replace(_PROVISIONERS, "_rds_db_cluster_attrs", attributes)
    create_was, delete_was = handlers["create"], handlers["delete"]
    handlers.update(create=create, delete=delete)
