"""Untrusted markdown as a styled document that loads nothing.

Qt's own parser reads it with raw HTML switched off, so tags are letters. What is left to make safe is done on the
parsed document: images become their descriptions, and links that are not for the web or mail become text.
"""

import re
from typing import Final

from PySide6.QtGui import (
    QFont,
    QFontMetricsF,
    QTextBlock,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextLength,
    QTextListFormat,
    QTextTable,
)

from answerback_desktop.ui.chat.links import is_openable
from answerback_desktop.ui.theme import Theme
from answerback_desktop.ui.theme.tokens import MONO_FAMILIES

QUOTE_LEVEL: Final = QTextFormat.Property.BlockQuoteLevel
_FEATURES: Final = (
    QTextDocument.MarkdownFeature.MarkdownDialectGitHub.value | QTextDocument.MarkdownFeature.MarkdownNoHTML.value
)
_ABSURD: Final = re.compile(r"(?m)^[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]*){24}")
"""Quotes or lists nested deeper than any text needs: shown as the letters they are."""
_MAX_INDENT: Final = 6
_DOTS: Final = (
    QTextListFormat.Style.ListDisc,
    QTextListFormat.Style.ListCircle,
    QTextListFormat.Style.ListSquare,
)
_HEADINGS: Final = (1.0, 1.5, 1.3, 1.15, 1.0, 1.0, 1.0)


def show_plain(document: QTextDocument, text: str, theme: Theme) -> None:
    """Text as it is, in the theme's font and line height."""
    _prepare(document, theme)
    document.setPlainText(text)
    cursor = QTextCursor(document)
    cursor.select(QTextCursor.SelectionType.Document)
    form = QTextBlockFormat()
    form.setLineHeight(line_height_percent(document.defaultFont()), _PROPORTIONAL)
    cursor.mergeBlockFormat(form)


def show_markdown(document: QTextDocument, text: str, theme: Theme, *, image: str) -> None:
    """Markdown, styled. `image`: what stands for an image, with `{text}` for its description."""
    if _ABSURD.search(text):
        show_plain(document, text, theme)
        return
    _prepare(document, theme)
    document.setMarkdown(text, QTextDocument.MarkdownFeature(_FEATURES))
    cursor = QTextCursor(document)
    cursor.beginEditBlock()
    percent = line_height_percent(document.defaultFont())
    block = document.begin()
    before: QTextBlock | None = None
    while block.isValid():
        _style_letters(block, cursor, theme, image)
        _style_block(block, before, cursor, theme, percent)
        _style_list(block)
        before = block
        block = block.next()
    for frame in document.rootFrame().childFrames():
        if isinstance(frame, QTextTable):
            _style_table(frame, theme)
    cursor.endEditBlock()


def line_height_percent(font: QFont, lines: float = 1.6) -> float:
    """The line height that makes lines so many times as high as the letters, whatever room the font itself takes."""
    return max(100.0, 100 * lines * font.pixelSize() / QFontMetricsF(font).height())


_PROPORTIONAL: Final = QTextBlockFormat.LineHeightTypes.ProportionalHeight.value


def _prepare(document: QTextDocument, theme: Theme) -> None:
    document.setUndoRedoEnabled(False)
    document.setDocumentMargin(0)
    document.setDefaultFont(theme.font())
    document.setIndentWidth(theme.space(6))


def _style_letters(block: QTextBlock, cursor: QTextCursor, theme: Theme, image: str) -> None:
    found = []
    parts = block.begin()
    while not parts.atEnd():
        fragment = parts.fragment()
        found.append((fragment.position(), fragment.length(), fragment.charFormat()))
        parts += 1
    level = block.blockFormat().headingLevel()
    for position, length, form in reversed(found):
        cursor.setPosition(position)
        cursor.setPosition(position + length, QTextCursor.MoveMode.KeepAnchor)
        if form.isImageFormat():
            description = form.stringProperty(QTextFormat.Property.ImageAltText).strip()
            muted = QTextCharFormat()
            muted.setForeground(theme.colour("text_muted"))
            cursor.insertText(image.format(text=description) * min(length, 20), muted)
        elif form.isAnchor():
            cursor.setCharFormat(_link(form, theme))
        elif form.fontFixedPitch():
            cursor.mergeCharFormat(_code(theme))
        if level:
            cursor.setCharFormat(_heading(cursor.charFormat(), theme, level))


def _heading(form: QTextCharFormat, theme: Theme, level: int) -> QTextCharFormat:
    form = QTextCharFormat(form)
    form.clearProperty(QTextFormat.Property.FontSizeAdjustment)
    form.setProperty(QTextFormat.Property.FontPixelSize, round(theme.body_px * _HEADINGS[level]))
    form.setFontWeight(QFont.Weight.DemiBold)
    return form


def _link(form: QTextCharFormat, theme: Theme) -> QTextCharFormat:
    styled = QTextCharFormat(form)
    styled.setToolTip("")
    if is_openable(form.anchorHref()):
        styled.setForeground(theme.colour("link"))
        styled.setFontUnderline(True)
        return styled
    styled.setAnchor(False)
    styled.setAnchorHref("")
    styled.setAnchorNames([])
    styled.setFontUnderline(False)
    styled.clearForeground()
    return styled


def _code(theme: Theme) -> QTextCharFormat:
    form = QTextCharFormat()
    form.setFontFamilies(list(MONO_FAMILIES))
    form.setProperty(QTextFormat.Property.FontPixelSize, theme.mono_font().pixelSize())
    form.setBackground(theme.colour("hover_fill"))
    return form


def _style_block(
    block: QTextBlock, before: QTextBlock | None, cursor: QTextCursor, theme: Theme, percent: float
) -> None:
    cursor.setPosition(block.position())
    form = block.blockFormat()
    is_item = _is_item(block)
    is_after_item = before is not None and _is_item(before)
    gap = theme.space(0.75) if is_item and is_after_item else theme.space(2.5)
    level = form.headingLevel()
    if level:
        gap = theme.space(5 if level < 3 else 4)
        cursor.setBlockCharFormat(_heading(cursor.blockCharFormat(), theme, level))
    form.setTopMargin(0 if before is None else gap)
    form.setBottomMargin(0)
    form.setLineHeight(percent, _PROPORTIONAL)
    if quote := form.intProperty(QUOTE_LEVEL):
        form.setLeftMargin(theme.space(4) * min(quote, _MAX_INDENT))
        form.setRightMargin(0)
        _mute(block, cursor, theme)
    if form.hasProperty(QTextFormat.Property.BlockTrailingHorizontalRulerWidth):
        form.setTopMargin(theme.space(3))
        form.setProperty(
            QTextFormat.Property.BlockTrailingHorizontalRulerWidth,
            QTextLength(QTextLength.Type.PercentageLength, 100),
        )
        form.setBackground(theme.colour("border"))
    cursor.setPosition(block.position())
    cursor.setBlockFormat(form)


def is_dotted(block: QTextBlock) -> bool:
    """Whether a list's dot stands before the block; Qt's own ones are as large as the font's line is high."""
    return (
        _is_item(block)
        and block.textList().format().style() is QTextListFormat.Style.ListStyleUndefined
        and block.blockFormat().marker() is QTextBlockFormat.MarkerType.NoMarker
    )


def _is_item(block: QTextBlock) -> bool:
    return block.blockFormat().objectIndex() >= 0


def _style_list(block: QTextBlock) -> None:
    if not _is_item(block):
        return
    items = block.textList()
    form = items.format()
    is_plain = form.style() in _DOTS and block.blockFormat().marker() is QTextBlockFormat.MarkerType.NoMarker
    if is_plain or form.indent() > _MAX_INDENT:
        form.setStyle(QTextListFormat.Style.ListStyleUndefined if is_plain else form.style())
        form.setIndent(min(form.indent(), _MAX_INDENT))
        items.setFormat(form)


def _mute(block: QTextBlock, cursor: QTextCursor, theme: Theme) -> None:
    form = QTextCharFormat()
    form.setForeground(theme.colour("text_muted"))
    cursor.setPosition(block.position())
    cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
    cursor.mergeCharFormat(form)


def _style_table(table: QTextTable, theme: Theme) -> None:
    form = table.format()
    form.setCellPadding(theme.space(2))
    form.setCellSpacing(0)
    form.setBorder(0)
    form.setHeaderRowCount(1)
    form.setTopMargin(0)
    form.setBottomMargin(0)
    table.setFormat(form)
    for row in range(table.rows()):
        for column in range(table.columns()):
            cell = table.cellAt(row, column).format()
            cell.setVerticalAlignment(QTextCharFormat.VerticalAlignment.AlignMiddle)
            table.cellAt(row, column).setFormat(cell)
            cursor = table.cellAt(row, column).firstCursorPosition()
            block = cursor.blockFormat()
            block.setTopMargin(0)
            cursor.setBlockFormat(block)
