"""Text that people give: on stdin, in files, as arguments. No byte is replaced in silence: a question costs money.

A byte order mark says the encoding. Without one it is UTF-8, or the locale's if that is one of the strict encodings
below. Anything else is refused, with the encoding that it looks like.
"""

import codecs
import locale
import os
import re
import sys
from collections.abc import Iterable
from typing import Final

from answerback.cli.output import CliError, usage_error

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_STRICT: Final = frozenset({"cp949", "euc_kr", "cp932", "shift_jis", "euc_jp", "gbk", "gb18030", "cp950", "big5"})
"""Encodings that hardly any other bytes are valid in. Those of one byte a character take everything."""
_GUESSES: Final = (("cp949", "[가-힣]"), ("cp932", "[ぁ-ヿ]"), ("gb18030", "[一-鿿]"), ("cp1252", "."))
_LONE: Final = re.compile("[\ud800-\udfff]")
STDIN_HINT: Final = "convert it: iconv -f ENCODING -t utf-8, or say --encoding ENCODING"
MARK_BYTES: Final = 4
"""How much of the beginning `encoding_of` looks at."""


def decode(data: bytes, what: str, *, encoding: str | None = None, hint: str = "save it as UTF-8") -> str:
    """The text of bytes, without a byte order mark. `what` names them in an error; `encoding`: what the user says.

    Raises: CliError: they are in another encoding.
    """
    for name in (checked(encoding),) if encoding else (encoding_of(data), *_local()):
        try:
            text = data.decode(name)
        except UnicodeError:
            continue
        if text.count("\0") * 4 < len(text) or not text:  # UTF-16 without a mark is valid UTF-8, with many a NUL
            return text.removeprefix("\ufeff")
    raise not_text(data, what, encoding=encoding, hint=hint)


def typed(text: str, what: str, *, encoding: str | None = None) -> str:
    """An argument as it was typed. Python decodes arguments by the locale, which may not know what the terminal sends.

    Raises: CliError: it is in another encoding.
    """
    is_foreign = codecs.lookup(sys.getfilesystemencoding()).name != "utf-8"
    if text.isascii() or not (encoding or is_foreign or _LONE.search(text)):
        return text.removeprefix("\ufeff")
    data = os.fsencode(text)
    try:
        return data.decode("utf-8-sig")
    except UnicodeError:
        if not encoding and not _LONE.search(text):
            return text  # as the locale says
    return decode(data, what, encoding=encoding, hint="use a terminal and a locale of UTF-8")


def encoding_of(data: bytes) -> str:
    """By the byte order mark at the beginning; UTF-8 without one."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def checked(encoding: str) -> str:
    """The name, if it is one of an encoding of text. Raises: CliError."""
    try:
        "".encode(encoding)
    except LookupError:
        raise usage_error(f"there is no encoding {encoding!r}", "for example --encoding cp949") from None
    return encoding


def not_text(data: bytes, what: str, *, encoding: str | None = None, hint: str) -> CliError:
    """The error of bytes in another encoding, with a guess."""
    guess = None if encoding else _guess(data)
    looks = f" (it looks like {guess})" if guess else ""
    return usage_error(f"{what} is not {encoding or 'UTF-8'}{looks}", hint.replace("ENCODING", guess or "ENCODING"))


def _local() -> Iterable[str]:
    name = codecs.lookup(locale.getencoding()).name
    return (name,) if name in _STRICT else ()


def _guess(data: bytes) -> str | None:
    """What most of the characters beyond ASCII speak for."""
    if b"\0" in data:
        return "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"
    for name, letters in _GUESSES:
        try:
            foreign = re.sub("[\x00-\x7f]", "", data.decode(name))
        except UnicodeError:
            continue
        if len(re.findall(letters, foreign)) * 2 > len(foreign):
            return name
    return None
