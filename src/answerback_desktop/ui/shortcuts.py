"""The keyboard shortcuts, in one table: the window makes actions of it, the help sheet shows it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from PySide6.QtGui import QKeySequence


class Shortcut(StrEnum):
    """What keys do; the value is the name of its words in `WindowTexts`."""

    NEW = "key_new"
    SEARCH = "key_search"
    FIND = "key_find"
    NEXT = "key_next"
    PREVIOUS = "key_previous"
    RENAME = "key_rename"
    DELETE = "key_delete"
    SEND = "key_send"
    NEW_LINE = "key_new_line"
    STOP = "key_stop"
    COMPOSER = "key_composer"
    ATTACH = "key_attach"
    COPY_ANSWER = "key_copy_answer"
    QUESTION_BEFORE = "key_question_before"
    QUESTION_AFTER = "key_question_after"
    SIDEBAR = "key_sidebar"
    SETTINGS = "key_settings"
    LARGER = "key_larger"
    SMALLER = "key_smaller"
    USUAL_SIZE = "key_usual_size"
    HELP = "key_help"
    CLOSE = "key_close"
    QUIT = "key_quit"


KEYS: Final[Mapping[Shortcut, tuple[str, ...]]] = MappingProxyType(
    {
        Shortcut.NEW: ("Ctrl+N",),
        Shortcut.SEARCH: ("Ctrl+K", "Ctrl+Shift+F"),
        Shortcut.FIND: ("Ctrl+F",),
        Shortcut.NEXT: ("Ctrl+Tab", "Ctrl+PgDown"),
        Shortcut.PREVIOUS: ("Ctrl+Shift+Tab", "Ctrl+PgUp"),
        Shortcut.RENAME: ("F2",),
        Shortcut.DELETE: ("Del",),
        Shortcut.SEND: ("Return",),
        Shortcut.NEW_LINE: ("Shift+Return",),
        Shortcut.STOP: ("Esc",),
        Shortcut.COMPOSER: ("Ctrl+L",),
        Shortcut.ATTACH: ("Ctrl+O",),
        Shortcut.COPY_ANSWER: ("Ctrl+Shift+C",),
        Shortcut.QUESTION_BEFORE: ("Alt+Up",),
        Shortcut.QUESTION_AFTER: ("Alt+Down",),
        Shortcut.SIDEBAR: ("Ctrl+B",),
        Shortcut.SETTINGS: ("Ctrl+,",),
        Shortcut.LARGER: ("Ctrl++", "Ctrl+="),
        Shortcut.SMALLER: ("Ctrl+-",),
        Shortcut.USUAL_SIZE: ("Ctrl+0",),
        Shortcut.HELP: ("F1", "Ctrl+/"),
        Shortcut.CLOSE: ("Ctrl+W",),
        Shortcut.QUIT: ("Ctrl+Q",),
    }
)
"""Qt writes Ctrl for the Command key of a Mac. The first is the one that is shown."""

GROUPS: Final[tuple[tuple[str, tuple[Shortcut, ...]], ...]] = (
    (
        "keys_conversations",
        (
            Shortcut.NEW,
            Shortcut.SEARCH,
            Shortcut.FIND,
            Shortcut.NEXT,
            Shortcut.PREVIOUS,
            Shortcut.RENAME,
            Shortcut.DELETE,
        ),
    ),
    (
        "keys_writing",
        (
            Shortcut.SEND,
            Shortcut.NEW_LINE,
            Shortcut.STOP,
            Shortcut.COMPOSER,
            Shortcut.ATTACH,
            Shortcut.COPY_ANSWER,
            Shortcut.QUESTION_BEFORE,
            Shortcut.QUESTION_AFTER,
        ),
    ),
    (
        "keys_window",
        (
            Shortcut.SIDEBAR,
            Shortcut.SETTINGS,
            Shortcut.LARGER,
            Shortcut.SMALLER,
            Shortcut.USUAL_SIZE,
            Shortcut.HELP,
            Shortcut.CLOSE,
            Shortcut.QUIT,
        ),
    ),
)
"""As the help sheet shows them: the name of the heading's words, and what is below it."""


def shown(shortcut: Shortcut) -> str:
    """The keys as this system writes them."""
    return QKeySequence(KEYS[shortcut][0]).toString(QKeySequence.SequenceFormat.NativeText)
