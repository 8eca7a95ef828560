"""The table of endings and the check of counts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.finish import MAX_TOKENS, REASONS, finish_reason, token_count


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("end-turn", "stop"),
        ("FINISH_REASON_STOP", "stop"),
        ("eos_token", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("model_context_window_exceeded", "length"),
        *(("endTurn", "stop"), ("eosFound", "stop"), ("stopStringFound", "stop"), ("</s>", "stop")),
        *(("maxTokens", "length"), ("FinishReason.MAX_TOKENS", "length"), ("maxPredictedTokensReached", "length")),
        *(("contextLengthReached", "length"), ("ERROR_LIMIT", "length"), ("toolCalls", "tool_calls")),
        ("SAFETY", "content_filter"),
        ("tool_use", "tool_calls"),
        ("function_call", "tool_calls"),
        ("FINISH_REASON_UNSPECIFIED", "other"),
        ("REASON_MAX_LEN", "length"),
        ("OTHER", "other"),
        ("", "other"),
        (None, "other"),
        (7, "other"),
        *(
            (word, None)
            for word in ("한국어", "…", "unknown", "done_early", "draining", "not_stop", "stop because of a fire")
        ),
        ("error", None),
        *((word, None) for word in ("rate_limited", "throttled", "SHUTDOWN", "terminated", "out of memory", "expired")),
        ("Error: overloaded", None),
        ("abort", None),
        ("aborted", None),
        ("cancelled", None),
        ("timeout", None),
        ("timed out", None),
        ("network_error", None),
        ("insufficient_system_resource", None),
        ("MALFORMED_FUNCTION_CALL", None),
        ("engine_failure", None),
    ],
)
def test_words(word: object, reason: str | None) -> None:
    assert finish_reason(word) == reason


@given(st.text() | st.integers() | st.none() | st.binary())
def test_the_table_is_closed(word: Any) -> None:
    assert finish_reason(word) in (*REASONS, None)


def test_every_reason_means_itself() -> None:
    assert [finish_reason(reason) for reason in REASONS] == list(REASONS)


@pytest.mark.parametrize(
    ("given_count", "count"),
    [(0, 0), (3, 3), (3.0, 3), (MAX_TOKENS, MAX_TOKENS)]
    + [(bad, None) for bad in (-1, MAX_TOKENS + 1, 2**63, 0.5, float("nan"), float("inf"), True, "3", None, [3])],
)
def test_counts(given_count: object, count: int | None) -> None:
    assert token_count(given_count) == count
