"""Values that are nearly a right one: what a comparison by beginning, end, part or letter case would take for it."""

from collections.abc import Callable, Iterator


def near_misses(right: str, *, is_legal: Callable[[str], bool] = lambda _: True) -> list[str]:
    """Each once, the right one never. `is_legal`: whether a value can be sent at all."""
    return [text for text in dict.fromkeys(_near(right)) if text != right and is_legal(text)]


def _near(right: str) -> Iterator[str]:
    for size in (1, len(right) // 2, len(right) - 1):
        yield right[:size]
        yield right[-size:]
    for more in ("x", "/", ".", "-", "0", "=", ":1", "?", "#", "@", ".evil.example", "@evil.example", right):
        yield right + more
        yield more + right
    for at in (0, len(right) // 2, len(right) - 1):
        other = "z" if right[at] != "z" else "y"
        yield right[:at] + other + right[at + 1 :]
        yield right[:at] + right[at + 1 :]
        yield right[:at] + right[at] + right[at:]
    yield right[1:] + right[0]
    yield right[::-1]
    yield right.swapcase()
    yield right.replace(".", "x")
    yield ""
