"""How a model's answer ended: the one table of finish reasons, and which numbers count as counts of tokens.

Servers and libraries have dozens of words for an ending. A client gets one of `REASONS` and nothing else, so that it
can tell what each means, and a frame cannot grow by a word that a model made up.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MAX_COUNT: Final = 2**53 - 1
"""The largest count of the protocol: a JavaScript number is exact up to here."""

STOP: Final = "stop"
OTHER: Final = "other"
"""The model ended its answer, and gave a reason that says neither that the text is whole nor that it is not."""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        STOP: "stop stopped end ended eos eos_token end_turn end_of_turn stop_sequence stop_token stop_str complete "
        "completed finish finished done success natural normal",
        "length": "length max_tokens max_token max_length max_output_tokens max_new_tokens max_completion_tokens "
        "model_length token_limit limit model_context_window_exceeded context_length context_length_exceeded truncated",
        "content_filter": "content_filter content_filtered guardrail_intervened safety refusal recitation blocked "
        "blocklist prohibited_content spii image_safety language moderation sensitive",
        "tool_calls": "tool_calls tool_call tool_use function_call function_calls tool",
    }
)
REASONS: Final = (*_WORDS, OTHER)

_REASON_OF: Final = {word: reason for reason, words in _WORDS.items() for word in words.split()}
_IS_FAILURE: Final = re.compile(
    "error|fail|abort|cancel|time_?out|timed_out|interrupt|disconnect|unavailable|overload|crash|kill|exhaust"
    "|evict|preempt|insufficient|malformed|incomplete|exception|invalid|panic|dropped|lost|repetition|loop"
    "|rate_?limit|throttl|quota|capacity|busy|shut_?down|terminat|restart|reset|closed|stall|expired|out_of_memory|oom$"
)
"""No ending, whatever else the word says: the text may stop in the middle of a sentence."""


def finish_reason(word: object) -> str | None:
    """One of `REASONS` for a model's word; None: the word says that the model failed."""
    if word == STOP:
        return STOP
    plain = re.sub("[^a-z0-9]+", "_", word[:100].lower()).strip("_") if isinstance(word, str) else ""
    plain = plain.removeprefix("finish_reason_")
    if (reason := _REASON_OF.get(plain)) is not None:
        return reason
    return None if _IS_FAILURE.search(plain) else OTHER


def token_count(value: object) -> int | None:
    """The count that a model gave, None if it gave none that can be."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_COUNT else None
