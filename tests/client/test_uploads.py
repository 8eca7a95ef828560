"""Files with questions: byte for byte, whatever happens to connections, servers and the files themselves."""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import os
import random
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from answerback.client import (
    Attachment,
    AttachmentMissing,
    BlockingClient,
    Client,
    File,
    Overloaded,
    PendingRequest,
    ProtocolViolation,
    Queued,
    RequestCancelled,
    RequestFailed,
    RequestTimeout,
    Timing,
    Uploading,
)
from answerback.client.effects import Effect, Fail, FilesWanted, Send
from answerback.client.exchange import Timeouts
from answerback.client.session import Session
from answerback.client.uploads import _MAX_RESTARTS, PIECES_OUT, bring, fetch, files_of
from answerback.gateway.app import Gateway
from answerback.gateway.settings import GatewaySettings
from answerback.ports import Quota
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    AttachmentPiece,
    CancelMessage,
    Error,
    GetAttachment,
    ModelInfo,
    PutPiece,
    SendMessage,
    UploadState,
    Welcome,
)
from answerback.protocol.limits import (
    MAX_ATTACHED_BYTES,
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    PIECE_BYTES,
    RETURNED_BYTES,
)
from answerback.service.front_settings import FrontSettings
from answerback.testing import run_virtual

QUICK = Timing(backoff_min_s=0.001, backoff_max_s=0.002, call_timeout_s=0.3, silence_s=0.2)
BYTES = random.Random(1).randbytes(5 * PIECE_BYTES + 17)
PNG = b"\x89PNG\r\n\x1a\n" + BYTES


@pytest.fixture
async def start(tmp_path):
    async with contextlib.AsyncExitStack() as stack:

        async def start(*models: str, **settings: Any):
            settings = {"models": models or ("python:files_model:make",), "rate_limit": 0, **settings}
            chosen = GatewaySettings(port=0, admin_port=None, data_dir=tmp_path / "data", grace_s=0.1, **settings)
            (tmp_path / "data").mkdir(exist_ok=True)
            return await stack.enter_async_context(Gateway(chosen))

        yield start


def told(*files: tuple[str, str, bytes]) -> str:
    return "".join(f"{name} {media_type} {hashlib.sha256(data).hexdigest()}\n" for name, media_type, data in files)


class KeptOutbox:
    def __init__(self) -> None:
        self.kept: dict[str, PendingRequest] = {}

    def load(self) -> list[PendingRequest]:
        return [PendingRequest.from_dict(one.to_dict()) for one in self.kept.values()]

    def save(self, pending: PendingRequest) -> None:
        self.kept[pending.frame.request_id] = pending

    def ended(self, request_id: str, outcome: object) -> None:
        self.kept.pop(request_id, None)


async def test_files_go_with_a_question_and_stand_in_the_history(start, tmp_path):
    gateway = await start()
    note = tmp_path / "메모.md"
    note.write_text("# 안녕\n" * 20_000)
    async with Client(gateway.url, user="kim") as app:
        answer = await app.ask("What is it?", attachments=[note, File(name="a.png", data=PNG)], conversation="c")
        expected = told(("메모.md", "text/markdown", note.read_bytes()), ("a.png", "image/png", PNG))
        assert answer.text == expected
        (turn,) = [turn async for turn in app.history("c")]
        assert [(one.name, one.size) for one in turn.attachments] == [
            ("메모.md", note.stat().st_size),
            ("a.png", len(PNG)),
        ]


async def test_every_piece_is_cut_and_the_bytes_are_exact(start):
    gateway = await start()
    async with Client(gateway.url, timing=QUICK) as app:
        stream = app.stream("What is it?", attachments=[File(name="a.png", data=PNG), File(name="b.txt", data=b"x")])
        sent = []
        async for event in stream.events():
            if isinstance(event, Uploading):
                sent.append(event.sent_bytes)
                for link in list(app._driver._links.values()):
                    link.abort()
        assert (await stream.answer).text == told(("a.png", "image/png", PNG), ("b.txt", "text/plain", b"x"))
        assert sent == sorted(sent)
        assert sent[-1] == len(PNG) + 1


async def test_a_file_that_the_server_has_is_not_sent_again(start, monkeypatch):
    gateway = await start()
    async with Client(gateway.url, user="kim") as app:
        await app.ask("one", attachments=[File(name="a.png", data=PNG)])
    put = []
    async with Client(gateway.url, user="kim") as app:
        call = app._call

        async def watched(request_id, frame, kind):
            put.append(len(frame.data))
            return await call(request_id, frame, kind)

        monkeypatch.setattr(app, "_call", watched)
        await app.ask("two", attachments=[File(name="b.png", data=PNG)])
    assert put == [0]


async def test_a_question_with_files_keeps_its_place_in_its_conversation(start):
    gateway = await start()
    async with Client(gateway.url) as app:
        first = app.stream("first", attachments=[File(name="a.png", data=PNG)], conversation="c")
        second = app.stream("second", conversation="c")
        await asyncio.gather(first.answer, second.answer)
        assert [turn.question async for turn in app.history("c")] == ["second", "first"]


async def test_a_question_of_an_earlier_run_brings_its_files_again(start, tmp_path):
    gateway = await start()
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG)
    outbox = KeptOutbox()
    async with Client("ws://127.0.0.1:9", session="s", offline_start=True, outbox=outbox) as app:
        app.stream("What is it?", attachments=[picture])
        assert [one.paths for one in app.pending()] == [(str(picture),)]
    assert [one.paths for one in outbox.kept.values()] == [(str(picture),)]
    async with Client(gateway.url, session="s", outbox=outbox) as app:
        (stream,) = app.restored
        assert (await stream.answer).text == told(("a.png", "image/png", PNG))
    assert outbox.kept == {}


@pytest.mark.parametrize("what", ["gone", "changed", "only in memory"])
async def test_a_file_that_is_not_there_any_more_ends_its_question_in_words(start, tmp_path, what):
    gateway = await start()
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG)
    outbox = KeptOutbox()
    async with Client("ws://127.0.0.1:9", session="s", offline_start=True, outbox=outbox) as app:
        app.stream("?", attachments=[File(name="a.png", data=PNG) if what == "only in memory" else picture])
    if what == "gone":
        picture.unlink()
    elif what == "changed":
        picture.write_bytes(PNG + b"!")
    async with Client(gateway.url, session="s", outbox=outbox) as app:
        (stream,) = app.restored
        with pytest.raises(AttachmentMissing, match=r"a\.png is not there any more as it was. Attach it again"):
            await stream.answer
    assert outbox.kept == {}


def test_a_file_waits_until_uploads_that_were_left_behind_give_way() -> None:
    waits_ms, told, signs = [30_000, None, 1, None, 3_600_000], list[int](), list[int]()

    async def put(frame: PutPiece) -> UploadState:
        assert frame.offset == 0
        told.append(len(frame.data))
        if (wait_ms := waits_ms.pop(0)) is not None:
            raise Overloaded("overloaded", "too many", retryable=True, retry_after_ms=wait_ms)
        return UploadState(
            request_id=frame.request_id,
            sha256=frame.sha256,
            size=frame.size,
            upload="u",
            offset=len(frame.data),
            complete=bool(frame.data),
        )

    async def main() -> None:
        begun = asyncio.get_running_loop().time()
        await bring(File(name="a", data=b"x" * 10), put, progress=signs.append)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(30.001)
        with pytest.raises(Overloaded):  # tomorrow
            await bring(File(name="a", data=b"x" * 10), put)

    run_virtual(main())
    assert told == [0, 0, 10, 10, 0]
    assert signs == [0, 0, 0, 10]


async def test_cancelling_stops_an_upload(start, monkeypatch):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def put(_: PutPiece) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    gateway = await start()
    async with Client(gateway.url) as app, asyncio.timeout(10):
        monkeypatch.setattr(app._uploads, "_put", put)
        stream = app.stream("?", attachments=[File(name="a.png", data=PNG)])
        await begun.wait()
        stream.cancel()
        with pytest.raises(RequestCancelled):
            await stream.answer
        await ended.wait()
        assert app.pending() == []
        assert app._uploads._uploads == {}
        begun.clear()
        ended.clear()
        app.stream("?", attachments=[File(name="a.png", data=PNG)])
        await begun.wait()
        await app._uploads.close()
        assert ended.is_set()


async def test_pieces_are_as_large_as_the_server_says_and_signs_of_life(gateway, monkeypatch) -> None:
    gateway.features, gateway.greets = ("attachments",), False
    signs = list[float]()
    async with Client(gateway.url, offline_start=True) as app:
        monkeypatch.setattr(app._session, "bringing", lambda *, now: signs.append(now) or [])
        peer = await gateway.peer()
        await peer.welcome(await peer.get("hello"), model_info={"echo": {"attachments": ["text"]}}, pieceBytes=7)
        stream = app.stream("?", attachments=[File(name="a", data=b"x" * 10)])
        look = await peer.get("putPiece")
        state = {"upload": "u", "offset": 0, "complete": False, "sha256": look["sha256"], "bytes": 10}
        await peer.send({"action": "uploadState", "requestId": look["requestId"], **state})
        pieces = [await peer.get("putPiece") for _ in range(2)]
        assert sorted((piece.get("offset", 0), len(base64.b64decode(piece["data"]))) for piece in pieces) == [
            (0, 7),
            (7, 3),
        ]
        assert signs
        stream.cancel()


async def test_a_file_of_many_pieces_counts_from_the_highest_answer_on() -> None:
    arrived, uploads, file = 0, ["first"], File(name="a", data=bytes(range(10 * PIECES_OUT)))

    async def put(frame: PutPiece) -> UploadState:
        nonlocal arrived
        if frame.data and frame.upload == uploads[-1]:
            arrived = max(arrived, frame.offset + len(frame.data))
        if arrived == 4 * PIECES_OUT and len(uploads) == 1:  # what has come is lost, and another upload begins
            uploads.append("second")
            arrived = 0
        return UploadState(
            request_id="r",
            sha256=frame.sha256,
            size=frame.size,
            upload=uploads[-1],
            offset=arrived,
            complete=arrived == frame.size,
        )

    signs: list[int] = []
    await bring(file, put, piece_bytes=1, progress=signs.append)
    rounds = [PIECES_OUT * number for number in range(11)]
    assert signs == [*rounds[:4], *rounds]


@pytest.mark.parametrize("retry_after_ms", [None, 0, -1])
async def test_a_refusal_that_names_no_time_is_the_end(retry_after_ms: int | None) -> None:
    async def put(_: PutPiece) -> UploadState:
        raise Overloaded("overloaded", "no", retryable=True, retry_after_ms=retry_after_ms)

    async with asyncio.timeout(5):
        with pytest.raises(Overloaded):
            await bring(File(name="a", data=b"x"), put)


async def test_a_file_that_never_becomes_whole_is_given_up() -> None:
    rounds = 0

    async def put(frame: PutPiece) -> UploadState:
        nonlocal rounds
        rounds += bool(frame.data)
        return UploadState(request_id="r", sha256=frame.sha256, size=frame.size, upload="u", offset=0, complete=False)

    with pytest.raises(ProtocolViolation, match="does not become whole"):
        await bring(File(name="a", data=b"x"), put)
    assert rounds == 1 + _MAX_RESTARTS


def test_a_piece_that_is_refused_leaves_no_other_behind() -> None:
    out = 0

    async def put(frame: PutPiece) -> UploadState:
        nonlocal out
        if frame.data:
            out += 1
            await asyncio.sleep(frame.offset)
            out -= 1
            raise RequestFailed("forbidden", "no", retryable=False)
        return UploadState(request_id="r", sha256=frame.sha256, size=frame.size, upload="u", offset=0, complete=False)

    async def main() -> None:
        with pytest.raises(RequestFailed):
            await bring(File(name="a", data=b"x" * 10), put, piece_bytes=4)
        assert out == 0

    run_virtual(main())


async def test_an_upload_without_a_server_ends_as_a_time_out(tmp_path):
    async with Client("ws://127.0.0.1:9", offline_start=True, timing=QUICK) as app:
        with pytest.raises(RequestTimeout):
            await app.ask("?", attachments=[File(name="a.png", data=PNG)], timeout=0.5)
        assert app._uploads._uploads == {}


async def test_what_the_model_cannot_read_is_refused_before_anything_is_billed(start):
    gateway = await start("echo")
    async with Client(gateway.url) as app:
        with pytest.raises(RequestFailed, match="This model takes no files of the type image/png"):
            await app.ask("?", attachments=[File(name="a.png", data=PNG)])
        assert app.model_info().attachments == ("text",)


async def sent(gateway: Gateway, *files: File) -> Attachment:
    async with Client(gateway.url, user="kim") as app:
        await app.ask("?", attachments=files, conversation="c")
        (turn,) = [turn async for turn in app.history("c")]
        return turn.attachments[0]


async def test_a_file_of_the_history_comes_back_through_cuts_of_every_piece(start):
    gateway = await start()
    named = await sent(gateway, File(name="보고서.png", data=PNG))
    arrived: list[int] = []
    async with Client(gateway.url, user="kim", timing=replace(QUICK, call_timeout_s=5)) as app:

        def cut(count: int) -> None:
            arrived.append(count)
            for link in list(app._driver._links.values()):
                link.abort()

        file = await app.attachment(named, progress=cut)
        assert (file.name, file.media_type, file.data) == ("보고서.png", "image/png", PNG)
    assert arrived == sorted(set(arrived))
    assert len(arrived) > len(PNG) / RETURNED_BYTES / PIECES_OUT
    async with Client(gateway.url, user="lee") as app:
        with pytest.raises(AttachmentMissing, match="is not here"):
            await app.attachment(named)


@pytest.mark.parametrize("wrong", ["bytes", "nothing", "more"])
async def test_a_file_that_comes_back_wrong_is_not_given_to_the_app(wrong):
    data = BYTES[:100]

    async def get(frame: GetAttachment) -> AttachmentPiece:
        said = {"bytes": b"x" * 10, "nothing": b"", "more": b"x" * 101}[wrong]
        return AttachmentPiece(
            request_id=frame.request_id, sha256=frame.sha256, size=frame.size, offset=frame.offset, data=said
        )

    with pytest.raises(ProtocolViolation):
        await fetch(File(name="a", data=data).attachment, get)


async def test_answers_of_other_lengths_than_the_first_make_the_same_file():
    lengths, out, most = itertools.cycle([30, 7, 50, 1]), 0, 0

    async def get(frame: GetAttachment) -> AttachmentPiece:
        nonlocal out, most
        out, most = out + 1, max(most, out + 1)
        await asyncio.sleep(0)
        out -= 1
        data = BYTES[:999][frame.offset : frame.offset + next(lengths)]
        return AttachmentPiece(
            request_id=frame.request_id, sha256=frame.sha256, size=frame.size, offset=frame.offset, data=data
        )

    assert (await fetch(File(name="a", data=BYTES[:999]).attachment, get)).data == BYTES[:999]
    assert most == PIECES_OUT


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("c:\\x\\y.txt", "y.txt"),
        (".bashrc", "bashrc"),
        ("..", "file"),
        ("a<b>|?.txt", "a_b___.txt"),
        (f"{'가' * 250}.txt", f"{'가' * 65}.txt"),
        (f"a.{'x' * 250}", f"a{'x' * 50}"),
    ],
)
def test_a_file_is_saved_under_a_name_that_does_no_harm_and_over_no_other(
    tmp_path: Path, name: str, saved: str
) -> None:
    file = File(name=name, data=b"new")
    assert file.save(tmp_path) == tmp_path / saved
    (tmp_path / saved).write_bytes(b"old")
    again = file.save(tmp_path)
    assert again == tmp_path / f"{Path(saved).stem} (2){Path(saved).suffix}"
    assert (again.read_bytes(), (tmp_path / saved).read_bytes()) == (b"new", b"old")


def test_files_that_cannot_be_sent_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 0 bytes"):
        File(name="empty.txt", data=b"")
    with pytest.raises(ValueError, match=str(MAX_ATTACHMENT_BYTES)):
        File(name="big.bin", data=bytes(MAX_ATTACHMENT_BYTES + 1))
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"big\.bin has 1099511627776 bytes"):
        File.read(big)
    with pytest.raises(FileNotFoundError):
        File.read(tmp_path / "none")
    assert len(files_of([File(name="a", data=b"a")] * MAX_ATTACHMENTS)) == MAX_ATTACHMENTS
    largest = [File(name="a", data=bytes(MAX_ATTACHMENT_BYTES))] * (MAX_ATTACHED_BYTES // MAX_ATTACHMENT_BYTES)
    assert sum(len(one.data) for one in files_of(largest)) == MAX_ATTACHED_BYTES
    with pytest.raises(IsADirectoryError):
        File.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "media_type"),
    [
        ("a.txt", "안녕".encode(), "text/plain"),
        ("a.csv", b"1,2", "text/csv"),
        ("a.json", b"{}", "application/json"),
        ("a.png", b"not a picture", "text/plain"),
        ("photo.txt", PNG, "image/png"),
        ("a.pdf", b"%PDF-1.4", "application/pdf"),
        ("a.zip", b"PK\x03\x04\x00", "application/octet-stream"),
        ("cp949.txt", b"\xb0\xa1\xb3\xaa", "application/octet-stream"),
    ],
)
def test_what_a_file_is_is_seen_from_its_bytes(name: str, data: bytes, media_type: str) -> None:
    file = File(name=name, data=data)
    assert file.media_type == media_type
    assert (file.kind is None) is (media_type == "application/octet-stream")


def test_the_blocking_client_sends_files_and_gets_them_back(tmp_path: Path) -> None:
    chosen = GatewaySettings(
        port=0, admin_port=None, data_dir=tmp_path, grace_s=0.1, models=("python:files_model:make",), rate_limit=0
    )

    async def main() -> str:
        async with Gateway(chosen) as gateway:

            def ask() -> str:
                with BlockingClient(gateway.url) as app:
                    answer = app.ask("?", attachments=[File(name="a.png", data=PNG)], conversation="c")
                    (turn,) = app.history("c")
                    assert app.attachment(turn.attachments[0]).data == PNG
                    return answer.text

            return await asyncio.to_thread(ask)

    assert asyncio.run(main()) == told(("a.png", "image/png", PNG))


@pytest.mark.timeout(10)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in ("/dev/zero", pipe):
        with pytest.raises(ValueError, match="not a regular file"):
            File.read(path)
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("x")
    assert File.read(link).name == "link.txt"
    assert File.read("/proc/self/status").data  # its size is told as 0


@pytest.mark.timeout(10)
async def test_a_pipe_in_place_of_a_kept_file_ends_the_question(start, tmp_path):
    gateway = await start()
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG)
    outbox = KeptOutbox()
    async with Client("ws://127.0.0.1:9", session="s", offline_start=True, outbox=outbox) as app:
        app.stream("?", attachments=[picture])
    picture.unlink()
    os.mkfifo(picture)
    async with Client(gateway.url, session="s", outbox=outbox) as app:
        with pytest.raises(AttachmentMissing):
            await app.restored[0].answer


def test_a_media_type_is_brought_into_the_form_of_the_wire() -> None:
    for said in ("Text/Plain", "text/plain; charset=utf-8", " text/plain ", ""):
        assert File(name="a.txt", data=b"x", media_type=said).media_type == "text/plain"
    for wrong in ("text", "text/", "text/pla in", "텍스트/plain"):
        with pytest.raises(ValueError, match="is no media type"):
            File(name="a.txt", data=b"x", media_type=wrong)


async def test_bytes_that_the_app_changes_are_sent_as_they_were(start):
    gateway, data = await start(), bytearray(PNG)
    async with Client(gateway.url) as app:
        stream = app.stream("?", attachments=[File(name="a.png", data=data)])  # type: ignore[arg-type]
        data[-1] ^= 1
        assert (await stream.answer).text == told(("a.png", "image/png", PNG))
    with pytest.raises(TypeError, match="must be bytes"):
        File(name="a.txt", data="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("files", ["a.txt", Path("a.txt"), File(name="a.txt", data=b"x")])
async def test_one_file_that_is_not_in_a_list_is_told_so(start, files):
    gateway = await start()
    async with Client(gateway.url) as app:
        with pytest.raises(TypeError, match="attachments must be a list of files, such as"):
            await app.ask("?", attachments=files)


def test_names_are_composed_and_have_nothing_that_cannot_be_seen() -> None:
    assert File(name=unicodedata.normalize("NFD", "보고서.txt"), data=b"x").name == "보고서.txt"
    with pytest.raises(ValueError, match="needs a name"):
        File(name="  ", data=b"x")
    assert File(name="a\u202etxt.exe\x85\u2028\udc80", data=b"x").name == "a_txt.exe___"
    assert File(name=f"{'가' * 300}.txt", data=b"x").name == f"{'가' * 251}.txt"


async def test_more_than_a_question_may_have_is_told_before_anything_is_sent(start):
    gateway = await start()
    async with Client(gateway.url) as app:
        with pytest.raises(ValueError, match="there are 9 files"):
            app.stream("?", attachments=[File(name="a", data=b"x")] * 9)
        with pytest.raises(ValueError, match="the files have 20971520 bytes together"):
            await app.ask("?", attachments=[File(name="a", data=bytes(MAX_ATTACHMENT_BYTES))] * 5)
        assert app.pending() == []


async def test_an_accepted_question_lets_go_of_its_files(start):
    gateway = await start("echo:first_ms=10000")
    async with Client(gateway.url) as app:
        stream = app.stream("?", attachments=[File(name="a.txt", data=b"x" * PIECE_BYTES)])
        async for event in stream.events():
            if isinstance(event, Queued):
                assert not app._uploads._uploads[stream.request_id].files
                stream.cancel()
                break


def welcome(**more: Any) -> bytes:
    limits = FrontSettings(models=("m", "seer"), quota=Quota(per_minute=0, max_pending=9)).limits(takes_files=True)
    info = {"m": ModelInfo(attachments=("text",)), "seer": ModelInfo(attachments=("text", "image"))}
    said: dict[str, Any] = {"models": ("m", "seer"), "features": ("attachments",), "model_info": info, **more}
    named = {"hello_id": "h", "connection_id": "c", "session_id": "s", "user_id": "u", "protocol": 1}
    return encode(Welcome(limits=limits, **named, **said))


def asked(session: Session, file: File, model: str | None = None) -> list[Effect]:
    frame = SendMessage(request_id=file.name, message="?", model=model, attachments=(file.attachment,))
    return session.ask(frame, Timeouts(total_s=60), now=0.0)


@pytest.mark.parametrize("is_known", [False, True])
def test_a_file_that_the_model_does_not_take_is_refused_before_it_is_sent(is_known: bool) -> None:
    session, effects = Session(timing=Timing()), list[Effect]()
    effects += session.connected(1, now=0.0)
    if is_known:
        effects += session.received(1, welcome(), now=0.0)
    effects += asked(session, File(name="picture", data=PNG))
    effects += asked(session, File(name="shown", data=PNG), "seer")
    effects += asked(session, File(name="text", data=b"x"))
    effects += asked(session, File(name="unknown", data=PNG), "unknown")
    if not is_known:
        assert not [effect for effect in effects if isinstance(effect, Fail | FilesWanted)]
        effects += session.received(1, welcome(), now=0.0)
    (failed,) = [effect for effect in effects if isinstance(effect, Fail)]
    assert failed.request_id == "picture"
    assert "This model takes no files of the type image/png. It takes: text. Choose another" in str(failed.error)
    wanted = [effect.request_id for effect in effects if isinstance(effect, FilesWanted)]
    assert wanted == ["shown", "text", "unknown"]
    assert not [effect for effect in session.received(1, welcome(), now=1.0) if isinstance(effect, FilesWanted)]


def test_a_server_that_takes_no_files_is_not_sent_any() -> None:
    session = Session(timing=Timing())
    session.connected(1, now=0.0)
    session.received(1, welcome(features=()), now=0.0)
    (failed,) = [effect for effect in asked(session, File(name="a", data=b"x")) if isinstance(effect, Fail)]
    assert "This server takes no files" in str(failed.error)


def test_a_cancelled_question_does_not_wait_for_its_files() -> None:
    session = Session(timing=Timing())
    frame = SendMessage(request_id="r", message="?", attachments=(File(name="a", data=b"x").attachment,))
    session.restore(PendingRequest(frame=frame), Timeouts(total_s=60), now=0.0)
    session.cancel("r", now=1.0)
    sent = [effect.frame for effect in session.connected(1, now=2.0) if isinstance(effect, Send)]
    assert CancelMessage(request_id="r") in sent


async def test_many_questions_bring_their_files_one_after_the_other(start, monkeypatch):
    gateway = await start()
    out = most = 0
    call = Client._call

    async def counted(self: Client, request_id: str, frame: Any, kind: Any) -> Any:
        nonlocal out, most
        out, most = out + 1, max(most, out + 1)
        try:
            return await call(self, request_id, frame, kind)
        finally:
            out -= 1

    monkeypatch.setattr(Client, "_call", counted)
    async with Client(gateway.url, user="kim") as app:
        files = [File(name="a.png", data=PNG + bytes([number])) for number in range(20)]
        answers = await asyncio.gather(*(app.ask("?", attachments=[file]) for file in files))
    assert [answer.text for answer in answers] == [told(("a.png", "image/png", file.data)) for file in files]
    assert most == PIECES_OUT


def test_a_piece_is_a_sign_for_all_who_wait_for_their_files() -> None:
    session = Session(timing=Timing())
    for name in "ab":
        frame = SendMessage(request_id=name, message="?", attachments=(File(name="a", data=b"x").attachment,))
        session.ask(frame, Timeouts(total_s=600, silence_s=30, from_call=True), now=0.0)
    session.bringing(now=29.0)
    session.tick(now=31.0)
    assert session.pending == 2
    session.tick(now=60.0)
    assert session.pending == 0


def test_what_is_said_twice_is_brought_once() -> None:
    session = Session(timing=Timing())
    frame = SendMessage(request_id="r", message="?", attachments=(File(name="a", data=b"x").attachment,))
    session.connected(1, now=0.0)
    session.ask(frame, Timeouts(total_s=60), now=0.0)
    session.brought("r", now=0.0)
    missing = encode(Error(code=ErrorCode.ATTACHMENT_MISSING, message="?", request_id="r"))
    told = [effect for _ in range(3) for effect in session.received(1, missing, now=1.0)]
    assert [type(effect) for effect in told] == [FilesWanted]
    assert session.pending == 1
