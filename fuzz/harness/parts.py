"""Target `parts`: what a model says of any kind, in frames that are cut, lost, repeated and resumed, put together."""

from answerback.core.answer import Answer, clean
from answerback.core.assembly import AnswerPart, Assembly, Broken, Ended
from answerback.core.delivery import Delivery, steady
from answerback.core.parts import KINDS, MAX_PARTS, TEXT, stretches, visible
from answerback.core.request import DeliveryTarget, Ending, Record
from answerback.core.transitions import State
from answerback.protocol.frames import MessageDelta, Status
from harness.reading import Script

_KINDS = (TEXT, TEXT, *sorted(KINDS))
_MAX_BYTES = 400


def parts(data: bytes) -> None:
    """However frames come, the app ends with the parts of the answer, and no frame has text of two."""
    script = Script(data)
    answer, held = Answer(1, max_bytes=_MAX_BYTES), Assembly(streamed=True)
    delivery = Delivery(_record(), answer, steady(0.0), now=0.0)
    seen: list[MessageDelta] = []
    number = 1
    while script:
        kind, text = script.pick(_KINDS), script.block().decode("utf-8", "replace")
        if kind == TEXT:
            answer.append(text)
        else:
            answer.append_part(kind, script.pick((None, "s")), text, is_new=script.byte() < 128)
        match script.byte() % 4:
            case 0:  # the app comes back with what it has
                number += 1
                delivery.retarget(_target(number, held.attempt, held.length))
            case 1 if seen:
                _take(held, script.pick(seen))
            case _:
                pass
        while (frame := delivery.next_frame(now=0.0)) is not None:
            delivery.sent(frame, now=0.0)
            if isinstance(frame, MessageDelta):
                seen.append(frame)
                assert all(not frame.offset < mark.offset < frame.offset + len(frame.delta) for mark in answer.marks)
            if script.byte() >= 32:  # else it is lost
                _take(held, frame)
    ending = Ending(status=Status.COMPLETED, attempt=1, length=answer.length, ended_at_ms=1)
    delivery.ended(_record(ending, _target(number + 1, held.attempt, held.length)))
    ended = None
    while (frame := delivery.next_frame(now=0.0)) is not None:
        delivery.sent(frame, now=0.0)
        ended = _take(held, frame) or ended
    content = answer.content
    assert len(content.marks) <= MAX_PARTS
    assert clean(content.text) == content.text
    found = stretches(content.marks, 0, answer.length)
    assert ended is not None
    assert ended.text == visible(content)
    assert ended.parts == tuple(
        AnswerPart(one.mark.kind, one.mark.name, content.text[one.start : one.end]) for one in found
    )


def _take(held: Assembly, frame: object) -> Ended | None:
    events = held.receive(frame)  # type: ignore[arg-type] # what a delivery sends
    assert not any(isinstance(event, Broken) for event in events), events
    return next((event for event in events if isinstance(event, Ended)), None)


def _target(number: int, attempt: int, offset: int) -> DeliveryTarget:
    return DeliveryTarget(no=number, connection_id="c", generation=number, attempt=attempt, offset=offset)


def _record(ending: Ending | None = None, target: DeliveryTarget | None = None) -> Record:
    return Record(
        user_id="u",
        request_id="r",
        session_id="s",
        conversation_id="c",
        ordering_key="k",
        fingerprint="f",
        model="m",
        accepted_at_ms=0,
        stream=True,
        state=State.RUNNING if ending is None else State.COMPLETED,
        attempt=1,
        parts=tuple(KINDS),
        ending=ending,
        target=target or _target(1, 0, 0),
    )
