"""Which new request is accepted, and the minutes that the rate counts."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from answerback.core.admission import (
    WINDOW_MS,
    Accepted,
    Admission,
    Existing,
    Full,
    Limited,
    MinuteCounts,
    Quota,
    admit,
    retry_after_ms,
    window_of,
)
from answerback.core.transitions import State
from asking import record_of

NOW_MS = 1_767_225_600_000 + 20_000
WAIT_MS = 40_000
RECORD = record_of(accepted_at_ms=NOW_MS)
QUOTA = Quota(per_minute=3, max_pending=5)

decide = partial(admit, existing=None, position=2, pending=0, counted=0, own_limit=None, quota=QUOTA, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("pending", "counted", "own_limit", "expected"),
    [
        (0, 0, None, Accepted(2)),
        (4, 2, None, Accepted(2)),
        (5, 0, None, Full()),
        (5, 3, None, Full()),
        (4, 3, None, Limited(WAIT_MS)),
        (4, 3, 4, Accepted(2)),
        (4, 2, 2, Limited(WAIT_MS)),
        (4, 999, 0, Accepted(2)),
    ],
)
def test_first_the_pending_cap_then_the_rate(
    pending: int, counted: int, own_limit: int | None, expected: Admission
) -> None:
    assert decide(pending=pending, counted=counted, own_limit=own_limit) == expected


def test_without_a_rate_only_the_pending_cap_counts() -> None:
    quota = Quota(per_minute=0, max_pending=5)
    assert decide(counted=999, quota=quota) == Accepted(2)
    assert decide(counted=1, own_limit=1, quota=quota) == Limited(WAIT_MS)


def test_an_id_that_exists_is_free_whatever_the_limits() -> None:
    assert decide(existing=RECORD, pending=5, counted=3) == Existing(RECORD, 2)
    ended = replace(RECORD, state=State.COMPLETED)
    assert decide(existing=ended, pending=5, counted=3) == Existing(ended, 0)


@given(st.integers(0, 2**45))
def test_after_the_retry_time_the_next_window_is_open_and_not_before(now_ms: int) -> None:
    wait_ms = retry_after_ms(now_ms)
    assert 1 <= wait_ms <= WINDOW_MS
    assert window_of(now_ms + wait_ms) == window_of(now_ms) + 1
    assert window_of(now_ms + wait_ms - 1) == window_of(now_ms)


def test_counts_are_forgotten_with_their_minute() -> None:
    counts = MinuteCounts()
    assert [counts.count("a", NOW_MS), counts.count("a", NOW_MS), counts.count("b", NOW_MS)] == [1, 2, 1]
    assert counts.count("a", NOW_MS + WAIT_MS) == 1
