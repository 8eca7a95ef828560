"""What models cost: the table that ships, and what an operator says instead in a spec."""

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Final, assert_never

from answerback.core.budget import Price, Tariff, Terms, context_reserve
from answerback.models.spec import BedrockSpec, EchoSpec, LocalSpec, ModelSpec, OpenAISpec, PythonSpec
from answerback.ports import ModelLimits

FREE: Final = Price(0, 0, 0)
_CACHE_COLUMN: Final[Mapping[str | None, int]] = {None: 0, "5m": 3, "1h": 4}
"""Where the price of input stands. A prompt that is written to a cache costs more; that each is, is the upper bound."""

_HIGHER_TIERS: Final = ("priority", "reserved")


def price_of(spec: ModelSpec) -> Price | None:
    """The price of a spec's model; None: nobody has named it."""
    if spec.limits.price is not None:
        return spec.limits.price
    match spec:
        case LocalSpec() | EchoSpec():
            return FREE
        case OpenAISpec():
            return _listed(spec.model, None)
        case BedrockSpec():
            return None if spec.tier in _HIGHER_TIERS else _listed(spec.model.rpartition("/")[2], spec.cache)
        case PythonSpec():
            return None
        case _:
            assert_never(spec)


def prices_of(specs: Iterable[ModelSpec]) -> dict[str, Price | None]:
    """The prices of models by their names."""
    return {spec.name: price_of(spec) for spec in specs}


def tariff_of(
    limits: Mapping[str, ModelLimits],
    *,
    prices: Mapping[str, Price | None],
    context_tokens: Mapping[str, int],
    max_tokens: int,
    context_turns: int,
    system_tokens: int,
) -> Tariff:
    """What reservations rest on. `limits` and `context_tokens`: of the models by name."""
    return Tariff(
        system_tokens=system_tokens,
        models={
            name: Terms(
                max_tokens=own.max_tokens or max_tokens,
                context_tokens=_reserve(own, context_tokens[name]) if context_turns else 0,
                price=prices.get(name) or own.price,
            )
            for name, own in limits.items()
        },
    )


def _reserve(limits: ModelLimits, context_tokens: int) -> int:
    return context_reserve(context_tokens) if limits.context_reserve is None else limits.context_reserve


def _listed(model: str, cache_for: str | None) -> Price | None:
    row, column = _table().get(model, ()), _CACHE_COLUMN[cache_for]
    if len(row) <= column:
        return None
    return Price(_pico(row[column]), _pico(row[1]), _pico(row[2]))


@cache
def _table() -> Mapping[str, tuple[float, ...]]:
    text = files("answerback.models").joinpath("prices.toml").read_text(encoding="utf-8")
    return {model: tuple(row) for group in tomllib.loads(text)["prices"] for model, row in group["models"].items()}


def _pico(usd_per_million: float) -> int:
    return round(usd_per_million * 1_000_000)
