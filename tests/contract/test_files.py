"""Files in pieces: what every store of them promises."""

import hashlib
from typing import Any

import pytest

from answerback.core.uploads import (
    DAY_MS,
    IDLE_MS,
    MAX_DAILY_BYTES,
    MAX_OPEN,
    SWEEP_MARGIN_MS,
    UNFINISHED_MS,
    YOUNG_MS,
    FileKey,
    NoRoom,
    Upload,
)
from answerback.protocol.frames import Attachment
from answerback.protocol.limits import MAX_ATTACHMENT_BYTES, PIECE_BYTES
from dynamo import NOW_MS

DATA = bytes(range(256)) * 600
"""Two whole pieces and a rest, of bytes that no text has."""


def key_of(data: bytes = DATA, user: str = "ann") -> FileKey:
    return FileKey(user, hashlib.sha256(data).hexdigest(), len(data))


def piece(number: int, data: bytes = DATA) -> bytes:
    return data[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]


async def bring(store: Any, now_ms: int, data: bytes = DATA, *, user: str = "ann", name: str = "") -> Upload:
    key = key_of(data, user)
    begun = await store.begin(key, name or f"up-{user}-{key.sha256}", now_ms=now_ms)
    for number in range(key.pieces):
        await store.put(key, begun.name, number, piece(number, data), now_ms=now_ms)
    await store.complete(key, begun.name, content="text/plain", now_ms=now_ms)
    return await store.upload(key)


async def test_pieces_come_in_any_order_and_the_first_data_of_each_stay(store):
    key = key_of()
    assert await store.upload(key) is None
    assert await store.read_file(key) is None
    begun = await store.begin(key, "up", now_ms=NOW_MS)
    assert begun == Upload(name="up", begun_at_ms=NOW_MS)
    assert begun.offset(key) == 0
    await store.put(key, "up", 2, piece(2), now_ms=NOW_MS)
    assert (await store.upload(key)).offset(key) == 0
    await store.put(key, "up", 0, piece(0), now_ms=NOW_MS)
    await store.put(key, "up", 0, b"x" * PIECE_BYTES, now_ms=NOW_MS)
    assert (await store.upload(key)).offset(key) == PIECE_BYTES
    assert (await store.upload(key)).have == {0, 2}
    await store.put(key, "up", 1, piece(1), now_ms=NOW_MS)
    assert (await store.upload(key)).offset(key) == key.size
    assert await store.read_file(key) == DATA


async def test_a_whole_file_is_read_from_any_byte(store):
    key = key_of()
    begun = await store.begin(key, "up", now_ms=NOW_MS)
    for number in range(key.pieces):
        await store.put(key, begun.name, number, piece(number), now_ms=NOW_MS)
    assert await store.read_range(key, 0, 9) is None  # nobody has verified it
    assert await store.examine(key) is not None
    await store.complete(key, "up", content="", now_ms=NOW_MS)
    for offset in (0, 1, PIECE_BYTES - 1, PIECE_BYTES, key.size - 1):
        for count in (1, 24_000, PIECE_BYTES + 2):
            assert await store.read_range(key, offset, count) == DATA[offset : offset + count], (offset, count)
    assert await store.read_range(key_of(user="bob"), 0, 9) is None


async def test_an_upload_and_what_it_has_survive_a_restart(backend):
    if type(backend).__name__ == "MemoryBackend":
        return
    store = await backend.open()
    await store.begin(key_of(), "up", now_ms=NOW_MS)
    await store.put(key_of(), "up", 1, piece(1), now_ms=NOW_MS)
    store = await backend.reopen()
    assert (await store.upload(key_of())).have == {1}


async def test_pieces_of_another_upload_and_of_another_user_are_not_kept(store):
    key = key_of()
    await store.begin(key, "up", now_ms=NOW_MS)
    assert (await store.begin(key, "again", now_ms=NOW_MS + 1_000)).name == "up"
    await store.put(key, "again", 0, piece(0), now_ms=NOW_MS)
    await store.put(key_of(user="bob"), "up", 0, piece(0), now_ms=NOW_MS)
    assert (await store.upload(key)).have == frozenset()
    assert await store.upload(key_of(user="bob")) is None


async def test_a_discarded_upload_begins_anew_and_a_whole_file_is_not_discarded(store):
    key = key_of()
    await store.begin(key, "up", now_ms=NOW_MS)
    await store.put(key, "up", 0, piece(0), now_ms=NOW_MS)
    await store.discard(key, "up")
    assert await store.upload(key) is None
    whole = await bring(store, NOW_MS + 1_000, name="second")
    assert (whole.name, whole.completed_at_ms, whole.content) == ("second", NOW_MS + 1_000, "text/plain")
    await store.discard(key, "second")
    assert await store.upload(key) == whole
    assert await store.read_file(key) == DATA


async def test_what_a_user_may_begin_is_bounded(store):
    for number in range(MAX_OPEN):
        begun = await store.begin(key_of(b"%d" % number), f"up-{number}", now_ms=NOW_MS + number)
        assert isinstance(begun, Upload)
    now_ms = NOW_MS + 1_000
    assert await store.begin(key_of(), "one more", now_ms=now_ms) == NoRoom(IDLE_MS - 1_000)
    assert isinstance(await store.begin(key_of(user="bob"), "of bob", now_ms=now_ms), Upload)
    assert (await store.begin(key_of(b"0"), "known", now_ms=now_ms)).name == "up-0"
    await store.complete(key_of(b"0"), "up-0", content="", now_ms=now_ms)
    assert isinstance(await store.begin(key_of(), "one more", now_ms=now_ms), Upload)


async def test_the_upload_that_nothing_comes_for_gives_way_and_the_time_told_is_the_truth(store):
    for number in range(MAX_OPEN):
        await store.begin(key_of(b"%d" % number), f"up-{number}", now_ms=NOW_MS + number)
    await store.put(key_of(b"0"), "up-0", 0, b"0", now_ms=NOW_MS + 20_000)
    told = await store.begin(key_of(), "more", now_ms=NOW_MS + 25_000)
    assert told == NoRoom(IDLE_MS - 25_000 + 1)
    assert isinstance(await store.begin(key_of(), "more", now_ms=NOW_MS + 25_000 + told.wait_ms - 1), NoRoom)
    assert (await store.begin(key_of(), "more", now_ms=NOW_MS + 25_000 + told.wait_ms)).name == "more"
    assert await store.upload(key_of(b"1")) is None
    assert (await store.upload(key_of(b"0"))).have == {0}
    await store.put(key_of(b"1"), "up-1", 0, b"1", now_ms=NOW_MS + 40_000)  # its app was only slow
    again = await store.begin(key_of(b"1"), "again", now_ms=NOW_MS + 40_000)
    assert (again.name, again.have) == ("again", frozenset())
    assert await store.upload(key_of(b"2")) is None


async def test_what_a_user_may_begin_in_a_day_is_bounded_also_if_it_is_not_finished(store):
    def large(number: int) -> FileKey:
        return FileKey("ann", f"{number:064x}", MAX_ATTACHMENT_BYTES)

    most, day_ms = MAX_DAILY_BYTES // MAX_ATTACHMENT_BYTES, NOW_MS // DAY_MS * DAY_MS
    for number in range(most):
        begun = await store.begin(large(number), f"up-{number}", now_ms=day_ms + number * IDLE_MS)
        assert isinstance(begun, Upload), number  # the oldest ones have given way
    refused = await store.begin(large(most), "more", now_ms=day_ms + DAY_MS - 7)
    assert refused == NoRoom(7)
    assert isinstance(await store.begin(large(most), "more", now_ms=day_ms + DAY_MS), Upload)


@pytest.mark.purging
async def test_unfinished_uploads_go_after_a_day(store):
    await store.begin(key_of(), "up", now_ms=NOW_MS)
    await store.put(key_of(), "up", 0, piece(0), now_ms=NOW_MS)
    assert await store.purge_files(now_ms=NOW_MS + UNFINISHED_MS) == 0
    assert await store.purge_files(now_ms=NOW_MS + 1 + UNFINISHED_MS) == 1
    assert await store.upload(key_of()) is None
    again = await store.begin(key_of(), "up", now_ms=NOW_MS + 1_000)
    assert again.have == frozenset()


async def named(store: Any, actor: Any) -> Attachment:
    """A file that the question of a turn has named."""
    file = Attachment(sha256=key_of().sha256, size=len(DATA), media_type="text/plain", name="a.txt")
    await actor.accept("r1", attachments=(file,))
    question = await store.question(actor.record("r1").key)
    assert question.attachments == (file,)
    await actor.claim("r1")
    await actor.finish("r1")
    return file


async def test_a_turn_says_which_files_its_question_had(store, actor):
    file = await named(store, actor)
    (recent,) = await store.recent_turns("ann", "c1", limit=9)
    assert recent.attachments == (file,)
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert turn.attachments == (file,)


@pytest.mark.purging
async def test_a_whole_file_lives_longer_than_what_names_it(store, actor):
    other = b"another file"
    whole = await bring(store, actor.now_ms)
    await bring(store, actor.now_ms, other)
    file = await named(store, actor)
    late_ms = actor.now_ms + YOUNG_MS + SWEEP_MARGIN_MS
    assert whole.may_be_named(actor.now_ms + YOUNG_MS - 1)
    assert not whole.may_be_named(actor.now_ms + YOUNG_MS)
    assert await store.purge_files(now_ms=late_ms) == 0
    assert await store.purge_files(now_ms=late_ms + 1) == 1
    assert await store.upload(key_of(other)) is None
    await store.purge(ended_before_ms=late_ms, refused_before_ms=0)
    (turn,) = await store.turns("ann", "c1", before=None, limit=9)
    assert turn.attachments == (file,)
    assert await store.purge_files(now_ms=late_ms + 1) == 0
    assert await store.read_file(key_of()) == DATA
    await store.update_conversation("ann", "c1", title=None, deleted=True, now_ms=actor.now_ms)
    await store.purge_deleted(before_ms=late_ms)
    assert await store.purge_files(now_ms=late_ms + 1) == 1
    assert await store.read_file(key_of()) is None


async def test_an_old_file_that_is_completed_again_is_young_again(store):
    whole = await bring(store, NOW_MS)
    await store.complete(key_of(), whole.name, content="text/plain", now_ms=NOW_MS + 4_000)
    assert (await store.upload(key_of())).completed_at_ms == NOW_MS + 4_000


async def test_files_are_erased_with_their_user(store):
    await bring(store, NOW_MS)
    await bring(store, NOW_MS, user="bob")
    await store.begin(key_of(b"half"), "half", now_ms=NOW_MS)
    assert await store.delete_user("ann")
    assert await store.upload(key_of()) is None
    assert await store.upload(key_of(b"half")) is None
    assert await store.read_file(key_of(user="bob")) == DATA
    await store.begin(key_of(), "anew", now_ms=NOW_MS)
    assert (await store.upload(key_of())).have == frozenset()


@pytest.mark.purging
async def test_a_piece_that_came_as_its_upload_was_deleted_goes_with_the_next_sweep(backend):
    store = await backend.open()
    orphan = {"upload": "gone", "piece": 0, "data": b"x"}
    insert = "INSERT INTO pieces (upload, piece, data) VALUES (:upload, :piece, :data)"
    await store._group.call(lambda database: database.execute(insert, orphan))
    kept = await bring(store, 1_000)
    await store.purge_files(now_ms=2_000)
    rows = await store._rows("SELECT DISTINCT upload FROM pieces")
    assert rows == [(kept.name,)]
