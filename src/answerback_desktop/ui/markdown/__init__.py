"""Answers as models write them: parsed while they stream, without Qt."""

from answerback_desktop.ui.markdown.export import answer_of, html_of, markdown_of, neutralised
from answerback_desktop.ui.markdown.segments import BREAK, Part, Row, Segment, SegmentKind, Span, visible_code
from answerback_desktop.ui.markdown.splitter import CHUNK_CHARACTERS, Splitter, chunks, references_of, split

__all__ = [
    "BREAK",
    "CHUNK_CHARACTERS",
    "Part",
    "Row",
    "Segment",
    "SegmentKind",
    "Span",
    "Splitter",
    "answer_of",
    "chunks",
    "html_of",
    "markdown_of",
    "neutralised",
    "references_of",
    "split",
    "visible_code",
]
