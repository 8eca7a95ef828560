"""Files for a question: text files become fenced blocks of it, others are refused in words. No Qt."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from answerback.texts.encodings import encoding_of, likely_encoding

MAX_BYTES: Final = 1 << 20
"""Of a file that is read at all: a question takes less."""
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
    PDF = "pdf"
    DOCUMENT = "document"
    BINARY = "binary"
    FOLDER = "folder"
    EMPTY = "empty"
    TOO_LARGE = "too-large"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One file: its text and encoding, or why it cannot be sent. `size_bytes` None: nobody knows."""

    name: str
    size_bytes: int | None = None
    text: str = ""
    encoding: str = ""
    refusal: Refusal | None = None

    @property
    def block(self) -> str:
        """What of it is put into the question."""
        longest = max((len(found) for found in _FENCES.findall(self.text)), default=2)
        fence = "`" * max(3, longest + 1)
        ending = Path(self.name).suffix[1:].lower()
        language = ending if ending.isascii() and ending.isalnum() and ending not in _PLAIN else ""
        body = self.text if self.text.endswith("\n") else f"{self.text}\n"
        return f"{self.name}:\n{fence}{language}\n{body}{fence}\n"


def read_file(path: Path) -> Attachment:
    """A file's text, whatever encoding it is in."""
    name = _printable(path.name)
    try:
        if path.is_dir():
            return Attachment(name=name, refusal=Refusal.FOLDER)
        if not path.is_file():  # a pipe or a device would be read for ever
            return Attachment(name=name, refusal=Refusal.UNREADABLE)
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError:
        return Attachment(name=name, refusal=Refusal.UNREADABLE)
    return _read(name, data, size_bytes)


def within(
    attachments: Iterable[Attachment], room_bytes: int, *, measure: Callable[[str], int]
) -> tuple[Attachment, ...]:
    """The same, those refused that do not fit into what is left of the question. `measure`: bytes of a text there."""
    kept: list[Attachment] = []
    for one in attachments:
        needed = measure(one.block) if one.refusal is None else 0
        fits = needed <= room_bytes
        kept.append(one if fits or one.refusal else replace(one, text="", encoding="", refusal=Refusal.TOO_LARGE))
        room_bytes -= needed if fits else 0
    return tuple(kept)


def _read(name: str, data: bytes, size_bytes: int) -> Attachment:
    refused = None
    text, encoding = "", ""
    kind = next((kind for beginning, kind in _KINDS if beginning.match(data)), None)
    if kind is not None:
        refused = Refusal(kind)
    elif not data:
        refused = Refusal.EMPTY
    elif len(data) > MAX_BYTES:
        refused = Refusal.TOO_LARGE
    else:
        text, encoding = decoded(data)
        refused = None if encoding else Refusal.BINARY
    return Attachment(name=name, size_bytes=size_bytes, text=text, encoding=encoding, refusal=refused)


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


def _printable(name: str) -> str:
    """A name that cannot break out of its line."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in name).strip()
    return shown.replace("`", "_")[:120] or "_"
