"""Files that go with questions: read here, brought to the server in pieces, whatever happens to the connection."""

import asyncio
import hashlib
import mimetypes
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeAlias

from answerback.client.errors import AttachmentMissing, ProtocolViolation, RequestTimeout
from answerback.core.uploads import TEXT, content_of, kind_of
from answerback.protocol.frames import Attachment, PutPiece, UploadState
from answerback.protocol.limits import MAX_ATTACHMENT_BYTES, MAX_FILE_NAME_LENGTH, PIECE_BYTES

PIECES_OUT: Final = 3
"""Pieces on the way at once: questions and cancellations find their place between them."""

_MAX_RESTARTS: Final = 5
_UNKNOWN: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to send with a question. `media_type`: what it is, found out if it is not said.

    Raises: ValueError: it is empty, larger than 4 MB, or has a name that cannot be shown.
    """

    name: str
    data: bytes = field(repr=False)
    media_type: str = ""
    path: str | None = None
    """Where it can be read again after a restart of the app."""

    def __post_init__(self) -> None:
        size = len(self.data)
        if not 0 < size <= MAX_ATTACHMENT_BYTES:
            raise ValueError(f"{self.name} has {size} bytes; a file may have 1 to {MAX_ATTACHMENT_BYTES}")
        name = "".join(sign if sign.isprintable() else "_" for sign in self.name)[-MAX_FILE_NAME_LENGTH:]
        if not name:
            raise ValueError("a file needs a name")
        object.__setattr__(self, "name", name)
        if not self.media_type:
            object.__setattr__(self, "media_type", media_type_of(name, self.data))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The file at a path. Raises: OSError, ValueError."""
        place = Path(path)
        if place.stat().st_size > MAX_ATTACHMENT_BYTES:  # a file of many gigabytes is not read to say that
            raise ValueError(f"{place.name} has {place.stat().st_size} bytes; a file may have {MAX_ATTACHMENT_BYTES}")
        return cls(name=place.name, data=place.read_bytes(), path=os.fspath(place.absolute()))

    @property
    def kind(self) -> str | None:
        """As `ModelInfo.attachments` names the kinds that a model takes; None: no model takes it."""
        return kind_of(self.media_type)

    @property
    def attachment(self) -> Attachment:
        """How a question names it."""
        digest = hashlib.sha256(self.data).hexdigest()
        return Attachment(sha256=digest, size=len(self.data), media_type=self.media_type, name=self.name)


Source: TypeAlias = str | os.PathLike[str] | File
Put: TypeAlias = Callable[[PutPiece], Awaitable[UploadState]]


def media_type_of(name: str, data: bytes) -> str:
    """What a file is, by its bytes, and for text by its name."""
    content = content_of(data)
    if content != "text/plain":
        return content or _UNKNOWN
    guessed = mimetypes.guess_type(name)[0] or content
    return guessed if kind_of(guessed) == TEXT else content


def files_of(sources: Sequence[Source]) -> tuple[File, ...]:
    """The files that an app names. Raises: OSError, ValueError."""
    return tuple(source if isinstance(source, File) else File.read(source) for source in sources)


def read_again(attachments: Sequence[Attachment], paths: Sequence[str | None]) -> tuple[File, ...]:
    """The files of a question of an earlier run. Raises: AttachmentMissing: one is not there as it was."""
    found = []
    for attachment, path in zip(attachments, (*paths, *[None] * len(attachments)), strict=False):
        try:
            data = b"" if path is None else Path(path).read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != attachment.sha256:
            raise AttachmentMissing.of(f"{attachment.name} is not there any more as it was. Attach it again.")
        found.append(File(name=attachment.name, data=data, media_type=attachment.media_type, path=path))
    return tuple(found)


async def bring(
    file: File, put: Put, *, piece_bytes: int = PIECE_BYTES, progress: Callable[[int], None] = lambda _: None
) -> None:
    """Bring a file to the server. One that it has already costs a look.

    `put` sends a piece and returns the answer to it. `progress` gets the bytes that have arrived, at each answer. The
    loss of a connection only costs time: what gives up is the caller, by cancelling this.
    Raises: ProtocolViolation: the file does not become whole. RequestFailed: the server does not take it.
    """
    named = file.attachment

    async def send(offset: int, upload: str, data: bytes) -> UploadState:
        while True:
            frame = PutPiece(
                request_id=str(uuid.uuid4()),
                sha256=named.sha256,
                size=named.size,
                offset=offset,
                upload=upload,
                data=data,
            )
            try:
                return await put(frame)
            except RequestTimeout:
                continue  # for want of a connection; the same piece may arrive twice

    state = await send(0, "", b"")
    restarts = 0
    while not state.complete:
        progress(state.offset)
        offsets = range(state.offset, named.size, piece_bytes)[:PIECES_OUT]
        pieces = [send(offset, state.upload, file.data[offset : offset + piece_bytes]) for offset in offsets]
        answers = await asyncio.gather(*pieces, return_exceptions=True)
        told: list[UploadState] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            told.append(answer)
        # Of this upload the highest counts, and of another one, which was begun meanwhile, its own word.
        others = [one for one in told if one.upload != state.upload]
        newest = others[-1] if others else max(told, key=lambda one: (one.complete, one.offset), default=state)
        if not newest.complete and (others or newest.offset <= state.offset):
            restarts += 1
            if restarts > _MAX_RESTARTS:
                raise ProtocolViolation("", f"the upload of {named.name} does not become whole")
        state = newest
    progress(named.size)
