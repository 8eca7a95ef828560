"""Which encoding bytes of text are in, as far as they say so themselves."""

import codecs
import re
from typing import Final

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSES: Final = (
    ("euc-kr", "[가-힣]"),  # cp949 without its rare syllables, as which Japanese could be read
    ("cp932", "[ぁ-ヿ]"),
    ("cp949", "[가-힣]"),
    ("gb18030", "[一-鿿]"),
    ("cp1252", "."),
)
"""Names that both Python and iconv know, and letters that speak for them."""
_SEPARATORS: Final = "\x1c\x1d\x1e\x1f"
"""Controls that Python counts as white space."""
MARK_BYTES: Final = 4
"""How much of the beginning `encoding_of` looks at."""


def encoding_of(data: bytes) -> str:
    """By the byte order mark at the beginning; UTF-8 without one."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def likely_encoding(data: bytes) -> str | None:
    """Of bytes that are no UTF-8: what most of the characters beyond ASCII speak for."""
    if b"\0" in data:  # half of each plain character of UTF-16
        wide = "utf-16le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16be"
        return wide if _text(data, wide) else None
    for name, letters in _GUESSES:
        foreign = re.sub("[\x00-\x7f]", "", _text(data, name))
        if len(re.findall(letters, foreign)) * 2 > len(foreign):
            return "cp949" if name == "euc-kr" else name
    return None


def _text(data: bytes, name: str) -> str:
    """The text, empty if it is none."""
    try:
        text = data.decode(name)
    except UnicodeError:
        return ""
    is_text = all(letter.isprintable() or (letter.isspace() and letter not in _SEPARATORS) for letter in text)
    return text if is_text else ""
