"""The keyboard shortcuts, in one table: the window makes actions of it, the help sheet shows it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from PySide6.QtGui import QKeySequence

GROUPS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "conversations": {
            "new": ("Ctrl+N",),
            "search": ("Ctrl+K", "Ctrl+Shift+F"),
            "find": ("Ctrl+F",),
            "next": ("Ctrl+Tab", "Ctrl+PgDown"),
            "previous": ("Ctrl+Shift+Tab", "Ctrl+PgUp"),
            "rename": ("F2",),
            "delete": ("Del",),
        },
        "writing": {
            "send": ("Return",),
            "new_line": ("Shift+Return",),
            "stop": ("Esc",),
            "composer": ("Ctrl+L",),
            "attach": ("Ctrl+O",),
            "copy_answer": ("Ctrl+Shift+C",),
            "question_before": ("Alt+Up",),
            "question_after": ("Alt+Down",),
        },
        "window": {
            "sidebar": ("Ctrl+B",),
            "settings": ("Ctrl+,",),
            "larger": ("Ctrl++", "Ctrl+="),
            "smaller": ("Ctrl+-",),
            "usual_size": ("Ctrl+0",),
            "help": ("F1", "Ctrl+/"),
            "close": ("Ctrl+W",),
            "quit": ("Ctrl+Q",),
        },
    }
)
"""What keys do, by the groups of the help sheet. The words of both are in `WindowTexts`.

Qt writes Ctrl for the Command key of a Mac. The first is the one that is shown.
"""

KEYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {shortcut: keys for group in GROUPS.values() for shortcut, keys in group.items()}
)


def shown(shortcut: str) -> str:
    """The keys as this system writes them."""
    return QKeySequence(KEYS[shortcut][0]).toString(QKeySequence.SequenceFormat.NativeText)
