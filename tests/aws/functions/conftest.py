"""The functions' stack in memory, and a process's logging put back afterwards."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lambda_functions import Functions, logging_kept


@pytest.fixture
def logging_put_back() -> Iterator[None]:
    with logging_kept():
        yield


@pytest.fixture
def make_functions(logging_put_back: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Functions]]:
    made: list[Functions] = []

    def make(**options: Any) -> Functions:
        made.append(Functions(monkeypatch, **options))
        return made[-1]

    yield make
    for functions in made:
        functions.close()


@pytest.fixture
def functions(make_functions: Callable[..., Functions]) -> Functions:
    return make_functions()
