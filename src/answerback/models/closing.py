"""Closing of streams that may be any async iterator."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")


async def closable(stream: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The same items; closing it, or its end, closes `stream` at once if that has `aclose`."""
    try:
        async for item in stream:
            yield item
    finally:
        aclose = getattr(stream, "aclose", None)
        if aclose is not None:
            await aclose()
