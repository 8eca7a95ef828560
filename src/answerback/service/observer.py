"""Events of the service for those who count: metrics, a demo's live table, a simulation's coverage."""

from answerback.core.request import Ending, Record
from answerback.protocol.errors import ErrorCode


class Observer:
    """Receives every event and does nothing. Subclass it and override what is of interest. Must not raise or wait."""

    def accepted(self, record: Record) -> None:
        """A new request was stored and queued."""

    def refused(self, code: ErrorCode) -> None:
        """A new request or another frame was refused."""

    def attached(self, record: Record) -> None:
        """A repeated request id was attached to its request."""

    def started(self, record: Record) -> None:
        """An attempt runs."""

    def ended(self, record: Record, ending: Ending) -> None:
        """A worker, a front or the janitor has stored the one ending."""

    def overran(self, record: Record) -> None:
        """A model has counted more than was reserved for it, so a budget may be above its cap."""

    def fenced(self, record: Record) -> None:
        """An attempt found that another one has taken over."""

    def sent_text(self, code_points: int) -> None:
        """A delta was sent."""

    def found_slow(self) -> None:
        """A connection could not take a frame."""

    def found_gone(self) -> None:
        """A connection was gone when a frame was due."""
