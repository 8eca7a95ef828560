"""What an app with the SDK sees, as events of a history.

Apart from the history and its checker, which share no code with the SDK that they check.
"""

from answerback.client import Answer, AnswerbackError, RequestCancelled, RequestTimeout, Restarted, Text
from answerback_proof.history import Cleared, Ended, History, Result, Shown


def show(history: History, request: str, observer: str, event: object) -> None:
    """Add what an event of the SDK changes on a screen."""
    match event:
        case Text():
            history.add(Shown(request=request, observer=observer, offset=event.offset, delta=event.delta))
        case Restarted():
            history.add(Cleared(request=request, observer=observer))
        case _:
            pass


def ending(request: str, observer: str, outcome: Answer | AnswerbackError) -> Ended:
    """What the SDK says about the end of a request, as an event."""
    answer: Answer | None
    match outcome:
        case Answer():
            result, answer, code = Result.COMPLETED, outcome, ""
        case RequestCancelled():
            result, answer, code = Result.CANCELLED, outcome.answer, ""
        case RequestTimeout():
            return Ended(request=request, observer=observer, result=Result.TIMED_OUT, text=outcome.text)
        case _:
            result, answer, code = Result.FAILED, getattr(outcome, "answer", None), outcome.code
    text, attempt = ("", 0) if answer is None else (answer.text, answer.attempt)
    return Ended(request=request, observer=observer, result=result, text=text, attempt=attempt, code=code)
