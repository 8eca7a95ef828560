"""What is shown of an answer that comes, and comes again after a restart of the app."""

from hypothesis import given
from hypothesis import strategies as st

from answerback.client.events import Queued, Restarted, Started, Text
from answerback_desktop.engine.answers import LiveAnswer
from answerback_desktop.engine.events import TextAppended, TurnChanged
from answerback_desktop.records import Turn, TurnStatus


def asked(answer="", attempt=0, status=TurnStatus.OUTBOX):
    return Turn(
        request_id="a",
        conversation_id="c",
        question="?",
        asked_at_ms=0,
        answer=answer,
        attempt=attempt,
        status=status,
    )


def pieces_of(*parts):
    """As the client tells them, from the start of an attempt."""
    offset = 0
    for number, part in enumerate(parts):
        yield Text(offset=offset, parts=parts, start=number, end=number + 1)
        offset += len(part)


def shown_by(events, text=""):
    """What a reader has who follows the events."""
    for event in events:
        match event:
            case TurnChanged(turn):
                text = turn.answer
            case TextAppended(offset=offset, delta=delta):
                assert offset == len(text)
                text += delta
    return text


def told(live, *events):
    return [shown for event in events if (shown := live.receive(event)) is not None]


def test_from_the_question_to_the_text():
    live = LiveAnswer(asked())
    queued, started, *text = told(live, Queued(position=2, conversation_id="c"), Started(1), *pieces_of("a", "b"))
    assert (queued.turn.status, queued.turn.position) == (TurnStatus.QUEUED, 2)
    assert (started.turn.status, started.turn.position, started.turn.attempt) == (TurnStatus.STREAMING, None, 1)
    assert [(piece.offset, piece.delta) for piece in text] == [(0, "a"), (1, "b")]
    assert told(live, Queued(position=0, conversation_id="c")) == []


def test_a_new_attempt_restarts():
    live = LiveAnswer(asked())
    before = told(live, Started(1), *pieces_of("old"))
    after = told(live, Restarted(2), *pieces_of("new"))
    assert (shown_by(before), shown_by(after, "old"), live.turn.attempt) == ("old", "new", 2)


def test_another_attempt_than_the_kept_one():
    live = LiveAnswer(asked("kept of attempt 1", 1, TurnStatus.STREAMING))
    assert shown_by(told(live, Started(2), *pieces_of("other")), "kept of attempt 1") == "other"


def test_the_same_attempt_with_other_words_is_shown_as_it_is():
    live = LiveAnswer(asked("one two", 1, TurnStatus.STREAMING))
    assert shown_by(told(live, Started(1), *pieces_of("one ", "2!")), "one two") == "one 2!"


@given(st.lists(st.text(min_size=1, max_size=6), max_size=8), st.integers(0, 60))
def test_after_a_restart_the_same_text_goes_on_without_a_word_lost_or_doubled(parts, kept):
    whole = "".join(parts)
    live = LiveAnswer(asked(whole[:kept], 1, TurnStatus.STREAMING))
    events = told(live, Started(1), *pieces_of(*parts))
    assert shown_by(events, whole[:kept]) == live.text == whole
    assert "".join(event.delta for event in events if isinstance(event, TextAppended)) == whole[kept:]


@given(st.lists(st.text(min_size=1, max_size=6), max_size=8), st.text(max_size=20))
def test_whatever_was_kept_the_end_is_what_came(parts, kept):
    whole = "".join(parts)
    live = LiveAnswer(asked(kept, 1, TurnStatus.STREAMING))
    shown = shown_by(told(live, Started(1), *pieces_of(*parts)), kept)
    assert shown == live.text
    assert shown.startswith(whole)
    assert shown == whole or kept.startswith(whole)
