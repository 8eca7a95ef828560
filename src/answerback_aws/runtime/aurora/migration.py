"""The tables of Aurora: made on an empty database, brought up to date on an older one."""

from collections.abc import Sequence
from typing import Final

from answerback.stores import statements as sql
from answerback.stores.migrations import Migration, lock_key, missing, shipped
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.aurora.operations import LOCK_TIMEOUT_SQL

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
