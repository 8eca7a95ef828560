"""Ordering, fingerprint, context, titles, instants."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.context import Message, Role, choose, estimate_tokens, is_blank, shortened, title_of
from answerback.core.instants import day_of, iso
from answerback.core.keys import digest, fingerprint, ordering_key, traceparent
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


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FULL = {"conversation_id": "c1", "model": "local", "system": "Be brief.", "max_tokens": 200, "replaces": "r0"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, "69401de082331e83004c5d0d444480b2f8b1705f95b70d69f78962f8b0755b56"),
        (
            {"message": "What is a WebSocket?", "stream": True},
            "64037d28c40690defa5c747a0d6d136f01591c67ea314474e225ba345fe46ded",
        ),
        ({"message": "웹소켓이 무엇인가요? 🙂"}, "1e894c4aa6427b972a9e29411d107624e3de8eb72b6fbaf18d1e1db7497ab285"),
        ({"conversation_id": "c1"}, "3a5da05f01bd37acd12bf8047867868896bdd04a1ad9377aa479b3ff92663f79"),
        ({"model": "local"}, "5e9db68867ab021de4e7696a22e0c7f65b22d353716ecae2e9208059e69eeb81"),
        ({"system": "Be brief."}, "2a84e675bdd6b13f254ad16c1686e3dc0e3e01cb915d41d45b8deb1fd91f5f38"),
        ({"system": ""}, "73649bdb235aecae2e9f59143db87285914e5234b37408bde876e6cb968ab40e"),
        ({"max_tokens": 7}, "dfab98ca0d57dd36138d033139e4523a16f2056e65cc25901f0b13977a4d9a3f"),
        (
            {"conversation_id": "c1", "replaces": "r0"},
            "8f2f1c3faac3db0273136087b43989f4f9d79a3a8c29c37dd7203be9e3b9c00e",
        ),
        (FULL, "c05ef41d6d0d75d55807f1a0dd136cf25127d0f3c189134930dc81489ebd012a"),
        ({**FULL, "traceparent": TRACEPARENT}, "c05ef41d6d0d75d55807f1a0dd136cf25127d0f3c189134930dc81489ebd012a"),
        ({**FULL, "parts": ()}, "c05ef41d6d0d75d55807f1a0dd136cf25127d0f3c189134930dc81489ebd012a"),
    ],
)
def test_a_fingerprint_is_what_it_has_always_been(fields: Any, kept: str) -> None:
    """Else a question that is repeated over an upgrade would be a conflict."""
    assert fingerprint(SendMessage(**{"request_id": "r1", "message": "m", **fields})) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (TRACEPARENT, True),
        (TRACEPARENT.replace("00-4b", "cc-4b"), True),
        (TRACEPARENT.replace("00-4b", "ff-4b"), False),
        (TRACEPARENT.upper(), False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", False),
        (f"{TRACEPARENT}-more", False),
        (f"{TRACEPARENT}\n", False),
        ("", False),
        (17, False),
        ({"trace": TRACEPARENT}, False),
    ],
)
def test_only_a_well_formed_traceparent_is_kept(given: object, kept: bool) -> None:
    assert traceparent(given) == (given if kept else None)


def test_the_kinds_of_parts_belong_to_the_fingerprint_in_one_order_each_once() -> None:
    def asked(*parts: str) -> str:
        return fingerprint(SendMessage(request_id="r", message="m", parts=parts))

    assert asked("tool", "citation", "tool") == asked("citation", "tool")
    assert len({asked(), asked("citation"), asked("tool"), asked("citation", "tool"), asked("citation,tool")}) == 5


@given(
    st.lists(st.tuples(st.text(max_size=60), st.text(max_size=60)), max_size=8),
    st.text(max_size=60),
    st.integers(0, 200),
)
def test_the_context_is_the_newest_whole_turns_that_fit(
    turns: list[tuple[str, str]], question: str, budget: int
) -> None:
    said = choose(turns, question, budget_tokens=budget)
    turns = [turn for turn in turns if not any(map(is_blank, turn))]
    assert said[-1] == Message(Role.USER, question)
    pairs = [(said[n].text, said[n + 1].text) for n in range(0, len(said) - 1, 2)]
    assert pairs == turns[len(turns) - len(pairs) :]
    size = sum(estimate_tokens(part.text) for part in said)
    assert size <= budget or len(said) == 1
    if len(pairs) < len(turns):
        dropped = turns[len(turns) - len(pairs) - 1]
        assert size + sum(map(estimate_tokens, dropped)) > budget


# Texts, and what the embedded model's tokenizer takes for them.
_MEASURED = {
    "The sea is deep and the boats are small. However, nobody knows why it works, does one? ": 21,
    "海很深而船很小，但是没有人知道为什么。": 35,  # noqa: RUF001
    "海は深く、船は小さいです。でも誰も理由を知りません。": 48,
    "ทะเลลึกและเรือก็เล็กแต่ไม่มีใครรู้": 65,
    "L'été dernier, nous étions déjà très fatigués à l'hôtel. ": 28,
    "def f(x: int) -> dict[str, int]:\n    return {k: v for k, v in x.items() if v >= 10}\n": 37,
}


@pytest.mark.parametrize(("text", "tokens"), _MEASURED.items())
def test_tokens_are_guessed_high_but_not_twice_as_high(text: str, tokens: int) -> None:
    assert 20 * tokens <= estimate_tokens(text * 20) <= 40 * tokens


def test_hangul_costs_two_tokens_and_three_with_the_embedded_model() -> None:
    text = "대한민국의모든권력은국민으로부터나온다"
    assert estimate_tokens(text * 20) >= 2 * 20 * len(text)
    assert estimate_tokens(text * 20, 1.0) >= 20 * 53  # as measured


def test_digits_and_marks_may_each_be_a_token() -> None:
    assert estimate_tokens("0123456789" * 10) >= 100
    assert estimate_tokens("{}[]();=+-" * 10) >= 100


@pytest.mark.parametrize("blank", ["", " \n", "\0", "\ud800 ", "\ufeff\u200b\u3000"])
def test_a_blank_turn_is_no_context(blank: str) -> None:
    turns = [("a", "b"), ("c", blank), (blank, "d"), ("e", "f")]
    assert [message.text for message in choose(turns, "q", budget_tokens=1000)] == ["a", "b", "e", "f", "q"]


@pytest.mark.parametrize(("turns", "kept"), [(0, 0), (1, 0), (2, 1), (3, 1), (20, 10)])
def test_about_half_of_the_turns_and_the_question(turns: int, kept: int) -> None:
    said = choose([(f"q{n}", f"a{n}") for n in range(turns)], "q", budget_tokens=100_000)
    assert shortened(said) == said[len(said) - 2 * kept - 1 :]


def test_a_title_is_the_start_of_the_first_line() -> None:
    assert title_of("  \n What is it?\nTell me. ") == "What is it?"
    assert title_of("x" * 100) == "x" * 59 + "…"
    assert title_of(" \n ") == ""


def test_instants_are_utc_to_the_millisecond() -> None:
    assert iso(1_767_225_600_007) == "2026-01-01T00:00:00.007Z"
    assert iso(1_767_225_600_999, "seconds") == "2026-01-01T00:00:00Z"
    assert (day_of(1_767_225_599_999), day_of(1_767_225_600_000)) == ("2025-12-31", "2026-01-01")
