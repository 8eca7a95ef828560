"""The migration: a custom resource of the stack, so that a deployment succeeds only with the tables that it needs.

CloudFormation waits until a status is put to a URL that comes with the event. Whatever happens one is put: without it
the stack would wait for the whole time-out.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from answerback.clock import epoch_ms
from answerback.stores import statements as sql
from answerback.stores.migrations import Migration, lock_key, missing, shipped
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.aurora.operations import LOCK_TIMEOUT_SQL
from answerback_aws.runtime.composition import Timeouts, process
from answerback_aws.runtime.telemetry import LambdaContext

log = logging.getLogger("answerback.aws.migration")

RESOURCE_ID: Final = "schema"
"""Always the same: another one would make CloudFormation delete the one before."""

TIMEOUTS: Final = Timeouts(call_s=50, all_s=600)
"""A cluster that was just made, or that is paused, needs minutes at most."""

ANSWER_TIMEOUT_S: Final = 10.0


_LOCK: Final = f"SELECT CAST(pg_advisory_xact_lock(:lock_key) AS text) WHERE {LOCK_TIMEOUT_SQL}"


async def apply_migrations(api: DataApi, *, now_ms: int, migrations: Sequence[Migration] | None = None) -> int:
    """Apply what is missing of the shipped files (or of `migrations`), in order, all or nothing; returns how many.

    Of several that do so at once one does and the others wait for it. May be repeated.
    Raises: StoreError: a newer version has been here, or the deployment is wrong; Unavailable.
    """
    known = shipped() if migrations is None else migrations

    async def apply(statements: Statements) -> int:
        await statements.execute(_LOCK, {"lock_key": lock_key("migrations")})
        await statements.execute(sql.CREATE_COLLATION)
        await statements.execute(sql.CREATE_MIGRATIONS)
        ((current,),) = (await statements.execute(sql.SELECT_VERSION)).rows
        wanted = missing(known, current)
        for migration in wanted:
            for statement in migration.statements:
                await statements.execute(_dialect(statement))
            row: sql.Params = {"version": migration.version, "name": migration.name, "applied_at_ms": now_ms}
            await statements.execute(sql.INSERT_MIGRATION, row)
        return len(wanted)

    return await api.write(apply, is_ddl=True)


def _dialect(statement: str) -> str:
    """A statement of a migration as it is right here: positions on DynamoDB are unique inside a conversation only."""
    return statement.replace("n bigint PRIMARY KEY", "n bigint NOT NULL")


def handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Called by CloudFormation, or by hand with an empty event."""
    composition = process("migration", TIMEOUTS)
    with composition.observing.invocation(context):
        if event.get("RequestType") == "Delete":
            return _answer(event, None, {})  # the data stay; the cluster has a deletion policy of its own
        try:
            applied = composition.run(apply_migrations(composition.aurora, now_ms=epoch_ms()))
        except Exception as exc:
            log.exception("the tables of Aurora could not be brought up to date")
            answer = _answer(event, f"{type(exc).__name__}: {exc}", {})
            if "ResponseURL" not in event:
                raise
            return answer
        log.info("the tables of Aurora are up to date", extra={"applied": applied})
        return _answer(event, None, {"Applied": applied})


def _answer(event: Mapping[str, Any], failure: str | None, data: Mapping[str, Any]) -> dict[str, Any]:
    """Answer CloudFormation, if it made the call."""
    answer: dict[str, Any] = {
        "Status": "SUCCESS" if failure is None else "FAILED",
        "PhysicalResourceId": RESOURCE_ID,
        **{name: event.get(name, "") for name in ("StackId", "RequestId", "LogicalResourceId")},
        "Data": dict(data),
    }
    if failure is not None:
        answer["Reason"] = f"{failure} The log of the migration function has more. Deploy again when it is repaired."
    if "ResponseURL" in event:
        _put(event["ResponseURL"], json.dumps(answer).encode())
    return answer


def _put(url: str, body: bytes) -> None:
    import urllib.request  # noqa: PLC0415 - only here

    # The URL is signed without a content type: S3 refuses the request if one is sent.
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310 - CloudFormation's
    with urllib.request.urlopen(request, timeout=ANSWER_TIMEOUT_S) as response:  # noqa: S310
        response.read()
