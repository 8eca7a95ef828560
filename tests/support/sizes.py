"""How much the objects of a running program hold: the size of every container that can be reached from one of them."""

import functools
import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

CONTAINERS = (dict, set, list, deque, bytearray)


def sizes(root: object, packages: Sequence[str] = ("answerback",)) -> dict[str, int]:
    """The sizes of all containers under `root` by how they are reached, through objects of these packages alone.

    Containers at one place of many objects count together: what matters is how much there is, not of whom.
    """
    found: dict[str, int] = {}
    seen: dict[int, Any] = {}  # with the objects themselves, or an id could be given to another one
    waiting: list[tuple[str, Any]] = [(type(root).__name__, root)]
    while waiting:
        path, value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, CONTAINERS):
            found[path] = found.get(path, 0) + len(value)
        waiting.extend((f"{path}{step}", part) for step, part in _parts(value, packages))
    return found


def _parts(value: Any, packages: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in list(value.items()):
            yield "[]", part
            yield "[]", key
    elif isinstance(value, set | list | tuple | deque | frozenset):
        for part in list(value):
            yield "[]", part
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, functools.partial):
        yield "", [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield "()", cell.cell_contents
            except ValueError:  # not assigned
                pass
    elif type(value).__module__.partition(".")[0] in packages or type(value).__name__ == "AsyncExitStack":
        names = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
        names |= set(getattr(value, "__dict__", ()))
        for name in sorted(names):
            if name != "__weakref__" and hasattr(value, name):
                yield f".{name}", getattr(value, name)
