"""Records, questions and texts as columns, and back."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec.structs import replace

from answerback.core.request import SCHEMA, Question, Record
from answerback.stores.errors import StoreError

PIECE_LENGTH: Final = 16_000
"""Code points of a text in one row: at 4 bytes each it fits the 64 KB that a row of the RDS Data API may have."""

QUESTION: Final = "question"
SYSTEM: Final = "system"
ANSWER: Final = "answer"

_encoder: Final = msgspec.json.Encoder()
_record: Final = msgspec.json.Decoder(Record)
_question: Final = msgspec.json.Decoder(Question)


def encode_record(record: Record) -> str:
    """The record as JSON. Its version is a column. A field that has its default is not written."""
    return _encoder.encode(record).decode()


def decode_record(text: str, schema: int) -> Record:
    """The record. Raises: StoreError: a newer version of the program wrote it."""
    check_schema(schema)
    return _record.decode(text)


def check_schema(schema: int) -> None:
    """Raises: StoreError: this program would lose a field of such a record."""
    if schema > SCHEMA:
        raise StoreError(
            f"A request's record has version {schema}; this program reads up to {SCHEMA}. Upgrade the program."
        )


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
