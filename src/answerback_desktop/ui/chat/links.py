"""Links in answers: which may be opened, and the question that is asked before."""

import math
import re
import unicodedata
from itertools import groupby
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QFont, QGuiApplication, QTextDocument, QTextOption
from PySide6.QtWidgets import QDialogButtonBox, QTextEdit, QWidget

from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.markdown.segments import HOST_ENDINGS
from answerback_desktop.ui.parts import Appearance, Dialog, button, label
from answerback_desktop.ui.theme import Theme

_MAX_LENGTH: Final = 8_192
_WIDTH_STEPS: Final = 110


def is_openable(target: str) -> bool:
    """Whether a link leads to the web or to a mail: `http`, `https` with a host, or `mailto`."""
    if len(target) > _MAX_LENGTH:
        return False
    try:
        parts = urlsplit(target)
    except ValueError:
        return False
    if parts.scheme in {"http", "https"}:
        return bool(parts.hostname)
    return parts.scheme == "mailto" and "@" in parts.path


def written_out(target: str) -> str:
    """The target with nothing hidden: control, bidirectional and other invisible characters as `<U+202E>`.

    A host is shown in the ASCII form in which it is looked up, so that look-alike letters show.
    """
    try:
        parts = urlsplit(target)
        host = parts.hostname or ""
    except ValueError:
        host = ""
    if host and not host.isascii():
        before, at, place = parts.netloc.rpartition("@")
        port = place[len(host) :] if place.lower().startswith(host) else ""
        target = urlunsplit(parts._replace(netloc=f"{before}{at}{host_of(target)}{port}"))
    return "".join(f"<U+{ord(letter):04X}>" if _is_hidden(letter) else letter for letter in target)


def host_of(target: str) -> str:
    """The host that a link leads to, in the ASCII form in which it is looked up; of a mail address what is behind @."""
    try:
        parts = urlsplit(target)
        host = parts.path.rpartition("@")[2].lower() if parts.scheme == "mailto" else parts.hostname or ""
    except ValueError:
        return ""
    return host if host.isascii() else bytes(QUrl.toAce(host).data()).decode("ascii") or host


def warnings(target: str, text: str, texts: ChatTexts) -> list[str]:
    """What is odd about a link, whose text is `text`: it seems to lead elsewhere, or cannot be read as it is."""
    found = []
    host, named = host_of(target), _host_named(text)
    if named and not (host == named or host.endswith(f".{named}") or named.endswith(f".{host}")):
        found.append(texts.link_other_host.format(named=named, host=host))
    parts = urlsplit(target)
    if parts.scheme != "mailto" and "@" in parts.netloc:
        found.append(texts.link_user.format(host=host))
    if "xn--" in host:
        readable = QUrl(f"//{host}").host(QUrl.ComponentFormattingOption.PrettyDecoded)
        found.append(texts.link_letters.format(shown=written_out(readable) if readable != host else host))
    if "<U+" in written_out(target):
        found.append(texts.link_hidden)
    return found


_NAMED: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://(?:[^/?#\s]*@)?|www\.)?((?:[^\s/?#@:.,]+\.)+[^\s/?#@:.,]{2,})(?::\d+)?(?P<path>[/?#]\S*)?",
    re.IGNORECASE,
)


def _host_named(text: str) -> str:
    """The host that a text names, if it reads as an address."""
    text = unicodedata.normalize("NFKC", text).strip()
    found = _NAMED.match(text)
    if found is None:
        return ""
    host = host_of(f"https://{found[1]}") or found[1].lower()
    is_address = "://" in text or text.lower().startswith("www.") or host.rpartition(".")[2] in HOST_ENDINGS
    return host.removeprefix("www.") if is_address else ""


def text_of(target: str, document: QTextDocument) -> str:
    """The text of a link in a document; of several to one place the first that is no plain copy of it."""
    texts = []
    block = document.begin()
    while block.isValid():
        pieces = [piece.fragment() for piece in block]  # type: ignore[attr-defined] # a block has an iterator
        for is_it, run in groupby(pieces, lambda piece: _same(piece.charFormat().anchorHref(), target)):
            if is_it:
                texts.append("".join(piece.text() for piece in run))
        block = block.next()
    return next((text for text in texts if not _same(text, target)), texts[0] if texts else "")


def _same(one: str, other: str) -> bool:
    encoded = QUrl.ComponentFormattingOption.FullyEncoded
    return bool(one) and (one == other or QUrl(one).toString(encoded) == other)


def _breakable(text: str) -> str:
    """With places to break a line in long names."""
    return re.sub(r"([.@/-])(?=\w)", "\\1\u200b", text)


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"} or (
        letter != " " and letter.isspace()
    )


class LinkDialog(Dialog):
    """Shows where a link really leads, and opens it only if the person says so. `text`: its own. Use `open()`."""

    def __init__(self, target: str, appearance: Appearance, parent: QWidget | None = None, *, text: str = "") -> None:
        texts, theme = appearance.texts.chat, appearance.theme
        super().__init__(parent, texts.link_title, theme)
        self._target = target
        self.host = label(_breakable(host_of(target)))
        self.host.setFont(theme.font(weight=QFont.Weight.DemiBold))
        odd = warnings(target, text, texts)
        buttons = self._buttons(texts, is_odd=bool(odd))
        for part in (
            *(label(texts.link_title, "title"), label(texts.link_text)),
            *(self.host, self._target_box(written_out(target), theme)),
            *(label(_breakable(sentence), "warning") for sentence in odd),
        ):
            self.column.addWidget(part)
        self.column.addSpacing(theme.space(1))
        self.column.addWidget(buttons)
        self._cancel.setFocus()
        margins = self.column.contentsMargins().left() + self.column.contentsMargins().right()
        width = max(theme.space(_WIDTH_STEPS), buttons.sizeHint().width() + margins)
        # The height of wrapped text follows from the width; Qt sizes a window by its hint, which does not know it.
        self.setFixedSize(width, self.column.totalHeightForWidth(width))

    def _target_box(self, shown: str, theme: Theme) -> QWidget:
        """The whole target; past eight lines it scrolls. It begins with what matters most, the host."""
        box = QTextEdit()
        box.setReadOnly(True)
        box.setFocusPolicy(Qt.FocusPolicy.ClickFocus)  # Cancel has the focus
        box.setFont(theme.mono_font())
        box.document().setDefaultFont(theme.mono_font())
        box.setWordWrapMode(QTextOption.WrapMode.WrapAnywhere)
        box.setPlainText(shown)
        box.setAccessibleName(shown)
        letters = max(1, (theme.space(_WIDTH_STEPS - 25)) // box.fontMetrics().horizontalAdvance("m"))
        lines = min(8, math.ceil(len(shown) / letters))
        margins = 2 * (round(box.document().documentMargin()) + theme.space(2.5))
        box.setFixedHeight(lines * box.fontMetrics().lineSpacing() + margins)
        self.target_box = box
        return box

    def _buttons(self, texts: ChatTexts, *, is_odd: bool) -> QDialogButtonBox:
        buttons, roles = QDialogButtonBox(), QDialogButtonBox.ButtonRole
        copy = button(texts.link_copy, lambda: QGuiApplication.clipboard().setText(self._target))
        self.open_button = button(texts.link_open, self._open, "danger" if is_odd else "primary")
        self._cancel = button(texts.cancel, self.reject)
        for one, role in (
            (copy, roles.ActionRole),
            (self._cancel, roles.RejectRole),
            (self.open_button, roles.AcceptRole),
        ):
            buttons.addButton(one, role)
            one.setAutoDefault(one is self._cancel)
        self._cancel.setDefault(True)
        return buttons

    def _open(self) -> None:
        QDesktopServices.openUrl(QUrl(self._target, QUrl.ParsingMode.StrictMode))
        self.accept()
