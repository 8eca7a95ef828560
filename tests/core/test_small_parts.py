"""Ordering, fingerprint, context, titles, instants."""

from hypothesis import given
from hypothesis import strategies as st

from answerback.core.context import Message, Role, choose, estimate_tokens, title_of
from answerback.core.instants import day_of, iso
from answerback.core.keys import digest, fingerprint, ordering_key
from answerback.protocol.frames import SendMessage


@given(
    st.lists(st.one_of(st.none(), st.text("a:1-;")), max_size=4),
    st.lists(st.one_of(st.none(), st.text("a:1-;")), max_size=4),
)
def test_different_parts_have_different_digests(one: list[str | None], other: list[str | None]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_the_ordering_key_is_the_conversation_inside_the_user() -> None:
    keys = {ordering_key("a", None), ordering_key("a", "a"), ordering_key("b", "a"), ordering_key("b", None)}
    assert len(keys) == 4
    assert ordering_key("a", "c") == ordering_key("a", "c")


def test_the_fingerprint_is_the_payload_without_timestamp_and_stream() -> None:
    base = SendMessage(request_id="r", message="m")
    same = SendMessage(request_id="q", message="m", stream=True, timestamp="now", user_id="u")
    assert fingerprint(base) == fingerprint(same)
    others = [
        SendMessage(request_id="r", message="n"),
        SendMessage(request_id="r", message="m", conversation_id="c"),
        SendMessage(request_id="r", message="m", model="x"),
        SendMessage(request_id="r", message="m", system="x"),
        SendMessage(request_id="r", message="m", max_tokens=5),
        SendMessage(request_id="r", message="m", replaces="q"),
    ]
    assert len({fingerprint(frame) for frame in [base, *others]}) == 7


@given(
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=8),
    st.text(max_size=60),
    st.integers(0, 200),
)
def test_the_context_is_the_newest_whole_turns_that_fit(
    turns: list[tuple[str, str]], question: str, budget: int
) -> None:
    said = choose(turns, question, budget_tokens=budget)
    assert said[-1] == Message(Role.USER, question)
    pairs = [(said[n].text, said[n + 1].text) for n in range(0, len(said) - 1, 2)]
    assert pairs == turns[len(turns) - len(pairs) :]
    size = sum(estimate_tokens(part.text) for part in said)
    assert size <= budget or len(said) == 1
    if len(pairs) < len(turns):
        dropped = turns[len(turns) - len(pairs) - 1]
        assert size + sum(map(estimate_tokens, dropped)) > budget


def test_a_title_is_the_start_of_the_first_line() -> None:
    assert title_of("  \n What is it?\nTell me. ") == "What is it?"
    assert title_of("x" * 100) == "x" * 60
    assert title_of(" \n ") == ""


def test_instants_are_utc_to_the_millisecond() -> None:
    assert iso(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"
    assert iso(1_767_225_600_999, "seconds") == "2026-01-01T00:00:00Z"
    assert (day_of(1_767_225_599_999), day_of(1_767_225_600_000)) == ("2025-12-31", "2026-01-01")
