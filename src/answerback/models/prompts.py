"""A prompt as the servers of models take it: roles in turns, the user's first, and no blank text."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from answerback.core.answer import clean
from answerback.core.context import Role, is_blank, told_schema
from answerback.core.uploads import TEXT, kind_of
from answerback.ports import File, FinalModelError, ModelFault, Prompt
from answerback.protocol.errors import ErrorCode

_TICKS: Final = re.compile("`+")


def turns_of(prompt: Prompt) -> list[tuple[Role, list[str]]]:
    """What each has said in turn, cleaned. Servers refuse blank messages, and two of one role in a row.

    Raises: ModelError: `model_failed`: the question is blank.
    """
    said = [(message.role, clean(message.text)) for message in prompt.messages if not is_blank(message.text)]
    turns = [(role, [text for _, text in group]) for role, group in groupby(said, key=lambda one: one[0])]
    if turns and turns[0][0] is not Role.USER:
        turns = turns[1:]
    if not turns or is_blank(prompt.messages[-1].text):
        raise FinalModelError(ErrorCode.MODEL_FAILED, "the question is blank", ModelFault.BLANK)
    turns[-1][1].extend(_fenced(file) for file in prompt.attachments if kind_of(file.media_type) == TEXT)
    return turns


def pictures_of(prompt: Prompt) -> list[File]:
    """The files that are no text, in their order: images and documents. Texts stand in the question, each fenced."""
    return [file for file in prompt.attachments if kind_of(file.media_type) != TEXT]


def _fenced(file: File) -> str:
    text = clean(file.data.decode("utf-8-sig", "replace")).rstrip("\n")
    ticks = map(len, _TICKS.findall(text)) if "```" in text else ()  # to look for them in 4 MB takes its time
    fence = "`" * max(3, 1 + max(ticks, default=0))
    return f"{file.name}:\n{fence}\n{text}\n{fence}"


def system_of(prompt: Prompt) -> str:
    """The system text, empty if there is none."""
    return clean(prompt.system or "").strip()


def chat_messages(prompt: Prompt) -> tuple[str, list[dict[str, Any]]]:
    """The system text and the messages of the OpenAI protocol. Raises: ModelError: as `turns_of`."""
    return system_of(prompt), [{"role": str(role), "content": "\n\n".join(texts)} for role, texts in turns_of(prompt)]


def in_words(prompt: Prompt) -> Prompt:
    """The prompt, which asks for its typed answer in the system text."""
    if prompt.json_schema is None:
        return prompt
    return replace(prompt, system=told_schema(prompt.system, prompt.json_schema), json_schema=None)


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """How the OpenAI protocol asks for a typed answer."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
