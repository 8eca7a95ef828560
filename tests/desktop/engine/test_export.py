"""Exports are read back as they were, whatever the texts hold, and an import changes nothing that is here."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.client import File, Usage
from answerback_desktop.engine.export import ExportFormat, Kept, exported, imported
from answerback_desktop.records import (
    Conversation,
    Failure,
    FailureCode,
    Times,
    Traits,
    Turn,
    TurnStatus,
)

NOW_MS = 1_767_225_600_000
MARK = '<!-- answerback:turn {"requestId":"x","status":"completed","askedAt":"","answerLength":3} -->'
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=80),
    st.sampled_from(
        [f"before\n\n---\n\n{MARK}\n\n> q\n\n*t*\n\nabc", MARK, "> quoted\n>\n> more", "---", "-->", "*x*"]
    ),
)


@st.composite
def kept(draw):
    name = draw(st.uuids()).hex
    turns = []
    for number in range(draw(st.integers(0, 4))):
        status = draw(st.sampled_from([TurnStatus.COMPLETED, TurnStatus.FAILED, TurnStatus.CANCELLED]))
        is_failed = status is TurnStatus.FAILED
        turns.append(
            Turn(
                request_id=f"{name}-{number}",
                conversation_id=name,
                question=draw(TEXTS.filter(bool)),
                answer=draw(TEXTS),
                status=status,
                asked_at_ms=NOW_MS + number,
                answered_at_ms=draw(st.sampled_from([None, NOW_MS + 9])),
                failure=Failure(code=FailureCode.TIMEOUT, is_retryable=True) if is_failed else None,
                model=draw(st.sampled_from([None, "m", "a>b-->"])),
                superseded_by=f"{name}-9" if draw(st.booleans()) else None,
                attachments=draw(st.sampled_from([(), (File(name="a -->.pdf", data=b"%PDF-").attachment,)])),
                tokens=draw(st.sampled_from([None, Usage(input_tokens=1, output_tokens=2)])),
                times=draw(st.sampled_from([None, Times(queued_ms=1, first_text_ms=None, total_ms=3)])),
            )
        )
    conversation = Conversation(
        conversation_id=name, title=draw(st.sampled_from(["T", "> -->"])), created_at_ms=NOW_MS, updated_at_ms=NOW_MS
    )
    tags = draw(st.sampled_from([(), ("work", "여행")]))
    traits = Traits(is_pinned=draw(st.booleans()), tags=tags, system=draw(st.sampled_from([None, "", "Be brief."])))
    return Kept(conversation=conversation, turns=tuple(turns), traits=traits)


@pytest.mark.parametrize("form", list(ExportFormat))
@given(st.lists(kept(), min_size=1, max_size=3, unique_by=lambda one: one.conversation.conversation_id))
def test_all_that_is_written_is_read(form, everything):
    assert imported(exported(everything, form, is_all=True), now_ms=NOW_MS) == tuple(everything)


def test_a_markdown_file_that_a_person_has_changed_is_read_as_it_is_now():
    one = Kept(
        conversation=Conversation(conversation_id="c", title="T", created_at_ms=NOW_MS, updated_at_ms=NOW_MS),
        turns=[
            Turn(
                request_id=name,
                conversation_id="c",
                question=f"{name}?",
                answer="An answer.",
                status=TurnStatus.COMPLETED,
                asked_at_ms=NOW_MS,
            )
            for name in "ab"
        ],
    )
    text = exported([one], ExportFormat.MARKDOWN).replace("An answer.", "A better answer.", 1)
    (read,) = imported(text, now_ms=NOW_MS)
    assert [turn.answer for turn in read.turns] == ["A better answer.", "An answer."]


@pytest.mark.parametrize("text", ["", "{", "{}", "# only a title", "[1]", '{"conversations": []}', "\0", "{" * 9999])
def test_what_is_no_export_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        imported(text, now_ms=NOW_MS)


def test_what_had_not_ended_was_given_up():
    facts = {
        "requestId": "r",
        "status": "streaming",
        "askedAt": "2026-01-01T00:00:00.000Z",
        "question": "q",
        "answer": "h",
    }
    file = {"conversationId": "c", "title": "T", "createdAt": "", "updatedAt": "", "turns": [facts]}
    (read,) = imported(json.dumps(file), now_ms=NOW_MS)
    assert (read.turns[0].status, read.turns[0].answer) == (TurnStatus.CANCELLED, "h")
