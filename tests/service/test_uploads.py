"""Files with questions: pieces in, verified by whoever finds them whole, named by questions, shown to the model."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from answerback.core.uploads import MAX_OPEN, YOUNG_MS
from answerback.ports import Finish, ModelLimits, Piece, Prompt
from answerback.protocol.codec import encode
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import (
    Attachment,
    Error,
    GetAttachment,
    GetHistory,
    Hello,
    History,
    MessageAccepted,
    MessageResponse,
    PutPiece,
    SendMessage,
    Status,
    UploadState,
    Welcome,
)
from answerback.protocol.limits import (
    MAX_ATTACHED_BYTES,
    MAX_ATTACHMENT_BYTES,
    MAX_FRAME_BYTES,
    PIECE_BYTES,
    RETURNED_BYTES,
)
from answerback.testing import Backend, run_virtual
from answerback.testing.backend import Peer

TEXT = "안녕하세요. The quick brown fox.\n".encode() * 4_000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300


class Reader:
    """A model that remembers what it was shown."""

    name = "reader"
    context_tokens = 200_000
    concurrency = 4
    limits = ModelLimits(attachments=("image",))

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        yield "seen"
        yield Finish()

    async def close(self) -> None:
        pass


def attachment(data: bytes, media_type: str = "text/plain", name: str = "노트.txt") -> Attachment:
    return Attachment(sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type, name=name)


async def ask_state(peer: Peer, file: Attachment, **more: Any) -> UploadState | Error:
    await peer.say(PutPiece(request_id="up", sha256=file.sha256, size=file.size, **more))
    last = peer.frames[-1]
    assert isinstance(last, UploadState | Error)
    return last


async def bring(peer: Peer, data: bytes, file: Attachment | None = None) -> UploadState:
    file = file or attachment(data)
    state = await ask_state(peer, file)
    assert isinstance(state, UploadState)
    while not state.complete:
        piece = data[state.offset : state.offset + PIECE_BYTES]
        answer = await ask_state(peer, file, offset=state.offset, upload=state.upload, data=piece)
        assert isinstance(answer, UploadState)
        assert (answer.upload, answer.offset) != (state.upload, state.offset), "the upload does not move"
        state = answer
    return state


async def ask(peer: Peer, request_id: str, *files: Attachment, **more: Any) -> Any:
    await peer.say(SendMessage(request_id=request_id, message="What is in it?", attachments=files, **more))
    await asyncio.sleep(1)
    return peer.frames[-1]


def test_a_file_comes_in_pieces_and_the_model_is_shown_it() -> None:
    async def main() -> None:
        model = Reader()
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        await peer.say(Hello(hello_id="h"))
        (welcome,) = [frame for frame in peer.frames if isinstance(frame, Welcome)]
        assert "attachments" in welcome.features
        assert (welcome.limits.piece_bytes, welcome.limits.max_attachment_bytes) == (PIECE_BYTES, MAX_ATTACHMENT_BYTES)
        assert welcome.model_info["reader"].attachments == ("text", "image")
        text, image = attachment(TEXT), attachment(PNG, "image/png", "그림.png")
        state = await bring(peer, TEXT)
        assert state.offset == state.size == len(TEXT)
        await bring(peer, PNG, image)
        ended = await ask(peer, "r1", text, image, conversation_id="c")
        assert isinstance(ended, MessageResponse)
        assert ended.status is Status.COMPLETED
        shown = model.prompts[0].attachments
        assert [(file.name, file.media_type, file.data) for file in shown] == [
            ("노트.txt", "text/plain", TEXT),
            ("그림.png", "image/png", PNG),
        ]
        await ask(peer, "r2", conversation_id="c")
        assert model.prompts[1].attachments == ()
        assert model.prompts[1].messages[0].text == "What is in it?\n[attachment 노트.txt]\n[attachment 그림.png]"
        await peer.say(GetHistory(request_id="g", conversation_id="c"))
        page = peer.frames[-1]
        assert isinstance(page, History)
        assert [turn.attachments for turn in page.turns] == [(text, image), ()]

    run_virtual(main())


def test_a_question_whose_file_is_not_there_is_told_so_and_keeps_its_id() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT)
        error = await ask(peer, "r1", file)
        assert isinstance(error, Error)
        assert (error.code, error.request_id) == (ErrorCode.ATTACHMENT_MISSING, "r1")
        assert file.sha256 in error.message
        await ask_state(peer, file)
        assert isinstance(await ask(peer, "r1", file), Error)  # begun is not there
        await bring(peer, TEXT)
        other = await backend.connect("c2", user="lee")
        assert isinstance(await ask(other, "r1", file), Error)  # another user's file is no file
        assert isinstance(await ask(peer, "r1", file), MessageResponse)

    run_virtual(main())


def test_a_file_may_be_named_while_it_is_young_and_a_repeat_for_ever() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT)
        await bring(peer, TEXT)
        await ask(peer, "r1", file)
        await asyncio.sleep(YOUNG_MS / 1000)
        repeated = await ask(peer, "r1", file)
        assert isinstance(repeated, MessageResponse)
        missing = await ask(peer, "r2", file)
        assert isinstance(missing, Error)
        assert missing.code is ErrorCode.ATTACHMENT_MISSING
        state = await ask_state(peer, file)  # a look is enough: the bytes are there
        assert isinstance(state, UploadState)
        assert state.complete
        assert isinstance(await ask(peer, "r2", file), MessageResponse)

    run_virtual(main())


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_devices_bring_one_file_together(order: tuple[int, int]) -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peers = [await backend.connect(f"c{number}", user="kim") for number in range(2)]
        file = attachment(TEXT)
        state = await ask_state(peers[0], file)
        assert isinstance(state, UploadState)
        for number, offset in enumerate(range(0, file.size, PIECE_BYTES)):
            peer = peers[order[number % 2]]
            piece = TEXT[offset : offset + PIECE_BYTES]
            state = await ask_state(peer, file, offset=offset, upload=state.upload, data=piece)
            assert isinstance(state, UploadState)
        assert state.complete

    run_virtual(main())


def test_bytes_of_another_file_are_found_before_it_is_whole() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT)
        first = await ask_state(peer, file)
        assert isinstance(first, UploadState)
        state: UploadState | Error = first
        for offset in range(0, file.size, PIECE_BYTES):
            piece = bytes(len(TEXT[offset : offset + PIECE_BYTES]))
            state = await ask_state(peer, file, offset=offset, upload=first.upload, data=piece)
        assert isinstance(state, UploadState)
        assert (state.complete, state.offset) == (False, 0)
        assert state.upload not in ("", first.upload)
        late = await ask_state(peer, file, offset=0, upload=first.upload, data=TEXT[:PIECE_BYTES])
        assert isinstance(late, UploadState)
        assert late.offset == 0  # of the upload that was given up
        assert (await bring(peer, TEXT)).complete

    run_virtual(main())


@pytest.mark.parametrize("data", [None, TEXT[:-1], TEXT])
def test_the_model_is_shown_whole_files_or_none(data: bytes | None) -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        await bring(peer, TEXT)

        async def read_file(_: Any) -> bytes | None:
            return data

        backend.store.read_file = read_file  # type: ignore[method-assign]
        ended = await ask(peer, "r1", attachment(TEXT))
        assert isinstance(ended, MessageResponse)
        assert ended.status is (Status.COMPLETED if data == TEXT else Status.FAILED)

    run_virtual(main())


def test_who_finds_it_full_verifies_it() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT[:100])
        state = await ask_state(peer, file)
        assert isinstance(state, UploadState)
        from answerback.core.uploads import FileKey

        key = FileKey("kim", file.sha256, file.size)
        await backend.store.put(key, state.upload, 0, TEXT[:100], now_ms=0)
        state = await ask_state(peer, file)
        assert isinstance(state, UploadState)
        assert state.complete

    run_virtual(main())


@pytest.mark.parametrize(
    ("offset", "length"),
    [(1, PIECE_BYTES), (0, PIECE_BYTES - 1), (PIECE_BYTES, PIECE_BYTES), (10 * PIECE_BYTES, 1), (0, 1)],
)
def test_a_piece_off_the_grid_is_refused_in_words(offset: int, length: int) -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT[: PIECE_BYTES + 100])
        error = await ask_state(peer, file, offset=offset, data=bytes(length))
        assert isinstance(error, Error)
        assert (error.code, error.request_id) == (ErrorCode.INVALID_FRAME, "up")
        assert str(PIECE_BYTES) in error.message

    run_virtual(main())


@pytest.mark.parametrize(
    ("data", "media_type", "said"),
    [
        (b"%PDF-1.7 ...", "application/pdf", "takes no files of the type application/pdf"),
        (b"PK\x03\x04", "application/zip", "takes no files of the type application/zip"),
        (b"no picture", "image/png", "not what its media type image/png says"),
        (PNG, "text/plain", "not what its media type text/plain says"),
        (b"\xb0\xa1\xb3\xaa", "text/plain", "not what its media type text/plain says"),
    ],
)
def test_files_that_the_model_cannot_read_are_refused_before_it_is_asked(
    data: bytes, media_type: str, said: str
) -> None:
    async def main() -> None:
        model = Reader()
        backend = Backend(model=model)
        peer = await backend.connect("c1", user="kim")
        file = attachment(data, media_type)
        await bring(peer, data, file)
        refused = await ask(peer, "r1", file)
        assert isinstance(refused, MessageResponse)
        assert refused.error is not None
        assert refused.error.code is ErrorCode.FORBIDDEN
        assert said in refused.error.message
        assert model.prompts == []

    run_virtual(main())


def test_the_files_of_a_question_are_bounded_together() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        count = MAX_ATTACHED_BYTES // MAX_ATTACHMENT_BYTES + 1
        files = [
            Attachment(sha256=f"{number:064x}", size=MAX_ATTACHMENT_BYTES, media_type="text/plain", name="big")
            for number in range(count)
        ]
        refused = await ask(peer, "r1", *files)
        assert isinstance(refused, MessageResponse)
        assert refused.error is not None
        assert "16 MB together" in refused.error.message
        missing = await ask(peer, "r2", *files[1:])
        assert isinstance(missing, Error)
        assert missing.code is ErrorCode.ATTACHMENT_MISSING

    run_virtual(main())


def test_other_files_under_a_known_id_are_another_question() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        await bring(peer, TEXT)
        file = attachment(TEXT)
        assert isinstance(await ask(peer, "r1", file), MessageResponse)
        for others in ((), (attachment(TEXT, name="other.txt"),), (file, file)):
            error = await ask(peer, "r1", *others)
            assert isinstance(error, Error)
            assert error.code is ErrorCode.REQUEST_CONFLICT

    run_virtual(main())


def test_a_file_is_read_back_by_every_device_of_its_user_alone() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        file = attachment(TEXT)
        await ask_state(peer, file)

        async def read(peer: Peer, offset: int = 0) -> Any:
            name = "\U0001f600" * 128  # an id of the most bytes that one may have
            asked = GetAttachment(request_id=name, sha256=file.sha256, size=file.size, offset=offset)
            await peer.say(asked)
            assert peer.frames[-1].request_id == name
            assert len(encode(peer.frames[-1])) <= MAX_FRAME_BYTES
            return peer.frames[-1]

        assert (await read(peer)).code is ErrorCode.ATTACHMENT_MISSING
        await bring(peer, TEXT)
        device = await backend.connect("c2", user="kim")
        data = b""
        while len(data) < file.size:
            answer = await read(device, len(data))
            assert (answer.sha256, answer.size, answer.offset) == (file.sha256, file.size, len(data))
            data += answer.data
        assert data == TEXT
        assert (await read(device, file.size)).code is ErrorCode.INVALID_FRAME
        stranger = await backend.connect("c3", user="lee")
        assert (await read(stranger)).code is ErrorCode.ATTACHMENT_MISSING
        await asyncio.sleep(YOUNG_MS / 1000)
        assert (await read(peer)).data == TEXT[:RETURNED_BYTES]  # too old to be named, and still there

    run_virtual(main())


def test_who_leaves_many_uploads_behind_waits_for_as_long_as_is_told() -> None:
    async def main() -> None:
        backend = Backend(model=Reader())
        peer = await backend.connect("c1", user="kim")
        for number in range(MAX_OPEN):
            assert isinstance(await ask_state(peer, attachment(b"%d" % number)), UploadState)
        error = await ask_state(peer, attachment(b"more"))
        assert isinstance(error, Error)
        assert error.code is ErrorCode.OVERLOADED
        assert error.retry_after_ms
        await asyncio.sleep(error.retry_after_ms / 1000)
        assert (await bring(peer, b"more")).complete
        assert not [frame for frame in peer.frames if isinstance(frame, MessageAccepted)]

    run_virtual(main())
