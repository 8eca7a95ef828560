"""What one of each thing takes, as measured (counts.toml), and what a unit costs (prices.toml)."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

Section = Mapping[str, float]

_PACKAGE: Final = "answerback_aws.cost"
ESTIMATE: Final = "estimate"


class UnknownPrice(Exception):
    """There is no price for this region or model; the text says which there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCounts:
    """See counts.toml for every figure, its unit and how it was counted."""

    connection: Section
    ping: Section
    answer: Section
    budget: Section
    watch: Section
    watcher: Section
    poll: Section
    renewal: Section
    write_behind: Section
    minute: Section
    piece: Section
    file: Section
    returned: Section
    cold: Section


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a unit, the month or year it was read, and where."""

    usd: float
    date: str
    source: str

    @property
    def is_estimate(self) -> bool:
        """Whether it was not read from a price list."""
        return self.source == ESTIMATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The prices of one region, by the names in prices.toml."""

    region: str
    items: Mapping[str, Price]

    def __getitem__(self, name: str) -> Price:
        return self.items[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """US dollars a million tokens. `cache_read_usd`, `cache_write_usd` None: the model caches no prompts."""

    model: str
    input_usd: float
    output_usd: float
    date: str
    source: str
    cache_read_usd: float | None = None
    cache_write_usd: float | None = None


def load_counts() -> UnitCounts:
    """The measured counts."""
    return UnitCounts(**_table("counts.toml"))


def load_prices(region: str) -> Prices:
    """Raises: UnknownPrice."""
    table = _table("prices.toml")
    if region not in table or region == "models":
        regions = ", ".join(name for name in table if name != "models")
        raise UnknownPrice(f"no prices are known for the region {region!r}; known are {regions}")
    return Prices(region=region, items={name: Price(*entry) for name, entry in table[region].items()})


def load_token_price(model: str, *, is_cached: bool = False) -> TokenPrice:
    """`is_cached`: prices of cached tokens are needed, too. Raises: UnknownPrice."""
    models = _table("prices.toml")["models"]
    name = model.removeprefix("bedrock:")
    if name not in models:
        raise UnknownPrice(f"no price is known for the model {name!r}; known are {', '.join(models)}")
    input_usd, output_usd, date, source, *cache = models[name]
    if is_cached and not cache:
        caching = ", ".join(
            other for other, entry in models.items() if len(entry) > len(("in", "out", "date", "source"))
        )
        raise UnknownPrice(f"no price of cached tokens is known for the model {name!r}; known are {caching}")
    read, write = cache or (None, None)
    return TokenPrice(
        model=name,
        input_usd=input_usd,
        output_usd=output_usd,
        date=date,
        source=source,
        cache_read_usd=read,
        cache_write_usd=write,
    )


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8"))
