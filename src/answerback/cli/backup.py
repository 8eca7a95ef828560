"""`answerback backup` and `answerback restore`: the store of a gateway as a folder that is checked, and back."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
import typer

from answerback.cli.options import Json, StoreOptions, with_options
from answerback.cli.output import CliError, extra_needed, say_result
from answerback.cli.settings import load_store
from answerback.clock import epoch_ms
from answerback.stores import StoreError

if TYPE_CHECKING:
    from answerback.stores.backup import Manifest

LAST: Final = "backup.json"
"""In the data folder: when the store was last backed up, and where to. For `answerback doctor`."""

_Folder: TypeAlias = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the backup.")]


class LastBackup(msgspec.Struct, rename="camel"):
    """The newest backup of a store."""

    made_at_ms: int
    folder: str


@with_options
def backup(*, folder: _Folder, place: StoreOptions, as_json: Json = False) -> None:
    """Copy the store into a new folder, and check the copy. A gateway may run.

    The copy is the store at one instant. It is read again, and every row in it is counted. A PostgreSQL database needs
    PostgreSQL's own pg_dump. FOLDER.part is a copy that was interrupted, and no backup.
    """
    settings = load_store(place).gateway
    folder = folder.absolute()
    try:
        if settings.database is None:
            from answerback.stores.backup import backup_sqlite  # noqa: PLC0415 - as the database

            manifest = backup_sqlite(settings.data_dir, folder, now_ms=epoch_ms())
        else:
            with extra_needed("PostgreSQL", "postgres"):
                from answerback.stores.postgres_backup import backup_postgres  # noqa: PLC0415
            manifest = backup_postgres(settings.database, folder, now_ms=epoch_ms())
    except StoreError as exc:
        raise CliError(str(exc).rstrip(".")) from exc
    with suppress(OSError):
        last = LastBackup(made_at_ms=manifest.made_at_ms, folder=str(folder))
        (settings.data_dir / LAST).write_bytes(msgspec.json.encode(last))
    _show(manifest, folder, as_json=as_json)


@with_options
def restore(*, folder: _Folder, place: StoreOptions, as_json: Json = False) -> None:
    """Make the store of a backup, where there is none, and check it.

    Nothing is overwritten. Start the gateway afterwards: it goes on with the requests that had not ended, and those
    whose time is over end as `timeout`.
    """
    settings = load_store(place).gateway
    try:
        if settings.database is None:
            from answerback.stores.backup import restore_sqlite  # noqa: PLC0415 - as the database

            manifest = restore_sqlite(folder, settings.data_dir)
        else:
            with extra_needed("PostgreSQL", "postgres"):
                from answerback.stores.postgres_backup import restore_postgres  # noqa: PLC0415
            manifest = restore_postgres(folder, settings.database)
    except StoreError as exc:
        raise CliError(str(exc).rstrip(".")) from exc
    _show(manifest, folder, as_json=as_json)


def _show(manifest: "Manifest", folder: Path, *, as_json: bool) -> None:
    rows = manifest.content.rows
    made = datetime.fromtimestamp(manifest.made_at_ms / 1000).strftime("%Y-%m-%d %H:%M:%S")
    users, conversations, requests = (rows[name] for name in ("users", "conversations", "requests"))
    store = manifest.content.store_id or "-"
    say_result(
        {"folder": str(folder), **msgspec.to_builtins(manifest)},
        f"{folder}: checked. Users: {users}, conversations: {conversations}, requests: {requests}, as of {made}, "
        f"store {store}",
        as_json=as_json,
    )


def last_backup(data_dir: Path) -> LastBackup | None:
    """The newest backup that was made with this data folder, as far as is known."""
    try:
        return msgspec.json.decode((data_dir / LAST).read_bytes(), type=LastBackup)
    except (OSError, msgspec.MsgspecError):
        return None
