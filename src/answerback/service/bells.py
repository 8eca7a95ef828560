"""Bells between a front and a worker of one process: "look at your record now" instead of at the next renewal.

Nothing rests on a bell: where front and worker are different processes it rings unheard, and the worker sees the target
or the cancellation when it renews its lease.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from answerback.core.request import RequestKey


class Bells:
    """One bell a running request."""

    def __init__(self) -> None:
        self._listeners: dict[RequestKey, Callable[[], None]] = {}

    def ring(self, key: RequestKey) -> None:
        """Wake the worker of this request, if it runs here."""
        if listener := self._listeners.get(key):
            listener()

    @contextmanager
    def heard(self, key: RequestKey, listener: Callable[[], None]) -> Iterator[None]:
        """Hear the bell of this request for the length of the block."""
        self._listeners[key] = listener
        try:
            yield
        finally:
            if self._listeners.get(key) is listener:
                del self._listeners[key]
