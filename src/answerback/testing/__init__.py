"""Fakes and a virtual clock, shipped so that users can test their own apps and adapters without sockets or waiting."""

from answerback.testing.backend import Backend, ScriptedModel, ScriptedSender
from answerback.testing.loop import VirtualLoop, run_virtual
from answerback.testing.queue import LaneQueue

__all__ = ["Backend", "LaneQueue", "ScriptedModel", "ScriptedSender", "VirtualLoop", "run_virtual"]
