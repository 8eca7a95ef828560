"""Reading the documents."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("conformance/*.md"))
        if not path.name.startswith(".")
    )
)


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file."""

    path: Path
    text: str

    def blocks(self, language: str) -> list[str]:
        """The fenced code blocks of a language, in order."""
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)
        return [block for written_in, block in blocks if written_in == language]

    def prose(self) -> str:
        """The text without code blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)

    def headings(self) -> Iterator[str]:
        """The text of every heading."""
        for line in self.prose().splitlines():
            if match := re.match(r"#{1,6} (.+)", line):
                yield match[1]

    def anchors(self) -> set[str]:
        """The fragments that links may name, as GitHub makes them."""
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in self.headings()}

    def links(self) -> list[str]:
        """The targets of every inline link."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose())


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def document() -> Callable[[str], Document]:
    """Reads a document by its path in the repository."""

    def read(name: str) -> Document:
        path = ROOT / name
        return Document(path, path.read_text(encoding="utf-8"))

    return read


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `name` runs for every document."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", DOCUMENTS)
