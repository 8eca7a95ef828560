"""Files for a question: short text becomes a fenced block of it, others go with it, and some are refused. No Qt."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from answerback.client import MAX_ATTACHED_BYTES, MAX_ATTACHMENT_BYTES, MAX_ATTACHMENTS, File
from answerback.client.uploads import media_type_of
from answerback.texts.encodings import encoding_of, likely_encoding

ROOM_BYTES: Final = 128 * 1024
"""Of a question, as long as the server has not said what it takes."""
BLOCK_BYTES: Final = 8 * 1024
"""Text up to this size goes into the question, where it can still be changed. More goes with it, as a file."""
_KINDS: Final = (
    (
        re.compile(
            rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{12}|RIFF.{4}WEBP|II\*\0|MM\0\*|.{4}ftyp(?:heic|heix|mif1|avif)", re.S
        ),
        "image",
    ),
    (re.compile(rb"%PDF-"), "pdf"),
    # Of Office, OpenDocument and Hangul: packed, or of Microsoft's old form.
    (re.compile(rb"PK\x03\x04|\xd0\xcf\x11\xe0|\{\\rtf"), "document"),
)
_CONTROLS: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_FENCES: Final = re.compile(r"^ {0,3}(`{3,})", re.MULTILINE)
_PLAIN: Final = frozenset({"", "txt", "text", "log"})
"""Endings of files that are in no language."""


class Refusal(StrEnum):
    """Why a file cannot be sent; the language tables have the words."""

    IMAGE = "image"
    """The model takes no images, or the server no files."""
    IMAGE_FORM = "image-form"
    """No model takes images of this kind."""
    PDF = "pdf"
    DOCUMENT = "document"
    BINARY = "binary"
    FOLDER = "folder"
    EMPTY = "empty"
    TOO_LARGE = "too-large"
    """For the question, into which it would have to go."""
    FILE_TOO_LARGE = "file-too-large"
    """For any question."""
    TOO_MANY = "too-many"
    """The question has as many files as it may have, or as many bytes of them."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFile:
    """One file that a person wants to send: its text and encoding, or why it cannot be sent.

    `data`: what it has, if a question may have it. `file`: it goes with the question, and not into it.
    """

    name: str
    data: bytes = field(default=b"", repr=False)
    size_bytes: int | None = None
    text: str = ""
    encoding: str = ""
    refusal: Refusal | None = None
    file: File | None = None

    @property
    def block(self) -> str:
        """What of it is put into the question."""
        longest = max((len(found) for found in _FENCES.findall(self.text)), default=2)
        fence = "`" * max(3, longest + 1)
        ending = Path(self.name).suffix[1:].lower()
        language = ending if ending.isascii() and ending.isalnum() and ending not in _PLAIN else ""
        body = self.text if self.text.endswith("\n") else f"{self.text}\n"
        return f"{self.name}:\n{fence}{language}\n{body}{fence}\n"


def read_file(path: Path) -> ChosenFile:
    """A file's text, whatever encoding it is in."""
    name = printable(path.name)
    try:
        if path.is_dir():
            return ChosenFile(name=name, refusal=Refusal.FOLDER)
        if not path.is_file():  # a pipe or a device would be read for ever
            return ChosenFile(name=name, refusal=Refusal.UNREADABLE)
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError:
        return ChosenFile(name=name, refusal=Refusal.UNREADABLE)
    return read_bytes(name, data, size_bytes)


def within(
    chosen: Iterable[ChosenFile],
    room_bytes: int,
    *,
    measure: Callable[[str], int],
    kinds: Collection[str] = (),
    beside: Collection[File] = (),
) -> tuple[ChosenFile, ...]:
    """How each of them is sent, or why it is not.

    `room_bytes`: what is left of the question. `measure`: bytes of a text there. `kinds`: of files that server and
    model take. `beside`: the files that go with the question already.
    """
    kept: list[ChosenFile] = []
    count, total = len(beside), sum(len(file.data) for file in beside)
    for one in chosen:
        needed = measure(one.block) if one.refusal is None else 0
        if (file := _file_of(one, kinds, is_short=needed <= min(room_bytes, BLOCK_BYTES))) is not None:
            if count >= MAX_ATTACHMENTS or total + len(file.data) > MAX_ATTACHED_BYTES:
                kept.append(replace(one, text="", encoding="", refusal=Refusal.TOO_MANY))
                continue
            count, total = count + 1, total + len(file.data)
            kept.append(replace(one, text="", refusal=None, file=file))
            continue
        fits = needed <= room_bytes
        kept.append(one if fits or one.refusal else replace(one, text="", encoding="", refusal=Refusal.TOO_LARGE))
        room_bytes -= needed if fits else 0
    return tuple(kept)


def _file_of(one: ChosenFile, kinds: Collection[str], *, is_short: bool) -> File | None:
    """The file as it goes with the question; None: it goes into it, or nowhere. Text is sent as UTF-8."""
    data = one.data if one.refusal is not None else b"" if is_short else one.text.encode("utf-8", "replace")
    if not 0 < len(data) <= MAX_ATTACHMENT_BYTES or one.refusal not in (None, Refusal.IMAGE, Refusal.PDF):
        return None
    file = File(name=one.name or "image", data=data)
    return file if file.kind in kinds else None


def read_bytes(name: str, data: bytes, size_bytes: int) -> ChosenFile:
    """What the bytes of a file are. `size_bytes`: of the whole file, of which a question may have less."""
    refused = None
    text, encoding = "", ""
    kind = next((kind for beginning, kind in _KINDS if beginning.match(data)), None)
    if kind == "image" and not media_type_of(name, data).startswith("image/"):
        refused = Refusal.IMAGE_FORM
    elif kind == "document":
        refused = Refusal.DOCUMENT
    elif not data:
        refused = Refusal.EMPTY
    elif len(data) > MAX_ATTACHMENT_BYTES:
        refused = Refusal.FILE_TOO_LARGE
    elif kind is not None:
        refused = Refusal(kind)
    else:
        text, encoding = decoded(data)
        refused = None if encoding else Refusal.BINARY
    whole = data if len(data) <= MAX_ATTACHMENT_BYTES else b""
    return ChosenFile(name=name, data=whole, size_bytes=size_bytes, text=text, encoding=encoding, refusal=refused)


def decoded(data: bytes) -> tuple[str, str]:
    """The text and its encoding; none: the bytes are no text."""
    for name in (encoding_of(data), likely_encoding(data)):
        if name is None:
            continue
        try:
            text = data.decode(name).removeprefix("\ufeff")
        except UnicodeError:
            continue
        if not _CONTROLS.search(text):
            return text.replace("\r\n", "\n").replace("\r", "\n"), name.removesuffix("-sig")
    return "", ""


def printable(name: str) -> str:
    """A name that cannot break out of its line."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in name).strip()
    return shown.replace("`", "_")[:120] or "_"
