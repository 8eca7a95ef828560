"""Which language a question is in, as far as its letters say: enough to tell who asks a model that cannot know it."""

import re
from collections.abc import Collection
from typing import Final

_LETTERS: Final = (
    (re.compile("[가-힣ㄱ-ㅣ]"), ("ko",)),
    (re.compile("[ぁ-ヿ]"), ("ja",)),
    (re.compile("[一-鿿]"), ("zh", "ja")),
    (re.compile("[Ѐ-ӿ]"), ("ru", "uk", "bg", "sr", "be", "mk", "kk", "mn")),
    (re.compile("[\u0590-\u05ff]"), ("he", "yi")),
    (re.compile("[\u0600-\u06ff]"), ("ar", "fa", "ur", "ps")),
    (re.compile("[\u0900-\u097f]"), ("hi", "mr", "ne")),
    (re.compile("[\u0e00-\u0e7f]"), ("th",)),
    (re.compile("[\u0370-\u03ff]"), ("el",)),
)
"""Letters, and the languages written in them."""
NAMES: Final = {"en": "English", "ko": "Korean", "ja": "Japanese", "zh": "Chinese"}


def unknown_language(text: str, known: Collection[str]) -> str | None:
    """The language of letters in the text that none of the known ones is written in; None: all may be understood.

    `known`: BCP 47 tags; none: nobody has said what is known.
    """
    tags = {tag.partition("-")[0].lower() for tag in known}
    if not tags:
        return None
    return next((langs[0] for letters, langs in _LETTERS if not tags & {*langs} and letters.search(text)), None)


def language_is_known(language: str, known: Collection[str]) -> bool:
    """Whether a model that knows these may be asked in a language; one that says nothing may know all."""
    return not known or language in {tag.partition("-")[0].lower() for tag in known}


def names_of(tags: Collection[str]) -> str:
    """The languages by their English names."""
    return ", ".join(NAMES.get(tag.partition("-")[0].lower(), tag) for tag in tags)
