"""Brings the files of questions to the server, those of one question after those of another."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from answerback.client.driver import Driver
from answerback.client.errors import AnswerbackError
from answerback.client.events import Uploading
from answerback.client.outbox import PendingRequest
from answerback.client.session import Session
from answerback.client.uploads import File, bring, read_again
from answerback.protocol.frames import PutPiece, UploadState
from answerback.protocol.limits import PIECE_BYTES
from answerback.tasks import Tasks


@dataclass(slots=True, eq=False)
class _Upload:
    """The files of a question without an ending. `files` empty: they are read again."""

    paths: tuple[str | None, ...]
    files: Sequence[File] = ()
    task: asyncio.Task[None] | None = None


class UploadQueue:
    """The files of a client's questions. `put` sends a piece; `show` gets how far the files of a question are."""

    def __init__(
        self,
        session: Session,
        driver: Driver,
        *,
        put: Callable[[PutPiece], Awaitable[UploadState]],
        show: Callable[[str, Uploading], None],
    ) -> None:
        self._session = session
        self._driver = driver
        self._put = put
        self._show = show
        self._uploads: dict[str, _Upload] = {}
        self._turn = asyncio.Lock()
        self._tasks = Tasks()

    def add(self, request_id: str, paths: tuple[str | None, ...], files: Sequence[File] = ()) -> None:
        """A new question has files; without `files` they are read again from `paths`."""
        self._uploads[request_id] = _Upload(paths, files)

    def start(self, request_id: str) -> None:
        """Bring a question's files to the server, then let the question go."""
        pending, upload = self._session.exported(request_id), self._uploads.get(request_id)
        if pending is not None and upload is not None:
            upload.task = self._tasks.start(self._bring(pending, upload), name=f"files of {request_id}")

    def accepted(self, request_id: str) -> None:
        """The server has the files of this question."""
        if (upload := self._uploads.get(request_id)) is not None:
            upload.files = ()

    def drop(self, request_id: str) -> None:
        """The question has its ending."""
        upload = self._uploads.pop(request_id, None)
        if upload is not None and upload.task is not None and upload.task is not asyncio.current_task():
            upload.task.cancel()

    def with_paths(self, pending: PendingRequest) -> PendingRequest:
        """A question as it is to be kept: the session does not know where its files are."""
        upload = self._uploads.get(pending.frame.request_id)
        return pending if upload is None else replace(pending, paths=upload.paths)

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.settle(grace_s=0)

    async def _bring(self, pending: PendingRequest, upload: _Upload) -> None:
        request_id = pending.frame.request_id
        limits = self._session.limits
        piece_bytes = (None if limits is None else limits.piece_bytes) or PIECE_BYTES
        total, arrived = sum(one.size for one in pending.frame.attachments), 0

        def progress(sent: int) -> None:
            self._driver.carry_out(self._session.bringing(now=self._driver.now))
            self._show(request_id, Uploading(sent_bytes=arrived + sent, total_bytes=total))

        try:
            async with self._turn:  # together they would fill the connection, and be too many for the server
                files = upload.files or await asyncio.to_thread(read_again, pending.frame.attachments, upload.paths)
                for file in files:
                    await bring(file, self._put, piece_bytes=piece_bytes, progress=progress)
                    arrived += len(file.data)
        except AnswerbackError as error:
            self._driver.carry_out(self._session.not_brought(request_id, error, now=self._driver.now))
        else:
            self._driver.carry_out(self._session.brought(request_id, now=self._driver.now))
