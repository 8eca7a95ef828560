"""A model that says more than its answer: what it does, the tool that it calls, the source.

Run it from the top of the repository:

    answerback serve --model python:examples.own_model.hours:make
"""

from collections.abc import AsyncIterator, Callable

from answerback.ports import Part, Prompt


async def answer(prompt: Prompt) -> AsyncIterator[str | Part]:
    """Looks up the hours, whatever the question is."""
    yield Part("status", "looking it up")
    yield Part("tool", '{"query": "opening hours"}', "search", new=True)
    yield Part("result", "9 to 17", "search")
    yield "We are open from 9 to 17."
    yield Part("citation", '{"title": "Handbook", "url": "https://intranet.example/hours"}', new=True)


def make() -> Callable[[Prompt], AsyncIterator[str | Part]]:
    """Called once, when the gateway starts."""
    return answer
