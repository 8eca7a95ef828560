"""Answerback: many desktop apps, one LLM backend, and every answer goes home to the app that asked."""

__version__ = "0.1.0"
