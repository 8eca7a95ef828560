"""What a model writes is shown, and nothing else happens: no HTML, no resource, no script, no foreign link."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QTextDocument
from PySide6.QtWidgets import QApplication, QWidget
from pytestqt.qtbot import QtBot

from answerback_desktop.ui.chat.document import table_in, writer_of
from answerback_desktop.ui.chat.text_view import TextView
from answerback_desktop.ui.markdown import BREAK, Segment, SegmentKind, Splitter, split
from answerback_desktop.ui.theme import Theme
from chat_samples import CHAT_EN, KOREAN, MARKDOWN, RICH, RICH_KOREAN


class Watched(QTextDocument):
    """Notes every resource that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def loadResource(self, kind: int, name: QUrl | str) -> object:  # noqa: N802
        self.asked.append(str(name))
        return None


def written(segment: Segment, theme: Theme) -> Watched:
    document = Watched()
    if segment.kind is SegmentKind.TABLE:
        writer_of(theme).show_rows(document, segment, None, CHAT_EN)
    else:
        writer_of(theme).show_parts(document, segment.parts, (), CHAT_EN)
    document.setTextWidth(400)
    assert document.size().height() >= 0
    return document


def shown(text: str, theme: Theme) -> Watched:
    """The document of the first segment; the others are written, too."""
    documents = [written(segment, theme) for segment in split(text)]
    assert all(document.asked == [] for document in documents)
    return documents[0] if documents else Watched()


def targets(document: QTextDocument) -> list[str]:
    found, block = [], document.begin()
    while block.isValid():
        parts = block.begin()
        while not parts.atEnd():
            form = parts.fragment().charFormat()
            assert not form.isImageFormat()
            if form.isAnchor():
                found.append(form.anchorHref())
            parts += 1
        block = block.next()
    return found


@pytest.mark.parametrize(
    "text",
    [
        "<img src=http://evil.example/a.png>",
        "<script>alert(1)</script>",
        "<iframe src='file:///etc/passwd'></iframe>\n\ntext",
        "<a href='javascript:alert(1)'>x</a>",
        "<style>* { background: url(http://evil.example) }</style>",
        "<table background='http://evil.example/x.png'><tr><td>x</td></tr></table>",
        "&lt;img src=http://evil.example/a.png&gt;",
    ],
)
def test_html_is_letters(qapp: QApplication, theme: Theme, text: str) -> None:
    document = shown(text, theme)
    assert "<" in document.toPlainText()
    assert document.asked == []
    assert [target for target in targets(document) if not target.startswith("http")] == []


@pytest.mark.parametrize(
    "target", ["http://evil.example/a.png", "file:///etc/passwd", "qrc:/x", "data:image/png;base64,AAAA", "//evil/x"]
)
def test_images_are_their_descriptions(qapp: QApplication, theme: Theme, target: str) -> None:
    document = shown(f"before ![a cat]({target}) after", theme)
    assert "before [image: a cat] after" in document.toPlainText()
    assert document.asked == []
    assert targets(document) == []


@pytest.mark.parametrize(
    "target",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "file:///etc/passwd",
        "data:text/html,x",
        "vbscript:x",
        "smb://host/share",
        "ms-settings:x",
        "#anchor",
        "relative/path",
        "http:///no-host",
        "https://" + "x" * 9_000,
    ],
)
def test_foreign_links_are_text(qapp: QApplication, theme: Theme, target: str) -> None:
    document = shown(f"[click]({target})", theme)
    assert targets(document) == []
    assert "click" in document.toPlainText()


def test_good_links_stay(qapp: QApplication, theme: Theme) -> None:
    document = shown("[a](https://example.com/x) <mailto:a@example.com> http://plain.example", theme)
    assert targets(document) == ["https://example.com/x", "mailto:a@example.com", "http://plain.example"]


ABSURD = {
    "quotes": "> " * 5_000 + "x",
    "lists": "- " * 2_000 + "x",
    "stars": "*" * 8_000,
    "brackets": "[" * 8_000,
    "ticks": "`" * 7_999,
    "columns": "|" * 4_000 + "\n" + "|-" * 4_000,
    "steps": "\n".join("  " * n + "- x" for n in range(200)),
    "bidi and nul": "\u202eabc\u202c\x00",
    "only a mark": "\ufeff",
    "half a pair": "\ud83d",
    "one line of 1 MB": "x" * 1_000_000,
}


@pytest.mark.parametrize("text", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_text_is_shown_all_the_same(qapp: QApplication, theme: Theme, text: str) -> None:
    shown(text, theme)


@given(st.text(st.sampled_from("ab\n\t #*_`>-+|![]()<>:/\\&;1.~\"'xh") | st.characters(), max_size=120))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_text_loads_nothing(qapp: QApplication, theme: Theme, text: str) -> None:
    document = shown(text.encode("utf-8", "replace").decode(), theme)
    assert document.asked == []
    assert all(target.startswith(("http://", "https://", "mailto:")) for target in targets(document))


def test_the_view_loads_nothing_either(qtbot: QtBot, theme: Theme) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    view = TextView(theme, parent)
    assert view.loadResource(2, QUrl("file:///etc/passwd")) is None
    assert not view.openLinks()
    assert not view.openExternalLinks()


def test_headings_are_larger_and_code_is_fixed(qapp: QApplication, theme: Theme) -> None:
    document = shown("## Head\n\nsome `code`", theme)
    heading = document.begin().begin().fragment().charFormat()
    assert heading.font().pixelSize() > theme.body_px
    assert heading.fontWeight() >= 600
    parts = document.begin().next().begin()
    parts += 1
    assert parts.fragment().text() == "code"
    assert parts.fragment().charFormat().fontFamilies()[0] == theme.mono_font().families()[0]


def test_real_markdown(qapp: QApplication, theme: Theme) -> None:
    text = "".join(written(segment, theme).toPlainText() for segment in split(MARKDOWN))
    assert "**" not in text
    assert "binary search" in text


def test_what_stays_the_same_is_left_alone_while_it_grows(qapp: QApplication, theme: Theme) -> None:
    document, writer = Watched(), writer_of(theme)
    (before,), (after,) = split("One **bold**.\n\n- two"), split("One **bold**.\n\n- two\n- three\n\n> four")
    writer.show_parts(document, before.parts, (), CHAT_EN)
    changed: list[int] = []
    document.contentsChange.connect(lambda at, _removed, _added: changed.append(at))
    writer.show_parts(document, after.parts, before.parts, CHAT_EN)
    assert min(changed) >= len("One bold.")
    assert document.toPlainText() == written(after, theme).toPlainText() == "One bold.\ntwo\nthree\nfour"
    writer.show_parts(document, before.parts, after.parts, CHAT_EN)
    assert document.toPlainText() == "One bold.\ntwo"


def test_a_table_that_grows_is_the_one_that_was_written_at_once(qapp: QApplication, theme: Theme) -> None:
    rows = "| a | b |\n|:-:|---|\n" + "".join(f"| {n} | `x \\| {n}` |\n" for n in range(6))
    (whole,) = split(rows)
    document, before = Watched(), None
    for length in range(1, len(rows) + 1):
        splitter = Splitter()
        splitter.update(rows[:length], is_over=False)
        for segment in splitter.segments:
            if segment.kind is SegmentKind.TABLE:
                writer_of(theme).show_rows(document, segment, before, CHAT_EN)
                before = segment
    writer_of(theme).show_rows(document, whole, before, CHAT_EN)
    assert document.toPlainText() == written(whole, theme).toPlainText()
    assert "x | 5" in document.toPlainText()
    table = table_in(document)
    assert table is not None
    for row in range(table.rows()):
        assert table.cellAt(row, 0).firstCursorPosition().blockFormat().alignment() is Qt.AlignmentFlag.AlignHCenter


def test_a_long_word_in_a_cell_can_be_broken(qapp: QApplication, theme: Theme) -> None:
    document = shown("| a | b |\n|---|---|\n| " + "w" * 300 + " | c |", theme)
    document.setTextWidth(300)
    assert document.size().width() < 400


def test_a_line_break_is_within_its_paragraph(qapp: QApplication, theme: Theme) -> None:
    assert shown("one<br>two  \nthree", theme).begin().text() == f"one{BREAK}two{BREAK}three"


@pytest.mark.parametrize("text", [MARKDOWN, KOREAN, RICH, RICH_KOREAN], ids=["plain", "Korean", "rich", "rich Korean"])
def test_a_document_that_grew_is_the_one_that_was_written_at_once(qapp: QApplication, theme: Theme, text: str) -> None:
    splitter, writer = Splitter(), writer_of(theme)
    shown_now: dict[int, tuple[Watched, Segment]] = {}
    for length in [*range(3, len(text), 3), len(text)]:
        splitter.update(text[:length], is_over=length == len(text), references={})
        for segment in splitter.segments:
            if segment.kind is SegmentKind.PROSE:
                document, before = shown_now.get(segment.start, (Watched(), Segment(kind=SegmentKind.PROSE)))
                writer.show_parts(document, segment.parts, before.parts, CHAT_EN)
                shown_now[segment.start] = document, segment
    for segment in splitter.segments:
        if segment.kind is SegmentKind.PROSE:
            document, whole = shown_now[segment.start][0], written(segment, theme)
            assert document.toHtml() == whole.toHtml()
