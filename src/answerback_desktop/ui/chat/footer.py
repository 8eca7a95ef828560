"""The line under an answer: where the turn stands, and what can be done with it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from PySide6.QtCore import QPointF, QRect, QRectF, QSize, Qt, QTimer
from PySide6.QtGui import QAccessible, QAccessibleEvent, QGuiApplication, QPainter, QPaintEvent
from PySide6.QtWidgets import QPushButton, QToolButton, QWidget

from answerback_desktop.records import FailureCode, TurnStatus
from answerback_desktop.texts import ChatTexts
from answerback_desktop.ui.chat.blocks import Block, BlockSignals, BlockView
from answerback_desktop.ui.markdown import Segment, answer_of
from answerback_desktop.ui.parts import Appearance, label, painter_on, set_icon, set_name
from answerback_desktop.ui.theme import Icon, Theme
from answerback_desktop.viewmodels import TurnViewModel
from answerback_desktop.viewmodels.connection import local_time

COPIED_MS: Final = 1_600
_PULSE_MS: Final = 80
_COUNTDOWN_MS: Final = 500
_LONG_S: Final = 120
"""A countdown above this is in minutes."""


# --- what it says, as words


class Tone(StrEnum):
    """How the line is drawn."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLine:
    """`text` beside the actions, `hint` on hover, `cut` if the answer ended at a limit.

    `retry_in_s`: whole seconds until asking again makes sense, 0 for now; None: it does not.
    """

    tone: Tone
    text: str
    hint: str = ""
    cut: str = ""
    retry_in_s: int | None = None


def state_line(
    turn: TurnViewModel, texts: ChatTexts, *, is_online: bool, titles: Mapping[str, str] | None = None
) -> StateLine:
    """The line of a turn. `titles`: of models that have one."""
    line = _line(turn, texts, is_online=is_online, titles=titles or {})
    return replace(line, text=texts.elsewhere.format(state=line.text)) if turn.record.is_elsewhere else line


def _line(turn: TurnViewModel, texts: ChatTexts, *, is_online: bool, titles: Mapping[str, str]) -> StateLine:
    retry = turn.retry_in_s
    match turn.status:
        case TurnStatus.OUTBOX if is_online and turn.record.sent_percent is not None:
            return StateLine(tone=Tone.WAITING, text=texts.sending_files.format(percent=turn.record.sent_percent))
        case TurnStatus.OUTBOX:
            return StateLine(tone=Tone.WAITING, text=texts.outbox)
        case TurnStatus.QUEUED | TurnStatus.STREAMING if not is_online:
            return StateLine(tone=Tone.WAITING, text=texts.paused)
        case TurnStatus.QUEUED if turn.record.position:
            return StateLine(tone=Tone.WAITING, text=texts.queued.format(position=turn.record.position))
        case TurnStatus.QUEUED:
            return StateLine(tone=Tone.WAITING, text=texts.queued_next)
        case TurnStatus.STREAMING:
            return StateLine(tone=Tone.RUNNING, text=texts.streaming if turn.length else texts.waiting)
        case TurnStatus.CANCELLED:
            return StateLine(tone=Tone.STOPPED, text=texts.cancelled, hint=_hint(turn, texts), retry_in_s=retry)
        case TurnStatus.FAILED:
            return StateLine(tone=Tone.FAILED, text=_reason(turn, texts), retry_in_s=retry)
        case TurnStatus.COMPLETED if not turn.length:
            text = texts.empty_cut if turn.is_cut else texts.empty_answer
            return StateLine(tone=Tone.STOPPED, text=text, hint=_hint(turn, texts), retry_in_s=retry)
        case TurnStatus.COMPLETED:
            return StateLine(
                tone=Tone.DONE,
                text=_facts(turn, texts, titles),
                hint=_hint(turn, texts),
                cut=texts.cut if turn.is_cut else "",
            )


def _reason(turn: TurnViewModel, texts: ChatTexts) -> str:
    failure = turn.record.failure
    if failure is None:
        return ""
    if failure.code is FailureCode.MODEL_FAILED and not turn.length:
        return texts.no_answer
    if failure.code is FailureCode.FORBIDDEN and turn.record.attachments:
        return texts.files_refused
    opens = "" if failure.opens_at_ms is None else " " + texts.budget_opens.format(when=local_time(failure.opens_at_ms))
    return texts.failures[failure.code] + opens


def _facts(turn: TurnViewModel, texts: ChatTexts, titles: Mapping[str, str]) -> str:
    """`SmolLM2 · 132 tokens · 4.2 s`, as much as is known."""
    parts = [titles.get(turn.record.model or "", turn.record.model or "")]
    if turn.record.tokens is not None:
        form = texts.tokens_one if turn.record.tokens.output_tokens == 1 else texts.tokens
        parts.append(form.format(count=f"{turn.record.tokens.output_tokens:,}"))
    if turn.record.times is not None:
        parts.append(_seconds(turn.record.times.total_ms, texts.seconds))
    return " · ".join(part for part in parts if part)


def _hint(turn: TurnViewModel, texts: ChatTexts) -> str:
    times = turn.record.times
    if times is None:
        return ""
    lines = [_seconds(times.queued_ms, texts.queued_for)]
    if times.first_text_ms is not None:
        lines.append(_seconds(times.first_text_ms, texts.first_text))
    lines.append(_seconds(times.total_ms, texts.total))
    return "\n".join(lines)


def _seconds(duration_ms: int, form: str) -> str:
    return form.format(seconds=f"{duration_ms / 1000:.2f}" if duration_ms < 950 else f"{duration_ms / 1000:,.1f}")


# --- how it looks


class FooterView(BlockView):
    """Redraws itself for the countdown and the pulse; the rest comes by `take`."""

    def __init__(self, turn: TurnViewModel, appearance: Appearance, signals: BlockSignals, parent: QWidget) -> None:
        super().__init__(turn, appearance, signals, parent)
        texts, theme = appearance.texts.chat, appearance.theme
        self._is_online = True
        self._is_active = False
        self._phase = 0
        self._line: StateLine | None = None
        self._shown: object = None
        self._alike: tuple[TurnViewModel, ...] = ()
        self._is_told_below = False
        self.label = label(parent=self)
        self.cut_label = label(variant="warning", wraps=False, parent=self)
        self.cut_label.setToolTip(texts.cut_hint)
        self.copy_button = CopyButton(lambda: answer_of(turn.answer), appearance, self)
        self.again_button = QuietButton(Icon.REGENERATE, texts.regenerate, theme, self)
        self.retry_button = QPushButton(self)
        self.stop_button = QToolButton(self)
        self.stop_button.setText(texts.stop)
        self.earlier_button = QuietButton(Icon.CHEVRON_LEFT, texts.earlier, theme, self)
        self.version_label = label(variant="muted", wraps=False, parent=self)
        self.later_button = QuietButton(Icon.CHEVRON_RIGHT, texts.later, theme, self)
        self._pulse = self._timer(_PULSE_MS, self._beat)
        self._countdown = self._timer(_COUNTDOWN_MS, lambda: self.take(None))
        self.again_button.clicked.connect(lambda: signals.regenerate.emit(turn.request_id))
        self.retry_button.clicked.connect(
            lambda: signals.retry.emit(tuple(one.request_id for one in self._alike or (turn,)))
        )
        self.earlier_button.clicked.connect(lambda: signals.version.emit(turn.request_id, -1))
        self.later_button.clicked.connect(lambda: signals.version.emit(turn.request_id, 1))
        self.stop_button.clicked.connect(lambda: signals.stop.emit(turn.request_id))

    @property
    def tab_stops(self) -> Sequence[QWidget]:
        buttons = (
            *(self.earlier_button, self.later_button),
            *(self.copy_button, self.again_button, self.retry_button, self.stop_button),
        )
        return [button for button in buttons if button.isVisibleTo(self) and button.isEnabled()]

    def set_online(self, *, is_online: bool) -> None:
        """Whether what waits can leave."""
        if is_online != self._is_online:
            self._is_online = is_online
            self.take(None)

    def set_active(self, *, is_active: bool) -> None:
        self._is_active = is_active
        self.copy_button.reveal(is_revealed=is_active)
        self.again_button.reveal(is_revealed=is_active)
        if self._line is not None and self._line.tone is Tone.DONE:
            self.label.setVisible(is_active)

    def show_block(self, block: Block) -> None:
        self._alike, self._is_told_below = block.alike, block.is_told_below
        super().show_block(block)

    def take(self, segment: Segment | None) -> None:
        texts, turn = self.appearance.texts.chat, self.turn
        line = state_line(turn, texts, is_online=self._is_online, titles=self.appearance.titles)
        if self._is_told_below and line.tone is Tone.FAILED:
            line = StateLine(tone=Tone.STOPPED, text=texts.failed_alike)
        _run(self._pulse, line.tone is Tone.RUNNING)
        _run(self._countdown, bool(line.retry_in_s))
        versions, retries = (turn.version, len(turn.versions)), max(1, len({one.question for one in self._alike}))
        if (line, versions, retries) == self._shown:
            return
        self._shown = (line, versions, retries)
        before, self._line = self._line, line
        self._show_versions(versions)
        self.label.setText(line.text)
        self.label.setToolTip(line.hint)
        failed = line.tone is Tone.FAILED
        self.label.setProperty("variant", "error" if failed else "muted")
        self.label.setWordWrap(failed)
        self.label.style().polish(self.label)
        self.cut_label.setText(line.cut)
        self.cut_label.setVisible(bool(line.cut))
        is_over = turn.status.is_over
        self.copy_button.setVisible(is_over and turn.length > 0)
        can_ask = not self.appearance.is_read_only
        self.again_button.setVisible(line.tone is Tone.DONE and can_ask)
        self.retry_button.setVisible(line.retry_in_s is not None and can_ask)
        self.retry_button.setEnabled(not line.retry_in_s)
        retry = texts.retry if retries == 1 else texts.retry_all.format(count=retries)
        if (left_s := line.retry_in_s or 0) > _LONG_S:
            retry = texts.retry_in_minutes.format(minutes=math.ceil(left_s / 60))
        elif left_s:
            retry = texts.retry_in.format(seconds=left_s)
        self.retry_button.setText(retry)
        self.stop_button.setVisible(not is_over)
        self.set_active(is_active=self._is_active)
        self.label.setVisible(bool(line.text) and (line.tone is not Tone.DONE or self._is_active))
        if self.width() > 0 and before is not None:
            self.signals.height_changed.emit(self)
        if before is not None and before.tone is not line.tone:
            self._say(line)

    def _show_versions(self, versions: tuple[int, int]) -> None:
        at, count = versions
        texts = self.appearance.texts.chat
        self.version_label.setText(texts.version.format(number=at + 1, count=count))
        self.version_label.setAccessibleName(texts.version_name.format(number=at + 1, count=count))
        for part in (self.earlier_button, self.version_label, self.later_button):
            part.setVisible(count > 1)
        self.earlier_button.setEnabled(at > 0)
        self.later_button.setEnabled(at < count - 1)
        for button in (self.earlier_button, self.later_button):
            button.reveal(is_revealed=True)

    def _arrange_versions(self, left: int, top: int, row: int) -> int:
        """Put the version and its two arrows into a row; returns where they end."""
        parts = (self.earlier_button, self.version_label, self.later_button)
        if self.version_label.isHidden():
            return left
        for part in parts:
            size = part.sizeHint() if part is self.version_label else part.size()
            part.setGeometry(left, top + (row - size.height()) // 2, size.width(), size.height())
            left += size.width()
        return left + self.appearance.theme.space(1.5)

    def arrange(self, width: int) -> int:
        """One row; a failure is a card of its own."""
        theme, line = self.appearance.theme, self._line
        assert line is not None  # it is shown before it is laid out
        if line.tone is Tone.FAILED:
            return self._arrange_card(width)
        is_coming = line.tone in (Tone.RUNNING, Tone.WAITING)
        gap = theme.space(1.5)
        row = max(self.copy_button.height(), self.stop_button.sizeHint().height())
        left = 0
        if line.cut:
            wanted = self.cut_label.sizeHint().width()
            self.cut_label.setGeometry(0, gap, wanted, row)
            left = wanted + theme.space(3)
        if not is_coming:
            left = self._arrange_versions(left - gap, gap, row) + gap
        left -= gap
        for button in (self.copy_button, self.again_button):
            if button.isVisibleTo(self):
                button.move(left, gap + (row - button.height()) // 2)
                left += button.width()
        left += gap + {Tone.RUNNING: theme.space(8), Tone.WAITING: theme.space(6)}.get(line.tone, 0)
        wide = [one for one in (self.stop_button, self.retry_button) if one.isVisibleTo(self)]
        row = max(row, *(one.sizeHint().height() for one in wide), 0)
        taken = max(0, min(self.label.sizeHint().width() if self.label.text() else 0, width - left))
        self.label.setGeometry(left, gap, taken, row)
        left += taken + theme.space(2)
        for one in wide:
            size = one.sizeHint()
            top = gap + (row - size.height()) // 2
            one.setGeometry(min(left, width - size.width()), top, size.width(), size.height())
            left += size.width() + theme.space(2)
        if is_coming:
            self._arrange_versions(left, gap, row)
        return gap + row + theme.space(0.5)

    def _arrange_card(self, width: int) -> int:
        theme = self.appearance.theme
        gap, pad = theme.space(2.5), theme.space(3.5)
        mark = theme.body_px + 5
        size = self.retry_button.sizeHint() if self.retry_button.isVisibleTo(self) else None
        left = pad + mark + theme.space(2.5)
        beside = width - left - pad - (0 if size is None else size.width() + theme.space(3))
        is_narrow = beside < theme.body_px * 16
        text_width = width - left - pad if is_narrow else beside
        text = self.label.heightForWidth(text_width)
        row = text if size is None or is_narrow else max(text, size.height())
        self.label.setGeometry(left, gap + pad, text_width, row)
        bottom = gap + pad + row
        if size is not None and is_narrow:
            self.retry_button.setGeometry(left, bottom + theme.space(2), size.width(), size.height())
            bottom += theme.space(2) + size.height()
        elif size is not None:
            top = gap + pad + (row - size.height()) // 2
            self.retry_button.setGeometry(width - pad - size.width(), top, size.width(), size.height())
        self.copy_button.hide()
        bottom += pad + theme.space(1)
        if self.version_label.isHidden():
            return bottom
        row = self.earlier_button.height()
        self._arrange_versions(-theme.space(1.5), bottom, row)
        return bottom + row

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """The failure's card, the waiting clock, the running dots."""
        if self._line is None:
            return
        theme = self.appearance.theme
        painter = painter_on(self)
        if self._line.tone is Tone.FAILED:
            gap, pad, mark = theme.space(2.5), theme.space(3.5), theme.body_px + 5
            painter.setBrush(theme.colour("danger_fill"))
            radius = theme.space(2.5)
            below = 0 if self.version_label.isHidden() else self.earlier_button.height()
            height = self.height() - gap - theme.space(1) - below
            painter.drawRoundedRect(QRectF(0, gap, self.width(), height), radius, radius)
            top = self.label.y() + max(0, (self.label.height() - self.label.heightForWidth(self.label.width())) // 2)
            self._draw_icon(painter, Icon.ERROR, "danger", QRect(pad, top, mark, mark))
        elif self._line.tone is Tone.WAITING:
            mark = theme.small_px + 3
            self._draw_icon(painter, Icon.CLOCK, "text_muted", QRect(0, self._middle - mark // 2, mark, mark))
        elif self._line.tone is Tone.RUNNING:
            painter.setBrush(theme.colour("accent"))
            for dot in range(3):
                size = theme.body_px * 0.17 * (1 + 0.35 * math.sin((self._phase - dot * 2.2) * 0.55))
                painter.drawEllipse(QPointF(theme.space(1) + dot * theme.body_px * 0.55, self._middle + 1), size, size)

    @property
    def _middle(self) -> int:
        return self.label.y() + self.label.height() // 2

    def _draw_icon(self, painter: QPainter, drawing: Icon, colour: str, area: QRect) -> None:
        drawn = self.appearance.theme.pixmap(drawing, area.width(), colour, scale=self.devicePixelRatioF())
        painter.drawPixmap(area.topLeft(), drawn)

    def _beat(self) -> None:
        self._phase += 1
        self.update(0, 0, self.appearance.theme.space(8), self.height())

    def _say(self, line: StateLine) -> None:
        """Announce the new state to screen readers."""
        self.setAccessibleName(line.text or self.appearance.texts.chat.answer_name)
        QAccessible.updateAccessibility(QAccessibleEvent(self, QAccessible.Event.NameChanged))

    def _timer(self, interval_ms: int, slot: object) -> QTimer:
        timer = QTimer(self, interval=interval_ms)
        timer.timeout.connect(slot)
        return timer


def _run(timer: QTimer, is_needed: bool) -> None:
    if is_needed and not timer.isActive():
        timer.start()
    elif not is_needed:
        timer.stop()


class QuietButton(QToolButton):
    """An icon that is drawn while its turn is active, or while it has the focus itself.

    It is there all the time: the Tab key and screen readers reach it.
    """

    def __init__(self, drawing: Icon, name: str, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._is_revealed = False
        self._side = theme.body_px + 2
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.draw(drawing, name)
        self.resize(self.minimumSizeHint())

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """A square that a finger hits."""
        side = self._side + self._theme.space(2.5)
        return QSize(side, side)

    def draw(self, drawing: Icon, name: str, *, colour: str = "text_muted") -> None:
        set_icon(self, self._theme, drawing, self._side, colour)
        set_name(self, name)

    def reveal(self, *, is_revealed: bool) -> None:
        if is_revealed != self._is_revealed:
            self._is_revealed = is_revealed
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        if self._is_revealed or self.hasFocus() or self.underMouse():
            super().paintEvent(event)


class CopyButton(QuietButton):
    """Copies what `text` returns, and says so for a moment."""

    def __init__(self, text: Callable[[], str], appearance: Appearance, parent: QWidget) -> None:
        words = appearance.texts.chat
        super().__init__(Icon.COPY, words.copy, appearance.theme, parent)
        self._text = text
        self._copied = words.copied
        self._back = QTimer(self, singleShot=True, interval=COPIED_MS)
        self._back.timeout.connect(lambda: self.draw(Icon.COPY, words.copy))
        self.clicked.connect(self._copy)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self._text())
        self.draw(Icon.CHECK, self._copied, colour="success")
        self._back.start()
