"""`answerback chat`: a conversation in the terminal."""

from typing import Annotated

import typer

from answerback.cli.options import DEFAULT_URL, MaxTokens, ModelName, SessionId, SystemText, TokenText, Url, User
from answerback.cli.output import usage_error


def chat(
    *,
    url: Url = DEFAULT_URL,
    token: TokenText = None,
    user: User = None,
    session: SessionId = None,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", "-c", help="Go on with this one.  [default: a new one]", show_default=False),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Go on with the conversation used last.")] = False,
    model: ModelName = None,
    system: SystemText = None,
    max_tokens: MaxTokens = None,
) -> int:
    """Talk with a model; it remembers what was said before in the conversation.

    Ctrl+C stops the running answer, twice leaves; /help lists what else there is. The conversation is kept by the
    gateway: --conversation ID goes on with it from any machine. In a pipe each line is a question, and stdout has the
    answers.
    """
    if last and conversation is not None:
        raise usage_error("--last and --conversation are two different ones", "keep one of them")
    from answerback.cli.chatting import Choice, run_chat  # noqa: PLC0415 - the client is slow to import

    choice = Choice(conversation=conversation, model=model, system=system, max_tokens=max_tokens)
    return run_chat(url=url, token=token, user=user, session=session, choice=choice, use_last=last)
