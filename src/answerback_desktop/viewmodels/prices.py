"""What an answer costs, where somebody said what its model costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from answerback_desktop.records import Tokens

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars for a million tokens."""

    input_usd: float
    output_usd: float

    def of(self, tokens: Tokens) -> float:
        """In US dollars."""
        return (tokens.input * self.input_usd + tokens.output * self.output_usd) / _MILLION


Prices: TypeAlias = Mapping[str, Price]
"""By the model's name at the server."""
