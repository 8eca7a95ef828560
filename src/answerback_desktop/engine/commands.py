"""What the user interface may ask of the engine."""

from enum import StrEnum
from typing import Protocol

from answerback_desktop.settings import Settings


class ExportFormat(StrEnum):
    """How a conversation is written to a file."""

    MARKDOWN = "markdown"
    JSON = "json"


class Commands(Protocol):
    """Thread-safe, at once, without a result: what comes of a command comes as events. `Engine` is the real one."""

    def ask(self, conversation_id: str, request_id: str, text: str, *, replaces: str | None = None) -> None:
        """Ask a question, with the model, system prompt and limit of the settings. `TurnChanged` follows at once.

        `request_id`: a new uuid4. `replaces`: the turn whose place it takes (regenerate, edit); that turn and all
        after it are removed, and come back if the new one does not complete.
        """

    def stop(self, request_id: str) -> None:
        """Stop a question; its ending follows."""

    def forget_turn(self, request_id: str) -> None:
        """Remove a turn that failed and that the server never took."""

    def open_conversation(self, conversation_id: str) -> None:
        """`TurnsLoaded` with the newest page follows; a poll of the server's history too."""

    def load_more(self, conversation_id: str, before_request_id: str) -> None:
        """`TurnsLoaded` with the page before this turn follows."""

    def show(self, conversation_id: str | None) -> None:
        """What the person sees now: its answers are read. None: nothing (minimised, in the tray, out of focus)."""

    def save_draft(self, conversation_id: str, text: str) -> None:
        """Keep what is typed; empty: nothing."""

    def rename(self, conversation_id: str, title: str) -> None:
        """Give a conversation a title (cut to 200 characters); sent to the server when there is a connection."""

    def delete(self, conversation_id: str) -> None:
        """Remove it from the list. The server deletes it when the time for an undo is over (`UNDO_S`)."""

    def undo_delete(self, conversation_id: str) -> None:
        """Bring it back, here and at the server."""

    def search(self, query: str) -> None:
        """`SearchFound` follows."""

    def export(self, conversation_id: str, form: ExportFormat) -> None:
        """`Exported` follows."""

    def refresh(self) -> None:
        """Poll for changes of other devices: the window has got the focus."""

    def reconnect(self) -> None:
        """Try at once; also after the client was stopped."""

    def change_settings(self, settings: Settings) -> None:
        """Store them, and let them hold. Another server or user: `AccountOpened` follows."""

    def sign_in(self) -> None:
        """Open the system browser (OIDC). `SignInChanged` follows."""

    def cancel_sign_in(self) -> None:
        """Do not wait for the browser any more."""

    def sign_out(self) -> None:
        """Forget the tokens; the local data stays and is shown again after the next sign-in of that user."""

    def start_gateway(self) -> None:
        """Start a gateway with the embedded model on this machine. `GatewayChanged` follows."""
