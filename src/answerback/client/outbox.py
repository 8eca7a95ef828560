"""The outbox port: keeps pending questions, so that they survive the app."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from answerback.client.errors import AnswerbackError
from answerback.client.events import Answer
from answerback.protocol.frames import SendMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingRequest:
    """A question without an ending. `is_accepted`: the server has it, so that it is resumed and never asked again.

    `paths`: where its files can be read again, in the order of its attachments; None: only the app had that one.
    """

    frame: SendMessage
    is_accepted: bool = False
    conversation_id: str | None = None
    paths: tuple[str | None, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        frame = msgspec.to_builtins(self.frame)
        kept = {"frame": frame, "isAccepted": self.is_accepted, "conversationId": self.conversation_id}
        return kept | {"paths": self.paths} if self.paths else kept

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "PendingRequest":
        """What `to_dict` made. Raises: ValueError: it is something else."""
        try:
            return cls(
                frame=msgspec.convert(data["frame"], SendMessage),
                is_accepted=bool(data["isAccepted"]),
                conversation_id=data.get("conversationId"),
                paths=msgspec.convert(data.get("paths", ()), tuple[str | None, ...]),
            )
        except (KeyError, TypeError, msgspec.ValidationError) as exc:
            raise ValueError("not a pending request; use what PendingRequest.to_dict made") from exc


class Outbox(Protocol):
    """Keeps the unfinished questions of one session across runs of the app.

    Called from the client's event loop; each call should be over quickly. `ended` is called right before the ending is
    shown, so that an app that writes both down there never loses an answer nor asks a question twice.
    """

    def load(self) -> Sequence[PendingRequest]:
        """What was kept and has not ended, in the order asked. Read once, before the first connection."""

    def save(self, pending: PendingRequest) -> None:
        """Keep a question, or note that it was accepted (same request id)."""

    def ended(self, request_id: str, outcome: Answer | AnswerbackError) -> None:
        """The question has its ending: forget it, keep the outcome if it matters."""
