"""Notes what the user interface asks of the engine, and does nothing."""

from typing import Any


class NotedCommands:
    """`noted`: (name, arguments) of each command, in order."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str):
        def note(*arguments: Any, **named: Any) -> None:
            self.noted.append((name, (*arguments, *named.values())))

        return note

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of each command of this name."""
        return [arguments for noted, arguments in self.noted if noted == name]
