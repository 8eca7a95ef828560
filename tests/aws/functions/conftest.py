"""The functions' stack in memory, and a process's logging put back afterwards."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambda_stack import Stack


@pytest.fixture
def logging_put_back() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("answerback")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def make_stack(logging_put_back: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(**options: Any) -> Stack:
        made.append(Stack(monkeypatch, **options))
        return made[-1]

    yield make
    for stack in made:
        stack.close()


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()
