"""What the apps ask: short questions that a small English model can answer."""

from typing import Final

QUESTIONS: Final = (
    "What is a WebSocket?",
    "Why is the sky blue?",
    "Give me one tip for writing clear emails.",
    "What does a database do?",
    "How do bees make honey?",
    "Why should I drink water in the morning?",
    "What is a message queue?",
    "What makes the tides rise and fall?",
    "How can I remember names better?",
    "What is the difference between a thread and a process?",
    "How do birds find their way?",
    "What should I pack for a day in the mountains?",
)


def questions_of(app: int, count: int) -> tuple[str, ...]:
    """The questions of one app; those of the first few apps are all different."""
    return tuple(QUESTIONS[(app * count + number) % len(QUESTIONS)] for number in range(count))
