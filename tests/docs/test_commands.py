"""Every `answerback` command in a document exists and has the options that it is given there."""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import typer

from answerback.cli.main import build_app

CONTINUED = re.compile(r"\\\n\s*")
COMMAND = re.compile(r"(?<![^\s|(])(?:\.venv/bin/)?answerback ((?:\"[^\"\n]*\"|'[^'\n]*'|[^\n|)&#>\"'])+)")


def test_every_command_can_be_parsed(document: Callable[[str], Any], name: str) -> None:
    for words in commands(document(name)):
        command: Any = typer.main.get_command(build_app())
        context = command.context_class(command)
        while hasattr(command, "resolve_command") and words and words[0][0].isalpha():
            _, command, words[:] = command.resolve_command(context, words)
            context = command.context_class(command, parent=context)
        command.make_parser(context).parse_args(words)


def commands(page: Any) -> Iterator[list[str]]:
    """The words after `answerback` of each command, in the shell's blocks and between backticks in the prose."""
    text = "\n".join([*page.blocks(""), *re.findall(r"`(answerback [^`]+)`", page.prose())])
    for match in COMMAND.finditer(CONTINUED.sub(" ", text)):
        yield shlex.split(match[1])
