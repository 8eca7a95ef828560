"""The text of one answer as a strict client puts it together."""

from dataclasses import dataclass
from typing import Any

from answerback_proof.conformance.peer import CaseFailed, Frame


@dataclass(slots=True, kw_only=True)
class Text:
    """What has come of one request. `first_offset`: of the first piece since this was made."""

    attempt: int = 0
    text: str = ""
    first_offset: int | None = None
    ending: Frame | None = None

    def feed(self, frame: Frame) -> None:
        """Take one frame about the request. Raises: CaseFailed: it breaks section 5 of PROTOCOL.md."""
        match frame["action"]:
            case "messageStarted":
                self._turn_to(frame["attempt"])
            case "messageDelta":
                self._turn_to(frame["attempt"])
                self._lay(frame["offset"], frame["delta"])
            case "messageResponse":
                self._end(frame)
            case "messageAccepted":
                pass
            case action:
                raise CaseFailed(f"about {frame.get('requestId')} there came {action}: {frame}")

    def captured(self) -> dict[str, Any]:
        """As a variable of a case."""
        return {"attempt": self.attempt, "offset": len(self.text), "text": self.text}

    def _turn_to(self, attempt: int) -> None:
        if attempt < self.attempt:
            raise CaseFailed(f"attempt {attempt} came after attempt {self.attempt}")
        if attempt > self.attempt:
            self.attempt = attempt
            self.text = ""

    def _lay(self, offset: int, delta: str) -> None:
        if self.first_offset is None:
            self.first_offset = offset
        if offset > len(self.text):
            raise CaseFailed(f"a piece at offset {offset} came when the text had {len(self.text)} code points")
        known = self.text[offset : offset + len(delta)]
        if not delta.startswith(known):
            raise CaseFailed(f"a piece at offset {offset} is not the text that came before there")
        if offset + len(delta) > len(self.text):
            self.text = self.text[:offset] + delta

    def _end(self, frame: Frame) -> None:
        self.ending = frame
        response = frame["response"]
        if response is not None:
            self.attempt, self.text = frame["attempt"], response
        elif frame["attempt"] > self.attempt:
            self.attempt, self.text = frame["attempt"], ""
        if (response is not None or self.first_offset is not None) and frame["length"] != len(self.text):
            raise CaseFailed(f"the ending says {frame['length']} code points, but {len(self.text)} came")
        if frame["status"] == "failed" and "error" not in frame:
            raise CaseFailed("a failed request has no error")
