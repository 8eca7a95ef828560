"""Defaults that more than one part has: the gateway's settings, the AWS stack's and the service's own."""

from typing import Final

MAX_TOKENS: Final = 1024
"""The most tokens of one answer, unless an operator or a request says otherwise."""

CONTEXT_TURNS: Final = 20
"""Turns of a conversation that the model is shown."""

RATE_LIMIT: Final = 10
"""Requests per minute and user."""

RETENTION_DAYS: Final = 7
RETENTION_MS: Final = RETENTION_DAYS * 24 * 3_600_000
KEEP_FOREVER_DAYS: Final = 1_000_000
"""Longer than anything lasts, so that to keep for ever is no special case."""

REFUSAL_RETENTION_MS: Final = 15 * 60_000
"""Longer than a late copy of the refused frame can be on its way."""

IDLE_TIMEOUT_S: Final = 3600
USER_CLAIM: Final = "sub"
LEEWAY_S: Final = 30
"""Difference between clocks that a token is forgiven."""
