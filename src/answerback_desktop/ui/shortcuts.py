"""The keyboard shortcuts, in one table: the window makes actions of it, the help sheet shows it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from PySide6.QtGui import QKeySequence


class Shortcut(StrEnum):
    """What keys do; its words are in `WindowTexts.shortcuts`."""

    NEW = "new"
    SEARCH = "search"
    FIND = "find"
    NEXT = "next"
    PREVIOUS = "previous"
    RENAME = "rename"
    DELETE = "delete"
    SEND = "send"
    NEW_LINE = "new_line"
    STOP = "stop"
    COMPOSER = "composer"
    ATTACH = "attach"
    COPY_ANSWER = "copy_answer"
    QUESTION_BEFORE = "question_before"
    QUESTION_AFTER = "question_after"
    SIDEBAR = "sidebar"
    SETTINGS = "settings"
    LARGER = "larger"
    SMALLER = "smaller"
    USUAL_SIZE = "usual_size"
    HELP = "help"
    CLOSE = "close"
    QUIT = "quit"


GROUPS: Final[Mapping[str, Mapping[Shortcut, tuple[str, ...]]]] = MappingProxyType(
    {
        "conversations": {
            Shortcut.NEW: ("Ctrl+N",),
            Shortcut.SEARCH: ("Ctrl+K", "Ctrl+Shift+F"),
            Shortcut.FIND: ("Ctrl+F",),
            Shortcut.NEXT: ("Ctrl+Tab", "Ctrl+PgDown"),
            Shortcut.PREVIOUS: ("Ctrl+Shift+Tab", "Ctrl+PgUp"),
            Shortcut.RENAME: ("F2",),
            Shortcut.DELETE: ("Del",),
        },
        "writing": {
            Shortcut.SEND: ("Return",),
            Shortcut.NEW_LINE: ("Shift+Return",),
            Shortcut.STOP: ("Esc",),
            Shortcut.COMPOSER: ("Ctrl+L",),
            Shortcut.ATTACH: ("Ctrl+O",),
            Shortcut.COPY_ANSWER: ("Ctrl+Shift+C",),
            Shortcut.QUESTION_BEFORE: ("Alt+Up",),
            Shortcut.QUESTION_AFTER: ("Alt+Down",),
        },
        "window": {
            Shortcut.SIDEBAR: ("Ctrl+B",),
            Shortcut.SETTINGS: ("Ctrl+,",),
            Shortcut.LARGER: ("Ctrl++", "Ctrl+="),
            Shortcut.SMALLER: ("Ctrl+-",),
            Shortcut.USUAL_SIZE: ("Ctrl+0",),
            Shortcut.HELP: ("F1", "Ctrl+/"),
            Shortcut.CLOSE: ("Ctrl+W",),
            Shortcut.QUIT: ("Ctrl+Q",),
        },
    }
)
"""The keys by the groups of the help sheet, whose headings are in `WindowTexts.shortcut_groups`.

Qt writes Ctrl for the Command key of a Mac. The first is the one that is shown.
"""

KEYS: Final[Mapping[Shortcut, tuple[str, ...]]] = MappingProxyType(
    {shortcut: keys for group in GROUPS.values() for shortcut, keys in group.items()}
)


def shown(shortcut: Shortcut) -> str:
    """The keys as this system writes them."""
    return QKeySequence(KEYS[shortcut][0]).toString(QKeySequence.SequenceFormat.NativeText)
