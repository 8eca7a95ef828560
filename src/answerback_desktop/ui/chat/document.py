"""Paragraphs and tables of an answer as styled documents that load nothing.

What a model writes is untrusted: images are their descriptions, and links that are not for the web or mail are text.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from PySide6.QtCore import Qt
from PySide6.QtGui import (
    QFont,
    QFontMetricsF,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextTable,
    QTextTableFormat,
)

from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.chat.formula import IS_DISPLAY, OBJECT_TYPE, TEX, draws_formulas, formula
from answerback_desktop.ui.chat.links import is_openable
from answerback_desktop.ui.markdown import BREAK, Part, Row, Segment, Span, visible_code
from answerback_desktop.ui.theme import MONO_FAMILIES, Theme

_USER: Final = QTextFormat.Property.UserProperty.value
PATH: Final = _USER + 1
"""Of a paragraph: the containers that it is in, as `Part.path`."""
MARKER: Final = _USER + 2
IS_RULE: Final = _USER + 3
_HEADINGS: Final = (1.0, 1.5, 1.3, 1.15, 1.0, 1.0, 1.0)
_LONG_WORD: Final = 24
_PROPORTIONAL: Final = QTextBlockFormat.LineHeightTypes.ProportionalHeight.value
_MINIMUM: Final = QTextBlockFormat.LineHeightTypes.MinimumHeight.value
_ALIGNMENTS: Final = {"center": Qt.AlignmentFlag.AlignHCenter, "right": Qt.AlignmentFlag.AlignRight}
ALERT_COLOURS: Final = {"N": "accent", "T": "success", "I": "accent", "W": "warning", "C": "danger"}


def show_plain(document: QTextDocument, text: str, theme: Theme) -> None:
    """Text as it is, in the theme's font and line height."""
    _prepare(document, theme)
    document.setPlainText(text)
    cursor = QTextCursor(document)
    cursor.select(QTextCursor.SelectionType.Document)
    form = QTextBlockFormat()
    form.setLineHeight(line_height_percent(document.defaultFont()), _PROPORTIONAL)
    cursor.mergeBlockFormat(form)


def line_height_percent(font: QFont, lines: float = 1.6) -> float:
    """The line height that makes lines so many times as high as the letters, whatever room the font itself takes."""
    return max(100.0, 100 * lines * font.pixelSize() / QFontMetricsF(font).height())


def indent_of(path: str, theme: Theme) -> int:
    """How far what is in these containers is from the left edge."""
    return sum(theme.space(6 if container == "l" else 4) for container in path[:8])


def bars_of(path: str, theme: Theme) -> list[tuple[int, str]]:
    """Where the bars beside quotes stand, and the names of their colours."""
    return [
        (indent_of(path[:at], theme), ALERT_COLOURS.get(container, "border"))
        for at, container in enumerate(path[:8])
        if container != "l"
    ]


def shown(span: Span, theme: Theme, texts: ChatTexts) -> str:
    """The letters that a span has in a document; one for a formula that is drawn."""
    if "math" in span.styles:
        drawn = formula(span.text, is_display="display" in span.styles, theme=theme)
        return "\ufffc" if drawn is not None else visible_code(span.text).replace("\n", BREAK)
    if "image" in span.styles:
        return texts.image.format(text=span.text)
    if "alert" in span.styles:
        return texts.alerts.get(span.text, span.text)
    return span.text


def in_cell(text: str) -> str:
    """Words that are too long for a column may be broken anywhere."""
    if len(text) <= _LONG_WORD or max(map(len, text.split()), default=0) <= _LONG_WORD:
        return text
    step = _LONG_WORD - 4
    long = [
        "\u200b".join(word[at : at + step] for at in range(0, len(word), step)) if len(word) > _LONG_WORD else word
        for word in text.split(" ")
    ]
    return " ".join(long)


def read_out(parts: Sequence[Part], theme: Theme, texts: ChatTexts) -> str:
    """Prose for a screen reader, with what is painted beside the letters: markers, and formulas in words."""

    def words(span: Span) -> str:
        drawn = formula(span.text, is_display="display" in span.styles, theme=theme) if "math" in span.styles else None
        return drawn.speech if drawn is not None else shown(span, theme, texts)

    return "\n".join(f"{part.marker} ".lstrip() + "".join(map(words, part.spans)) for part in parts)


class Writer:
    """Writes documents in one look; keeps what it has made of it."""

    def __init__(self, theme: Theme) -> None:
        self._theme = theme
        self._percent = line_height_percent(theme.font())
        self._forms: dict[tuple[frozenset[str], int, bool, bool], QTextCharFormat] = {}

    def show_parts(
        self, document: QTextDocument, parts: Sequence[Part], before: Sequence[Part], texts: ChatTexts
    ) -> None:
        """Show prose where `before` is shown: what is the same at the beginning is left alone."""
        same, plain = _same(parts, before), self._form(frozenset(), 0, is_quoted=False, has_link=False)
        cursor = QTextCursor(document)
        cursor.beginEditBlock()
        if not before:
            _prepare(document, self._theme)
        elif same:
            cursor.setPosition(document.findBlockByNumber(same - 1).position())
            cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock)
        spans: Sequence[Span] | None = None
        if same < min(len(parts), len(before)) and _look(parts[same]) == _look(before[same]):
            letters, spans = _grown(parts[same].spans, before[same].spans, self._theme, texts)
            cursor.setPosition(document.findBlockByNumber(same).position() + letters)
        cursor.movePosition(QTextCursor.MoveOperation.End, QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        for number in range(same, len(parts)):
            part = parts[number]
            form = self._block_form(part, is_first=not number)
            if spans is None and number:
                cursor.insertBlock(form, plain)
            elif spans is None:
                cursor.setBlockFormat(form)
                cursor.setBlockCharFormat(plain)
            more = part.spans if spans is None else spans
            self._spans(cursor, more, texts, level=part.level, is_quoted="q" in part.path)
            spans = None
        cursor.endEditBlock()

    def show_rows(self, document: QTextDocument, table: Segment, before: Segment | None, texts: ChatTexts) -> int:
        """Show a table where `before` is shown. Returns how many rows are the same, which are left alone."""
        rows, same = table.rows, 0
        if before is not None and before.aligns == table.aligns:
            same = _same(rows, before.rows)
        cursor = QTextCursor(document)
        cursor.beginEditBlock()
        grid = table_in(document)
        if grid is None or not same or len(rows[0]) != grid.columns():
            _prepare(document, self._theme)
            document.clear()
            grid, same = cursor.insertTable(len(rows), len(rows[0]), self._table_form()), 0
        elif len(rows) > grid.rows():
            grid.appendRows(len(rows) - grid.rows())
        elif len(rows) < grid.rows():
            grid.removeRows(len(rows), grid.rows() - len(rows))
        for number in range(same, len(rows)):
            self._row(grid, number, rows[number], table.aligns, texts)
        cursor.endEditBlock()
        return same

    def _row(self, table: QTextTable, number: int, row: Row, aligns: Sequence[str], texts: ChatTexts) -> None:
        for column, spans in enumerate(row):
            cell = table.cellAt(number, column)
            look = cell.format()
            look.setVerticalAlignment(QTextCharFormat.VerticalAlignment.AlignMiddle)
            cell.setFormat(look)
            cursor = cell.firstCursorPosition()
            cursor.setPosition(cell.lastCursorPosition().position(), QTextCursor.MoveMode.KeepAnchor)
            cursor.removeSelectedText()
            form = QTextBlockFormat()
            align = aligns[column] if column < len(aligns) else ""
            form.setAlignment(_ALIGNMENTS.get(align, Qt.AlignmentFlag.AlignLeft))
            cursor.setBlockFormat(form)
            bold = [Span(span.text, span.styles | {"bold"}, span.href) for span in spans] if not number else spans
            self._spans(cursor, bold, texts, write=in_cell)

    def _table_form(self) -> QTextTableFormat:
        form = QTextTableFormat()
        form.setCellPadding(self._theme.space(2))
        form.setCellSpacing(0)
        form.setBorder(0)
        form.setHeaderRowCount(1)
        return form

    def _block_form(self, part: Part, *, is_first: bool) -> QTextBlockFormat:
        theme, form = self._theme, QTextBlockFormat()
        form.setTopMargin(0 if is_first else round(part.gap * theme.body_px))
        form.setLeftMargin(indent_of(part.path, theme))
        if part.path:
            form.setProperty(PATH, part.path)
        if part.marker:
            form.setProperty(MARKER, part.marker)
        if part.kind == "rule":
            form.setProperty(IS_RULE, True)
        if part.kind == "math":
            form.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        elif any("math" in span.styles for span in part.spans):
            form.setLineHeight(theme.body_px * 1.6, _MINIMUM)  # a line is as high as its formula
        else:
            form.setLineHeight(self._percent, _PROPORTIONAL)
        if part.level:
            form.setHeadingLevel(part.level)
        return form

    def _spans(
        self,
        cursor: QTextCursor,
        spans: Sequence[Span],
        texts: ChatTexts,
        *,
        level: int = 0,
        is_quoted: bool = False,
        write: Callable[[str], str] = str,
    ) -> None:
        for span in spans:
            href = span.href if span.href and is_openable(span.href) and "image" not in span.styles else ""
            text = shown(span, self._theme, texts)
            styles = span.styles
            if "math" in styles and text != "\ufffc":
                styles = frozenset({"code"})
            form = self._form(styles, level, is_quoted=is_quoted, has_link=bool(href))
            if text == "\ufffc" and "math" in styles:
                form = QTextCharFormat(form)
                form.setObjectType(OBJECT_TYPE)
                form.setProperty(TEX, span.text)
                form.setProperty(IS_DISPLAY, "display" in styles)
                form.setVerticalAlignment(QTextCharFormat.VerticalAlignment.AlignMiddle)
            elif href:
                form = QTextCharFormat(form)
                form.setAnchorHref(href)
            cursor.insertText(write(text), form)

    def _form(self, styles: frozenset[str], level: int, *, is_quoted: bool, has_link: bool) -> QTextCharFormat:
        key = styles, level, is_quoted, has_link
        if key not in self._forms:
            self._forms[key] = self._new_form(*key)
        return self._forms[key]

    def _new_form(self, styles: frozenset[str], level: int, is_quoted: bool, has_link: bool) -> QTextCharFormat:
        theme, form = self._theme, QTextCharFormat()
        size = round(theme.body_px * _HEADINGS[level])
        colour = "text_muted" if is_quoted or "image" in styles else "text"
        weight = QFont.Weight.DemiBold if level else QFont.Weight.Normal
        if "bold" in styles:
            weight = QFont.Weight.Bold
        form.setFontItalic("italic" in styles)
        form.setFontStrikeOut("strike" in styles)
        form.setFontUnderline("underline" in styles or has_link)
        if styles & {"code", "kbd"}:
            form.setFontFamilies(list(MONO_FAMILIES))
            form.setFontFixedPitch(True)
            size = round(size * theme.mono_font().pixelSize() / theme.body_px)
            form.setBackground(theme.colour("hover_fill"))
        if "mark" in styles:
            form.setBackground(theme.colour("warning_fill"))
        if "sub" in styles:
            form.setVerticalAlignment(QTextCharFormat.VerticalAlignment.AlignSubScript)
        if "sup" in styles:
            form.setVerticalAlignment(QTextCharFormat.VerticalAlignment.AlignSuperScript)
        if "warning" in styles:
            colour = "warning"
        if "alert" in styles:
            colour = next((ALERT_COLOURS[name] for name in styles if name in ALERT_COLOURS), "accent")
        if has_link:
            form.setAnchor(True)
            colour = "link"
        form.setFontWeight(weight)
        form.setForeground(theme.colour(colour))
        form.setProperty(QTextFormat.Property.FontPixelSize, size)
        return form


@lru_cache(maxsize=4)
def writer_of(theme: Theme) -> Writer:
    """The one of this look."""
    return Writer(theme)


def table_in(document: QTextDocument) -> QTextTable | None:
    """The table that a document shows."""
    return next((one for one in document.rootFrame().childFrames() if isinstance(one, QTextTable)), None)


def units(text: str) -> int:
    """How long a text is for Qt, which counts UTF-16."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def _look(part: Part) -> tuple[object, ...]:
    """What the form of a paragraph depends on."""
    return part.kind, part.level, part.path, part.marker, part.gap, any("math" in span.styles for span in part.spans)


def _grown(new: Sequence[Span], old: Sequence[Span], theme: Theme, texts: ChatTexts) -> tuple[int, Sequence[Span]]:
    """How many letters of a paragraph stay, and what follows them now."""
    same = _same(new, old)
    letters = sum(units(shown(span, theme, texts)) for span in new[:same])
    rest = list(new[same:])
    if rest and same < len(old) and not rest[0].styles & {"math", "image", "alert"}:
        first, before = rest[0], old[same]
        if (first.styles, first.href) == (before.styles, before.href) and first.text.startswith(before.text):
            letters += units(before.text)
            rest[0] = replace(first, text=first.text[len(before.text) :])
    return letters, rest


def _same(new: Sequence[object], old: Sequence[object]) -> int:
    count = min(len(new), len(old))
    return next((at for at in range(count) if new[at] != old[at]), count)


def _prepare(document: QTextDocument, theme: Theme) -> None:
    document.setUndoRedoEnabled(False)
    document.setDocumentMargin(0)
    document.setDefaultFont(theme.font())
    draws_formulas(document, theme)
