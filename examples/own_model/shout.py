"""The smallest model of one's own: one function that yields text.

Run it from the top of the repository:

    answerback serve --model python:examples.own_model.shout:make
"""

from collections.abc import AsyncIterator, Callable

from answerback.ports import Prompt


async def answer(prompt: Prompt) -> AsyncIterator[str]:
    """Says the question again, louder."""
    for word in prompt.messages[-1].text.split():
        yield word.upper() + " "


def make() -> Callable[[Prompt], AsyncIterator[str]]:
    """What `python:examples.own_model.shout:make` calls, once, when the gateway starts."""
    return answer
