"""Moments as people say them, short."""

from datetime import datetime

from PySide6.QtCore import QDate, QDateTime, QLocale, QTime

__all__ = ["clock", "when"]


def when(epoch_ms: int, *, now: datetime, locale: QLocale, yesterday: str) -> str:
    """A local moment, as short as it can be: `14:05`, `Yesterday`, `Tuesday`, `3 Nov`, `03/11/2025`."""
    moment = datetime.fromtimestamp(epoch_ms / 1000)
    days = (now.date() - moment.date()).days
    if days <= 0:
        return clock(epoch_ms, locale=locale)
    if days == 1:
        return yesterday
    date = QDate(moment.year, moment.month, moment.day)
    if days < 7:
        return locale.toString(date, "dddd")
    if moment.year == now.year:
        is_korean = locale.language() == QLocale.Language.Korean
        return locale.toString(date, "M월 d일" if is_korean else "d MMM")
    return locale.toString(date, QLocale.FormatType.ShortFormat)


def clock(epoch_ms: int, *, locale: QLocale) -> str:
    """The time of day."""
    moment = QDateTime.fromMSecsSinceEpoch(epoch_ms)
    return locale.toString(QTime(moment.time().hour(), moment.time().minute()), QLocale.FormatType.ShortFormat)
