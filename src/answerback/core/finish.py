"""How a model's answer ended: the one table of finish reasons, and which numbers count as counts of tokens.

Servers and libraries have dozens of words for an ending. A client gets one of `REASONS` and nothing else, so that it
can tell what each means, and a frame cannot grow by a word that a model made up.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

MAX_TOKENS: Final = 10**9
"""More than any answer takes. What a user needs in a day, summed up, stays far below the 2^63 of the stores."""

STOP: Final = "stop"
OTHER: Final = "other"
"""The model ended its answer, and gave no reason, or one that does not say whether the text is whole."""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        STOP: "stop stopped end ended eos eos_id eos_token eot eot_id im_end end_turn end_of_turn end_of_text "
        "endoftext end_of_sequence end_of_message eos_found s stop_sequence stop_token stop_str stop_string "
        "stop_string_found stop_word stop_words "
        "word stop_criteria stop_criteria_met stopping_criteria complete completed finish finished done success "
        "natural normal",
        "length": "length max_length max_len max_token max_tokens max_tokens_reached max_output_tokens max_new_tokens "
        "max_new_tokens_reached max_completion_tokens maximum_tokens maximum_length model_length token_limit "
        "token_limit_reached max_predicted_tokens_reached length_limit limit context model_context_window_exceeded "
        "context_length context_length_exceeded context_length_reached truncated error_limit",
        "content_filter": "content_filter content_filtered guardrail_intervened safety refusal refused recitation "
        "blocked blocklist prohibited_content spii image_safety language moderation sensitive error_toxic",
        "tool_calls": "tool_calls tool_call tool_use function_call function_calls tool tools",
        OTHER: "other unspecified pause_turn",
    }
)
REASONS: Final = tuple(_WORDS)

_REASON_OF: Final = {word: reason for reason, words in _WORDS.items() for word in words.split()}


def finish_reason(word: object) -> str | None:
    """One of `REASONS` for a model's word; None: the model failed, as far as anybody can tell.

    A word that is not in the table may mean that the text stops in the middle of a sentence, so it is no success.
    """
    if word == STOP:
        return STOP
    if not isinstance(word, str) or not word.strip():
        return OTHER
    plain = plain_word(word[:100])
    return _REASON_OF.get(re.sub("^(finish_)?reason_", "", plain))


def plain_word(text: str) -> str:
    """Words in whatever spelling in small letters with `_` between: `maxTokens` and `Max-Tokens` as `max_tokens`."""
    return re.sub("[^a-z0-9]+", "_", re.sub("(?<=[a-z])(?=[A-Z])", "_", text).lower()).strip("_")


def token_count(value: object) -> int | None:
    """The count that a model gave, None if it gave none that can be."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
