"""The engine: the client, the local store and the sync with the server, in a thread of their own."""

from answerback_desktop.engine.engine import Engine
from answerback_desktop.engine.environment import Environment
from answerback_desktop.engine.export import ExportFormat

__all__ = ["Engine", "Environment", "ExportFormat"]
