"""What a turn's line of state says, as words. No Qt."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from answerback_desktop.records import FailureCode, TurnStatus
from answerback_desktop.texts import ChatTexts
from answerback_desktop.viewmodels import TurnViewModel
from answerback_desktop.viewmodels.connection import local_time


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
