"""What widgets show and what a person can do, without Qt: fed by the engine's events, pure of I/O."""

from answerback_desktop.viewmodels.app import AppViewModel
from answerback_desktop.viewmodels.changes import Changes
from answerback_desktop.viewmodels.connection import ConnectionViewModel
from answerback_desktop.viewmodels.conversation import ConversationViewModel, TurnViewModel

__all__ = ["AppViewModel", "Changes", "ConnectionViewModel", "ConversationViewModel", "TurnViewModel"]
