"""ports.Files on AWS: the bytes are in S3, and DynamoDB says how far each upload has come.

    up/<user>/<upload>/<number>      a piece; the bucket's lifecycle deletes it after 2 days
    blob/<user>/<sha256>-<bytes>     a whole file, verified; deleted 98 days after it was last completed

`<user>` is a digest of the id. An upload is an item `upload#<sha256>#<bytes>` in Conversations. What a user has begun
is an item of RateLimits, which sorts before the minutes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from botocore.exceptions import ClientError

from answerback.core.keys import digest
from answerback.core.uploads import DAY_MS, MAX_OPEN, UNFINISHED_MS, FileKey, NoRoom, Upload, examine, giving_way
from answerback.ports import Unavailable
from answerback_aws.runtime.client import Calls, error_code
from answerback_aws.runtime.dynamodb.database import TRIES, Database, Refused
from answerback_aws.runtime.dynamodb.items import Item, Value, decode, encode, expression, number_of, update_of
from answerback_aws.runtime.dynamodb.tables import TTL_ATTRIBUTE

PIECE_DAYS: Final = 2
FILE_DAYS: Final = 98
"""The bucket's lifecycle: longer than anything that may name a file (7 days young, then 90 days of its turn)."""

_KEPT_MS: Final = (FILE_DAYS - 1) * DAY_MS
"""The note goes before the bytes do."""

_BEGUN: Final = "#uploads"
_MISSING: Final = frozenset({"NoSuchKey", "404"})


@dataclass(frozen=True, slots=True)
class _Begun:
    """What a user has begun: `today` in bytes, and the `unfinished` uploads. `writes`: the item's version."""

    today: int
    unfinished: tuple[str, ...]
    writes: int | None


class S3Files:
    """ports.Files over a bucket, Conversations and RateLimits.

    `s3`: makes the client when a file is first dealt with; most processes never need one. `clock`: epoch milliseconds;
    it decides only what is past its time.
    """

    def __init__(
        self, database: Database, *, s3: Callable[[], Any], calls: Calls, bucket: str, clock: Callable[[], int]
    ) -> None:
        self._database = database
        self._table = database.tables.conversations
        self._limits = database.tables.rate_limits
        self._s3 = s3
        self._calls = calls
        self._bucket = bucket
        self._clock = clock

    async def upload(self, key: FileKey) -> Upload | None:
        found = await self._database.get(self._table, _key(key), consistent=True)
        if found is None or (number_of(found, TTL_ATTRIBUTE) or 0) <= self._clock() // 1000:
            return None
        return _upload_of(found)

    async def begin(self, key: FileKey, name: str, *, now_ms: int) -> Upload | NoRoom:
        """Begin in one transaction; what a user may begin on a day (UTC) is a condition of it.

        two fronts    A: read ─ transaction: the upload if there is none, what was begun if as read ─► A's
                      B: read ─── transaction refused ─ read ─► A's, or counted behind it
        """
        for attempt in range(TRIES):
            known = await self.upload(key)
            if known is not None:
                return known
            begun = await self._begun(key.user_id, now_ms)
            touched = dict.fromkeys(begun.unfinished, now_ms)
            if len(touched) >= MAX_OPEN:
                touched = await self._touched(key.user_id, begun.unfinished)
            leaving = giving_way(touched, begun_bytes=begun.today, size=key.size, now_ms=now_ms)
            if isinstance(leaving, NoRoom):
                return leaving
            new = Upload(name=name, begun_at_ms=now_ms)
            staying = tuple(place for place in touched if place != leaving)
            actions = [self._new(key, new), self._counted(key, new, replace(begun, unfinished=staying))]
            if leaving is not None:
                actions.append(self._left(key.user_id, leaving, touched[leaving]))
            if await self._database.transact(actions) is None:
                return new
            await self._database.pause(attempt)
        raise Unavailable("other uploads of the user were in the way again and again")

    async def _touched(self, user_id: str, places: Sequence[str]) -> dict[str, int]:
        """When something came last for each of the uploads that are unfinished still."""
        keys = {place: _key(_named(user_id, place)) for place in places}
        found = await self._database.get_many(self._table, list(keys.values()))
        known = {item["item"]["S"]: item for item in found}
        touched = {}
        for place, key in keys.items():
            item = known.get(str(key["item"]))
            if item is None or (number_of(item, TTL_ATTRIBUTE) or 0) <= self._clock() // 1000:
                continue
            upload = _upload_of(item)
            if upload.completed_at_ms is None and place == _place(_named(user_id, place), upload):
                touched[place] = number_of(item, "touchedAtMs") or 0
        return touched

    def _left(self, user_id: str, place: str, touched_at_ms: int) -> Any:
        """The upload is past its time, if nothing has come for it since it was read."""
        name = place.split("#")[1]
        return update_of(
            self._table,
            _key(_named(user_id, place)),
            "SET expiresAt = :now",
            "upload = :name AND touchedAtMs = :at AND attribute_not_exists(completedAtMs)",
            now=self._clock() // 1000,
            name=name,
            at=touched_at_ms,
        )

    async def _begun(self, user_id: str, now_ms: int) -> _Begun:
        values = {":u": user_id, ":w": _BEGUN}
        found = await self._database.query(self._limits, "userId = :u AND #window = :w", values, ConsistentRead=True)
        told = decode(found[0]) if found else {}
        unfinished = (one for one in told.get("unfinished", ()) if int(one.split("#")[0]) >= now_ms - UNFINISHED_MS)
        today = told["begunBytes"] if told.get("onDay") == now_ms // DAY_MS else 0
        return _Begun(today, tuple(unfinished), told.get("writes"))

    def _new(self, key: FileKey, new: Upload) -> dict[str, Any]:
        item = {
            **_key(key),
            "upload": new.name,
            "begunAtMs": new.begun_at_ms,
            "touchedAtMs": new.begun_at_ms,
            TTL_ATTRIBUTE: (new.begun_at_ms + UNFINISHED_MS) // 1000,
        }
        is_free = expression("", "attribute_not_exists(userId) OR expiresAt <= :now", now=self._clock() // 1000)
        return {"Put": {"TableName": self._table, "Item": encode(item), **is_free}}

    def _counted(self, key: FileKey, new: Upload, begun: _Begun) -> Any:
        seen = begun.writes
        return update_of(
            self._limits,
            {"userId": key.user_id, "window": _BEGUN},
            "SET onDay = :d, begunBytes = :b, unfinished = :open, writes = :w, expiresAt = :e",
            "attribute_not_exists(userId)" if seen is None else "writes = :seen",
            d=new.begun_at_ms // DAY_MS,
            b=begun.today + key.size,
            open=(*begun.unfinished, _place(key, new)),
            w=(seen or 0) + 1,
            e=(new.begun_at_ms + 2 * DAY_MS) // 1000,
            seen=seen,
        )

    async def put(self, key: FileKey, name: str, number: int, data: bytes, *, now_ms: int) -> None:
        """Keep the bytes, then the note that they are there.

        front    piece into S3, if none is there ──► its number, if the upload is unfinished and has this name
                                                  ▲
                 dies here: the app sends it again, and the first bytes stay
        """
        try:
            await self._put_object(_piece(key, name, number), data, IfNoneMatch="*")
        except ClientError as exc:
            if error_code(exc) == "ConditionalRequestConflict":
                raise Unavailable("the same piece is being written") from exc
            if error_code(exc) != "PreconditionFailed":
                raise
        is_open = "upload = :name AND attribute_not_exists(completedAtMs)"
        change = "SET touchedAtMs = :now ADD pieces :n"
        await self._database.update(self._table, _key(key), change, is_open, n=(number,), name=name, now=now_ms)

    async def complete(self, key: FileKey, name: str, *, content: str, now_ms: int) -> None:
        """Make the object young, then note that the file is.

        front    object copied onto itself, young again ──► completed, if the upload has this name ──► closed
                                                         ▲                                          ▲
                 dies here: the one that finds it full repeats it      dies here: it counts as open for a day
        """
        known = await self.upload(key)
        if known is None or known.name != name:
            return
        if not await self._renew(key) and not await self._join(key, known):
            await self._forget(key, known)
            return
        change = "SET completedAtMs = :at, content = :content, expiresAt = :e REMOVE pieces"
        expires_at = (now_ms + _KEPT_MS) // 1000
        facts: dict[str, Value] = {"at": now_ms, "content": content, "e": expires_at, "name": name}
        await self._database.update(self._table, _key(key), change, "upload = :name", **facts)
        if known.completed_at_ms is None:
            await self._close(key, known)

    async def _renew(self, key: FileKey) -> bool:
        """Copy the whole file onto itself; false: it is not there."""
        where = {"Bucket": self._bucket, "Key": _file(key)}
        try:
            await self._calls.run(self._s3().copy_object, **where, CopySource=where, MetadataDirective="REPLACE")
        except ClientError as exc:
            if error_code(exc) in _MISSING:
                return False
            raise
        return True

    async def _join(self, key: FileKey, known: Upload) -> bool:
        """Write the whole file from its pieces; false: they are gone."""
        data = b"" if known.completed_at_ms is not None else await self._pieces(key, known)
        if data:
            await self._put_object(_file(key), data)
        return bool(data)

    async def discard(self, key: FileKey, name: str) -> None:
        known = await self.upload(key)
        if known is not None and known.name == name and known.completed_at_ms is None:
            await self._forget(key, known)

    async def _forget(self, key: FileKey, known: Upload) -> None:
        """Let the upload be past its time, if it is as it was read. DynamoDB deletes it for free."""
        is_open = known.completed_at_ms is None
        condition = "upload = :name" + " AND attribute_not_exists(completedAtMs)" * is_open
        facts: dict[str, Value] = {"now": self._clock() // 1000, "name": known.name}
        found = await self._database.update(self._table, _key(key), "SET expiresAt = :now", condition, **facts)
        if is_open and not isinstance(found, Refused):
            await self._close(key, known)

    async def _close(self, key: FileKey, known: Upload) -> None:
        """It is no longer one of the user's unfinished uploads."""
        change, place = "DELETE unfinished :place ADD writes :one", (_place(key, known),)
        begun: dict[str, Value] = {"userId": key.user_id, "window": _BEGUN}
        await self._database.update(self._limits, begun, change, "attribute_exists(userId)", place=place, one=1)

    async def examine(self, key: FileKey) -> str | None:
        """The file is written whole as soon as its bytes are known to be those of its name."""
        known = await self.upload(key)
        data = b"" if known is None else await self._pieces(key, known)
        content = await asyncio.to_thread(examine, key, data)
        if content is not None:
            await self._put_object(_file(key), data)
        return content

    async def read_file(self, key: FileKey) -> bytes | None:
        known = await self.upload(key)
        if known is None:
            return None
        return await (self._pieces(key, known) if known.completed_at_ms is None else self._object(_file(key)))

    async def read_range(self, key: FileKey, offset: int, count: int) -> bytes | None:
        """A whole file was verified before it was written, so nothing else is asked."""
        return await self._object(_file(key), Range=f"bytes={offset}-{offset + count - 1}")

    async def purge_files(self, *, now_ms: int) -> int:
        """Does nothing: items have their time to live, and objects the lifecycle of their bucket."""
        return 0

    # --- all of a user

    async def objects(self, user_id: str) -> AsyncIterator[tuple[str, bytes]]:
        for names in await self._calls.run(self._names, user_id=user_id):
            for name in names:
                data = await self._object(name)
                if data is not None:
                    yield name, data

    async def erase(self, user_id: str) -> bool:
        """Delete the user's objects; whether there were any. A call that is under way may leave one behind it."""
        batches = await self._calls.run(self._names, user_id=user_id)
        for names in batches:
            told = {"Objects": [{"Key": name} for name in names], "Quiet": True}
            answer = await self._calls.run(self._s3().delete_objects, Bucket=self._bucket, Delete=told)
            if answer.get("Errors"):
                raise Unavailable(f"S3 could not delete {len(answer['Errors'])} objects of the user")
        return bool(batches)

    def _names(self, user_id: str) -> list[list[str]]:
        return [names for folder in ("up", "blob") for names in self._pages(f"{folder}/{_folder(user_id)}/")]

    def _pages(self, prefix: str) -> Iterator[list[str]]:
        pages = self._s3().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            if "Contents" in page:
                yield [one["Key"] for one in page["Contents"]]

    # --- objects

    async def _pieces(self, key: FileKey, known: Upload) -> bytes:
        names = [_piece(key, known.name, number) for number in sorted(known.have)]
        return b"".join([piece or b"" for piece in await asyncio.gather(*map(self._object, names))])

    async def _object(self, name: str, **only: str) -> bytes | None:
        def read() -> bytes:
            data: bytes = self._s3().get_object(Bucket=self._bucket, Key=name, **only)["Body"].read()
            return data

        try:
            return await self._calls.run(read)
        except ClientError as exc:
            if error_code(exc) in _MISSING:
                return None
            raise

    async def _put_object(self, name: str, data: bytes, **condition: str) -> None:
        await self._calls.run(self._s3().put_object, Bucket=self._bucket, Key=name, Body=data, **condition)


def _upload_of(item: Item) -> Upload:
    told = decode(item)
    return Upload(
        name=told["upload"],
        begun_at_ms=told["begunAtMs"],
        completed_at_ms=told.get("completedAtMs"),
        content=told.get("content", ""),
        have=frozenset(told.get("pieces", ())),
    )


def _key(key: FileKey) -> dict[str, Value]:
    return {"userId": key.user_id, "item": f"upload#{key.sha256}#{key.size}"}


def _place(key: FileKey, upload: Upload) -> str:
    """The upload among those that are unfinished, with the time that it began."""
    return f"{upload.begun_at_ms}#{upload.name}#{key.sha256}#{key.size}"


def _named(user_id: str, place: str) -> FileKey:
    """The file of an unfinished upload."""
    _, _, sha256, size = place.split("#")
    return FileKey(user_id, sha256, int(size))


def _folder(user_id: str) -> str:
    return digest("files", user_id)


def _piece(key: FileKey, name: str, number: int) -> str:
    return f"up/{_folder(key.user_id)}/{name}/{number}"


def _file(key: FileKey) -> str:
    return f"blob/{_folder(key.user_id)}/{key.sha256}-{key.size}"
