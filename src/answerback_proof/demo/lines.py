"""What the demo shows in a pipe: plain lines."""

from answerback.cli.output import say
from answerback_proof.demo.apps import App, Asked, Phase


class Lines:
    """One readable line when a question is asked, accepted, starts to be answered, and is answered."""

    def __init__(self) -> None:
        self._shown: dict[str, Phase] = {}

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def changed(self, app: App, asked: Asked) -> None:
        """Something happened to this question."""
        before = self._shown.get(asked.request_id)
        if before is asked.phase or (asked.phase is Phase.WRITING and not asked.text):
            return
        self._shown[asked.request_id] = asked.phase
        who = f"{app.name}, question {asked.number}"
        match asked.phase:
            case Phase.ASKED:
                say(f"{who}: {asked.question}")
            case Phase.QUEUED:
                say(f"{who}: accepted, {asked.position} of this user before it")
            case Phase.WRITING:
                say(f"{who}: first words after {asked.first_text_s or 0:.2f} s")
            case Phase.DONE:
                say(f"{who}: answered after {asked.total_s or 0:.2f} s: {' '.join(asked.text.split())}")
            case Phase.FAILED:
                say(f"{who}: failed: {asked.error}")
