"""A pipeline of one's own: answers from a folder of notes (retrieval), by any model that Answerback knows.

Run it from the top of the repository:

    answerback serve --model python:examples.own_model.handbook:make

`HANDBOOK_MODEL` names the model that writes the answers; without it that is `local`.
"""

import os
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from answerback.models import build_model
from answerback.ports import Model, Piece, Prompt

NOTES = Path(__file__).with_name("notes")
COMMON = frozenset(
    (
        *("about", "could", "does", "from", "have", "much", "should", "take", "tell", "that", "their", "them", "then"),
        *("there", "they", "this", "what", "when", "where", "which", "will", "with", "would", "your"),
    )
)
"""Words that are in questions about anything."""


@dataclass(frozen=True, slots=True)
class Note:
    """One file of the handbook, and the words in it."""

    title: str
    text: str
    words: frozenset[str]


def read_notes(folder: Path) -> tuple[Note, ...]:
    """Every Markdown file of a folder, by name."""
    texts = {path.stem: path.read_text("utf-8").strip() for path in sorted(folder.glob("*.md"))}
    return tuple(Note(title, text, words_of(text)) for title, text in texts.items())


def words_of(text: str) -> frozenset[str]:
    """The words that may tell what a text is about, without case: four letters or more, cut to five.

    Of Korean, which writes its particles together with the word before, each two syllables in a row.
    """
    words = re.findall(r"[^\W\d]{4,}", re.sub("[가-힣]+", " ", text.lower()))
    syllables = re.findall("[가-힣]+", text)
    return frozenset([word[:5] for word in words if word not in COMMON]) | {
        run[n : n + 2] for run in syllables for n in range(len(run) - 1)
    }


def best_note(notes: Sequence[Note], question: str) -> Note | None:
    """The note that shares the rarest words with the question; None if none shares any."""
    asked = words_of(question)

    def score(note: Note) -> float:
        return sum(1 / sum(word in other.words for other in notes) for word in asked & note.words)

    found = max(notes, key=score, default=None)
    return found if found is not None and score(found) > 0 else None


class Handbook:
    """Looks up the question, then lets a model answer with what was found. This is all that a model has to have."""

    def __init__(self, notes: Sequence[Note], model: Model) -> None:
        self._notes = notes
        self._model = model

    @property
    def name(self) -> str:
        """A name of its own; the one in `NAME=python:...` wins."""
        return "handbook"

    @property
    def context_tokens(self) -> int:
        """What the inner model can take, less the note."""
        return self._model.context_tokens - 200

    @property
    def concurrency(self) -> int:
        """As many answers at a time as the inner model gives."""
        return self._model.concurrency

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """The inner model's pieces, or one sentence if the handbook does not know."""
        note = best_note(self._notes, prompt.messages[-1].text)
        if note is None:
            yield "The handbook says nothing about that."
            return
        system = f"Answer in one or two sentences, and only with this page of the handbook:\n\n{note.text}"
        # `aclosing` passes a cancellation on at once: the inner model stops too.
        async with aclosing(self._model.stream(replace(prompt, system=system))) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """Close what was opened."""
        await self._model.close()


def make() -> Handbook:
    """What `python:examples.own_model.handbook:make` calls, once, when the gateway starts."""
    return Handbook(read_notes(NOTES), build_model(os.environ.get("HANDBOOK_MODEL", "local")))
