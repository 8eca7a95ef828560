"""Moments in words."""

from datetime import datetime

import pytest
from PySide6.QtCore import QLocale

from answerback_desktop.ui.window.conversation_model import when

NOW = datetime(2026, 3, 14, 15, 30)


@pytest.mark.parametrize(
    ("moment", "english", "korean"),
    [
        (datetime(2026, 3, 14, 9, 5), "09:05", "오전 9:05"),
        (datetime(2026, 3, 13, 23, 59), "Yesterday", "어제"),
        (datetime(2026, 3, 10, 12, 0), "Tuesday", "화요일"),
        (datetime(2026, 1, 2, 12, 0), "2 Jan", "1월 2일"),
        (datetime(2025, 11, 3, 12, 0), "03/11/2025", "25. 11. 3."),
        (datetime(2026, 3, 14, 15, 31), "15:31", "오후 3:31"),
    ],
)
def test_as_short_as_it_can_be(moment: datetime, english: str, korean: str):
    at_ms = int(moment.timestamp() * 1000)
    assert when(at_ms, now=NOW, locale=QLocale("en-GB"), yesterday="Yesterday") == english
    assert when(at_ms, now=NOW, locale=QLocale("ko-KR"), yesterday="어제") == korean
