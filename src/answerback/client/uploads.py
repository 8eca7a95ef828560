"""Files that go with questions: read here, brought to the server in pieces and back, whatever the connection does."""

import asyncio
import hashlib
import itertools
import mimetypes
import os
import re
import stat
import unicodedata
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, TypeAlias

from answerback.client.errors import AttachmentMissing, Overloaded, ProtocolViolation, RequestTimeout
from answerback.core.uploads import TEXT, content_of, kind_of
from answerback.protocol.frames import Attachment, AttachmentPiece, GetAttachment, PutPiece, UploadState
from answerback.protocol.limits import (
    MAX_ATTACHED_BYTES,
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    MAX_FILE_NAME_LENGTH,
    PIECE_BYTES,
)

PIECES_OUT: Final = 3
"""Pieces on the way at once: questions and cancellations find their place between them."""

_NAME_BYTES: Final = 200
"""Of a name on a disk, of which file systems take 255, and a number may follow."""
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")
_UNSAFE: Final = re.compile(r'[<>:"|?*`\x00-\x1f]')

_MAX_RESTARTS: Final = 5
_MAX_WAIT_MS: Final = 60_000
"""So long a file waits for its turn; tomorrow is another day."""
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
    sha256: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes | bytearray | memoryview):
            raise TypeError(f"the data of {self.name} must be bytes; encode text first")
        object.__setattr__(self, "data", bytes(self.data))  # nobody changes them while they are sent
        size = len(self.data)
        if not 0 < size <= MAX_ATTACHMENT_BYTES:
            raise ValueError(f"{self.name} has {size} bytes; a file may have 1 to {MAX_ATTACHMENT_BYTES}")
        name = unicodedata.normalize("NFC", self.name)  # macOS gives Hangul in pieces, which no model reads well
        name = "".join(sign if sign.isprintable() else "_" for sign in name).strip()[-MAX_FILE_NAME_LENGTH:]
        if not name:
            raise ValueError("a file needs a name")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())
        media_type = self.media_type.partition(";")[0].strip().lower() or media_type_of(name, self.data)
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise ValueError(f"{self.media_type!r} is no media type; leave it out, and it is found out")
        object.__setattr__(self, "media_type", media_type)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """The file at a path. Raises: OSError, ValueError."""
        place = Path(path)
        data = read_bounded(place, MAX_ATTACHMENT_BYTES)
        return cls(name=place.name, data=data, path=os.fspath(place.absolute()))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the file into a folder, under a name that is free there; returns where. Raises: OSError."""
        place = Path(folder) / disk_name(self.name)
        for number in itertools.count(2):
            try:
                with place.open("xb") as file:
                    file.write(self.data)
            except FileExistsError:
                named = Path(disk_name(self.name))
                place = Path(folder) / f"{named.stem} ({number}){named.suffix}"
            else:
                break
        return place

    @property
    def kind(self) -> str | None:
        """As `ModelInfo.attachments` names the kinds that a model takes; None: no model takes it."""
        return kind_of(self.media_type)

    @property
    def attachment(self) -> Attachment:
        """How a question names it."""
        return Attachment(sha256=self.sha256, size=len(self.data), media_type=self.media_type, name=self.name)


def disk_name(name: str) -> str:
    """The name of a file as every file system takes it, in the folder that it is saved in and not hidden there."""
    last = _UNSAFE.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .") or "file"
    suffix = Path(last).suffix.encode()[-_NAME_BYTES // 4 :]
    stem = Path(last).stem.encode()[: _NAME_BYTES - len(suffix)]
    return (stem + suffix).decode(errors="ignore")


Source: TypeAlias = str | os.PathLike[str] | File
Put: TypeAlias = Callable[[PutPiece], Awaitable[UploadState]]
Get: TypeAlias = Callable[[GetAttachment], Awaitable[AttachmentPiece]]


def media_type_of(name: str, data: bytes) -> str:
    """What a file is, by its bytes, and for text by its name."""
    content = content_of(data)
    if content != "text/plain":
        return content or _UNKNOWN
    guessed = mimetypes.guess_type(name)[0] or content
    return guessed if kind_of(guessed) == TEXT else content


def read_bounded(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """What a regular file holds. Nothing waits for the other end of a pipe, or reads a device for ever.

    Raises: OSError. ValueError: it is larger, or no regular file.
    """
    name = Path(path).name
    with open(path, "rb", opener=lambda path, flags: os.open(path, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{name} is not a regular file; save what is in it to one")
        if found.st_size > max_bytes or len(data := file.read(max_bytes + 1)) > max_bytes:
            raise ValueError(f"{name} has {max(found.st_size, max_bytes + 1)} bytes; it may have {max_bytes}")
    return data


def files_of(sources: Sequence[Source]) -> tuple[File, ...]:
    """The files that an app names. Raises: OSError. ValueError: one cannot be sent, or not all of them together."""
    if isinstance(sources, str | bytes | os.PathLike | File):
        raise TypeError(f"attachments must be a list of files, such as [{sources!r}]")
    if len(sources) > MAX_ATTACHMENTS:
        raise ValueError(f"there are {len(sources)} files; a question may have {MAX_ATTACHMENTS}")
    files = tuple(source if isinstance(source, File) else File.read(source) for source in sources)
    if (size := sum(len(file.data) for file in files)) > MAX_ATTACHED_BYTES:
        raise ValueError(f"the files have {size} bytes together; those of a question may have {MAX_ATTACHED_BYTES}")
    return files


def read_again(attachments: Sequence[Attachment], paths: Sequence[str | None]) -> tuple[File, ...]:
    """The files of a question of an earlier run. Raises: AttachmentMissing: one is not there as it was."""
    found = []
    for attachment, path in zip(attachments, (*paths, *[None] * len(attachments)), strict=False):
        try:
            data = b"" if path is None else read_bounded(path, attachment.size)
        except (OSError, ValueError):
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
                pass  # for want of a connection; the same piece may arrive twice
            except Overloaded as error:  # uploads were left behind, and give way soon
                wait_ms = error.retry_after_ms or 0
                if not 0 < wait_ms <= _MAX_WAIT_MS:
                    raise
                progress(arrived)
                await asyncio.sleep(wait_ms / 1000)

    arrived = 0
    state = await send(0, "", b"")
    restarts = 0
    while not state.complete:
        arrived = state.offset
        progress(arrived)
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


async def fetch(named: Attachment, get: Get, *, progress: Callable[[int], None] = lambda _: None) -> File:
    """Bring a file back from the server.

    `get` asks for bytes and returns the answer, over as many connections as it takes. `progress` gets the bytes that
    have arrived, at each answer.
    Raises: AttachmentMissing: the server does not have it (any more). ProtocolViolation: what came is another file.
    """
    data, digest, step = bytearray(), hashlib.sha256(), named.size
    while len(data) < named.size:
        offsets = range(len(data), named.size, step)[:PIECES_OUT]
        asked = [
            GetAttachment(request_id=str(uuid.uuid4()), sha256=named.sha256, size=named.size, offset=offset)
            for offset in offsets
        ]
        before = len(data)
        for frame, answer in zip(asked, await asyncio.gather(*map(get, asked)), strict=True):
            new = answer.data[len(data) - frame.offset :] if frame.offset <= len(data) else b""
            data += new
            digest.update(new)
        if not before < len(data) <= named.size:
            raise ProtocolViolation("", f"{named.name} does not come as it should")
        step = min(step, len(data) - before)  # the first answer says how much one of them has
        progress(len(data))
    if digest.hexdigest() != named.sha256:
        raise ProtocolViolation("", f"{named.name} came as another file than it was")
    return File(name=named.name, data=bytes(data), media_type=named.media_type)
