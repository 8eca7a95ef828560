"""Uploads: pieces come in, and the file may be named by questions when all of it is there and is what it says.

Nothing here is remembered. The one that finds an upload full verifies it, so any process may take any piece.
"""

import uuid
from collections.abc import Callable, Sequence

from answerback.core.uploads import FileKey, NoRoom, Upload, is_what_it_says
from answerback.ports import File, Files
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, AttachmentPiece, Error, GetAttachment, PutPiece, UploadState
from answerback.protocol.limits import PIECE_BYTES, RETURNED_BYTES

_OFF_GRID = (
    f"A piece begins at a multiple of {PIECE_BYTES} bytes and has {PIECE_BYTES} bytes, the last one the rest. "
    'Cut the file so, or leave "data" out to ask how far it has come.'
)
_BEHIND_THE_END = '"offset" is behind the end of the file. Ask for a byte that it has.'
_TOO_MUCH = "You have begun too many uploads, or too many bytes of them today. Finish some, or wait."


class Uploads:
    """Answers `putPiece` and `getAttachment`, and finds what questions name. Raises: Unavailable."""

    def __init__(
        self, *, files: Files, clock: Callable[[], int], new_name: Callable[[], str] = lambda: uuid.uuid4().hex
    ) -> None:
        self._files = files
        self._clock = clock
        self._new_name = new_name

    async def answer(self, user_id: str, frame: PutPiece | GetAttachment) -> UploadState | AttachmentPiece | Error:
        """The one frame that answers `frame` of this user."""
        key = FileKey(user_id, frame.sha256, frame.size)
        return await (self._read(key, frame) if isinstance(frame, GetAttachment) else self._take(key, frame))

    async def _take(self, key: FileKey, frame: PutPiece) -> UploadState | Error:
        if frame.data and len(frame.data) != key.length_at(frame.offset):
            return Error(code=ErrorCode.INVALID_FRAME, message=_OFF_GRID, request_id=frame.request_id)
        known = await self._files.upload(key)
        if known is None:
            begun = await self._begin(key)
            if isinstance(begun, NoRoom):
                return Error(
                    code=ErrorCode.OVERLOADED,
                    message=_TOO_MUCH,
                    request_id=frame.request_id,
                    retry_after_ms=begun.wait_ms,
                )
            known = begun
        if frame.data and known.completed_at_ms is None and frame.upload == known.name:
            number = frame.offset // PIECE_BYTES
            await self._files.put(key, known.name, number, frame.data, now_ms=self._clock())
            known = await self._files.upload(key) or known
        if known.offset(key) == key.size:
            known = await self._verified(key, known)
        return UploadState(
            request_id=frame.request_id,
            sha256=key.sha256,
            size=key.size,
            upload=known.name,
            offset=known.offset(key),
            complete=known.completed_at_ms is not None,
        )

    async def _begin(self, key: FileKey) -> Upload | NoRoom:
        return await self._files.begin(key, self._new_name(), now_ms=self._clock())

    async def _verified(self, key: FileKey, known: Upload) -> Upload:
        """The upload, of which every piece is there, as whole, or begun again: its bytes are those of another file."""
        now_ms = self._clock()
        if known.may_be_named(now_ms):
            return known
        content: str | None = known.content
        if known.completed_at_ms is None:
            content = await self._files.examine(key)
            if content is None:
                await self._files.discard(key, known.name)
                begun = await self._begin(key)
                return begun if isinstance(begun, Upload) else Upload(name="", begun_at_ms=now_ms)
        await self._files.complete(key, known.name, content=content or "", now_ms=now_ms)
        return await self._files.upload(key) or known

    async def _read(self, key: FileKey, frame: GetAttachment) -> AttachmentPiece | Error:
        """Bytes of a whole file."""
        if frame.offset >= key.size:
            return Error(code=ErrorCode.INVALID_FRAME, message=_BEHIND_THE_END, request_id=frame.request_id)
        data = await self._files.read_range(key, frame.offset, RETURNED_BYTES)
        if not data:
            return Error(
                code=ErrorCode.ATTACHMENT_MISSING,
                message=f"The file {key.sha256} is not here.",
                request_id=frame.request_id,
            )
        return AttachmentPiece(
            request_id=frame.request_id, sha256=key.sha256, size=key.size, offset=frame.offset, data=data
        )

    async def why_not(self, user_id: str, attachments: Sequence[Attachment]) -> tuple[ErrorCode, str] | None:
        """Why a question of this user cannot have these files."""
        for one in attachments:
            known = await self._files.upload(FileKey(user_id, one.sha256, one.size))
            if known is None or not known.may_be_named(self._clock()):
                return ErrorCode.ATTACHMENT_MISSING, f"The file {one.sha256} is not here. Upload it, then ask again."
            if not is_what_it_says(one, known.content):
                return ErrorCode.FORBIDDEN, f"A file is not what its media type {one.media_type} says. Leave it out."
        return None

    async def files_of(self, user_id: str, attachments: Sequence[Attachment]) -> tuple[File, ...] | None:
        """The files of a question; None: one of them is gone."""
        found = []
        for one in attachments:
            data = await self._files.read_file(FileKey(user_id, one.sha256, one.size))
            if data is None or len(data) != one.size:
                return None
            found.append(File(name=one.name, media_type=one.media_type, data=data))
        return tuple(found)
