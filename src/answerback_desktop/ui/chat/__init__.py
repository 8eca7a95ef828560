"""The chat pane: the conversation's transcript, the composer, and the states around them."""

from answerback_desktop.ui.chat.pane import ChatPane
from answerback_desktop.ui.chat.transcript import column_in

__all__ = ["ChatPane", "column_in"]
