"""Where the emulator differs from AWS in a way that this product meets, it is put right: one module a service.

These modules run on the emulator's interpreter and import nothing else of ours. They reach names that are private to
the emulator, and so each one is looked up by `private`, which says at once when a newer emulator has moved it.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["Moved", "private", "replace"]


class Moved(Exception):
    """The emulator has no such name: this version of it is not the one that the patches were written for."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(module, name)
        self.module, self.name = module, name

    def __str__(self) -> str:
        return (
            f"the emulator's {self.module} has no {self.name!r}: it is another version than requirements/emulator.txt "
            "names. Install that one, or write the patch for the new one."
        )


def private(module: str, name: str) -> Any:
    """`name` of the emulator's `module` (such as `core.lambda_runtime`). Raises: Moved."""
    found = _module(module)
    if not hasattr(found, name):
        raise Moved(f"ministack.{module}", name)
    return getattr(found, name)


def replace(module: str, name: str, value: object) -> Any:
    """Put `value` in the place of a name that must exist, and return what was there. Raises: Moved."""
    was = private(module, name)
    setattr(_module(module), name, value)
    return was


def _module(name: str) -> ModuleType:
    try:
        return import_module(f"ministack.{name}")
    except ModuleNotFoundError as exc:
        raise Moved("ministack", name) from exc
