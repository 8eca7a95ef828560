"""Which of many inputs are worth keeping: those that reach a step of the code that no smaller one reaches."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import answerback

ROOT = str(Path(answerback.__file__).parent)

Step = tuple[str, int, int]
"""From one line of a file to another."""


def smallest_cover(target: Callable[[bytes], None], inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs, in their order, that each reach a step that the ones before do not."""
    seen: set[Step] = set()
    kept = []
    for data in inputs:
        steps = steps_of(target, data)
        if steps - seen:
            seen |= steps
            kept.append(data)
    return kept


def steps_of(target: Callable[[bytes], None], data: bytes) -> set[Step]:
    """The steps of this package's code that a run takes."""
    steps: set[Step] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        del event, argument
        name = frame.f_code.co_filename
        if not name.startswith(ROOT):
            return None
        last = -frame.f_lineno

        def step(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            del argument
            if event == "line":
                steps.add((name, last, frame.f_lineno))
                last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return steps
