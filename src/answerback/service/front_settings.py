"""What the front is told by its operator, and what clients are told of that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from answerback.core import defaults
from answerback.core.answer import encoded_size
from answerback.core.delivery import PROGRESS_S
from answerback.core.request import Policy
from answerback.core.uploads import TEXT, why_not_taken
from answerback.ports import ModelLimits, Quota
from answerback.protocol.frames import Attachment, ModelInfo, ServerLimits
from answerback.protocol.limits import (
    MAX_ANSWER_BYTES,
    MAX_ATTACHED_BYTES,
    MAX_ATTACHMENT_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    PIECE_BYTES,
)

_REST_OF_WELCOME: Final = 4_096
_INFO_BYTES: Final = 320
"""Of a `welcome`: everything but the models' names, and the most that one model's information may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSettings:
    """`models`: what clients may ask for, the first is the default. `model_limits`: what is known of single ones. Sizes
    in tokens, times in milliseconds. `least_client`: clients of a lower version are told to update.

    `queue_survives`: the queue keeps what was put (SQS), so a record notes that it was queued. A queue that is rebuilt
    from the store at start needs no such write.
    """

    models: Sequence[str]
    quota: Quota
    policy: Policy = field(default_factory=Policy)
    model_limits: Mapping[str, ModelLimits] = field(default_factory=dict)
    max_tokens: int = defaults.MAX_TOKENS
    max_message_bytes: int = MAX_MESSAGE_BYTES
    lock_system: bool = False
    least_client: str | None = None
    idle_timeout_ms: int = defaults.IDLE_TIMEOUT_S * 1000
    max_connection_ms: int | None = None
    queue_survives: bool = False

    def limits(self, *, takes_files: bool = False) -> ServerLimits:
        """What clients are told of them."""
        return ServerLimits(
            max_message_bytes=self.max_message_bytes,
            max_frame_bytes=MAX_FRAME_BYTES,
            max_answer_bytes=MAX_ANSWER_BYTES,
            requests_per_minute=self.quota.per_minute,
            max_pending=self.quota.max_pending,
            max_tokens=self.max_tokens,
            idle_timeout_ms=self.idle_timeout_ms,
            answer_timeout_ms=self.policy.answer_timeout_ms,
            queue_timeout_ms=self.policy.queue_timeout_ms,
            max_connection_ms=self.max_connection_ms,
            progress_ms=round(PROGRESS_S * 1000),
            piece_bytes=PIECE_BYTES if takes_files else None,
            max_attachment_bytes=MAX_ATTACHMENT_BYTES if takes_files else None,
        )

    def model_info(self, *, takes_files: bool = False) -> dict[str, ModelInfo]:
        """What clients are told of the models: of as many as fit into a `welcome`."""
        offered: dict[str, ModelInfo] = {}
        terms = self.quota.tariff.models
        room = MAX_FRAME_BYTES - _REST_OF_WELCOME - sum(encoded_size(name) + 3 for name in self.models)
        for name in self.models:
            known = self.model_limits.get(name, ModelLimits())
            info = ModelInfo(
                title=known.title,
                languages=known.languages,
                demo=known.demo,
                answer_timeout_ms=self.policy.answer_timeouts_ms.get(name),
                max_tokens=known.max_tokens,
                attachments=(TEXT, *known.attachments) if takes_files else (),
                parts=known.parts,
                format=known.format,
                priced=name in terms and terms[name].price is not None,
            )
            room -= encoded_size(name) + _INFO_BYTES
            if info != ModelInfo() and room >= 0:
                offered[name] = info
        return offered

    def why_no_files(self, model: str, attachments: Sequence[Attachment]) -> str | None:
        """Why a question to this model cannot have these files, by what they are said to be."""
        if sum(one.size for one in attachments) > MAX_ATTACHED_BYTES:
            return f"The files of a question may have {MAX_ATTACHED_BYTES >> 20} MB together. Leave one out."
        return why_not_taken(attachments, (TEXT, *self.model_limits.get(model, ModelLimits()).attachments))

    def tokens_of(self, model: str) -> int:
        """The most tokens of one answer of this model."""
        known = self.model_limits.get(model)
        return (None if known is None else known.max_tokens) or self.max_tokens
