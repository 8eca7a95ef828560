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
from answerback.texts.encodings import encoding_of, likely_encoding

_STRICT: Final = frozenset({"cp949", "euc_kr", "cp932", "shift_jis", "euc_jp", "gbk", "gb18030", "cp950", "big5"})
"""Encodings that hardly any other bytes are valid in. Those of one byte a character take everything."""
_LONE: Final = re.compile("[\ud800-\udfff]")
_TERMINAL_HINT: Final = "use a terminal and a locale of UTF-8"
STDIN_HINT: Final = "convert it: iconv -f ENCODING -t utf-8, or say --encoding ENCODING"


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
    return decode(data, what, encoding=encoding, hint=_TERMINAL_HINT)


def foreign_argument(arguments: Iterable[str]) -> CliError | None:
    """The error of the first of a command's arguments that is no text; None: all are."""
    found = next(filter(_LONE.search, arguments), None)
    return None if found is None else not_text(os.fsencode(found), "an argument", hint=_TERMINAL_HINT)


def text_file(data: bytes, what: str, *, encoding: str | None = None) -> bytes:
    """What a file holds, in UTF-8 if it is text. Raises: CliError: it is text in an encoding that it does not say."""
    if encoding or encoding_of(data) != "utf-8" or likely_encoding(data):
        return decode(data, what, encoding=encoding, hint=STDIN_HINT).encode()
    return data


def checked(encoding: str) -> str:
    """The name, if it is one of an encoding of text. Raises: CliError."""
    try:
        "".encode(encoding)
    except LookupError:
        raise usage_error(f"there is no encoding {encoding!r}", "for example --encoding cp949") from None
    return encoding


def not_text(data: bytes, what: str, *, encoding: str | None = None, hint: str) -> CliError:
    """The error of bytes in another encoding, with a guess."""
    guess = None if encoding else likely_encoding(data)
    looks = f" (it looks like {guess})" if guess else ""
    return usage_error(
        f"{what} is not text in {encoding or 'UTF-8'}{looks}", hint.replace("ENCODING", guess or "ENCODING")
    )


def _local() -> Iterable[str]:
    name = codecs.lookup(locale.getencoding()).name
    return (name,) if name in _STRICT else ()
