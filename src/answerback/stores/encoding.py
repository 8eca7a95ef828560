"""Records, questions and texts as columns, and back."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from answerback.core.request import SCHEMA, Question, Record
from answerback.stores.errors import StoreError

PIECE_LENGTH: Final = 16_000
"""Code points of a text in one row: at 4 bytes each it fits the 64 KB that a row of the RDS Data API may have."""

QUESTION: Final = "question"
SYSTEM: Final = "system"
ANSWER: Final = "answer"

UPGRADES: Final[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""Version -> what makes the next version of a record of it. Version 1 is the first."""

_encoder: Final = msgspec.json.Encoder()
_record: Final = msgspec.json.Decoder(Record)
_question: Final = msgspec.json.Decoder(Question)


def encode_record(record: Record) -> str:
    """The record as JSON. Its version is a column: a field that has its default is not written."""
    return _encoder.encode(record).decode()


def decode_record(text: str, schema: int) -> Record:
    """The record, upgraded to this program's version if it is of an older one.

    Raises: StoreError: it was written by a newer version of the program.
    """
    if schema == SCHEMA:
        return _record.decode(text)
    if schema > SCHEMA:
        raise StoreError(
            f"A request's record has version {schema}; this program reads up to {SCHEMA}. Upgrade the program."
        )
    raw: dict[str, Any] = msgspec.json.decode(text)
    for version in range(schema, SCHEMA):
        raw = UPGRADES[version](raw)
    return msgspec.convert(raw | {"schema": SCHEMA}, Record)


def encode_options(question: Question) -> str:
    """The question without its texts, which are kept in pieces."""
    bare = replace(question, message="", system=None if question.system is None else "")
    return _encoder.encode(bare).decode()


def decode_question(options: str, message: str, system: str) -> Question:
    """The question, whole again."""
    bare = _question.decode(options)
    return replace(bare, message=message, system=None if bare.system is None else system)


def pieces(text: str, length: int = PIECE_LENGTH) -> Iterator[tuple[int, str]]:
    """(number, piece of at most `length` code points) of a text; nothing for the empty text."""
    return ((start // length, text[start : start + length]) for start in range(0, len(text), length))
