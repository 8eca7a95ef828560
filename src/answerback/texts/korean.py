"""Finds the Korean sentence for an English one, and puts what the sentence was made with in its place."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from answerback.protocol.errors import ERRORS
from answerback.texts import words_of

_PARTICLE: Final = re.compile(
    r"([^\s'\"`”)\]]{0,2})(['\"`”)\]]*)(이\(가\)|을\(를\)|은\(는\)|과\(와\)|\(으\)로|\(이\)라|\(이\)어야)"
)
_CLOSED: Final = re.compile("[aeiou][bkpt]|ck|ng|pp|tt|[mn]e", re.IGNORECASE)
"""Ends of English words that close a syllable of Hangul: timeout, limit, backup, stack, name."""
_CHOICES: Final = {
    "이(가)": ("이", "가"),
    "을(를)": ("을", "를"),
    "은(는)": ("은", "는"),
    "과(와)": ("과", "와"),
    "(이)라": ("이라", "라"),
    "(이)어야": ("이어야", "여야"),
}


def translated(text: str) -> str | None:
    """The sentence in Korean; None: the catalogue does not have it."""
    for pattern, korean in _patterns():
        if found := pattern.fullmatch(text.removesuffix(".")) or pattern.fullmatch(text):
            facts = [translated(fact) or fact for fact in found.groups()]
            said = with_particles(korean.format(*facts))
            return said if text.endswith(".") else said.removesuffix(".")
    return None


def with_particles(text: str) -> str:
    """Choose each particle by the last sound before it, as people do."""
    return _PARTICLE.sub(lambda found: f"{found[1]}{found[2]}{_fitting(found[3], found[1])}", text)


@cache
def catalogue() -> Mapping[str, str]:
    """The Korean sentences by the English ones. The code and the pause of an error of the protocol are added."""
    words = words_of("ko")
    sentences = {english: korean for group in words["sentences"].values() for english, korean in group.items()}
    for english, korean in words["sentences"]["server"].items():
        sentences[f"{english} ({{}})"] = f"{korean} ({{{english.count('{}')}}})"
    for code, info in ERRORS.items():
        korean = words["failures"][code]
        sentences[f"{info.message} ({code})"] = f"{korean} ({code})"
        sentences[f"{info.message} Try again in {{}} s. ({code})"] = (
            f"{korean} {{0}}초 뒤에 다시 시도할 수 있어요. ({code})"
        )
    return sentences


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """A sentence that ends with another one comes before it; then those that say most by themselves."""
    found = catalogue()

    def rank(key: str) -> tuple[bool, int]:
        frames = key.endswith(": {}") and not any(other.startswith(key) for other in found if other != key)
        return not frames or key.startswith("{}"), -len(key.replace("{}", ""))

    return [
        (re.compile("".join(_parts(key.removesuffix("."))), re.DOTALL), found[key]) for key in sorted(found, key=rank)
    ]


def _parts(key: str) -> Iterator[str]:
    """Of the pattern. Only what follows a colon at the end may be more than one sentence, or foreign text would fit."""
    *literals, last = key.split("{}")
    for number, literal in enumerate(literals, start=1):
        is_open = number == len(literals) and literal.endswith((": ", ":\n")) and not last.strip(".")
        yield re.escape(literal) + ("(.*?)" if is_open else r"((?:(?!\. ).)*?)")
    yield re.escape(last)


def _fitting(particle: str, last: str) -> str:
    final = _final_sound(last)
    if particle == "(으)로":
        return "로" if final in {"", "ㄹ"} else "으로"
    with_final, without = _CHOICES[particle]
    return with_final if final else without


def _final_sound(end: str) -> str:
    """`ㄹ`, another consonant (`x`), or none, of how a word that ends so is read."""
    if _CLOSED.fullmatch(end):
        return "x"
    character = end[-1:]
    if "가" <= character <= "힣":
        number = (ord(character) - ord("가")) % 28
        return "ㄹ" if number == 8 else "x" if number else ""
    if "\u11a8" <= character <= "\u11c2":  # of a syllable in parts, as in names of files on a Mac
        return "ㄹ" if character == "\u11af" else "x"
    if end in ("le", "LE"):  # file
        return "ㄹ"
    return "ㄹ" if character in "178lL" and character else "x" if character in "036mnMN" and character else ""
