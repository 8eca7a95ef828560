"""Stretches: what of each part of an answer lies between two offsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from answerback.core.parts import Mark, Stretch, stretches

MARKS = (Mark(0, "text"), Mark(3, "tool", "t"), Mark(5, "text"))


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0, 8, [(0, 0, 3), (1, 3, 5), (2, 5, 8)]),
        (3, 5, [(1, 3, 5)]),
        (0, 3, [(0, 0, 3)]),
        (2, 4, [(0, 2, 3), (1, 3, 4)]),
        (6, 7, [(2, 6, 7)]),
    ],
)
def test_a_part_that_only_touches_the_range_is_not_in_it(
    start: int, end: int, found: list[tuple[int, int, int]]
) -> None:
    assert stretches(MARKS, start, end) == [Stretch(part, MARKS[part], *between) for part, *between in found]


@given(st.sets(st.integers(1, 20), max_size=5), st.integers(0, 25), st.integers(0, 25))
def test_each_code_point_is_in_the_stretch_of_its_part(offsets: set[int], start: int, end: int) -> None:
    marks = [Mark(offset, "tool") for offset in sorted({0, *offsets})]
    told = [(one.part, at) for one in stretches(marks, start, end) for at in range(one.start, one.end)]
    assert told == [(sum(mark.offset <= at for mark in marks) - 1, at) for at in range(start, end)]
