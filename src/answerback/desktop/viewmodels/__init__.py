"""What widgets show and what a person can do, without Qt: fed by the engine's events, pure of I/O."""

from answerback.desktop.viewmodels.app import AppViewModel
from answerback.desktop.viewmodels.changes import Appended, Changes
from answerback.desktop.viewmodels.connection import ConnectionViewModel
from answerback.desktop.viewmodels.conversation import ConversationViewModel
from answerback.desktop.viewmodels.prices import Price, Prices
from answerback.desktop.viewmodels.turn import TurnViewModel

__all__ = [
    "AppViewModel",
    "Appended",
    "Changes",
    "ConnectionViewModel",
    "ConversationViewModel",
    "Price",
    "Prices",
    "TurnViewModel",
]
