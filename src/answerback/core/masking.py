"""Text of a model or its server for the operator's log, without the words of the conversation that it may repeat."""

import html
import re
import unicodedata
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from answerback.core.answer import clean

MAX_LENGTH: Final = 500
"""Code points of a message in the log. The first sentences say what is wrong."""

_WORD: Final = re.compile(r"\w+")
_ESCAPE: Final = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[nrtbf\"'/]|)")
_BASE64: Final = re.compile("[A-Za-z0-9+/]{40,}={0,2}")
"""What may be a file, or anything. Ids are shorter, or have other marks in them."""
_ERROR_WORDS: Final = (
    "a an and any are as at be been but by can cannot could did do does for from had has have how if in is it its may "
    "no not of on one or raise set should so such than that the then there this to too up was were what when which "
    "will with you your "
    "access account again allow api answer argument authorization available bad batch bedrock body broke check client "
    "closed code completion completions connection console content context conversation converse credentials "
    "denied does end endpoint error exceed exceeded exceeds exception expected extra failed field fewer format found "
    "greater http index inputs input instead int internal invalid key large least length less limit list llama long "
    "longer lower max maximum message messages minimum missing model models most must name none null number object "
    "option options parameter permission permitted please prompt provided proxy quota rate reached reduce refused "
    "region rejected request requested requests required response retry role roles sequence server service shorten "
    "shorter silent size small spec status str stream string supported system temperature text throttled time timeout "
    "token tokens try type unauthorized unavailable unexpected unknown unsupported upstream url use used user valid "
    "validation value values wait"
)
"""The words that errors are made of. They are shown even where the conversation has them, and give nothing away."""

_SHOWN: Final = frozenset(_ERROR_WORDS.split())


def masked(text: str, conversation: Iterable[str]) -> str:
    """`text`, shortened, with each word replaced that stands in `conversation`, whole or cut, in whatever case.

    Numbers up to three digits are shown: they are statuses.
    """
    said = _plain("\n".join(conversation))
    return _WORD.sub(lambda found: "…" if _gives_away(found[0], said) else found[0], _unescaped(text)[:MAX_LENGTH])


def masked_error(exc: BaseException, conversation: Iterable[str], *, depth: int = 8) -> BaseException:
    """An exception for the log, as `exc` in type, traceback and causes (`depth` of them), and with its texts masked."""
    said = tuple(conversation)
    kind = type(type(exc).__name__, (Exception,), {"__module__": type(exc).__module__})
    copy: BaseException = kind(masked(text_of(exc), said))
    copy.__traceback__ = exc.__traceback__
    if depth and exc.__cause__ is not None:
        copy.__cause__ = masked_error(exc.__cause__, said, depth=depth - 1)
    elif depth and exc.__context__ is not None and not exc.__suppress_context__:
        copy.__context__ = masked_error(exc.__context__, said, depth=depth - 1)
    return copy


def text_of(value: object) -> str:
    """Its text, of foreign code's own making."""
    try:
        return str(value)
    except Exception:  # it is foreign code as well
        return "(its text cannot be made)"


def _gives_away(word: str, said: str) -> bool:
    plain = _plain(word)
    if plain in _SHOWN or (word.isdecimal() and len(word) <= 3) or (word.isascii() and len(word) <= 2):
        return False
    return plain in said


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _unescaped(text: str) -> str:
    """Without the escapes of JSON, `repr`, URLs and HTML, which would hide where a word begins, and what it is."""
    plain = _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else f"%{found[2]}" if found[2] else " ", text)
    return clean(_BASE64.sub("…", html.unescape(unquote(plain))))
