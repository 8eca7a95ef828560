"""The tables of Aurora: made on an empty database, brought up to date on an older one."""

from collections.abc import Sequence
from typing import Final

from answerback.stores.migrations import Migration, migrate, shipped
from answerback.stores.query import Operation, Query
from answerback_aws.runtime.aurora.data_api import DataApi, Statements
from answerback_aws.runtime.aurora.operations import LOCK_TIMEOUT_SQL, lock_key

_LOCK: Final = f"SELECT CAST(pg_advisory_xact_lock(:lock_key) AS text) WHERE {LOCK_TIMEOUT_SQL}"

# SQLite's own collation by that name; a name of "C" here.
_CREATE_COLLATION: Final = """CREATE COLLATION IF NOT EXISTS "binary" FROM "C" """


async def apply_migrations(api: DataApi, *, now_ms: int, migrations: Sequence[Migration] | None = None) -> int:
    """Apply what is missing of the shipped files (or of `migrations`), in order, all or nothing; returns how many.

    Of several that do so at once one does and the others wait for it. May be repeated.
    Raises: StoreError: a newer version has been here, or the deployment is wrong; Unavailable.
    """
    wanted = shipped() if migrations is None else migrations

    async def apply(statements: Statements) -> int:
        await statements.run(_prepare())
        return await statements.run(migrate(wanted, now_ms=now_ms))

    return await api.write(apply, is_ddl=True)


def _prepare() -> Operation[None]:
    yield [Query(_LOCK, {"lock_key": lock_key("answerback migrations")}), Query(_CREATE_COLLATION, {})]
