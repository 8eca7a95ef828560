"""Records and questions as columns, and rows as what the ports return."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from answerback.core.admission import is_locked, unlocked
from answerback.core.parts import Content, Mark
from answerback.core.request import SCHEMA, Question, Record
from answerback.ports import StoredConversation, StoredTurn, StoredUser
from answerback.protocol.errors import ErrorCode
from answerback.protocol.frames import Attachment, Status
from answerback.stores.database import StoreError

_LONG_ROW: Final = 2_000
"""Code points of texts from which on a row may need more than its page."""

_ROOM: Final = 512
"""By how much a record may grow until it ends: owner, lease, number of the queue, target."""

_TURN: Final = (
    *("position", "request_id", "status", "accepted_at_ms", "ended_at_ms", "model", "replaces", "error_code"),
    *("input_tokens", "output_tokens", "superseded_by", "attachments", "question", "answer", "marks"),
)
_CONVERSATION: Final = ("conversation_id", "title", "created_at_ms", "updated_at_ms", "deleted", "turns")

_encoder: Final = msgspec.json.Encoder()
_record: Final = msgspec.json.Decoder(Record)
_marks: Final = msgspec.json.Decoder(tuple[Mark, ...])
_question: Final = msgspec.json.Decoder(Question)
_attachments: Final = msgspec.json.Decoder(tuple[Attachment, ...])


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


def width_of(record: str, question: Question) -> int:
    """The length to which every record of this request is filled up with spaces, by `str.ljust`; 0 for a short row.

    SQLite writes a row that has kept its length in place, and of its pages only those that differ. Any other one is
    written again, with all pages of a long question, at each note about the request.
    """
    is_long = len(question.message) + len(question.system or "") >= _LONG_ROW
    return len(record) + _ROOM if is_long else 0


def encode_options(question: Question) -> str:
    """The question without its texts, which have columns of their own."""
    bare = replace(question, message="", system=None if question.system is None else "")
    return _encoder.encode(bare).decode()


def encode_attachments(attachments: Sequence[Attachment]) -> str | None:
    """What files a question has, as its turn keeps them."""
    return _encoder.encode(attachments).decode() if attachments else None


def decode_question(options: str, message: str, system: str | None) -> Question:
    """The question, whole again."""
    bare = _question.decode(options)
    return replace(bare, message=message, system=None if bare.system is None else system or "")


def encode_marks(marks: tuple[Mark, ...]) -> str | None:
    """The marks of an answer as JSON, None if it is text alone."""
    return _encoder.encode(marks).decode() if marks else None


def content_of(answer: str | None, marks: str | None) -> Content:
    """An answer as it was stored."""
    return Content(answer or "", _marks.decode(marks) if marks else ())


def turn_of(row: Sequence[Any]) -> StoredTurn:
    """A turn from the columns of statements.TURN, the question, the answer and its marks."""
    fields = dict(zip(_TURN, row, strict=True))
    code = fields["error_code"]
    answer, marks = content_of(fields["answer"], fields["marks"])
    fields.update(status=Status(fields["status"]), error_code=code and ErrorCode(code), answer=answer, marks=marks)
    fields["attachments"] = _attachments.decode(files) if (files := fields["attachments"]) else ()
    return StoredTurn(**fields)


def conversation_of(row: Sequence[Any]) -> StoredConversation:
    """A conversation from a row of SELECT_CONVERSATIONS."""
    fields = dict(zip(_CONVERSATION, row, strict=True))
    return StoredConversation(**fields | {"deleted": fields["deleted"] is not None})


def user_of(row: Sequence[Any]) -> StoredUser:
    """A user from a row of SELECT_USERS."""
    *asked_at_ms, user_id, per_minute, team, keep_days, created_at_ms, conversations, turns = row
    last = max((at for at in asked_at_ms if at is not None), default=None)
    return StoredUser(
        user_id=user_id,
        per_minute=unlocked(per_minute),
        blocked=is_locked(per_minute),
        team=team,
        keep_days=keep_days,
        created_at_ms=created_at_ms,
        last_request_at_ms=last,
        conversations=conversations,
        turns=turns,
    )
