"""Where requests, conversations and users are kept: memory, one SQLite file, or PostgreSQL."""

import os
from pathlib import Path
from typing import Final

from answerback.stores.database import StoreError, StoreInUse
from answerback.stores.store import SqlStore

__all__ = ["SqlStore", "StoreError", "StoreInUse", "open_store"]

FILE_NAME: Final = "answerback.db"
_POSTGRES: Final = ("postgresql://", "postgres://")


async def open_store(database: str | None, data_dir: Path, *, node: str | None = None) -> SqlStore:
    """Open the store of a gateway; `close` it in the end.

    Args: database: None for the SQLite file `answerback.db` in `data_dir` (made if it is not there), or a
        `postgresql://` URL. node: the name of this gateway among several on the database; None: it is the only one.
    Raises: StoreError: the text says what to do.
    """
    store = _sqlite(data_dir) if database is None else _postgres(database, node)
    await store.open()
    return store


def _sqlite(data_dir: Path) -> SqlStore:
    from answerback.stores.sqlite import SqliteStore  # noqa: PLC0415 - functions on AWS have no package for its lock

    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"The data folder {data_dir} cannot be made ({exc.strerror}). Choose another one with --data-dir."
        ) from exc
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise StoreError(
            f"The data folder {data_dir} is not writable. Make it writable for this user, or choose another one with "
            "--data-dir."
        )
    return SqliteStore(data_dir / FILE_NAME)


def _postgres(url: str, node: str | None) -> SqlStore:
    if not url.startswith(_POSTGRES):
        raise StoreError("--database takes a URL like postgresql://user@host/name. Without it, an SQLite file is used.")
    try:
        from answerback.stores.fleet import FleetStore  # noqa: PLC0415 - psycopg is an extra
        from answerback.stores.postgres import PostgresStore  # noqa: PLC0415
    except ImportError as exc:
        raise StoreError("PostgreSQL needs one more package. Install it: pip install '.[postgres]'") from exc
    return PostgresStore(url) if node is None else FleetStore(url, node=node)
